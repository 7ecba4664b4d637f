//! Tells receivers when sessions end, with retries that lose nothing.
//!
//! The transaction that ends a session puts the event into the outbox (a trigger does, so that it holds for SQL written by
//! hand too). Every node takes what is due for a while, sends it, and deletes it when the receiver has said 2xx. A node that
//! dies in between leaves its events to the others: at least once, with an id by which a receiver knows what it has.

mod post;
mod signing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use metrics::counter;
use secrecy::ExposeSecret as _;
use url::Url;

use crate::auth::Auth;
use crate::config::{Config, values};
use crate::ids::DeploymentId;
use crate::metrics::WEBHOOKS;
use crate::secret::SecretHash;
use crate::store::{OutboxEvent, Store, StoreResult};
use post::Poster;
use signing::Secret;

/// Between two looks into the outbox when nothing was due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Events sent at once, to one receiver.
const BATCH: u32 = 8;

/// The second attempt comes after this, each further one after twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

/// How often a node says that it has its receivers in its settings.
const REGISTER_EVERY: Duration = Duration::from_secs(600);

/// Longest text of an error that is kept.
const ERROR_LENGTH: usize = 200;

/// Background duties take turns at the database, so that a quiet node keeps to one connection of its pool.
pub type Turns = Arc<tokio::sync::Mutex<()>>;

/// How long one waits for its turn before it goes ahead all the same.
pub const TURN_WITHIN: Duration = Duration::from_millis(500);

struct Receiver {
    /// Its name in the outbox.
    target: String,
    url: Url,
    audience: String,
}

/// The receivers and how to tell them.
pub struct Webhooks {
    receivers: Vec<Receiver>,
    secret: Secret,
    poster: Poster,
    auth: Auth,
    store: Store,
    deployment: DeploymentId,
    issuer: String,
    lease: Duration,
    give_up_after: Duration,
    turns: Turns,
}

impl Webhooks {
    /// The receivers of the settings; `None` when there are none.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(
        config: &Config,
        store: Store,
        auth: Auth,
        deployment: DeploymentId,
        turns: Turns,
    ) -> anyhow::Result<Option<Self>> {
        let Some(secret) = config.webhook_secret.as_ref().filter(|_| !config.webhook_urls.is_empty()) else {
            return Ok(None);
        };
        let secret = values::webhook_secret(secret.expose_secret()).map_err(anyhow::Error::msg)?;
        let receivers = config.webhook_urls.iter().map(|url| {
            let url = Url::parse(url.expose_secret()).context("a webhook's URL cannot be read")?;
            let digest = SecretHash::of(url.as_str().as_bytes());
            let target = digest.0.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            Ok(Receiver { target, audience: signing::audience(&url), url })
        });
        Ok(Some(Self {
            receivers: receivers.collect::<anyhow::Result<_>>()?,
            secret: Secret::new(&secret),
            poster: Poster::new(config.webhook_timeout)?,
            auth,
            store,
            deployment,
            issuer: config.issuer.clone(),
            // A batch is sent at once, and each of it has this long.
            lease: config.webhook_timeout * 2 + Duration::from_secs(1),
            give_up_after: config.webhook_give_up_after,
            turns,
        }))
    }

    /// Makes the outbox be filled from now on.
    ///
    /// # Errors
    /// [`StoreError`](crate::store::StoreError).
    pub async fn register(&self) -> StoreResult<()> {
        let targets: Vec<_> = self.receivers.iter().map(|receiver| receiver.target.clone()).collect();
        self.store.register_targets(&targets).await
    }

    /// Delivers for ever.
    pub async fn deliver(&self) {
        let mut registered = tokio::time::Instant::now();
        loop {
            let mut quiet = true;
            for receiver in &self.receivers {
                match self.deliver_due(receiver).await {
                    Ok(most) => quiet &= !most,
                    Err(error) => tracing::debug!(%error, "failed to look into the webhooks' outbox"),
                }
            }
            if registered.elapsed() > REGISTER_EVERY && self.register().await.is_ok() {
                registered = tokio::time::Instant::now();
            }
            if quiet {
                tokio::time::sleep(jittered(LOOK_EVERY)).await;
            }
        }
    }

    /// Sends what is due, at most a batch; true when there may be more.
    async fn deliver_due(&self, receiver: &Receiver) -> StoreResult<bool> {
        let due = {
            let _turn = self.turn().await;
            self.store.claim_events(&receiver.target, self.lease, BATCH).await?
        };
        let outcomes = join_all(due.iter().map(|event| self.send(receiver, event))).await;
        let _turn = self.turn().await;
        for (event, outcome) in due.iter().zip(outcomes) {
            self.settle(receiver, event, outcome).await?;
        }
        Ok(due.len() == BATCH as usize)
    }

    async fn turn(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        tokio::time::timeout(TURN_WITHIN, self.turns.lock()).await.ok()
    }

    async fn send(&self, receiver: &Receiver, event: &OutboxEvent) -> anyhow::Result<()> {
        let id = format!("{}-{}", self.deployment.0.simple(), event.id);
        let now = self.auth.now_unix();
        let claims = signing::claims(event, &id, &self.issuer, &receiver.audience, now);
        let body = match self.auth.sign_event(&claims)? {
            Some(token) => token,
            None => self.secret.event_token(&claims),
        };
        let (timestamp, signature) = (now.to_string(), self.secret.signature(&id, now, &body));
        let headers = [
            ("content-type", "application/secevent+jwt"),
            ("accept", "application/json"),
            ("user-agent", concat!("portcullis/", env!("CARGO_PKG_VERSION"))),
            ("webhook-id", id.as_str()),
            ("webhook-timestamp", timestamp.as_str()),
            ("webhook-signature", signature.as_str()),
        ];
        self.poster.post(&receiver.url, &headers, body).await
    }

    async fn settle(&self, receiver: &Receiver, event: &OutboxEvent, outcome: anyhow::Result<()>) -> StoreResult<()> {
        let result = match outcome {
            Ok(()) => {
                self.store.event_delivered(event.id).await?;
                "delivered"
            }
            Err(error) => {
                let error: String = format!("{error:#}").chars().take(ERROR_LENGTH).collect();
                let again_in = jittered(retry_after(event.attempts));
                let given_up = self.store.event_failed(event, &error, again_in, self.give_up_after).await?;
                let (host, event, attempts) = (receiver.url.host_str(), event.id, event.attempts);
                if given_up {
                    tracing::error!(host, event, attempts, error, "gave a webhook up; an operator can have it retried");
                    "given_up"
                } else {
                    tracing::warn!(host, event, attempts, error, "failed to deliver a webhook; trying again later");
                    "failed"
                }
            }
        };
        counter!(WEBHOOKS, "result" => result).increment(1);
        Ok(())
    }
}

fn retry_after(attempts: u64) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    (FIRST_RETRY * 2_u32.pow(doublings)).min(LONGEST_RETRY)
}

/// Takes up to a fifth off, so that nodes and events do not march in step.
fn jittered(duration: Duration) -> Duration {
    let thousandths = (uuid::Uuid::new_v4().as_u128() % 200) as u32;
    duration - duration / 1000 * thousandths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_ever_more_rarely() {
        assert_eq!(retry_after(1), Duration::from_secs(1));
        assert_eq!(retry_after(4), Duration::from_secs(8));
        assert_eq!(retry_after(1_000), LONGEST_RETRY);
        assert!((0..100).all(|_| (800..=1000).contains(&jittered(FIRST_RETRY).as_millis())));
    }
}
