//! After a busy run nothing that a credential could be had from is lying about: not in Redis or on its channels, not in
//! the database, not in the most talkative logs, not in metrics, not in an answer that refuses. And what does look like a
//! credential there opens nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use futures_util::StreamExt;
use serde_json::json;

use crate::common::database::Database;
use crate::common::people::{forged, new_email, new_password};
use crate::common::{Answer, Login, Mode, Node, Stage, eventually, stages};
use crate::{kid, revoke};

stages! {
    both: [nothing_is_left_to_steal],
}

/// Something that must not be found, in every spelling it could be found in.
struct Secret {
    what: &'static str,
    spellings: Vec<Vec<u8>>,
}

impl Secret {
    /// A secret that is a text: as it is, as JSON has it, in hexadecimal, percent-encoded, and inside of base64.
    fn text(what: &'static str, text: &str) -> Self {
        let json = serde_json::to_string(text).expect("JSON");
        let mut spellings = vec![text.as_bytes().to_vec(), json.trim_matches('"').as_bytes().to_vec()];
        let percent: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        spellings.push(percent.into_bytes());
        spellings.extend(encoded(text.as_bytes()));
        Self { what, spellings }
    }

    /// A secret that is bytes.
    fn bytes(what: &'static str, bytes: &[u8]) -> Self {
        let mut spellings = vec![bytes.to_vec()];
        spellings.extend(encoded(bytes));
        Self { what, spellings }
    }
}

/// Hexadecimal in both cases, and base64 wherever in a longer text the secret may begin.
fn encoded(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = vec![hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for before in 0..3 {
        // Of a group that the secret shares with its neighbours only whole characters are the secret's own.
        let padded = [&b"\0\0\0"[..before], bytes].concat();
        let text = BASE64_STANDARD.encode(&padded);
        let own = &text[(before * 8).div_ceil(6)..padded.len() * 8 / 6];
        all.push(own.replace('+', "-").replace('/', "_").into_bytes());
        all.push(own.as_bytes().to_vec());
    }
    all
}

/// What was found where.
struct Haystack {
    place: String,
    bytes: Vec<u8>,
}

async fn nothing_is_left_to_steal(mode: Mode) {
    let stage = mode
        .own()
        .without("RUST_LOG")
        .env("PORTCULLIS_LOG", "trace")
        .env("PORTCULLIS_COOKIES", "on")
        .env("PORTCULLIS_DRAIN_WINDOW", "1s")
        .start()
        .await;
    let heard = listen_in(&stage, mode).await;
    let mut run = Run { secrets: Vec::new(), answers: Vec::new(), sid: String::new() };
    for gateway in &stage.gateways {
        run.private_keys(&gateway.data_dir());
    }
    run.busy(&stage).await;
    let mut haystacks = vec![Haystack { place: "an answer".into(), bytes: run.answers.join("\n").into_bytes() }];
    for node in stage.nodes() {
        for path in ["/metrics", "/health", "/.well-known/jwks.json", "/api/openapi.json"] {
            let text = node.get(path).send().await.text;
            haystacks.push(Haystack { place: path.into(), bytes: text.into_bytes() });
        }
    }
    if mode == Mode::Cluster {
        haystacks.extend(redis_dump(&stage).await);
        let messages = heard.lock().expect("messages").clone();
        assert!(!messages.is_empty(), "nothing was heard on the channels");
        haystacks.push(Haystack { place: "a message in Redis".into(), bytes: messages.concat() });
    }
    haystacks.extend(database_dump(&stage.database).await);
    haystacks.extend(
        stage.gateways.iter().map(|gateway| Haystack { place: "the log".into(), bytes: gateway.log().into_bytes() }),
    );

    // The search finds what is there.
    let seen = |place: &str, text: &str| {
        haystacks.iter().any(|hay| hay.place.starts_with(place) && contains(&hay.bytes, text.as_bytes()))
    };
    assert!(seen("the log", &run.sid) && seen("the database", &run.sid), "public handles should be found");
    assert!(
        seen("the log", "portcullis::http") && seen("an answer", "invalid_token"),
        "the run should have been talkative"
    );
    for Secret { what, spellings } in &run.secrets {
        for hay in &haystacks {
            if let Some(spelling) = spellings.iter().find(|spelling| contains(&hay.bytes, spelling)) {
                panic!("{what} is in {}: {}", hay.place, String::from_utf8_lossy(spelling));
            }
        }
    }
    nothing_can_be_replayed(&stage, &haystacks).await;
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    assert!(needle.len() >= 12, "too short to be searched for: {needle:?}");
    memchr(hay, needle)
}

/// Two megabytes are searched a thousand times: byte by byte would take minutes.
fn memchr(hay: &[u8], needle: &[u8]) -> bool {
    let (first, rest) = (needle[0], &needle[1..]);
    let mut from = hay;
    while let Some(at) = from.iter().position(|&byte| byte == first) {
        from = &from[at + 1..];
        if from.starts_with(rest) {
            return true;
        }
    }
    false
}

/// One run through everything that takes a credential or gives one.
struct Run {
    secrets: Vec<Secret>,
    answers: Vec<String>,
    sid: String,
}

impl Run {
    fn private_keys(&mut self, folder: &std::path::Path) {
        let mut found = 0;
        for file in std::fs::read_dir(folder).expect("DATA_DIR").map(|entry| entry.expect("an entry").path()) {
            if file.extension().is_some_and(|extension| extension == "pem") {
                let pem = std::fs::read_to_string(&file).expect("a key");
                let body: String = pem.lines().filter(|line| !line.contains("-----")).collect();
                let der = BASE64_STANDARD.decode(&body).expect("base64");
                // The last 32 bytes of an Ed25519 key in PKCS#8 (RFC 8410 section 7) are the key itself.
                self.secrets.push(Secret::bytes("a private key", &der[der.len() - 32..]));
                self.secrets.push(Secret::text("a private key's file", &body));
                found += 1;
            }
        }
        assert_eq!(found, 2, "the key in use and the next one");
    }

    fn login(&mut self, login: &Login) {
        self.secrets.push(Secret::text("a password", &login.password));
        self.session_id(&login.session_id);
        self.token(&login.token);
    }

    fn session_id(&mut self, session_id: &str) {
        let id: uuid::Uuid = session_id.parse().expect("a UUID");
        for text in [session_id.to_owned(), session_id.to_uppercase(), id.simple().to_string()] {
            self.secrets.push(Secret::text("a session_id", &text));
        }
        self.secrets.push(Secret::bytes("a session_id's bytes", id.as_bytes()));
    }

    /// Without its signature a token is worth nothing; with any part of it somebody has the token.
    fn token(&mut self, token: &str) {
        let signature = token.rsplit('.').next().expect("a signature");
        self.secrets.push(Secret::text("a token's signature", signature));
        let raw = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        self.secrets.push(Secret::bytes("a token's signature", &raw));
    }

    fn ticket(&mut self, ticket: &str) {
        self.secrets.push(Secret::text("a ticket", ticket));
        self.secrets.push(Secret::bytes("a ticket", &BASE64_URL_SAFE_NO_PAD.decode(ticket).expect("base64url")));
    }

    /// Keeps an answer that refuses, with its headers.
    fn refused(&mut self, answer: Answer) {
        assert!((400..600).contains(&answer.status) && answer.status != 500, "{answer:#?}");
        self.answers.push(format!("{} {:?} {}", answer.status, answer.headers, answer.text));
    }

    async fn busy(&mut self, stage: &Stage) {
        let (alice, bob) = (stage.a().signup().await, stage.b().signup().await);
        self.sid.clone_from(&alice.sid);
        for login in [&alice, &bob] {
            self.login(login);
        }
        self.accounts(stage, &alice).await;
        let phone = stage.b().login(&alice).await;
        self.login(&phone);
        self.tickets_and_sockets(stage, &alice).await;
        self.bad_calls(stage.a(), &alice, &bob).await;
        self.bad_calls(stage.b(), &bob, &alice).await;
        let cookie = format!("portcullis_session={}", phone.session_id);
        stage.a().get("/api/v1/auth/verify").header("cookie", &cookie).send().await.expect(204);
        self.refused(stage.a().post("/api/v1/auth/logout").header("cookie", &cookie).send().await);
        // A key is revoked, and a login comes with a cookie that it ends.
        revoke(&stage.gateways[0], &kid(&bob.token)).await;
        self.refused(stage.b().me(&bob.token).await);
        let body = json!({"email": bob.email, "password": bob.password});
        let again = stage.a().post("/api/v1/auth/login").header("cookie", &cookie).json(&body).send().await.expect(200);
        self.login(&Login::read(&again, &bob.email, &bob.password));
        stage.a().logout(again.str("access_token")).await.expect(200);
        self.refused(stage.b().me(again.str("access_token")).await);
        for gateway in &stage.gateways {
            let (_, said) = gateway.operate(&["key", "list", "--json"]).await;
            self.answers.push(said);
            self.private_keys(&gateway.data_dir());
        }
        stage.a().logout_all(&stage.a().login(&alice).await.token).await.expect(200);
    }

    async fn accounts(&mut self, stage: &Stage, alice: &Login) {
        let (wrong, new) = (new_password(), new_password());
        for password in [&wrong, &new] {
            self.secrets.push(Secret::text("a password", password));
        }
        self.refused(stage.a().try_login(&alice.email, &wrong).await);
        self.refused(stage.a().try_login(&new_email(), &wrong).await);
        self.refused(stage.a().change_password(&alice.token, &wrong, &new).await);
        let form = [("username", alice.email.as_str()), ("password", wrong.as_str())];
        self.refused(stage.a().post("/api/v1/auth/login").form(&form).send().await);
        let renewed = stage.b().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
        self.token(&renewed);
        stage.b().patch_profile(&renewed, &json!({"full_name": "Alice"})).await.expect(200);
        stage.a().sessions(&renewed).await.expect(200);
        let signup = json!({"email": alice.email, "password": wrong});
        self.refused(stage.a().post("/api/v1/auth/signup").json(&signup).send().await);
        // The session that asks stays, so that the run goes on.
        stage.a().change_password(&alice.token, &alice.password, &new).await.expect(200);
        stage.a().change_password(&alice.token, &new, &alice.password).await.expect(200);
    }

    async fn tickets_and_sockets(&mut self, stage: &Stage, alice: &Login) {
        let (ticket, unused) = (
            stage.a().ticket(&alice.token, None).await,
            stage.a().ticket(&alice.token, Some("https://x.example")).await,
        );
        for ticket in [&ticket, &unused] {
            self.ticket(ticket);
        }
        let node = stage.b();
        let offered = format!("portcullis.bearer.{}, portcullis.v1", alice.token);
        let mut sockets = [
            node.connect(&alice.token).await,
            node.socket().bearer(&alice.token).open().await,
            node.socket().subprotocols(&offered).open().await,
            node.socket().ticket(&ticket).open().await,
            node.socket().cookie(&alice.session_id).origin(&node.url).open().await,
        ];
        self.refused(node.socket().ticket(&ticket).attempt().await);
        self.refused(node.socket().ticket(&unused).attempt().await);
        self.refused(node.socket().path(&format!("/ws?token={}&ticket={unused}", alice.token)).attempt().await);
        self.refused(node.socket().cookie(&alice.session_id).origin("https://evil.example").attempt().await);
        let renewed = stage.a().validate(&alice.session_id).await.expect(200).str("access_token").to_owned();
        self.token(&renewed);
        let reply = sockets[0].command(json!({"refresh": {"token": renewed}})).await;
        assert!(reply["refresh"].is_object(), "{reply}");
        for method in ["auth.me", "auth.sessions", "echo", "auth.nonsense"] {
            let reply = sockets[0].rpc(method, json!({"nested": {"session_id": "none"}})).await;
            self.answers.push(reply.to_string());
        }
        for (socket, frame) in sockets.iter_mut().skip(1).zip([
            json!({"id": 1, "connect": {"token": [alice.token]}}).to_string(),
            json!({"id": 1, "connect": {"token": forged(&alice.token)}}).to_string(),
            format!("{{\"id\":1,\"connect\":{{\"token\":\"{}", alice.token),
            json!({"id": 0, "refresh": {"token": alice.session_id}}).to_string(),
        ]) {
            socket.send(&frame).await;
            let (code, reason, _) = socket.closed().await;
            self.answers.push(format!("{code} {reason}"));
        }
    }

    /// Credentials where they do not belong, and bodies that cannot be read: nothing of it may be repeated.
    async fn bad_calls(&mut self, node: &Node, who: &Login, other: &Login) {
        let json = |body: serde_json::Value| body.to_string();
        let bodies = [
            ("login", format!("{{\"email\": \"{}\", \"password\": \"{}\", ", who.email, who.password)),
            ("login", json(json!({"email": who.password, "password": who.password}))),
            ("login", json(json!({"email": [who.email], "password": {"secret": who.password}}))),
            ("login", json(json!({"email": who.email, "password": who.password, "device_name": [who.session_id]}))),
            ("signup", json(json!({"email": who.session_id, "password": who.token}))),
            ("validate-session", json(json!({"session_id": [who.session_id]}))),
            ("validate-session", json(json!({"session_id": who.token}))),
            ("validate-session", format!("\"{}\"", who.session_id)),
            ("validate-session", who.session_id.clone()),
        ];
        for (path, body) in bodies {
            self.refused(node.post(&format!("/api/v1/auth/{path}")).body(body).send().await);
        }
        let as_text = node.post("/api/v1/auth/validate-session").body_as("text/plain", who.session_id.clone());
        self.refused(as_text.send().await);
        for (name, value) in
            [("access_token", &who.token), ("session_id", &who.session_id), ("password", &who.password)]
        {
            let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
            self.refused(node.get(&format!("/api/v1/auth/me?{query}")).send().await);
        }
        self.refused(node.get(&format!("/api/v1/auth/sessions/{}", who.session_id)).bearer(&who.token).send().await);
        self.refused(node.end_session(&who.token, &other.sid).await);
        self.refused(node.me(&forged(&who.token)).await);
        self.refused(node.me(&who.session_id).await);
        self.refused(node.get("/api/v1/auth/me").bearer(&who.token).bearer(&other.token).send().await);
        self.refused(node.get(&format!("/{}", other.sid)).send().await);
        let basic = BASE64_STANDARD.encode(format!("{}:{}", who.email, who.password));
        self.refused(node.get("/api/v1/auth/me").header("authorization", &format!("Basic {basic}")).send().await);
    }
}

/// Everything that is said on the channels of Redis from here on.
async fn listen_in(stage: &Stage, mode: Mode) -> Arc<Mutex<Vec<Vec<u8>>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    if mode == Mode::Cluster {
        let client = redis::Client::open(stage.redis().url()).expect("a URL");
        let mut pubsub = client.get_async_pubsub().await.expect("Redis");
        pubsub.psubscribe("*").await.expect("subscribe");
        let keep = heard.clone();
        tokio::spawn(async move {
            let mut messages = pubsub.into_on_message();
            while let Some(message) = messages.next().await {
                keep.lock().expect("messages").push(message.get_payload_bytes().to_vec());
            }
        });
    }
    heard
}

/// Every name and every value.
async fn redis_dump(stage: &Stage) -> Vec<Haystack> {
    let client = redis::Client::open(stage.redis().url()).expect("a URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    let names = eventually("there is something in Redis", async || {
        let names: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await.ok()?;
        (names.len() > 2).then_some(names)
    })
    .await;
    let mut all = Vec::new();
    for name in names {
        let kind: String = redis::cmd("TYPE").arg(&name).query_async(&mut redis).await.expect("a type");
        let value: Vec<u8> = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&name).query_async(&mut redis).await.expect("a value"),
            // Compressed, perhaps, but there is nothing else to be had of the other kinds at once.
            _ => redis::cmd("DUMP").arg(&name).query_async(&mut redis).await.unwrap_or_default(),
        };
        all.push(Haystack { place: "a name in Redis".into(), bytes: name });
        all.push(Haystack { place: "a value in Redis".into(), bytes: value });
    }
    all
}

/// Every row of every table; embedded, every byte of every file but the keys.
async fn database_dump(database: &Database) -> Vec<Haystack> {
    let place = "the database".to_owned();
    match database {
        Database::Postgres(url) => {
            use sqlx::{AssertSqlSafe, Connection, Row};
            let mut connection = sqlx::PgConnection::connect(url).await.expect("connect");
            let tables = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
            let tables = sqlx::query(tables).fetch_all(&mut connection).await.expect("tables");
            let mut all = Vec::new();
            for table in tables.iter().map(|row| row.get::<String, _>(0)) {
                let rows = format!("SELECT row_to_json(t)::text FROM \"{table}\" t");
                let rows = sqlx::query(AssertSqlSafe(rows)).fetch_all(&mut connection).await.expect("rows");
                let text: Vec<String> = rows.iter().map(|row| row.get::<String, _>(0)).collect();
                all.push(Haystack { place: format!("{place}, {table}"), bytes: text.join("\n").into_bytes() });
            }
            all
        }
        Database::Embedded(folder) => {
            let files = std::fs::read_dir(folder).expect("DATA_DIR").map(|entry| entry.expect("an entry").path());
            let files = files.filter(|path| path.extension().is_none_or(|extension| extension != "pem"));
            files
                .map(|path| Haystack {
                    place: format!("{place}, {}", path.display()),
                    bytes: std::fs::read(path).expect("a file"),
                })
                .collect()
        }
    }
}

/// Shows whatever looks like a credential to everything that takes one.
async fn nothing_can_be_replayed(stage: &Stage, haystacks: &[Haystack]) {
    let mut words = BTreeSet::new();
    for hay in haystacks {
        if hay.place.contains("Redis") {
            words.insert(BASE64_URL_SAFE_NO_PAD.encode(&hay.bytes));
        }
        words.extend(words_of(&hay.bytes));
    }
    let (uuids, others): (Vec<_>, Vec<_>) =
        words.into_iter().partition(|word| word.len() == 36 && uuid::Uuid::try_parse(word).is_ok());
    assert!(uuids.len() > 5 && others.len() > 5, "{} and {} words", uuids.len(), others.len());
    let node = stage.b();
    futures_util::stream::iter(uuids.iter().map(|uuid| async move {
        let answer = node.validate(uuid).await;
        assert_eq!(answer.status, 401, "{uuid} from a dump opens a session");
    }))
    .buffer_unordered(8)
    .collect::<Vec<()>>()
    .await;
    futures_util::stream::iter(uuids.iter().chain(&others).map(|word| async move {
        if word.len() <= 4096 {
            let answer = node.me(word).await;
            assert_eq!(answer.status, 401, "{word} from a dump is taken for a token");
            let answer = node.socket().ticket(word).attempt().await;
            assert!([400, 401].contains(&answer.status), "{word} from a dump is taken for a ticket: {}", answer.status);
        }
    }))
    .buffer_unordered(8)
    .collect::<Vec<()>>()
    .await;
}

/// Runs of the characters that credentials are made of, long enough to be one.
fn words_of(bytes: &[u8]) -> impl Iterator<Item = String> {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+/=".contains(byte);
    bytes
        .split(move |byte| !is_part(byte))
        .filter(|word| word.len() >= 32)
        .map(|word| String::from_utf8_lossy(word).into_owned())
}
