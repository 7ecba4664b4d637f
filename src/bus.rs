//! Log entries between nodes, through Redis pub/sub: the fast carrier. What it loses the log's tail brings.
//!
//! Messages are sealed, so that whoever reaches Redis can neither read nor forge them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;

use crate::entry::LogEntry;
use crate::ids::DeploymentId;
use crate::redis_link::{RedisAway, RedisLink};
use crate::seal::{Purpose, Sealer};

/// How often every node says something, so that a dead subscription is told from a quiet one.
pub const HELLO_EVERY: Duration = Duration::from_secs(1);

/// Silence after which a subscription counts as dead.
const SILENCE: Duration = Duration::from_secs(3);

const RECONNECT_AFTER: Duration = Duration::from_millis(200);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// The channel all nodes of a deployment share.
pub struct Bus {
    link: Arc<RedisLink>,
    sealer: Arc<Sealer>,
    channel: String,
    subscribed: AtomicBool,
}

impl Bus {
    /// The bus of this deployment.
    #[must_use]
    pub fn new(link: Arc<RedisLink>, sealer: Arc<Sealer>, deployment: DeploymentId) -> Self {
        let channel = format!("portcullis:{}:log", deployment.0.simple());
        Self { link, sealer, channel, subscribed: AtomicBool::new(false) }
    }

    /// Sends entries to every node, this one included. An empty slice is a hello.
    ///
    /// `PUBLISH` stands alone, never in one script or MULTI with a write that can fail.
    ///
    /// # Errors
    /// [`RedisAway`]: the tail will carry them.
    pub async fn publish(&self, entries: &[LogEntry]) -> Result<(), RedisAway> {
        let plain = serde_json::to_vec(entries).map_err(|_| RedisAway)?;
        let sealed = self.sealer.seal(Purpose::Bus, self.channel.as_bytes(), plain).map_err(|_| RedisAway)?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("PUBLISH").arg(&self.channel).arg(sealed).ignore();
        self.link.run(&pipeline).await
    }

    /// Whether something was heard lately.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.subscribed.load(Ordering::Relaxed)
    }

    /// Subscribes and hands over what comes, for ever; reconnects when the connection breaks or falls silent.
    pub async fn listen(&self, deliver: impl Fn(Vec<LogEntry>)) {
        loop {
            let outcome = self.listen_once(&deliver).await;
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
    async fn listen_once(&self, deliver: &impl Fn(Vec<LogEntry>)) -> &'static str {
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
            match tokio::time::timeout(SILENCE, messages.next()).await {
                Err(_) => return "nothing was heard, not even this node's own hello",
                Ok(None) => return "the connection was closed",
                Ok(Some(message)) => {
                    let Some(entries) = self.open(message.get_payload_bytes()) else {
                        tracing::warn!("ignored a message on the bus that no node of this deployment has sealed");
                        continue;
                    };
                    if !self.subscribed.swap(true, Ordering::Relaxed) {
                        tracing::info!("subscribed to the bus");
                    }
                    if !entries.is_empty() {
                        deliver(entries);
                    }
                }
            }
        }
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<LogEntry>> {
        let plain = self.sealer.open(Purpose::Bus, self.channel.as_bytes(), sealed)?;
        serde_json::from_slice(&plain).ok()
    }
}
