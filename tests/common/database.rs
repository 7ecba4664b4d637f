//! The gateway's database as an operator with a SQL prompt sees it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

/// Where the nodes of a stage keep their data.
#[derive(Clone)]
pub enum Database {
    /// A Postgres URL.
    Postgres(String),
    /// The DATA_DIR that holds the embedded database.
    Embedded(PathBuf),
}

impl Database {
    /// A hand-written UPDATE that disables a user.
    pub async fn disable(&self, email: &str) {
        self.try_disable(email).await.expect("disable a user");
    }

    /// The same against a database that may be away.
    pub async fn try_disable(&self, email: &str) -> sqlx::Result<()> {
        self.update(
            "UPDATE users SET disabled_at = now() WHERE email = $1",
            "UPDATE users SET disabled_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) WHERE email = $1",
            email,
        )
        .await
    }

    /// A hand-written UPDATE that ends every session of a user.
    pub async fn raise_epoch(&self, email: &str) {
        const RAISE: &str = "UPDATE users SET auth_epoch = auth_epoch + 1 WHERE email = $1";
        self.update(RAISE, RAISE, email).await.expect("raise an epoch");
    }

    /// The number that a query gives, in SQL that both understand.
    pub async fn number(&self, query: &'static str) -> i64 {
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.expect("connect");
                sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number")
            }
            Self::Embedded(folder) => {
                let options = SqliteConnectOptions::new().filename(sqlite_file(folder));
                let mut connection = options.busy_timeout(Duration::from_secs(10)).connect().await.expect("open");
                sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("a number")
            }
        }
    }

    /// A hand-written DELETE of a signing key.
    pub async fn delete_key(&self, kid: &str) {
        const DELETE: &str = "DELETE FROM signing_keys WHERE kid = $1";
        self.update(DELETE, DELETE, kid).await.expect("delete a key");
    }

    /// A hash that came along from another system, written by hand.
    pub async fn set_password_hash(&self, email: &str, hash: &str) {
        const SET: &str = "UPDATE users SET password_hash = $2 WHERE email = $1";
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.expect("connect");
                sqlx::query(SET).bind(email).bind(hash).execute(&mut connection).await.expect("set a hash");
            }
            Self::Embedded(folder) => {
                let mut connection = open_sqlite(folder).await.expect("open");
                sqlx::query(SET).bind(email).bind(hash).execute(&mut connection).await.expect("set a hash");
            }
        }
    }

    /// One number that a statement counts for an e-mail address or another text.
    pub async fn count(&self, sql: &'static str, text: &str) -> i64 {
        self.scalar(sql, text).await.expect("a number")
    }

    /// The hash of somebody's password.
    pub async fn password_hash(&self, email: &str) -> String {
        self.scalar("SELECT password_hash FROM users WHERE email = $1", email).await.expect("a hash")
    }

    async fn scalar<T>(&self, sql: &'static str, text: &str) -> sqlx::Result<T>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
        T: for<'r> sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                sqlx::query_scalar(sql).bind(text).fetch_one(&mut connection).await
            }
            Self::Embedded(folder) => {
                sqlx::query_scalar(sql).bind(text).fetch_one(&mut open_sqlite(folder).await?).await
            }
        }
    }

    async fn update(&self, postgres: &'static str, sqlite: &'static str, whose: &str) -> sqlx::Result<()> {
        let rows = match self {
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await?;
                sqlx::query(postgres).bind(whose).execute(&mut connection).await?.rows_affected()
            }
            Self::Embedded(folder) => {
                let mut connection = open_sqlite(folder).await?;
                sqlx::query(sqlite).bind(whose).execute(&mut connection).await?.rows_affected()
            }
        };
        assert_eq!(rows, 1, "the statement should have met exactly {whose}");
        Ok(())
    }
}

async fn open_sqlite(folder: &Path) -> sqlx::Result<sqlx::SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(sqlite_file(folder));
    options.busy_timeout(Duration::from_secs(10)).connect().await
}

/// The file in the folder that begins as SQLite files do.
fn sqlite_file(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).expect("read DATA_DIR").filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|path| {
            let mut start = [0; 16];
            let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
            read.is_ok() && &start == b"SQLite format 3\0"
        })
        .unwrap_or_else(|| panic!("no SQLite database in {}", folder.display()))
}
