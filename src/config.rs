//! Every setting: its name, default, unit, reason and check.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// All settings, checked. Field names are the setting's name without the `PORTCULLIS_` prefix, in lower case.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address to listen on (`HOST`).
    pub host: IpAddr,
    /// Port (`PORT`); 0 picks a free one.
    pub port: u16,
    /// Where the embedded database and private keys live (`DATA_DIR`).
    pub data_dir: PathBuf,
    /// `postgres://…`, or `None` for embedded SQLite (`DATABASE_URL`).
    pub database_url: Option<SecretString>,
    /// `redis://…`, or `None` for the in-process cache only (`REDIS_URL`, `REDIS_ENABLED`).
    pub redis_url: Option<SecretString>,
    /// One exact allow-list for CORS and the Origin check; empty: same origin only.
    pub allowed_origins: Vec<String>,
    /// False switches every rate limit off.
    pub throttling: bool,
    /// Cookie mode.
    pub cookies: bool,
    /// Signup answers 202 alike for new and taken addresses.
    pub enumeration_defence: bool,
    /// `iss` of tokens.
    pub issuer: String,
    /// `aud` of tokens.
    pub audience: String,
    /// Life of an access token.
    pub access_token_ttl: Duration,
    /// Sliding life of a session.
    pub session_ttl: Duration,
    /// Absolute life of a session.
    pub session_max_age: Duration,
    /// Life of a user's record in the caches.
    pub user_cache_ttl: Duration,
    /// Leeway for `exp` and `nbf`.
    pub token_leeway: Duration,
    /// Signing algorithm of keys this node makes: `EdDSA`, `ES256`, `RS256` (or `HS256` with a shared key).
    pub signing_algorithm: String,
    /// One signing key for all nodes, as PKCS#8 PEM (or the HS256 secret), instead of one key per node.
    pub signing_key: Option<SecretString>,
    /// The key that encrypts records in Redis (32 bytes as base64 or hex), instead of the one in the database.
    pub record_key: Option<SecretString>,
    /// A socket without a credential must have sent a good `connect` by then.
    pub connect_timeout: Duration,
    /// Between two heartbeats.
    pub ping_interval: Duration,
    /// For the answer to a heartbeat.
    pub pong_timeout: Duration,
    /// How long a socket stays muted before it is closed with 4000.
    pub grace_time: Duration,
    /// Over how long a drain spreads its closes.
    pub drain_window: Duration,
    /// Largest message from a client, in bytes.
    pub max_message_bytes: usize,
    /// Largest backlog to a client that does not read, in bytes.
    pub outbox_bytes: usize,
    /// Commands a second a socket may send.
    pub max_commands_per_second: u32,
    /// Live sockets of one user on this node.
    pub max_connections_per_user: usize,
    /// Live sockets on this node.
    pub max_connections: usize,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Connections in the database pool, the log reader's own not counted.
    pub database_pool_size: u32,
    /// How long a request waits for a database connection.
    pub database_acquire_timeout: Duration,
    /// Time limit of one Redis command.
    pub redis_timeout: Duration,
    /// Sessions held in the local cache.
    pub local_cache_sessions: usize,
    /// Password hashes computed at once.
    pub password_threads: usize,
    /// Password hashes waiting for their turn; more are answered 503.
    pub password_queue: usize,
    /// Log filter, as `RUST_LOG` has it.
    pub log: String,
    /// `auto` (human on a terminal, JSON otherwise), `human` or `json`.
    pub log_format: String,
}
