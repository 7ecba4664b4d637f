use std::time::Duration;

use portcullis::entry::{PublicKey, Scope};
use portcullis::ids::NodeId;
use serde_json::json;

use crate::database::HOUR;
use crate::on_each;

fn key(kid: &str) -> PublicKey {
    PublicKey {
        kid: kid.into(),
        algorithm: "EdDSA".into(),
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": kid}),
    }
}

on_each! {
    async fn a_key_is_registered_once_and_logged_with_its_jwk(database) {
        let entries = database.store.register_key(&key("one")).await.unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].scope, Scope::KeyAdded { key: key("one") });
        assert!(database.store.register_key(&key("one")).await.unwrap().is_empty());
        database.store.register_key(&key("two")).await.unwrap();
        let keys = database.store.keys().await.unwrap();
        assert_eq!(keys.iter().map(|registered| &registered.key).collect::<Vec<_>>(), [&key("one"), &key("two")]);
        assert!(keys.iter().all(|registered| !registered.revoked));
    }

    async fn a_revoked_key_stays_revoked(database) {
        database.store.register_key(&key("one")).await.unwrap();
        let revoked = database.store.revoke_key("one", false).await.unwrap();
        assert_eq!(revoked.entries.len(), 1);
        assert_eq!(revoked.entries[0].scope, Scope::KeyRemoved { kid: "one".into() });
        assert!(database.store.revoke_key("one", false).await.unwrap().entries.is_empty());
        assert!(database.store.revoke_key("unknown", false).await.unwrap().entries.is_empty());
        assert!(database.store.register_key(&key("one")).await.unwrap().is_empty());
        assert!(database.store.keys().await.unwrap()[0].revoked);
    }

    async fn a_key_removed_by_hand_is_logged(database) {
        database.store.register_key(&key("one")).await.unwrap();
        database.store.register_key(&key("two")).await.unwrap();
        database.run(format!("UPDATE signing_keys SET revoked_at = {} WHERE kid = 'one'", database.moment(0))).await;
        database.run("DELETE FROM signing_keys").await;
        let removed: Vec<_> = database.scopes().await.split_off(2);
        assert_eq!(removed, [Scope::KeyRemoved { kid: "one".into() }, Scope::KeyRemoved { kid: "two".into() }]);
    }

    async fn a_key_that_was_never_registered_can_be_revoked(database) {
        let revoked = database.store.revoke_key("hs256-one", true).await.unwrap();
        assert_eq!(revoked.entries.len(), 1);
        assert_eq!(revoked.entries[0].scope, Scope::KeyRemoved { kid: "hs256-one".into() });
        assert!(revoked.entries[0].confirm, "whoever revoked it waits for the nodes");
        assert!(database.store.revoke_key("hs256-one", true).await.unwrap().entries.is_empty());
        assert!(database.store.keys().await.unwrap()[0].revoked);
    }

    async fn a_key_is_new_until_somebody_signs_with_it(database) {
        for kid in ["current", "next"] {
            database.store.register_key(&key(kid)).await.unwrap();
        }
        database.store.beat(NodeId::random(), Some("current")).await.unwrap();
        let used: Vec<_> = database.store.keys().await.unwrap().iter().map(|key| key.used_at.is_some()).collect();
        assert_eq!(used, [true, false]);
        let nodes = database.store.live_nodes(HOUR).await.unwrap();
        assert_eq!(nodes[0].kid.as_deref(), Some("current"));
        assert_eq!(database.store.outdate_keys().await.unwrap(), 1);
        let outdated: Vec<_> = database.store.keys().await.unwrap().iter().map(|key| key.outdated).collect();
        assert_eq!(outdated, [true, false], "a key that is still to come has time");
    }

    async fn nodes_are_alive_while_they_beat(database) {
        let (node, other) = (NodeId::random(), NodeId::random());
        database.store.register_key(&key("one")).await.unwrap();
        database.run(format!("UPDATE signing_keys SET last_seen_at = {}", database.moment(-100))).await;
        database.store.beat(node, Some("one")).await.unwrap();
        database.store.beat(other, None).await.unwrap();
        assert_eq!(database.store.live_nodes(HOUR).await.unwrap().len(), 2);
        let seen = database.store.keys().await.unwrap()[0].last_seen_at;
        assert!(time::OffsetDateTime::now_utc() - seen < Duration::from_secs(50));
        database.run(format!("UPDATE nodes SET last_seen_at = {} WHERE node = '{other}'", database.moment(-20))).await;
        let live = database.store.live_nodes(Duration::from_secs(10)).await.unwrap();
        assert_eq!(live.iter().map(|live| live.node).collect::<Vec<_>>(), [node]);
        database.store.forget_node(node).await.unwrap();
        assert!(database.store.live_nodes(Duration::from_secs(10)).await.unwrap().is_empty());
    }

    async fn nodes_say_what_they_have_applied(database) {
        let (node, other) = (NodeId::random(), NodeId::random());
        database.store.acknowledge(7, node, 3).await.unwrap();
        database.store.acknowledge(7, node, 0).await.unwrap();
        database.store.acknowledge(7, other, 0).await.unwrap();
        database.store.acknowledge(8, other, 9).await.unwrap();
        let mut acknowledged = database.store.acknowledgements(7).await.unwrap();
        acknowledged.sort_by_key(|(_, closed)| *closed);
        assert_eq!(acknowledged, [(other, 0), (node, 3)]);
    }
}
