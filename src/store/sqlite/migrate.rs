//! Brings the file to the shape that this program knows, in one transaction.

use std::time::Duration;

use aws_lc_rs::rand::fill;
use sqlx::Row;

use super::Sqlite;
use crate::ids::DeploymentId;
use crate::store::rows::{Answer, DeploymentRow};
use crate::store::{Deployment, StoreError, StoreResult};

/// The query's name in metrics.
pub(super) const NAME: &str = "migrate";

/// Every migration, in order. One that was released is never edited.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../../migrations/sqlite/0001_portcullis.sql")),
    (2, include_str!("../../../migrations/sqlite/0002_accounts.sql")),
    (3, include_str!("../../../migrations/sqlite/0003_keys.sql")),
    (4, include_str!("../../../migrations/sqlite/0004_operator.sql")),
    (5, include_str!("../../../migrations/sqlite/0005_elsewhere.sql")),
];

/// Two processes that both turn a new file to WAL mode get in each other's way for a moment.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

impl Sqlite {
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
        let mut transaction = self.begin(NAME).await?;
        let create = "CREATE TABLE IF NOT EXISTS portcullis_migrations \
                      (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)";
        transaction.run(sqlx::query(create)).await?;
        let applied = sqlx::query("SELECT version FROM portcullis_migrations")
            .fetch_all(&mut *transaction.transaction)
            .await?
            .iter()
            .map(|row| row.try_get::<i64, _>(0))
            .collect::<Result<Vec<_>, _>>()?;
        let missing: Vec<_> = MIGRATIONS.iter().filter(|(version, _)| !applied.contains(version)).collect();
        for (version, migration) in &missing {
            sqlx::raw_sql(*migration).execute(&mut *transaction.transaction).await?;
            let note = sqlx::query("INSERT INTO portcullis_migrations (version) VALUES (?1)").bind(*version);
            transaction.run(note).await?;
        }
        if !missing.is_empty() {
            let mut key = [0_u8; 32];
            fill(&mut key).map_err(|_| StoreError::Unavailable("no random bytes".into()))?;
            let insert = sqlx::query("INSERT INTO deployment (id, record_key) VALUES (?1, ?2) ON CONFLICT DO NOTHING")
                .bind(DeploymentId::random().to_string())
                .bind(&key[..]);
            transaction.run(insert).await?;
        }
        transaction.commit().await?;
        Ok(missing.len())
    }

    pub(in crate::store) async fn deployment(&self) -> StoreResult<Deployment> {
        let select = answer!("json_object('id', d.id, 'record_key', lower(hex(d.record_key)))", "deployment d");
        let (answer, _): (Answer<DeploymentRow>, _) = self.read("deployment", sqlx::query(select)).await?;
        let row = answer.rows.into_iter().next();
        row.map(Deployment::from).ok_or_else(|| StoreError::Corrupt("the database has no deployment row".into()))
    }
}
