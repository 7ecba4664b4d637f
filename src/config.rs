//! Every setting: its name, default, unit, reason and check.
//!
//! A setting is an environment variable, a flag and a key of one TOML file; the list of them is [`settings`], how the
//! layers hide each other is [`layers`], how a text becomes a value is [`values`]. Here the values become one checked
//! [`Config`], or the start stops with a message that names the setting.

pub mod layers;
pub mod settings;
pub mod values;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::secret::RecordKey;
use layers::{Layers, Source, Texts};
use settings::Setting;
use values::{DAY, SECOND, YEARS};

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
    /// `validate-session` hands out a new secret.
    pub session_rotation: bool,
    /// How long the secret before it still works.
    pub session_rotation_grace: Duration,
    /// What happens when a session's secret comes from elsewhere.
    pub fingerprint: FingerprintPolicy,
    /// Life of a user's record in the caches.
    pub user_cache_ttl: Duration,
    /// Leeway for `exp` and `nbf`.
    pub token_leeway: Duration,
    /// Signing algorithm of keys this node makes: `EdDSA`, `ES256`, `RS256` (or `HS256` with a shared key).
    pub signing_algorithm: String,
    /// Signing keys for all nodes, as PKCS#8 PEM (or HS256 secrets, one a line), instead of one key per node. The first
    /// signs. See [`signing_keys`](Self::signing_keys).
    pub signing_key: Option<SecretString>,
    /// After how long a node takes a new key of its own; `None`: never by itself.
    pub signing_key_rotation: Option<Duration>,
    /// The keys that encrypt records in Redis (32 bytes as base64 or hex), instead of the one in the database. The first
    /// seals. See [`record_keys`](Self::record_keys).
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
    /// Bytes a second a socket may send.
    pub max_bytes_per_second: usize,
    /// Live sockets of one user on all nodes.
    pub max_connections_per_user: usize,
    /// Live sockets of one address (IPv6: one /64) on all nodes.
    pub max_connections_per_address: usize,
    /// Live sockets on this node.
    pub max_connections: usize,
    /// Live sockets on this node that have shown no credential; `None` is a share of what the node takes.
    pub max_waiting_connections: Option<usize>,
    /// Connections on this node that speak HTTP; `None` is a share of the open files.
    pub max_http_connections: Option<usize>,
    /// Handshakes a second of one address.
    pub max_handshakes_per_second: u32,
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
    /// Sessions read into the caches after the start, those used last.
    pub warm_sessions: usize,
    /// Password hashes computed at once.
    pub password_threads: usize,
    /// Password hashes waiting for their turn; more are answered 503.
    pub password_queue: usize,
    /// How long the audit trail is kept.
    pub audit_retention: Duration,
    /// Receivers of webhooks. Secret, because a URL may hold a password or a token.
    pub webhook_urls: Vec<SecretString>,
    /// Signs webhooks; there is one when there are receivers.
    pub webhook_secret: Option<SecretString>,
    /// Time for a receiver to answer.
    pub webhook_timeout: Duration,
    /// How long a webhook is tried again.
    pub webhook_give_up_after: Duration,
    /// Log filter, as `RUST_LOG` has it.
    pub log: String,
    /// `auto` (human on a terminal, JSON otherwise), `human` or `json`.
    pub log_format: String,
    /// What the operator should hear although it does not stop the start, such as a misspelt name.
    pub warnings: Vec<String>,
    /// The files that settings were read from.
    pub files: Vec<PathBuf>,
}

/// What happens when a session's secret is shown from another browser family or network than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FingerprintPolicy {
    /// Nobody looks.
    #[default]
    Off,
    /// It is written down, shown in the device list, and the session is at home there from now on.
    Log,
    /// It is written down, and whoever shows it must log in again (403). The session lives on where it was.
    Challenge,
    /// It is written down, and the session ends.
    Deny,
}

/// Why the program cannot start with these settings: one sentence that names the setting and where it was set.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    fn of(setting: &Setting, source: &Source, reason: String) -> Self {
        match source {
            Source::Flag => Self(format!("--{} ({}): {reason}", setting.flag(), setting.env)),
            Source::File(_) => Self(format!("{} ({} in {source}): {reason}", setting.env, setting.key())),
            _ => Self(format!("{} (from {source}): {reason}", setting.env)),
        }
    }
}

/// Upper end of counts that only need to be sane.
const MANY: usize = 100_000_000;

const MILLISECOND: Duration = Duration::from_millis(1);

impl Config {
    /// Reads all layers: the TOML file (if a layer above names one), the file `dotenv` (if it exists), `environment`,
    /// and `flags`, which are keyed by [`Setting::env`] too.
    pub fn load(flags: &Texts, environment: &Texts, dotenv: Option<&Path>) -> Result<Self, ConfigError> {
        let layers = Layers::read(flags, environment, dotenv)?;
        let mut config = read(&layers)?;
        // What people know. Our own setting, where there is one, goes before it.
        if let (Source::BuiltIn, Some(filter)) = (layers.source(&settings::LOG), environment.get("RUST_LOG")) {
            config.log = values::log_filter(filter)
                .map_err(|reason| ConfigError(format!("RUST_LOG (from the environment): {reason}")))?;
        }
        config.warnings = layers.warnings;
        config.files = layers.files;
        Ok(config)
    }

    /// The configured signing keys, in their order; none when each node makes its own.
    #[must_use]
    pub fn signing_keys(&self) -> Vec<&str> {
        self.signing_key.as_ref().map_or_else(Vec::new, |keys| values::key_texts(keys.expose_secret()))
    }

    /// The record keys in their order, the first of which seals. `in_database` is the one that the first node made.
    #[must_use]
    pub fn record_keys(&self, in_database: &RecordKey) -> Vec<RecordKey> {
        let configured = self.record_key.as_ref().and_then(|keys| values::record_keys(keys.expose_secret()).ok());
        let keys = configured.unwrap_or_else(|| vec![None]);
        keys.into_iter().map(|key| key.unwrap_or_else(|| in_database.clone())).collect()
    }
}

fn read(layers: &Layers) -> Result<Config, ConfigError> {
    use settings as s;
    let (session_ttl, session_max_age) = session_life(layers)?;
    let (signing_algorithm, signing_key) = signing(layers)?;
    let (webhook_urls, webhook_secret) = webhooks(layers)?;
    Ok(Config {
        host: layers.value(&s::HOST, values::address)?,
        port: layers.value(&s::PORT, values::number(0..=u16::MAX))?,
        data_dir: layers.value(&s::DATA_DIR, data_dir)?,
        database_url: layers.secret(&s::DATABASE_URL, &s::DATABASE_URL_FILE, values::database_url)?,
        redis_url: redis_url(layers)?,
        allowed_origins: layers.optional(&s::ALLOWED_ORIGINS, values::list(values::origin))?.unwrap_or_default(),
        throttling: layers.value(&s::THROTTLING, values::switch)?,
        cookies: layers.value(&s::COOKIES, values::switch)?,
        enumeration_defence: layers.value(&s::ENUMERATION_DEFENCE, values::switch)?,
        issuer: layers.value(&s::ISSUER, values::name)?,
        audience: layers.value(&s::AUDIENCE, values::name)?,
        access_token_ttl: layers.value(&s::ACCESS_TOKEN_TTL, values::whole_seconds(SECOND..=YEARS))?,
        session_ttl,
        session_max_age,
        session_rotation: layers.value(&s::SESSION_ROTATION, values::switch)?,
        // Shorter than the time in which every node has heard of a rotation it would be no grace.
        session_rotation_grace: layers.value(&s::SESSION_ROTATION_GRACE, values::duration(SECOND..=DAY / 24))?,
        fingerprint: layers.value(&s::FINGERPRINT, fingerprint_policy)?,
        user_cache_ttl: layers.value(&s::USER_CACHE_TTL, values::duration(SECOND..=7 * DAY))?,
        // More would keep a stolen token alive; RFC 8725 wants it small.
        token_leeway: layers.value(&s::TOKEN_LEEWAY, values::whole_seconds(Duration::ZERO..=60 * SECOND))?,
        signing_algorithm,
        signing_key,
        signing_key_rotation: layers.value(&s::SIGNING_KEY_ROTATION, values::duration_or_off(SECOND..=YEARS))?,
        record_key: layers.secret(&s::RECORD_KEY, &s::RECORD_KEY_FILE, |text| values::record_keys(text).map(drop))?,
        connect_timeout: layers.value(&s::CONNECT_TIMEOUT, values::duration(100 * MILLISECOND..=DAY / 24))?,
        // `ping` in the answer to connect is a number of seconds, and 0 would tell SDKs that there are none.
        ping_interval: layers.value(&s::PING_INTERVAL, values::whole_seconds(SECOND..=DAY / 24))?,
        pong_timeout: layers.value(&s::PONG_TIMEOUT, values::duration(100 * MILLISECOND..=DAY / 24))?,
        grace_time: layers.value(&s::GRACE_TIME, values::duration(Duration::ZERO..=DAY / 24))?,
        drain_window: layers.value(&s::DRAIN_WINDOW, values::duration(Duration::ZERO..=DAY / 24))?,
        max_message_bytes: layers.value(&s::MAX_MESSAGE_BYTES, values::bytes(1 << 10..=16 << 20))?,
        outbox_bytes: layers.value(&s::OUTBOX_BYTES, values::bytes(4 << 10..=256 << 20))?,
        max_commands_per_second: layers.value(&s::MAX_COMMANDS_PER_SECOND, values::number(1..=1_000_000))?,
        max_bytes_per_second: layers.value(&s::MAX_BYTES_PER_SECOND, values::bytes(1 << 10..=1 << 30))?,
        max_connections_per_user: layers.value(&s::MAX_CONNECTIONS_PER_USER, values::number(1..=MANY))?,
        max_connections_per_address: layers.value(&s::MAX_CONNECTIONS_PER_ADDRESS, values::number(1..=MANY))?,
        max_connections: layers.value(&s::MAX_CONNECTIONS, values::number(1..=MANY))?,
        max_waiting_connections: layers.optional(&s::MAX_WAITING_CONNECTIONS, values::number(1..=MANY))?,
        max_http_connections: layers.optional(&s::MAX_HTTP_CONNECTIONS, values::number(1..=MANY))?,
        max_handshakes_per_second: layers.value(&s::MAX_HANDSHAKES_PER_SECOND, values::number(1..=1_000_000))?,
        trusted_proxies: layers.optional(&s::TRUSTED_PROXIES, values::list(values::network))?.unwrap_or_default(),
        database_pool_size: layers.value(&s::DATABASE_POOL_SIZE, values::number(1..=1_000))?,
        database_acquire_timeout: layers
            .value(&s::DATABASE_ACQUIRE_TIMEOUT, values::duration(10 * MILLISECOND..=60 * SECOND))?,
        redis_timeout: layers.value(&s::REDIS_TIMEOUT, values::duration(MILLISECOND..=10 * SECOND))?,
        local_cache_sessions: layers.value(&s::LOCAL_CACHE_SESSIONS, values::number(1..=MANY))?,
        // One answer of the database holds the handles of all.
        warm_sessions: layers.value(&s::WARM_SESSIONS, values::number(0..=100_000))?,
        password_threads: layers
            .optional(&s::PASSWORD_THREADS, values::number(1..=1_024))?
            .unwrap_or_else(spare_processors),
        password_queue: layers.value(&s::PASSWORD_QUEUE, values::number(0..=MANY))?,
        audit_retention: layers.value(&s::AUDIT_RETENTION, values::duration(DAY / 24..=YEARS))?,
        webhook_urls,
        webhook_secret,
        webhook_timeout: layers.value(&s::WEBHOOK_TIMEOUT, values::duration(100 * MILLISECOND..=60 * SECOND))?,
        webhook_give_up_after: layers.value(&s::WEBHOOK_GIVE_UP_AFTER, values::duration(SECOND..=YEARS))?,
        log: layers.value(&s::LOG, values::log_filter)?,
        log_format: layers.value(&s::LOG_FORMAT, values::one_of(&["auto", "human", "json"]))?,
        warnings: Vec::new(),
        files: Vec::new(),
    })
}

fn data_dir(text: &str) -> values::Parsed<PathBuf> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(PathBuf::from(text)) }
}

fn fingerprint_policy(text: &str) -> values::Parsed<FingerprintPolicy> {
    values::one_of(&["off", "log", "challenge", "deny"])(text).map(|policy| match policy.as_str() {
        "log" => FingerprintPolicy::Log,
        "challenge" => FingerprintPolicy::Challenge,
        "deny" => FingerprintPolicy::Deny,
        _ => FingerprintPolicy::Off,
    })
}

/// The rules of the contract: `REDIS_ENABLED` decides when it is set, else the presence of a URL.
fn redis_url(layers: &Layers) -> Result<Option<SecretString>, ConfigError> {
    let enabled = layers.optional(&settings::REDIS_ENABLED, values::switch)?;
    if enabled == Some(false) {
        return Ok(None);
    }
    let url = layers.secret(&settings::REDIS_URL, &settings::REDIS_URL_FILE, values::redis_url)?;
    let local = || SecretString::from("redis://localhost:6379/0");
    Ok(url.or_else(|| enabled.map(|_| local())))
}

/// The sliding life must fit into the absolute one. A default gives way to what somebody has set.
fn session_life(layers: &Layers) -> Result<(Duration, Duration), ConfigError> {
    let sliding = &settings::SESSION_TTL;
    let ttl = layers.value(sliding, values::duration(SECOND..=YEARS))?;
    let max_age = layers.value(&settings::SESSION_MAX_AGE, values::duration(SECOND..=YEARS))?;
    match layers.source(sliding) {
        Source::BuiltIn => Ok((ttl.min(max_age), max_age)),
        source if ttl > max_age => {
            let reason = format!(
                "{} is longer than {}, which is {}",
                humantime::format_duration(ttl),
                settings::SESSION_MAX_AGE.env,
                humantime::format_duration(max_age)
            );
            Err(ConfigError::of(sliding, &source, reason))
        }
        _ => Ok((ttl, max_age)),
    }
}

fn signing(layers: &Layers) -> Result<(String, Option<SecretString>), ConfigError> {
    let setting = &settings::SIGNING_ALGORITHM;
    let algorithm = layers.value(setting, values::one_of(&["EdDSA", "ES256", "RS256", "HS256"]))?;
    let key = layers
        .secret(&settings::SIGNING_KEY, &settings::SIGNING_KEY_FILE, |text| values::signing_keys(text, &algorithm))?;
    if algorithm == "HS256" && key.is_none() {
        let reason = format!("HS256 needs {}, a secret of 32 bytes or more", settings::SIGNING_KEY.env);
        return Err(ConfigError::of(setting, &layers.source(setting), reason));
    }
    Ok((algorithm, key.map(|key| with_real_newlines(&key))))
}

/// Receivers, and the secret without which nobody could believe what they are told.
fn webhooks(layers: &Layers) -> Result<(Vec<SecretString>, Option<SecretString>), ConfigError> {
    use settings as s;
    let urls = layers.secret(&s::WEBHOOK_URLS, &s::WEBHOOK_URLS_FILE, |text| values::webhook_urls(text).map(drop))?;
    let secret =
        layers.secret(&s::WEBHOOK_SECRET, &s::WEBHOOK_SECRET_FILE, |text| values::webhook_secret(text).map(drop))?;
    let urls = urls.and_then(|urls| values::webhook_urls(urls.expose_secret()).ok()).unwrap_or_default();
    if !urls.is_empty() && secret.is_none() {
        let reason = format!("webhooks need {}, with which they are signed", s::WEBHOOK_SECRET.env);
        return Err(ConfigError::of(&s::WEBHOOK_URLS, &layers.source(&s::WEBHOOK_URLS), reason));
    }
    Ok((urls, secret))
}

/// Environment files cannot hold line ends, so a PEM key may spell them `\n`.
fn with_real_newlines(key: &SecretString) -> SecretString {
    let text = key.expose_secret();
    if text.contains("-----BEGIN") { SecretString::from(text.replace("\\n", "\n")) } else { key.clone() }
}

/// One processor stays free for sockets.
fn spare_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1)
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
