//! An empty, migrated database for one test, the store on it, and a hand that writes SQL past the store.

use std::time::Duration;

use portcullis::entry::{LogEntry, Scope};
use portcullis::ids::{Sid, UserId};
use portcullis::secret::SessionSecret;
use portcullis::store::{NewSession, NewUser, SessionRead, SignupOutcome, Store, StoreConfig};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Row, SqliteConnection};

use crate::postgres_server::Server;

pub const HOUR: Duration = Duration::from_secs(3_600);
pub const DAY: Duration = Duration::from_secs(86_400);

pub struct Database {
    pub store: Store,
    pub config: StoreConfig,
    name: String,
    directory: tempfile::TempDir,
}

/// A connection of the test's own, for SQL by hand.
pub enum Hand {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Database {
    pub async fn postgres() -> Self {
        Self::create(|server, name| Some(server.url(name))).await
    }

    pub async fn pooler() -> Self {
        Self::create(|server, name| Some(server.pooler_url(name))).await
    }

    pub async fn sqlite() -> Self {
        Self::open(String::new(), None).await.migrated().await
    }

    async fn create(url: impl Fn(&'static Server, &str) -> Option<String>) -> Self {
        let (name, server) = empty_postgres().await;
        let url = url(server, &name);
        Self::open(name, url).await.migrated().await
    }

    /// A database without tables.
    pub async fn empty_postgres() -> Self {
        let (name, server) = empty_postgres().await;
        let url = server.url(&name);
        Self::open(name, Some(url)).await
    }

    /// A directory without a file.
    pub async fn empty_sqlite() -> Self {
        Self::open(String::new(), None).await
    }

    async fn open(name: String, url: Option<String>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = StoreConfig {
            database_url: url.map(SecretString::from),
            data_dir: directory.path().join("data"),
            pool_size: 3,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        };
        let store = Store::open(&config).await.expect("a store");
        Self { store, config, name, directory }
    }

    async fn migrated(self) -> Self {
        self.store.migrate().await.expect("migrations");
        self
    }

    /// Another store on the same database, as another node would have it.
    pub async fn another_store(&self, change: impl FnOnce(&mut StoreConfig)) -> Store {
        let mut config = self.config.clone();
        change(&mut config);
        Store::open(&config).await.expect("a store")
    }

    /// The database's name on the server.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_sqlite(&self) -> bool {
        self.store.kind() == "sqlite"
    }

    pub fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("data/portcullis.db")
    }

    /// A connection past the store, and past the pooler.
    pub async fn hand(&self) -> Hand {
        if self.is_sqlite() {
            let options = SqliteConnectOptions::new().filename(self.file()).foreign_keys(true);
            return Hand::Sqlite(options.connect().await.expect("a connection"));
        }
        let options: PgConnectOptions = Server::get().url(&self.name).parse().expect("a URL");
        Hand::Postgres(options.application_name("hand").connect().await.expect("a connection"))
    }

    /// Runs SQL by hand, at once.
    pub async fn run(&self, sql: impl Into<String>) {
        self.hand().await.run(sql).await;
    }

    /// The first column of the first row.
    pub async fn number(&self, sql: impl Into<String>) -> i64 {
        self.hand().await.number(sql).await
    }

    /// SQL for a moment so many seconds from now.
    pub fn moment(&self, seconds: i64) -> String {
        if self.is_sqlite() {
            format!("(CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER) + {seconds} * 1000000)")
        } else {
            format!("(now() + interval '1 second' * ({seconds}))")
        }
    }

    pub async fn user(&self) -> UserId {
        let user = NewUser {
            email: format!("{}@example.org", UserId::random()),
            password_hash: "$old".into(),
            full_name: Some("Ann".into()),
        };
        match self.store.sign_up(user, None).await.expect("a signup") {
            SignupOutcome::Created { user, .. } => user.user.id,
            SignupOutcome::EmailTaken => panic!("a random address is taken"),
        }
    }

    pub async fn epoch(&self, user: UserId) -> u64 {
        self.store.login_row_by_id(user).await.expect("a login row").expect("the user").auth_epoch
    }

    /// Logs `user` in.
    pub async fn session(&self, user: UserId) -> SessionRead {
        let epoch = self.epoch(user).await;
        let inserted = self.store.insert_session(user, epoch, new_session()).await.expect("an insert");
        inserted.expect("the user has not moved on").value
    }

    /// What the store says of a session now.
    pub async fn load(&self, sid: Sid) -> Option<SessionRead> {
        self.store.load_sessions(&[sid]).await.expect("a load").value.pop()
    }

    /// All that was ever logged and not trimmed.
    pub async fn log(&self) -> Vec<LogEntry> {
        self.store.log_reader().read().await.expect("a read").entries
    }

    pub async fn scopes(&self) -> Vec<Scope> {
        self.log().await.into_iter().map(|entry| entry.scope).collect()
    }
}

impl Hand {
    pub async fn run(&mut self, sql: impl Into<String>) {
        self.try_run(sql).await.expect("SQL by hand");
    }

    pub async fn try_run(&mut self, sql: impl Into<String>) -> sqlx::Result<()> {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        match self {
            Self::Postgres(connection) => sql.execute(connection).await.map(drop),
            Self::Sqlite(connection) => sql.execute(connection).await.map(drop),
        }
    }

    pub async fn number(&mut self, sql: impl Into<String>) -> i64 {
        let sql = sqlx::raw_sql(AssertSqlSafe(sql.into()));
        match self {
            Self::Postgres(connection) => sql.fetch_one(connection).await.expect("a row").get::<i64, _>(0),
            Self::Sqlite(connection) => sql.fetch_one(connection).await.expect("a row").get::<i64, _>(0),
        }
    }
}

async fn empty_postgres() -> (String, &'static Server) {
    let server = tokio::task::spawn_blocking(Server::get).await.expect("a server");
    let name = format!("t{}", UserId::random().0.simple());
    let options: PgConnectOptions = server.url("postgres").parse().expect("a URL");
    let mut connection = options.connect().await.expect("a connection");
    let create = format!("CREATE DATABASE {name} STRATEGY file_copy");
    sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut connection).await.expect("a database");
    (name, server)
}

pub fn new_session() -> NewSession {
    NewSession {
        sid: Sid::random(),
        secret_hash: SessionSecret::random().hash(),
        device_name: Some("Ann's phone; DROP TABLE users'".into()),
        user_agent: Some("Agent/1.0".into()),
        ip: Some("2001:db8::7".parse().expect("an address")),
        seen_from: Default::default(),
        ttl: 7 * DAY,
        max_age: 30 * DAY,
    }
}
