//! Brings the database to the shape that this program knows. Not by `sqlx`'s migrator: its lock belongs to the session,
//! which means nothing behind a transaction-mode pooler. One transaction with a transaction-level lock does.

use std::time::Duration;

use aws_lc_rs::rand::fill;
use serde::Deserialize;

use super::script::Script;
use super::{Postgres, Transaction};
use crate::ids::DeploymentId;
use crate::secret::SecretHash;
use crate::store::rows::{Answer, DeploymentRow};
use crate::store::{Deployment, StoreError, StoreResult};

/// Every migration, in order. One that was released is never edited.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../../migrations/postgres/0001_portcullis.sql")),
    (2, include_str!("../../../migrations/postgres/0002_accounts.sql")),
    (3, include_str!("../../../migrations/postgres/0003_keys.sql")),
    (4, include_str!("../../../migrations/postgres/0004_operator.sql")),
    (5, include_str!("../../../migrations/postgres/0005_elsewhere.sql")),
];

/// Migrations may take longer than ordinary statements, and wait for another node's.
const PATIENCE: &str = "SET LOCAL statement_timeout = '50s'; SET LOCAL lock_timeout = '50s'; \
    SET LOCAL idle_in_transaction_session_timeout = '50s'; \
    SELECT pg_advisory_xact_lock(8390317223417209203)";

/// At the start the server may be starting, too.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Deserialize)]
struct Applied {
    versions: Vec<i64>,
}

impl Postgres {
    pub(in crate::store) async fn migrate(&self) -> StoreResult<usize> {
        let mut attempt = 1;
        loop {
            match self.migrate_once().await {
                Err(StoreError::Unavailable(error)) if attempt < ATTEMPTS => {
                    tracing::debug!(error, attempt, "migrating again");
                    attempt += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    async fn migrate_once(&self) -> StoreResult<usize> {
        let mut transaction = self.begin("migrate").await?;
        transaction.run(Script::new(PATIENCE)).await?;
        let applied = applied(&mut transaction).await?;
        let missing: Vec<_> = MIGRATIONS.iter().filter(|(version, _)| !applied.contains(version)).collect();
        for (version, migration) in &missing {
            transaction.run(Script::new(migration)).await?;
            let note = Script::new("INSERT INTO portcullis_migrations (version) VALUES (").integer(*version).text(")");
            transaction.run(note).await?;
        }
        if !missing.is_empty() {
            transaction.run(deployment_row()?).await?;
        }
        transaction.commit().await?;
        Ok(missing.len())
    }

    pub(in crate::store) async fn deployment(&self) -> StoreResult<Deployment> {
        let select = "SELECT coalesce(json_agg(json_build_object('id', id, \
                      'record_key', encode(record_key, 'hex'))), '[]') FROM deployment";
        let (answer, _): (Answer<DeploymentRow>, _) = self.read("deployment", Script::new(select)).await?;
        let row = answer.rows.into_iter().next();
        row.map(Deployment::from).ok_or_else(|| StoreError::Corrupt("the database has no deployment row".into()))
    }
}

/// Which migrations are there already. Looks before it creates: a role without the right to create may still run on a
/// database that somebody else has migrated.
async fn applied(transaction: &mut Transaction<'_>) -> StoreResult<Vec<i64>> {
    let exists = "SELECT (to_regclass('portcullis_migrations') IS NOT NULL)::text";
    if !transaction.json::<bool>(Script::new(exists)).await? {
        let create = "CREATE TABLE portcullis_migrations \
                      (version bigint PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
        transaction.run(Script::new(create)).await?;
    }
    let select =
        "SELECT json_build_object('versions', coalesce(json_agg(version), '[]'))::text FROM portcullis_migrations";
    Ok(transaction.json::<Applied>(Script::new(select)).await?.versions)
}

/// The key comes from this program: the server's own generator for bytes is an extension that may be missing.
fn deployment_row() -> StoreResult<Script> {
    let mut key = SecretHash([0; 32]);
    fill(&mut key.0).map_err(|_| StoreError::Unavailable("no random bytes".into()))?;
    Ok(Script::new("INSERT INTO deployment (id, record_key) VALUES (")
        .uuid(DeploymentId::random().0)
        .text(", ")
        .hash(&key)
        .text(") ON CONFLICT DO NOTHING"))
}
