//! Signing keys, and who is alive and has applied what.

use std::time::Duration;

use super::Sqlite;
use super::accounts::to_column;
use crate::entry::{LogEntry, PublicKey};
use crate::ids::NodeId;
use crate::store::rows::{AcknowledgementRow, KeyRow, NodeRow, duration_micros};
use crate::store::{LiveNode, RegisteredKey, Revoked, StoreResult};

const PING: &str = answer!("1", "(SELECT 1)");

const REGISTER: &str = concat!(
    "INSERT INTO signing_keys (kid, algorithm, jwk) VALUES (?1, ?2, ?3) \
     ON CONFLICT (kid) DO UPDATE SET last_seen_at = ",
    now!()
);

const REVOKE: &str = concat!("UPDATE signing_keys SET revoked_at = ", now!(), " WHERE kid = ?1 AND revoked_at IS NULL");

const REVOKE_UNREGISTERED: &str = concat!(
    "INSERT INTO signing_keys (kid, algorithm, jwk, revoked_at) VALUES (?1, 'HS256', '{}', ",
    now!(),
    ") ON CONFLICT DO NOTHING"
);

const CONFIRM: &str = "UPDATE revocations SET confirm = 1 WHERE id > ?1 AND kind = 'key_removed'";

const OUTDATE: &str =
    concat!("UPDATE signing_keys SET outdated_at = ", now!(), " WHERE revoked_at IS NULL AND used_at IS NOT NULL");

const KEY_SEEN: &str = concat!(
    "UPDATE signing_keys SET last_seen_at = ",
    now!(),
    ", used_at = coalesce(used_at, ",
    now!(),
    ") WHERE kid = ?1"
);

const BEAT: &str = concat!(
    "INSERT INTO nodes (node, kid) VALUES (?1, ?2) ON CONFLICT (node) DO UPDATE SET kid = ?2, last_seen_at = ",
    now!()
);

const KEYS: &str = answer!(
    "json_object('kid', k.kid, 'algorithm', k.algorithm, 'jwk', k.jwk, 'revoked', k.revoked_at IS NOT NULL, \
     'outdated', k.outdated_at IS NOT NULL, 'created_at', k.created_at, 'used_at', k.used_at, \
     'last_seen_at', k.last_seen_at)",
    "(SELECT * FROM signing_keys ORDER BY created_at, kid) k"
);

const LIVE_NODES: &str = answer!(
    "json_object('node', n.node, 'kid', n.kid, 'last_seen_at', n.last_seen_at)",
    concat!("nodes n WHERE n.last_seen_at > ", now!(), " - ?1")
);

const ACKNOWLEDGE: &str = "INSERT INTO acknowledgements (entry_id, node, sockets_closed) VALUES (?1, ?2, ?3) \
     ON CONFLICT (entry_id, node) DO UPDATE SET sockets_closed = max(sockets_closed, excluded.sockets_closed)";

const ACKNOWLEDGEMENTS: &str = answer!(
    "json_object('node', a.node, 'sockets_closed', a.sockets_closed)",
    "acknowledgements a WHERE a.entry_id = ?1"
);

impl Sqlite {
    pub(in crate::store) async fn ping(&self) -> StoreResult<()> {
        self.read::<u8>("ping", sqlx::query(PING)).await?;
        Ok(())
    }

    pub(in crate::store) async fn register_key(&self, key: &PublicKey) -> StoreResult<Vec<LogEntry>> {
        let mut transaction = self.begin("register_key").await?;
        let insert = sqlx::query(REGISTER).bind(&key.kid).bind(&key.algorithm).bind(key.jwk.to_string());
        transaction.run(insert).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(entries)
    }

    pub(in crate::store) async fn keys(&self) -> StoreResult<Vec<RegisteredKey>> {
        let (answer, _) = self.read::<KeyRow>("keys", sqlx::query(KEYS)).await?;
        answer.rows.into_iter().map(RegisteredKey::try_from).collect()
    }

    pub(in crate::store) async fn revoke_key(&self, kid: &str, unregistered: bool) -> StoreResult<Revoked> {
        let mut transaction = self.begin("revoke_key").await?;
        transaction.run(sqlx::query(REVOKE).bind(kid)).await?;
        if unregistered {
            transaction.run(sqlx::query(REVOKE_UNREGISTERED).bind(kid)).await?;
        }
        transaction.run(sqlx::query(CONFIRM).bind(transaction.logged_before)).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(Revoked { sessions: 0, entries })
    }

    pub(in crate::store) async fn outdate_keys(&self) -> StoreResult<u64> {
        let mut transaction = self.begin("outdate_keys").await?;
        let count = transaction.run(sqlx::query(OUTDATE)).await?;
        transaction.commit().await?;
        Ok(count)
    }

    pub(in crate::store) async fn beat(&self, node: NodeId, kid: Option<&str>) -> StoreResult<()> {
        let mut transaction = self.begin("beat").await?;
        if let Some(kid) = kid {
            transaction.run(sqlx::query(KEY_SEEN).bind(kid)).await?;
        }
        transaction.run(sqlx::query(BEAT).bind(node.to_string()).bind(kid)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn live_nodes(&self, within: Duration) -> StoreResult<Vec<LiveNode>> {
        let query = sqlx::query(LIVE_NODES).bind(duration_micros(within));
        let (answer, _) = self.read::<NodeRow>("live_nodes", query).await?;
        Ok(answer.into_rows())
    }

    pub(in crate::store) async fn forget_node(&self, node: NodeId) -> StoreResult<()> {
        let mut transaction = self.begin("forget_node").await?;
        transaction.run(sqlx::query("DELETE FROM nodes WHERE node = ?1").bind(node.to_string())).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn acknowledge(
        &self,
        entry_id: u64,
        node: NodeId,
        sockets_closed: u64,
    ) -> StoreResult<()> {
        let mut transaction = self.begin("acknowledge").await?;
        let insert =
            sqlx::query(ACKNOWLEDGE).bind(to_column(entry_id)).bind(node.to_string()).bind(to_column(sockets_closed));
        transaction.run(insert).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn acknowledgements(&self, entry_id: u64) -> StoreResult<Vec<(NodeId, u64)>> {
        let query = sqlx::query(ACKNOWLEDGEMENTS).bind(to_column(entry_id));
        let (answer, _) = self.read::<AcknowledgementRow>("acknowledgements", query).await?;
        Ok(answer.into_rows())
    }
}
