//! Whose key is this? Keys of the admin API are looked up by their hash, in the database, and believed for half a second:
//! a revoked key is dead within the same bound as a revoked session, and a resource server that introspects thousands of
//! tokens a second costs two look-ups a second. Off the users' path: nothing is shared with it but the database.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::BootInstant;
use crate::secret::{AdminSecret, SecretHash};
use crate::store::{AdminKey, Store, StoreError, StoreResult};

/// How long an answer of the database is believed.
const BELIEVED_FOR: Duration = Duration::from_millis(500);

/// Answers held. Keys are few; guesses must not crowd them out for longer than an answer is believed anyway.
const HELD: usize = 1024;

/// How long a look-up waits for the one before it.
const TURN_WITHIN: Duration = Duration::from_secs(2);

struct Answer {
    asked_at: BootInstant,
    key: Option<Arc<AdminKey>>,
}

/// The keys this node has lately seen.
pub struct AdminKeys {
    store: Store,
    answers: Mutex<HashMap<SecretHash, Answer>>,
    /// One look-up at a time: guesses cannot take the pool away from the users.
    turn: tokio::sync::Mutex<()>,
}

impl AdminKeys {
    /// An empty one.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, answers: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// The key, if it is good. `None` is a fact from the database.
    ///
    /// # Errors
    /// [`StoreError`]: cannot tell.
    pub async fn find(&self, secret: &AdminSecret) -> StoreResult<Option<Arc<AdminKey>>> {
        let hash = secret.hash();
        if let Some(known) = self.known(&hash) {
            return Ok(known);
        }
        let Ok(_turn) = tokio::time::timeout(TURN_WITHIN, self.turn.lock()).await else {
            return Err(StoreError::Unavailable("too many keys are being looked up".into()));
        };
        if let Some(known) = self.known(&hash) {
            return Ok(known);
        }
        let asked_at = BootInstant::now();
        let key = self.store.admin_key(hash).await?.filter(|key| key.good).map(Arc::new);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= HELD {
            answers.retain(|_, answer| is_fresh(answer));
        }
        if answers.len() < HELD {
            answers.insert(hash, Answer { asked_at, key: key.clone() });
        }
        Ok(key)
    }

    fn known(&self, hash: &SecretHash) -> Option<Option<Arc<AdminKey>>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(hash).filter(|answer| is_fresh(answer)).map(|answer| answer.key.clone())
    }
}

fn is_fresh(answer: &Answer) -> bool {
    BootInstant::now().since(answer.asked_at) < BELIEVED_FOR
}
