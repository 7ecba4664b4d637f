//! Signing keys, and who is alive and has applied what.

use std::time::Duration;

use super::Postgres;
use super::script::Script;
use crate::entry::{LogEntry, PublicKey};
use crate::ids::NodeId;
use crate::store::rows::{AcknowledgementRow, KeyRow, NodeRow};
use crate::store::{LiveNode, RegisteredKey, Revoked, StoreResult};

const REGISTER: &str = "WITH registered AS (INSERT INTO signing_keys (kid, algorithm, jwk) VALUES ($1, $2, $3::json) \
     ON CONFLICT (kid) DO UPDATE SET last_seen_at = now() RETURNING 1) SELECT count(*)::text FROM registered";

const REVOKE: &str = "WITH revoked AS (UPDATE signing_keys SET revoked_at = now() \
     WHERE kid = $1 AND revoked_at IS NULL RETURNING 1) SELECT count(*)::text FROM revoked";

const REVOKE_UNREGISTERED: &str = "WITH revoked AS (INSERT INTO signing_keys (kid, algorithm, jwk, revoked_at) \
     VALUES ($1, 'HS256', '{}', now()) ON CONFLICT DO NOTHING RETURNING 1) SELECT count(*)::text FROM revoked";

const CONFIRM: &str = "UPDATE revocations SET confirm = true \
     WHERE position = pg_current_xact_id_if_assigned()::text::bigint AND kind = 'key_removed'";

const OUTDATE: &str = "WITH outdated AS (UPDATE signing_keys SET outdated_at = now() \
     WHERE revoked_at IS NULL AND used_at IS NOT NULL RETURNING 1) SELECT count(*)::text FROM outdated";

const BEAT: &str = "WITH seen AS (UPDATE signing_keys SET last_seen_at = now(), used_at = coalesce(used_at, now()) \
     WHERE kid = $2), \
     beat AS (INSERT INTO nodes (node, kid) VALUES ($1, $2) \
     ON CONFLICT (node) DO UPDATE SET kid = $2, last_seen_at = now() RETURNING 1) SELECT count(*)::text FROM beat";

const KEYS: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('kid', k.kid, 'algorithm', k.algorithm, 'jwk', k.jwk::text, ",
    "'revoked', k.revoked_at IS NOT NULL, 'outdated', k.outdated_at IS NOT NULL, 'created_at', ",
    micros!("k.created_at"),
    ", 'used_at', ",
    micros!("k.used_at"),
    ", 'last_seen_at', ",
    micros!("k.last_seen_at"),
    ") ORDER BY k.created_at, k.kid), '[]') FROM signing_keys k"
);

const LIVE_NODES: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('node', n.node, 'kid', n.kid, 'last_seen_at', ",
    micros!("n.last_seen_at"),
    ") ORDER BY n.started_at), '[]') FROM nodes n WHERE n.last_seen_at > now() - "
);

impl Postgres {
    pub(in crate::store) async fn ping(&self) -> StoreResult<()> {
        self.read::<u8>("ping", Script::new("SELECT json_build_array(1)")).await?;
        Ok(())
    }

    pub(in crate::store) async fn register_key(&self, key: &PublicKey) -> StoreResult<Vec<LogEntry>> {
        let mut transaction = self.begin("register_key").await?;
        let insert = sqlx::query(REGISTER).bind(&key.kid).bind(&key.algorithm).bind(key.jwk.to_string());
        transaction.query::<u64>(insert).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(entries)
    }

    pub(in crate::store) async fn keys(&self) -> StoreResult<Vec<RegisteredKey>> {
        let (answer, _) = self.read::<KeyRow>("keys", Script::new(KEYS)).await?;
        answer.rows.into_iter().map(RegisteredKey::try_from).collect()
    }

    pub(in crate::store) async fn revoke_key(&self, kid: &str, unregistered: bool) -> StoreResult<Revoked> {
        let mut transaction = self.begin("revoke_key").await?;
        transaction.query::<u64>(sqlx::query(REVOKE).bind(kid)).await?;
        if unregistered {
            transaction.query::<u64>(sqlx::query(REVOKE_UNREGISTERED).bind(kid)).await?;
        }
        transaction.run(Script::new(CONFIRM)).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(Revoked { sessions: 0, entries })
    }

    pub(in crate::store) async fn outdate_keys(&self) -> StoreResult<u64> {
        let mut transaction = self.begin("outdate_keys").await?;
        let count = transaction.query(sqlx::query(OUTDATE)).await?;
        transaction.commit().await?;
        Ok(count)
    }

    pub(in crate::store) async fn beat(&self, node: NodeId, kid: Option<&str>) -> StoreResult<()> {
        let mut transaction = self.begin("beat").await?;
        transaction.query::<u64>(sqlx::query(BEAT).bind(node.0).bind(kid)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn live_nodes(&self, within: Duration) -> StoreResult<Vec<LiveNode>> {
        let (answer, _) = self.read::<NodeRow>("live_nodes", Script::new(LIVE_NODES).interval(within)).await?;
        Ok(answer.into_rows())
    }

    pub(in crate::store) async fn forget_node(&self, node: NodeId) -> StoreResult<()> {
        let mut transaction = self.begin("forget_node").await?;
        transaction.run(Script::new("DELETE FROM nodes WHERE node = ").uuid(node.0)).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn acknowledge(
        &self,
        entry_id: u64,
        node: NodeId,
        sockets_closed: u64,
    ) -> StoreResult<()> {
        let mut transaction = self.begin("acknowledge").await?;
        let insert = Script::new("INSERT INTO acknowledgements AS a (entry_id, node, sockets_closed) VALUES (")
            .unsigned(entry_id)
            .text(", ")
            .uuid(node.0)
            .text(", ")
            .unsigned(sockets_closed)
            .text(") ON CONFLICT (entry_id, node) DO UPDATE SET sockets_closed = ")
            .text("greatest(a.sockets_closed, excluded.sockets_closed)");
        transaction.run(insert).await?;
        transaction.commit().await
    }

    pub(in crate::store) async fn acknowledgements(&self, entry_id: u64) -> StoreResult<Vec<(NodeId, u64)>> {
        let select = "SELECT coalesce(json_agg(json_build_object('node', a.node, \
                      'sockets_closed', a.sockets_closed)), '[]') FROM acknowledgements a WHERE a.entry_id = ";
        let (answer, _) =
            self.read::<AcknowledgementRow>("acknowledgements", Script::new(select).unsigned(entry_id)).await?;
        Ok(answer.into_rows())
    }
}
