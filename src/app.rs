//! The only place where the parts are joined. Holds no decisions of its own.

mod duties;
mod vitals;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::Accounts;
use crate::audit::Tally;
use crate::auth::last_seen::LastSeen;
use crate::auth::{Auth, AuthParts};
use crate::bus::Bus;
use crate::cache::{Cache, CacheParts};
use crate::clock::{BootInstant, DatabaseClock};
use crate::config::Config;
use crate::freshness::Freshness;
use crate::headcount::Headcount;
use crate::http::{Front, HttpState, SharedCounts};
use crate::ids::NodeId;
use crate::keyring::{Keyring, KeyringParts};
use crate::open_files::OpenFiles;
use crate::operator::{AdminKeys, Operator};
use crate::origin::AllowedOrigins;
use crate::password::Passwords;
use crate::redis_link::RedisLink;
use crate::registry::{Limits, Registry};
use crate::revocation::{Applier, ApplierParts, Revoker};
use crate::seal::{Purpose, Sealer};
use crate::server;
use crate::socket::{self, Door, SocketParts, Wheel};
use crate::store::{Store, StoreConfig};
use crate::telemetry::Exporter;
use crate::token::TokenFormat;
use crate::token::key_set::KeySet;
use crate::webhooks::{Turns, Webhooks};
use duties::Duties;
use vitals::NodeVitals;

/// `statement_timeout` of ordinary transactions.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first connection to the database is tried at the start.
const DATABASE_WITHIN: Duration = Duration::from_secs(30);

/// After the drain, how long requests in flight may take before they are cut.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// One node: everything that a running gateway consists of.
pub struct App {
    config: Arc<Config>,
    node: NodeId,
    store: Store,
    freshness: Arc<Freshness>,
    clock: Arc<DatabaseClock>,
    keys: Arc<KeySet>,
    cache: Arc<Cache>,
    bus: Option<Arc<Bus>>,
    registry: Registry,
    headcount: Option<Arc<Headcount>>,
    files: OpenFiles,
    auth: Auth,
    accounts: Accounts,
    operator: Operator,
    tally: Tally,
    turns: Turns,
    last_seen: Arc<LastSeen>,
    wheel: Arc<Wheel>,
    exporter: Exporter,
    started: BootInstant,
    /// Set when the node drains: not ready, no new sockets.
    draining: CancellationToken,
    tasks: TaskTracker,
    duties: Duties,
    keyring: Arc<Keyring>,
    shared_counts: Option<SharedCounts>,
    notes: Vec<String>,
}

impl App {
    /// Opens the stores, reads or makes the keys, and starts the background duties. Returns when the whole retained log
    /// has been applied: the listener may be opened now.
    ///
    /// # Errors
    /// When the database cannot be reached or migrated, or a key cannot be read; the message says which.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let exporter = Exporter::install()?;
        let mut notes = Vec::new();
        let store = open_store(&config, &mut notes).await?;
        let deployment = store.deployment().await.context("failed to read the deployment's id")?;
        let in_database = deployment.record_key;
        let sealer = Arc::new(Sealer::new(&in_database, &config.record_keys(&in_database))?);
        sealer
            .seal(Purpose::Ticket, b"probe", Vec::new())
            .map_err(|_| anyhow::anyhow!("the record key does not seal"))?;
        let node = NodeId::random();
        let freshness = Arc::new(Freshness::new());
        let clock = Arc::new(DatabaseClock::default());
        let tasks = TaskTracker::new();
        let duties = Duties::new(tasks.clone());

        let link = match &config.redis_url {
            Some(url) => Some(Arc::new(RedisLink::new(url, config.redis_timeout)?)),
            None => None,
        };
        let shared_counts = link.clone().map(|link| SharedCounts::new(link, sealer.clone(), deployment.id));
        let (cache, workers) = Cache::new(CacheParts {
            store: store.clone(),
            redis: link.clone().map(|link| (link, sealer.clone(), deployment.id)),
            freshness: freshness.clone(),
            clock: clock.clone(),
            capacity: config.local_cache_sessions,
            user_ttl: config.user_cache_ttl,
            rotation: config.session_rotation,
        });
        workers.into_iter().for_each(|worker| duties.start("cache", worker));

        let keys = Arc::new(KeySet::default());
        let files = OpenFiles::raise(config.max_http_connections);
        let limits = Limits::new(&config, files.sockets);
        if limits.connections < config.max_connections {
            let OpenFiles { limit, http, .. } = files;
            notes.push(format!(
                "sockets    {} at most, and {http} HTTP connections: {limit} open files (ulimit -Hn)",
                limits.connections
            ));
        }
        let registry = Registry::new(limits);
        let told = registry.clone();
        duties.start("fan-out", async move { told.wake_told().await });
        let headcount = link.clone().map(|link| {
            let (headcount, duty) = Headcount::new(node, link, sealer.clone(), deployment.id, registry.clone(), limits);
            duties.start("headcount", duty);
            headcount
        });
        let (applier, announcer) = Applier::new(ApplierParts {
            node,
            store: store.clone(),
            freshness: freshness.clone(),
            cache: cache.clone(),
            registry: registry.clone(),
            keys: keys.clone(),
            tasks: tasks.clone(),
        });
        duties.start("announcements", announcer);
        let bus = link.map(|link| Arc::new(Bus::new(node, link, sealer.clone(), deployment.id)));
        // The order protects the promise: subscribe, read the whole retained log, then open the listener.
        if let Some(bus) = &bus {
            duties.listen_to(bus.clone(), applier.clone(), freshness.clone()).await;
        }
        let keyring = KeyringParts {
            store: store.clone(),
            bus: bus.clone(),
            known: keys.clone(),
            clock: clock.clone(),
            sealer: sealer.clone(),
            record_key_in_database: in_database,
            registry: registry.clone(),
        };
        let keyring = Arc::new(Keyring::open(&config, keyring, &mut notes)?);
        keyring.publish().await.context("failed to register the signing keys")?;
        duties.follow(&store, applier.clone(), bus.clone(), clock.clone()).await?;
        // The log has told which keys are good; one of ours may not be.
        keyring.look().await.context("failed to look after the signing keys")?;

        let revoker = Revoker::new(store.clone(), applier, bus.clone(), tasks.clone());
        let tally = Tally::new(clock.clone());
        let operator = Operator::on_node(store.clone(), revoker.clone(), config.access_token_ttl);
        let last_seen = Arc::new(LastSeen::new(clock.clone(), config.session_ttl, config.local_cache_sessions));
        let format = TokenFormat { issuer: config.issuer.clone(), audience: config.audience.clone() };
        let auth = Auth::new(AuthParts {
            cache: cache.clone(),
            store: store.clone(),
            freshness: freshness.clone(),
            clock: clock.clone(),
            keys: keys.clone(),
            signer: keyring.signer().clone(),
            format,
            sealer,
            last_seen: last_seen.clone(),
            access_token_ttl: config.access_token_ttl,
            leeway: config.token_leeway,
            capacity: config.local_cache_sessions.saturating_mul(2),
        });
        let passwords = Passwords::new(config.password_threads, config.password_queue)?;
        let accounts = Accounts::new(store.clone(), auth.clone(), revoker, passwords, tally.clone(), config.clone());
        let turns = Turns::default();
        let webhooks = Webhooks::new(&config, store.clone(), auth.clone(), deployment.id, turns.clone())?;
        if let Some(webhooks) = &webhooks {
            webhooks.register().await.context("failed to register the webhooks' receivers")?;
        }
        let app = Self {
            config,
            node,
            store,
            freshness,
            clock,
            keys,
            cache,
            bus,
            registry,
            headcount,
            files,
            auth,
            accounts,
            operator,
            tally,
            turns,
            last_seen,
            wheel: Arc::new(Wheel::new()),
            exporter,
            started: BootInstant::now(),
            draining: CancellationToken::new(),
            tasks,
            duties,
            keyring,
            shared_counts,
            notes,
        };
        app.start_duties(webhooks);
        Ok(app)
    }

    /// What the start found or made, for people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The keeper of this node's keys, for whoever hears that they should be read again.
    #[must_use]
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// Opens the listener.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn listen(&self) -> anyhow::Result<(TcpListener, SocketAddr)> {
        let address = SocketAddr::new(self.config.host, self.config.port);
        let listener = server::listen(address).with_context(|| format!("failed to listen on {address}"))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Serves until `stop`, then drains: not ready, no new sockets, open ones closed over the drain window, requests
    /// in flight finished.
    ///
    /// # Errors
    /// When a background duty died: a node that has become deaf must not go on.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
        let closed = CancellationToken::new();
        let (door, front) = self.ways_in();
        let serving = server::serve(listener, door, front, self.files.http, closed.clone(), self.tasks.clone());
        let serving = tokio::spawn(serving);
        let died = tokio::select! {
            () = stop.cancelled() => None,
            name = self.duties.died() => Some(name),
        };
        tracing::info!(sockets = self.registry.len(), "draining");
        self.draining.cancel();
        self.registry.drain(self.config.drain_window).await;
        closed.cancel();
        serving.await.context("the accept loop died")?;
        self.tasks.close();
        self.duties.stop();
        self.cache.close();
        if tokio::time::timeout(FINISH_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("cut what was still running");
        }
        self.last_seen.flush(&self.store, &self.cache).await;
        self.tally.flush(&self.store).await;
        if let Some(bus) = &self.bus {
            bus.say_farewell().await;
        }
        if let Some(headcount) = &self.headcount {
            headcount.say_farewell().await;
        }
        if let Err(error) = self.store.forget_node(self.node).await {
            tracing::debug!(%error, "failed to sign off");
        }
        self.store.close().await;
        match died {
            None => Ok(()),
            Some(name) => anyhow::bail!("the background duty \"{name}\" died"),
        }
    }

    fn ways_in(&self) -> (Door, Front) {
        let (door, sockets) = socket::ways_in(SocketParts {
            auth: self.auth.clone(),
            accounts: self.accounts.clone(),
            registry: self.registry.clone(),
            headcount: self.headcount.clone(),
            config: self.config.clone(),
            origins: AllowedOrigins::new(&self.config.allowed_origins),
            clock: self.clock.clone(),
            draining: self.draining.clone(),
            tasks: self.tasks.clone(),
            wheel: self.wheel.clone(),
        });
        let state = HttpState {
            auth: self.auth.clone(),
            accounts: self.accounts.clone(),
            config: self.config.clone(),
            vitals: Arc::new(NodeVitals::of(self)),
            shared_counts: self.shared_counts.clone(),
            operator: self.operator.clone(),
            admin_keys: Arc::new(AdminKeys::new(self.store.clone())),
            tally: self.tally.clone(),
        };
        (door, Front::new(state, sockets))
    }
}

/// How to reach the database that the settings name.
#[must_use]
pub fn store_config(config: &Config) -> StoreConfig {
    StoreConfig {
        database_url: config.database_url.clone(),
        data_dir: config.data_dir.clone(),
        pool_size: config.database_pool_size,
        acquire_timeout: config.database_acquire_timeout,
        statement_timeout: STATEMENT_TIMEOUT,
    }
}

async fn open_store(config: &Config, notes: &mut Vec<String>) -> anyhow::Result<Store> {
    let store = Store::open(&store_config(config)).await.context("failed to open the database")?;
    let deadline = tokio::time::Instant::now() + DATABASE_WITHIN;
    // A database that comes up together with us is not there yet.
    let applied = loop {
        match store.migrate().await {
            Ok(applied) => break applied,
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(error).context("failed to migrate the database");
            }
            Err(error) => tracing::warn!(%error, "the database is not ready; trying again"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    match (store.kind(), applied) {
        ("sqlite", 0) => notes.push(format!("database   {}", config.data_dir.join("portcullis.db").display())),
        ("sqlite", _) => {
            notes.push(format!("database   {} (new or migrated)", config.data_dir.join("portcullis.db").display()))
        }
        (kind, 0) => notes.push(format!("database   {kind}")),
        (kind, applied) => notes.push(format!("database   {kind}, {applied} migrations applied")),
    }
    Ok(store)
}
