//! Keys from the settings, the same on every node, are replaced by editing their file and a SIGHUP.

use std::path::PathBuf;

use portcullis::token::keys::{Algorithm, generate_pem};
use serde_json::json;
use tempfile::TempDir;

use crate::common::{Mode, Stage, eventually, stages};
use crate::{is_good_everywhere, kid, published, revoke, session_goes_on, sockets, token_is_void};

stages! {
    both: [
        a_signing_key_in_a_file_is_replaced_by_sighup,
        a_shared_secret_is_replaced_in_three_steps,
        a_shared_secret_is_revoked,
        a_file_that_cannot_be_read_changes_nothing,
    ],
    cluster: [
        a_record_key_is_replaced_without_losing_a_record_or_a_ticket,
    ],
}

/// A file of keys that the nodes share.
struct KeyFile {
    _folder: TempDir,
    path: PathBuf,
}

impl KeyFile {
    fn holding(keys: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Self { path: folder.path().join("keys"), _folder: folder };
        file.write(keys);
        file
    }

    fn write(&self, keys: &[&str]) {
        std::fs::write(&self.path, keys.join("\n")).expect("write the keys");
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("a plain path")
    }

    /// Writes the keys and has every node read them.
    async fn replace(&self, stage: &Stage, keys: &[&str]) {
        self.write(keys);
        hang_up(stage, "read the keys again").await;
    }
}

/// Sends every node SIGHUP and waits until each has said this once more.
async fn hang_up(stage: &Stage, says: &str) {
    for gateway in &stage.gateways {
        let said = || gateway.log().matches(says).count();
        let before = said();
        gateway.signal("HUP");
        eventually("the node reads its keys", async || (said() > before).then_some(())).await;
    }
}

async fn new_token(stage: &Stage, session_id: &str) -> String {
    stage.a().validate(session_id).await.expect(200).str("access_token").to_owned()
}

async fn a_signing_key_in_a_file_is_replaced_by_sighup(mode: Mode) {
    let pem = || generate_pem(Algorithm::EdDsa).expect("a key");
    let (first, second) = (pem(), pem());
    let file = KeyFile::holding(&[&first]);
    let stage = mode.own().env("PORTCULLIS_SIGNING_KEY_FILE", file.path()).start().await;
    let alice = stage.a().signup().await;
    assert_eq!(published(stage.a()).await, [kid(&alice.token)], "one key for all nodes, and no other");
    let mut open = sockets(&stage, &alice.token).await;
    // Published first, so that whoever keeps a copy of the JWKS can fetch it in time; then put in front.
    file.replace(&stage, &[&first, &second]).await;
    assert_eq!(kid(&new_token(&stage, &alice.session_id).await), kid(&alice.token));
    for node in stage.nodes() {
        eventually("the next key is published", async || (published(node).await.len() == 2).then_some(())).await;
    }
    file.replace(&stage, &[&second, &first]).await;
    let token = new_token(&stage, &alice.session_id).await;
    assert_ne!(kid(&token), kid(&alice.token));
    file.replace(&stage, &[&second]).await;
    // The old one is in no file any more, and its tokens live on until they expire.
    for token in [&token, &alice.token] {
        is_good_everywhere(&stage, token).await;
    }
    for socket in &mut open {
        socket.expect_open().await;
    }
}

async fn a_shared_secret_is_replaced_in_three_steps(mode: Mode) {
    let (first, second) = ("first secret, of 32 bytes and more", "second secret, of 32 bytes and more");
    let file = KeyFile::holding(&[first]);
    let shared = mode.own().env("PORTCULLIS_SIGNING_ALGORITHM", "HS256");
    let stage = shared.env("PORTCULLIS_SIGNING_KEY_FILE", file.path()).start().await;
    let alice = stage.a().signup().await;
    assert!(published(stage.a()).await.is_empty(), "a secret is never published");
    let mut open = sockets(&stage, &alice.token).await;
    // Every node must know it before any node signs with it.
    file.replace(&stage, &[first, second]).await;
    is_good_everywhere(&stage, &alice.token).await;
    file.replace(&stage, &[second, first]).await;
    let token = new_token(&stage, &alice.session_id).await;
    assert_ne!(kid(&token), kid(&alice.token));
    is_good_everywhere(&stage, &token).await;
    is_good_everywhere(&stage, &alice.token).await;
    for socket in &mut open {
        socket.expect_open().await;
    }
    // Last, when no token of the old one can be alive. Here one is: it ends.
    file.replace(&stage, &[second]).await;
    for node in stage.nodes() {
        node.me(&alice.token).await.is_bad_token();
    }
    for socket in &mut open {
        socket.expect_close(3014, "state invalidated").await;
    }
    is_good_everywhere(&stage, &token).await;
}

async fn a_shared_secret_is_revoked(mode: Mode) {
    let (first, second) = ("first secret, of 32 bytes and more", "second secret, of 32 bytes and more");
    let shared = mode.own().env("PORTCULLIS_SIGNING_ALGORITHM", "HS256");
    let stage = shared.env("PORTCULLIS_SIGNING_KEY", &format!("{first}\n{second}")).start().await;
    let alice = stage.a().signup().await;
    let mut open = sockets(&stage, &alice.token).await;
    let (_, said) = stage.gateways[0].operate(&["key", "list"]).await;
    assert!(said.contains(&kid(&alice.token)), "{said}");
    assert!(!said.contains("secret, of 32"), "{said}");
    // The log kills it, though it is in no table.
    let told = revoke(&stage.gateways[0], &kid(&alice.token)).await;
    for socket in &mut open {
        socket.expect_close(3014, "state invalidated").await;
    }
    token_is_void(&stage, &alice.token, told).await;
    let token = session_goes_on(&stage, &alice).await;
    assert_ne!(kid(&token), kid(&alice.token), "the second secret takes over");
    // A node that comes back with it does not bring it back.
    stage.gateways[0].restart().await;
    stage.a().me(&alice.token).await.is_bad_token();
    session_goes_on(&stage, &alice).await;
}

async fn a_file_that_cannot_be_read_changes_nothing(mode: Mode) {
    let key = generate_pem(Algorithm::EdDsa).expect("a key");
    let file = KeyFile::holding(&[&key]);
    let stage = mode.own().env("PORTCULLIS_SIGNING_KEY_FILE", file.path()).start().await;
    let alice = stage.a().signup().await;
    for bad in ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"] {
        file.write(&[bad]);
        hang_up(&stage, "failed to read the keys again").await;
        is_good_everywhere(&stage, &alice.token).await;
        assert_eq!(kid(&new_token(&stage, &alice.session_id).await), kid(&alice.token));
    }
    for gateway in &stage.gateways {
        assert!(gateway.log().contains("PORTCULLIS_SIGNING_KEY_FILE"), "the setting is named");
        assert!(!gateway.log().contains("nonsense"), "the value is not");
    }
}

async fn a_record_key_is_replaced_without_losing_a_record_or_a_ticket(mode: Mode) {
    let (first, second) = ("11".repeat(32), "22".repeat(32));
    let file = KeyFile::holding(&["database"]);
    let stage = mode.own().env("PORTCULLIS_RECORD_KEY_FILE", file.path()).start().await;
    let alice = stage.a().signup().await;
    let steps: [(bool, &[&str]); 5] = [
        (false, &["database", &first]),
        (true, &[&first, "database"]),
        (false, &[&first, &second]),
        (true, &[&second, &first]),
        (false, &[&second]),
    ];
    for (seals_anew, keys) in steps {
        let ticket = stage.a().ticket(&alice.token, None).await;
        eventually("a record is in Redis", async || (!records(&stage).await.is_empty()).then_some(())).await;
        let before = ids_of_keys(&stage).await;
        file.replace(&stage, keys).await;
        // What was sealed before still opens, on the other node too.
        stage.b().socket().ticket(&ticket).open().await.expect_admitted(&alice.user_id).await;
        // A node with nothing in memory reads the records, and seals with the first key what was sealed with another.
        stage.gateways[1].restart().await;
        stage.b().validate(&alice.session_id).await.expect(200);
        stage.b().me(&alice.token).await.expect(200);
        if seals_anew {
            eventually("the records are sealed anew", async || {
                let now = ids_of_keys(&stage).await;
                now.iter().all(|id| !before.contains(id)).then_some(())
            })
            .await;
        }
        let ticket = stage.b().ticket(&alice.token, None).await;
        stage.a().socket().ticket(&ticket).open().await.expect_admitted(&alice.user_id).await;
    }
    let profile = stage.a().patch_profile(&alice.token, &json!({"full_name": "Alice"})).await.expect(200);
    assert_eq!(profile["full_name"], "Alice");
    eventually("the other node hears of it", async || {
        (stage.b().me(&alice.token).await["full_name"] == "Alice").then_some(())
    })
    .await;
}

/// Every sealed record in Redis.
async fn records(stage: &Stage) -> Vec<Vec<u8>> {
    let client = redis::Client::open(stage.redis().url()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    // Records are strings; counts of sockets, which are no secret, are not.
    let mut scan = redis::cmd("SCAN");
    scan.arg(0).arg("COUNT").arg(100_000).arg("TYPE").arg("string");
    let (_, names): (u64, Vec<Vec<u8>>) = scan.query_async(&mut redis).await.expect("names");
    let mut records = Vec::new();
    for name in names {
        let value: Option<Vec<u8>> = redis::cmd("GET").arg(name).query_async(&mut redis).await.expect("a value");
        records.extend(value.filter(|value| value.len() > 16));
    }
    records
}

/// The key ids in front of the records.
async fn ids_of_keys(stage: &Stage) -> Vec<Vec<u8>> {
    let mut ids: Vec<_> = records(stage).await.into_iter().map(|record| record[..4].to_vec()).collect();
    ids.sort();
    ids.dedup();
    ids
}
