//! Log entries between nodes, through Redis pub/sub: the fast carrier. What it loses the log's tail brings.
//!
//! Besides entries it carries beats, from which the [`lease`] follows: the proof that caches may answer while the
//! database is away. Messages are sealed, so that whoever reaches Redis can neither read nor forge them.

pub mod lease;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::BootInstant;
use crate::entry::{LogEntry, Position};
use crate::ids::{DeploymentId, NodeId};
use crate::redis_link::{RedisAway, RedisLink};
use crate::seal::{Purpose, Sealer};
use lease::{Beat, Lease};

/// How often every node beats.
pub const BEAT_EVERY: Duration = Duration::from_millis(200);

/// Silence after which a subscription is shown as silent: four of this node's own beats did not come back. Below the
/// promised second.
const SILENT_AFTER: Duration = Duration::from_millis(900);

/// Silence after which a subscription is given up for a new one. Later than it is shown: a new subscription proves
/// nothing until the log has been read, and the database may be away.
const DEAD_AFTER: Duration = Duration::from_secs(2);

const RECONNECT_AFTER: Duration = Duration::from_millis(200);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Entries in one message.
const MESSAGE_ENTRIES: usize = 500;

/// What the bus brings.
#[derive(Debug)]
pub enum Heard {
    /// Entries to apply.
    Entries(Vec<LogEntry>),
    /// A revocation at this position that concerns these ids may have committed; nobody knows.
    Doubt(Vec<Uuid>, Position),
    /// Everything that was answered before this instant has been delivered.
    Horizon(BootInstant),
}

#[derive(Serialize, Deserialize)]
enum Message {
    Entries { node: NodeId, number: u64, entries: Vec<LogEntry> },
    Beat(Beat),
    Doubt { node: NodeId, number: u64, about: Vec<Uuid>, position: Position },
    Farewell { node: NodeId },
}

/// The channel all nodes of a deployment share.
pub struct Bus {
    node: NodeId,
    link: Arc<RedisLink>,
    sealer: Arc<Sealer>,
    channel: String,
    subscribed: AtomicBool,
    /// When the subscription brought something last; 0 while there is none.
    heard_at: AtomicU64,
    lease: Mutex<Lease>,
    /// Held while a beat is on its way, so that none overtakes an announcement.
    beating: tokio::sync::Mutex<()>,
}

/// A message that every beat counts by now. Publish it, or everybody's lease waits for it in vain. Settled when dropped:
/// by then its transaction is over.
#[must_use]
pub struct Announced {
    bus: Arc<Bus>,
    number: u64,
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.bus.lease().settle(self.number);
    }
}

impl Bus {
    /// The bus of this deployment.
    #[must_use]
    pub fn new(node: NodeId, link: Arc<RedisLink>, sealer: Arc<Sealer>, deployment: DeploymentId) -> Self {
        Self {
            node,
            link,
            sealer,
            channel: format!("portcullis:{}:log", deployment.0.simple()),
            subscribed: AtomicBool::new(false),
            heard_at: AtomicU64::new(0),
            lease: Mutex::new(Lease::new(node)),
            beating: tokio::sync::Mutex::new(()),
        }
    }

    /// Announces a message. Right before the transaction behind it commits.
    pub async fn announce(self: &Arc<Self>) -> Announced {
        let _no_beat_under_way = self.beating.lock().await;
        let number = self.lease().announce();
        Announced { bus: self.clone(), number }
    }

    /// Announces and publishes entries whose transactions have committed long ago.
    ///
    /// # Errors
    /// [`RedisAway`].
    pub async fn pass_on(self: &Arc<Self>, entries: &[LogEntry]) -> Result<(), RedisAway> {
        for chunk in entries.chunks(MESSAGE_ENTRIES) {
            self.announce().await.publish(chunk).await?;
        }
        Ok(())
    }

    /// Sends a sign of life.
    ///
    /// # Errors
    /// [`RedisAway`]: the lease runs out.
    pub async fn beat(&self) -> Result<(), RedisAway> {
        let _not_while_announcing = self.beating.lock().await;
        let beat = self.lease().beat(BootInstant::now());
        self.send(&Message::Beat(beat)).await
    }

    /// Says that no revocation will come from this node any more.
    pub async fn say_farewell(&self) {
        // Whoever does not hear it finds out from the database.
        let _ = self.send(&Message::Farewell { node: self.node }).await;
    }

    /// A complete log read, sent at `sent_at`, has been applied.
    pub fn log_read(&self, sent_at: BootInstant) {
        self.lease().log_read(sent_at);
    }

    /// Peers that hold the lease back by their silence.
    #[must_use]
    pub fn silent_peers(&self) -> Vec<NodeId> {
        self.lease().silent(BootInstant::now())
    }

    /// The database says that this node is alive, heard or not.
    pub fn expect_peer(&self, node: NodeId) {
        self.lease().expect(node);
    }

    /// The database says that this peer is dead.
    pub fn forget_peer(&self, node: NodeId) {
        self.lease().forget(node);
    }

    /// Whether something was heard lately. False also for a subscription that stands and brings nothing.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        let heard_at = BootInstant(self.heard_at.load(Ordering::Relaxed));
        heard_at != BootInstant(0) && BootInstant::now().since(heard_at) < SILENT_AFTER
    }

    /// Subscribes and hands over what comes, for ever; reconnects when the connection breaks or falls silent.
    pub async fn listen(&self, deliver: impl Fn(Heard)) {
        loop {
            self.lease().start_over();
            let outcome = self.listen_once(&deliver).await;
            self.heard_at.store(0, Ordering::Relaxed);
            if self.subscribed.swap(false, Ordering::Relaxed) {
                tracing::warn!(
                    reason = outcome,
                    "the subscription broke; the log's tail carries revocations meanwhile"
                );
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    /// One subscription's life; returns why it ended.
    async fn listen_once(&self, deliver: &impl Fn(Heard)) -> &'static str {
        let subscribe = async {
            let mut subscription = self.link.client().get_async_pubsub().await?;
            subscription.subscribe(&self.channel).await?;
            Ok::<_, redis::RedisError>(subscription)
        };
        let Ok(Ok(subscription)) = tokio::time::timeout(CONNECT_WITHIN, subscribe).await else {
            return "failed to subscribe";
        };
        let mut messages = subscription.into_on_message();
        loop {
            match tokio::time::timeout(DEAD_AFTER, messages.next()).await {
                Err(_) => return "nothing was heard, not even this node's own beats",
                Ok(None) => return "the connection was closed",
                Ok(Some(message)) => match self.open(message.get_payload_bytes()) {
                    Some(message) => self.hear(message, deliver),
                    None => tracing::warn!("ignored a message on the bus that no node of this deployment has sealed"),
                },
            }
        }
    }

    fn hear(&self, message: Message, deliver: &impl Fn(Heard)) {
        self.heard_at.store(BootInstant::now().0, Ordering::Relaxed);
        if !self.subscribed.swap(true, Ordering::Relaxed) {
            tracing::info!("subscribed to the bus");
        }
        match message {
            Message::Entries { node, number, entries } => {
                deliver(Heard::Entries(entries));
                // Only now: what counts as received has been applied.
                self.lease().received(node, number);
            }
            Message::Doubt { node, number, about, position } => {
                deliver(Heard::Doubt(about, position));
                self.lease().received(node, number);
            }
            Message::Beat(beat) => {
                let horizon = self.lease().heard(&beat, BootInstant::now());
                horizon.into_iter().for_each(|instant| deliver(Heard::Horizon(instant)));
            }
            Message::Farewell { node } => self.lease().forget(node),
        }
    }

    /// `PUBLISH` stands alone, never in one script or MULTI with a write that can fail.
    async fn send(&self, message: &Message) -> Result<(), RedisAway> {
        let plain = serde_json::to_vec(message).map_err(|_| RedisAway)?;
        let sealed = self.sealer.seal(Purpose::Bus, self.channel.as_bytes(), plain).map_err(|_| RedisAway)?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("PUBLISH").arg(&self.channel).arg(sealed).ignore();
        self.link.run(&pipeline).await
    }

    fn open(&self, sealed: &[u8]) -> Option<Message> {
        let opened = self.sealer.open(Purpose::Bus, self.channel.as_bytes(), sealed)?;
        serde_json::from_slice(&opened.plain).ok()
    }

    fn lease(&self) -> MutexGuard<'_, Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announced {
    /// Sends the entries to every node, this one included; none when the transaction came to nothing.
    ///
    /// # Errors
    /// [`RedisAway`]: the log's tail will carry them, and no lease is had until it has.
    pub async fn publish(self, entries: &[LogEntry]) -> Result<(), RedisAway> {
        let (node, number) = (self.bus.node, self.number);
        self.bus.send(&Message::Entries { node, number, entries: entries.to_vec() }).await
    }

    /// Says whom a transaction concerns of which this node does not know whether it committed. Keep the message until it is
    /// known: whoever subscribes meanwhile has not heard the doubt, and must not take it for settled.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_doubt(&self, about: &[Uuid], position: Position) -> Result<(), RedisAway> {
        let (node, number) = (self.bus.node, self.number);
        self.bus.send(&Message::Doubt { node, number, about: about.to_vec(), position }).await
    }
}
