//! The background duties of a node. Each is owned; one that dies takes the node down loudly instead of leaving it deaf.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::gauge;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::App;
use crate::audit::WRITE_EVERY;
use crate::bus::{BEAT_EVERY, Bus, Heard};
use crate::cache::ahead;
use crate::clock::{BootInstant, DatabaseClock};
use crate::freshness::Freshness;
use crate::metrics;
use crate::redis_link::BreakerState;
use crate::revocation::{Applier, NODE_ALIVE_WITHIN, follow_log};
use crate::socket;
use crate::store::{Retention, Store};
use crate::webhooks::{TURN_WITHIN, Webhooks};

/// How often a node tells the database that it lives.
const SIGN_IN_EVERY: Duration = Duration::from_secs(2);

/// How often what is past its time is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// How often gauges are brought up to date: a scrape shows within the promised second what has fallen silent.
const GAUGES_EVERY: Duration = Duration::from_millis(100);

/// How long the start waits for the first complete read of the log.
const FIRST_READ_WITHIN: Duration = Duration::from_secs(30);

/// How long the start waits for the subscription; without it the log alone carries revocations.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(2);

/// Sessions stay this long after their end, so that their sockets and tokens get the right reason.
const KEEP_SESSIONS: Duration = Duration::from_secs(24 * 3600);

/// Log entries stay this long. A node that pauses for longer starts over.
const KEEP_ENTRIES: Duration = Duration::from_secs(2 * 3600);

const SWEEP_BATCH: u32 = 500;

/// Starts duties and hears of their death.
pub(super) struct Duties {
    tasks: TaskTracker,
    stop: CancellationToken,
    dead: mpsc::UnboundedSender<&'static str>,
    deaths: tokio::sync::Mutex<mpsc::UnboundedReceiver<&'static str>>,
}

impl Duties {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        // Unbounded, but no more messages than duties.
        let (dead, deaths) = mpsc::unbounded_channel();
        Self { tasks, stop: CancellationToken::new(), dead, deaths: tokio::sync::Mutex::new(deaths) }
    }

    /// Runs `duty` until the node stops.
    pub(super) fn start(&self, name: &'static str, duty: impl Future<Output = ()> + Send + 'static) {
        let (stop, dead) = (self.stop.clone(), self.dead.clone());
        let duty = self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => true,
                () = duty => stop.is_cancelled(),
            }
        });
        self.tasks.spawn(async move {
            // Neither a return nor a panic is expected of a duty.
            if !duty.await.unwrap_or(false) {
                let _ = dead.send(name);
            }
        });
    }

    /// Waits for a duty to die.
    pub(super) async fn died(&self) -> &'static str {
        self.deaths.lock().await.recv().await.unwrap_or("all duties")
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Subscribes to the bus and beats on it; returns when something was heard, or after a while without.
    pub(super) async fn listen_to(&self, bus: Arc<Bus>, applier: Arc<Applier>, freshness: Arc<Freshness>) {
        let listening = bus.clone();
        let deliver = move |heard| match heard {
            Heard::Entries(entries) => drop(applier.apply(&entries)),
            Heard::Doubt(about, position) => applier.doubt(&about, position),
            Heard::Horizon(instant) => freshness.rise(instant),
        };
        self.start("bus", async move { listening.listen(deliver).await });
        let beating = bus.clone();
        self.start("lease", async move {
            loop {
                // A beat that does not leave costs the lease, which the log makes up for.
                let _ = beating.beat().await;
                tokio::time::sleep(BEAT_EVERY).await;
            }
        });
        let subscribed = async {
            while !bus.is_subscribed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(SUBSCRIBED_WITHIN, subscribed).await.is_err() {
            tracing::warn!("Redis is away; the log's tail carries revocations meanwhile");
        }
    }

    /// Follows the log; returns when the whole retained log has been applied.
    pub(super) async fn follow(
        &self,
        store: &Store,
        applier: Arc<Applier>,
        bus: Option<Arc<Bus>>,
        clock: Arc<DatabaseClock>,
    ) -> anyhow::Result<()> {
        let (read, first_read) = oneshot::channel();
        let following = follow_log(store.log_reader(), applier, bus, clock, move || {
            // Nobody waits any more when the start took too long.
            let _ = read.send(());
        });
        self.start("log", following);
        match tokio::time::timeout(FIRST_READ_WITHIN, first_read).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => anyhow::bail!("failed to read the revocation log"),
        }
    }
}

impl App {
    /// The duties that need the whole node.
    pub(super) fn start_duties(&self, webhooks: Option<Webhooks>) {
        let exporter = self.exporter.clone();
        self.duties.start("metrics", async move { exporter.keep_up().await });

        let (last_seen, store, cache) = (self.last_seen.clone(), self.store.clone(), self.cache.clone());
        self.duties.start("last uses", async move { last_seen.write(&store, &cache).await });

        if let Some(webhooks) = webhooks {
            self.duties.start("webhooks", async move { webhooks.deliver().await });
        }
        let (tally, store, turns) = (self.tally.clone(), self.store.clone(), self.turns.clone());
        self.duties.start("audit", async move {
            loop {
                tokio::time::sleep(WRITE_EVERY).await;
                let _turn = tokio::time::timeout(TURN_WITHIN, turns.lock()).await;
                tally.write(&store).await;
            }
        });

        let turns = self.turns.clone();
        let (store, node, bus) = (self.store.clone(), self.node, self.bus.clone());
        let signer = self.keyring.signer().clone();
        self.duties.start("sign-in", async move {
            loop {
                let turn = tokio::time::timeout(TURN_WITHIN, turns.lock()).await;
                look_for_peers(&store, bus.as_deref()).await;
                let public = signer.current().and_then(|(key, _)| key.public());
                if let Err(error) = store.beat(node, public.as_ref().map(|key| &*key.kid)).await {
                    tracing::debug!(%error, "failed to say that this node lives");
                }
                drop(turn);
                tokio::time::sleep(SIGN_IN_EVERY).await;
            }
        });

        let keyring = self.keyring.clone();
        self.duties.start("keys", async move { keyring.keep().await });

        let retention = Retention {
            sessions: KEEP_SESSIONS,
            entries: KEEP_ENTRIES,
            keys: self.config.access_token_ttl + Duration::from_secs(3600),
            batch: SWEEP_BATCH,
        };
        let store = self.store.clone();
        let keep_audit = self.config.audit_retention;
        self.duties.start("sweeper", async move { sweep(store, retention, keep_audit).await });

        let (freshness, cache) = (self.freshness.clone(), self.cache.clone());
        let bus = self.bus.clone();
        self.duties.start("gauges", async move {
            loop {
                gauge!(metrics::LOG_LAG).set(BootInstant::now().since(freshness.horizon()).as_secs_f64());
                if let (true, up) = cache.redis_state() {
                    gauge!(metrics::DEPENDENCY_UP, "dependency" => "redis").set(if up { 1.0 } else { 0.0 });
                }
                if let Some(now) = cache.redis_breaker() {
                    for (state, name) in BreakerState::NAMES {
                        let is_now = if now == state { 1.0 } else { 0.0 };
                        gauge!(metrics::BREAKER_STATE, "dependency" => "redis", "state" => name).set(is_now);
                    }
                }
                if let Some(bus) = &bus {
                    gauge!(metrics::BUS_SUBSCRIBED).set(if bus.is_subscribed() { 1.0 } else { 0.0 });
                }
                tokio::time::sleep(GAUGES_EVERY).await;
            }
        });

        let (cache, store, count) = (self.cache.clone(), self.store.clone(), self.config.warm_sessions);
        if count > 0 {
            // Not a duty: it ends.
            let stop = self.draining.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    read = ahead::warm(&cache, &store, count) => tracing::info!(sessions = read, "warmed the caches"),
                }
            });
        }

        let (auth, registry, config) = (self.auth.clone(), self.registry.clone(), self.config.clone());
        self.duties.start("grace time", socket::watch_freshness(auth, registry, config));
        let wheel = self.wheel.clone();
        self.duties.start("timers", async move { wheel.turn().await });
    }
}

async fn sweep(store: Store, retention: Retention, keep_audit: Duration) {
    loop {
        // The first pass comes after a while: nodes that start together must not sweep together.
        let jitter = Duration::from_millis((uuid::Uuid::new_v4().as_u128() % 10_000) as u64);
        tokio::time::sleep(SWEEP_EVERY + jitter).await;
        loop {
            let swept = match store.sweep(&retention).await {
                Ok(swept) => store.sweep_operating(keep_audit, retention.batch).await.map(|audit| (swept, audit)),
                Err(error) => Err(error),
            };
            match swept {
                Ok((swept, audit)) => {
                    let most = swept.sessions.max(swept.tokens).max(swept.tickets).max(swept.entries).max(audit);
                    tracing::debug!(?swept, audit, "swept");
                    if most < u64::from(retention.batch) {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to sweep");
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Peers that have fallen silent hold the lease back until the database says that they are dead; and those that it says are
/// alive hold it back until they are heard.
async fn look_for_peers(store: &Store, bus: Option<&Bus>) {
    let Some(bus) = bus else { return };
    let silent = bus.silent_peers();
    if let Ok(live) = store.live_nodes(NODE_ALIVE_WITHIN).await {
        live.iter().for_each(|alive| bus.expect_peer(alive.node));
        silent
            .into_iter()
            .filter(|&node| live.iter().all(|alive| alive.node != node))
            .for_each(|node| bus.forget_peer(node));
    }
}
