//! The list of all settings: name, default, meaning. `--help`, the TOML keys, `.env.example` and the search for
//! misspelt names are made from it or checked against it; how a value is read and judged stands in [`super::values`].

/// One setting. Its three names come from one: `PORTCULLIS_PING_INTERVAL`, `--ping-interval`, `ping_interval`.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable.
    pub env: &'static str,
    /// What stands for the value in `--help`.
    pub value_name: &'static str,
    /// The value when no layer has one.
    pub default: Fallback,
    /// Under which heading `--help` and `.env.example` show it.
    pub group: Group,
    /// One line for people.
    pub help: &'static str,
}

/// What holds when nobody says anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// This value.
    Value(&'static str),
    /// No value; the text says what happens instead.
    Unset(&'static str),
}

/// Headings, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Where it listens and what it stands on.
    Essentials,
    /// Who may call.
    Access,
    /// How long credentials live.
    Credentials,
    /// Keys.
    Keys,
    /// Sockets.
    Sockets,
    /// Pools, caches, limits.
    Capacity,
    /// What operators see and hear.
    Operators,
    /// Logs.
    Logs,
}

impl Group {
    /// The heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Essentials => "Essentials",
            Self::Access => "Who may call",
            Self::Credentials => "Tokens and sessions",
            Self::Keys => "Keys",
            Self::Sockets => "Sockets",
            Self::Capacity => "Pools, caches and time limits",
            Self::Operators => "Audit trail and webhooks",
            Self::Logs => "Logs",
        }
    }
}

/// The prefix of every name that the ecosystem has not fixed already.
pub const PREFIX: &str = "PORTCULLIS_";

impl Setting {
    /// The key in the TOML file, and the name of the field in [`super::Config`].
    #[must_use]
    pub fn key(&self) -> String {
        self.env.strip_prefix(PREFIX).unwrap_or(self.env).to_ascii_lowercase()
    }

    /// The flag without its dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        self.key().replace('_', "-")
    }
}

macro_rules! settings {
    ($($name:ident = $env:literal $value_name:literal, $group:ident, $default:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Setting =
                Setting { env: $env, value_name: $value_name, default: $default, group: Group::$group, help: $help };
        )*
        /// Every setting, in the order in which they are shown.
        pub static ALL: &[&Setting] = &[$(&$name),*];
    };
}

use Fallback::{Unset, Value};

settings! {
    CONFIG = "PORTCULLIS_CONFIG" "FILE", Essentials, Unset("no file"),
        "A TOML file with settings; its keys are these names in lower case without the prefix";
    HOST = "HOST" "ADDRESS", Essentials, Value("127.0.0.1"),
        "Address to listen on; 0.0.0.0 is every IPv4 address, :: every address";
    PORT = "PORT" "PORT", Essentials, Value("8000"),
        "Port to listen on; 0 picks a free one";
    DATA_DIR = "DATA_DIR" "DIR", Essentials, Value("data"),
        "Directory of the embedded database and of this node's private key";
    DATABASE_URL = "DATABASE_URL" "URL", Essentials, Unset("embedded SQLite in DATA_DIR"),
        "Postgres, as postgres://user:password@host:5432/database";
    DATABASE_URL_FILE = "DATABASE_URL_FILE" "FILE", Essentials, Unset("none"),
        "A file that holds DATABASE_URL";
    REDIS_URL = "REDIS_URL" "URL", Essentials, Unset("in-process cache only"),
        "Redis, as redis://user:password@host:6379/0 or rediss://";
    REDIS_URL_FILE = "REDIS_URL_FILE" "FILE", Essentials, Unset("none"),
        "A file that holds REDIS_URL";
    REDIS_ENABLED = "REDIS_ENABLED" "on|off", Essentials, Unset("on when there is a REDIS_URL"),
        "Off leaves Redis alone even with a REDIS_URL; on without one means redis://localhost:6379/0";

    ALLOWED_ORIGINS = "PORTCULLIS_ALLOWED_ORIGINS" "ORIGINS", Access, Unset("same origin only"),
        "Origins whose pages may call (CORS and the socket's Origin check), exact and separated by commas";
    TRUSTED_PROXIES = "PORTCULLIS_TRUSTED_PROXIES" "NETWORKS", Access, Unset("none"),
        "Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas";
    COOKIES = "PORTCULLIS_COOKIES" "on|off", Access, Value("off"),
        "Cookie mode: login also sets an HttpOnly session cookie, which is a credential then";
    THROTTLING = "PORTCULLIS_THROTTLING" "on|off", Access, Value("on"),
        "Rate limits; off switches every one of them off";
    ENUMERATION_DEFENCE = "PORTCULLIS_ENUMERATION_DEFENCE" "on|off", Access, Value("off"),
        "Signup answers new and taken addresses alike, with 202 and without a session";

    ISSUER = "PORTCULLIS_ISSUER" "NAME", Credentials, Value("portcullis"),
        "The iss of access tokens, a name or a URL; the same on every node";
    AUDIENCE = "PORTCULLIS_AUDIENCE" "NAME", Credentials, Value("portcullis"),
        "The aud of access tokens; the same on every node";
    ACCESS_TOKEN_TTL = "PORTCULLIS_ACCESS_TOKEN_TTL" "DURATION", Credentials, Value("15m"),
        "Life of an access token";
    SESSION_TTL = "PORTCULLIS_SESSION_TTL" "DURATION", Credentials, Value("7d"),
        "Life of a session without use; use extends it";
    SESSION_MAX_AGE = "PORTCULLIS_SESSION_MAX_AGE" "DURATION", Credentials, Value("30d"),
        "Life of a session at most, with use or without";
    SESSION_ROTATION = "PORTCULLIS_SESSION_ROTATION" "on|off", Credentials, Value("off"),
        "validate-session hands out a new session_id; clients must store it, or they are taken for thieves";
    SESSION_ROTATION_GRACE = "PORTCULLIS_SESSION_ROTATION_GRACE" "DURATION", Credentials, Value("1m"),
        "How long the session_id before still works, for a second tab or an answer that was lost";
    FINGERPRINT = "PORTCULLIS_FINGERPRINT" "POLICY", Credentials, Value("off"),
        "When a session_id comes from another browser family or network: off, log, challenge (403) or deny (ends it)";
    TOKEN_LEEWAY = "PORTCULLIS_TOKEN_LEEWAY" "DURATION", Credentials, Value("5s"),
        "Tolerance for differing clocks when exp and nbf are judged, at most 60s";

    SIGNING_ALGORITHM = "PORTCULLIS_SIGNING_ALGORITHM" "NAME", Keys, Value("EdDSA"),
        "EdDSA, ES256, RS256, or HS256 (which needs a signing key of 32 bytes or more)";
    SIGNING_KEY = "PORTCULLIS_SIGNING_KEY" "KEY", Keys, Unset("each node makes its own in DATA_DIR"),
        "One signing key for all nodes: PKCS#8 PEM (\\n may stand for a line's end), or the HS256 secret; of several PEM blocks or lines the first signs and all are good";
    SIGNING_KEY_FILE = "PORTCULLIS_SIGNING_KEY_FILE" "FILE", Keys, Unset("none"),
        "A file that holds the signing key; SIGHUP reads it again";
    SIGNING_KEY_ROTATION = "PORTCULLIS_SIGNING_KEY_ROTATION" "DURATION|off", Keys, Value("30d"),
        "After how long a node goes over to its next key, of those it makes itself";
    RECORD_KEY = "PORTCULLIS_RECORD_KEY" "KEY", Keys, Unset("made by the first node, kept in the database"),
        "The key that encrypts records in Redis: 32 bytes as base64 or hex, the same on every node; of several between commas the first seals and all open (the word database is the one made by the first node)";
    RECORD_KEY_FILE = "PORTCULLIS_RECORD_KEY_FILE" "FILE", Keys, Unset("none"),
        "A file that holds the record key; SIGHUP reads it again";

    CONNECT_TIMEOUT = "PORTCULLIS_CONNECT_TIMEOUT" "DURATION", Sockets, Value("15s"),
        "A socket without a credential must have sent a good connect by then";
    PING_INTERVAL = "PORTCULLIS_PING_INTERVAL" "DURATION", Sockets, Value("25s"),
        "Time between two heartbeats, in whole seconds";
    PONG_TIMEOUT = "PORTCULLIS_PONG_TIMEOUT" "DURATION", Sockets, Value("10s"),
        "Time for the answer to a heartbeat";
    GRACE_TIME = "PORTCULLIS_GRACE_TIME" "DURATION", Sockets, Value("60s"),
        "How long a socket stays muted while its credential cannot be checked, before it is closed with 4000";
    DRAIN_WINDOW = "PORTCULLIS_DRAIN_WINDOW" "DURATION", Sockets, Value("10s"),
        "Over how long a shutdown spreads the closing of its sockets";
    MAX_MESSAGE_BYTES = "PORTCULLIS_MAX_MESSAGE_BYTES" "BYTES", Sockets, Value("64KiB"),
        "Largest message from a client";
    OUTBOX_BYTES = "PORTCULLIS_OUTBOX_BYTES" "BYTES", Sockets, Value("1MiB"),
        "Largest backlog to a client that does not read; more closes it with 3008";
    MAX_COMMANDS_PER_SECOND = "PORTCULLIS_MAX_COMMANDS_PER_SECOND" "COUNT", Sockets, Value("50"),
        "Commands a second that a socket may send; more closes it with 3013";
    MAX_BYTES_PER_SECOND = "PORTCULLIS_MAX_BYTES_PER_SECOND" "BYTES", Sockets, Value("1MiB"),
        "Bytes of messages a second that a socket may send; more closes it with 3013";
    MAX_HANDSHAKES_PER_SECOND = "PORTCULLIS_MAX_HANDSHAKES_PER_SECOND" "COUNT", Sockets, Value("2000"),
        "Handshakes a second of one address (IPv6: one /64) on one node, five seconds' worth at once; more are answered 429";
    MAX_CONNECTIONS_PER_USER = "PORTCULLIS_MAX_CONNECTIONS_PER_USER" "COUNT", Sockets, Value("1000"),
        "Open sockets of one user on all nodes (on each, without Redis); one more is answered 429 or closed with 3504";
    MAX_CONNECTIONS_PER_ADDRESS = "PORTCULLIS_MAX_CONNECTIONS_PER_ADDRESS" "COUNT", Sockets, Value("100000"),
        "Open sockets of one address (IPv6: one /64) on all nodes (on each, without Redis); one more is answered 429";
    MAX_CONNECTIONS = "PORTCULLIS_MAX_CONNECTIONS" "COUNT", Sockets, Value("100000"),
        "Open sockets on one node, or fewer if the limit of open files says so; one more is answered 503";
    MAX_WAITING_CONNECTIONS = "PORTCULLIS_MAX_WAITING_CONNECTIONS" "COUNT", Sockets, Unset("three quarters of all"),
        "Open sockets on one node that have shown no credential yet; one more is answered 503";
    MAX_HTTP_CONNECTIONS = "PORTCULLIS_MAX_HTTP_CONNECTIONS" "COUNT", Sockets, Unset("an eighth of the open files, at most 10000"),
        "Connections on one node that are no sockets (yet); for one more the one that is silent for the longest is closed";

    USER_CACHE_TTL = "PORTCULLIS_USER_CACHE_TTL" "DURATION", Capacity, Value("1h"),
        "Life of a user's record in the caches (a change is seen at once in any case)";
    LOCAL_CACHE_SESSIONS = "PORTCULLIS_LOCAL_CACHE_SESSIONS" "COUNT", Capacity, Value("100000"),
        "Sessions held in this node's memory";
    WARM_SESSIONS = "PORTCULLIS_WARM_SESSIONS" "COUNT", Capacity, Value("0"),
        "Sessions, those used last, that a node reads into its caches after its start; 0 is none";
    DATABASE_POOL_SIZE = "PORTCULLIS_DATABASE_POOL_SIZE" "COUNT", Capacity, Value("4"),
        "Database connections of this node at most, the log reader's own not counted";
    DATABASE_ACQUIRE_TIMEOUT = "PORTCULLIS_DATABASE_ACQUIRE_TIMEOUT" "DURATION", Capacity, Value("1s"),
        "How long a request waits for a database connection before it is answered 503";
    REDIS_TIMEOUT = "PORTCULLIS_REDIS_TIMEOUT" "DURATION", Capacity, Value("50ms"),
        "Time limit of one Redis command; then the database is asked";
    PASSWORD_THREADS = "PORTCULLIS_PASSWORD_THREADS" "COUNT", Capacity, Unset("processors less one, at least 1"),
        "Password hashes computed at once (19 MiB each)";
    PASSWORD_QUEUE = "PORTCULLIS_PASSWORD_QUEUE" "COUNT", Capacity, Value("64"),
        "Password hashes waiting for their turn; more are answered 503";

    AUDIT_RETENTION = "PORTCULLIS_AUDIT_RETENTION" "DURATION", Operators, Value("90d"),
        "How long the audit trail is kept, and webhooks that nobody took";
    WEBHOOK_URLS = "PORTCULLIS_WEBHOOK_URLS" "URLS", Operators, Unset("none"),
        "Receivers that are told when sessions end, https and separated by commas; the same on every node";
    WEBHOOK_URLS_FILE = "PORTCULLIS_WEBHOOK_URLS_FILE" "FILE", Operators, Unset("none"),
        "A file that holds the receivers' URLs, for those that hold a secret";
    WEBHOOK_SECRET = "PORTCULLIS_WEBHOOK_SECRET" "SECRET", Operators, Unset("needed with webhooks"),
        "Signs webhooks: whsec_ and base64 of 24 bytes or more, or any text of 32 bytes or more";
    WEBHOOK_SECRET_FILE = "PORTCULLIS_WEBHOOK_SECRET_FILE" "FILE", Operators, Unset("none"),
        "A file that holds the webhooks' secret";
    WEBHOOK_TIMEOUT = "PORTCULLIS_WEBHOOK_TIMEOUT" "DURATION", Operators, Value("10s"),
        "Time for a receiver to answer";
    WEBHOOK_GIVE_UP_AFTER = "PORTCULLIS_WEBHOOK_GIVE_UP_AFTER" "DURATION", Operators, Value("3d"),
        "How long a webhook is tried again before it is put aside for the operator";

    LOG = "PORTCULLIS_LOG" "FILTER", Logs, Value("info"),
        "Log filter in the syntax of RUST_LOG (which is heard too), such as info,portcullis=debug";
    LOG_FORMAT = "PORTCULLIS_LOG_FORMAT" "FORMAT", Logs, Value("auto"),
        "human, json, or auto: human on a terminal, JSON otherwise";
}
