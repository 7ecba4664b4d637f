//! All keys that this node verifies with.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use tokio::sync::Notify;

use super::keys::VerifyingKey;

/// All keys that tokens may be signed with. Kept complete by the log, and therefore as fresh as the horizon.
#[derive(Default)]
pub struct KeySet {
    keys: DashMap<Arc<str>, Arc<VerifyingKey>>,
    heard: Mutex<Heard>,
    removed: Notify,
}

/// What the carriers have brought.
#[derive(Default)]
struct Heard {
    /// A key's registration may arrive after its revocation, by the slower of the two carriers. Grows by one with every
    /// revoked key, which is an operator's work.
    revoked: HashSet<Arc<str>>,
    /// While the database is asked for its keys: what came meanwhile, which its answer may not contain yet.
    meanwhile: Option<Vec<Change>>,
}

enum Change {
    Added(Arc<VerifyingKey>),
    Removed(Arc<str>),
}

impl KeySet {
    /// Adds a key; one that is known already stays as it is, and one that was revoked stays out.
    pub fn add(&self, key: impl Into<Arc<VerifyingKey>>) {
        let key = key.into();
        // Held to the end: a revocation in between must find the key.
        let mut heard = self.heard();
        if let Some(meanwhile) = &mut heard.meanwhile {
            meanwhile.push(Change::Added(key.clone()));
        }
        self.put(&heard, key);
    }

    /// Revokes a key, also from under the tokens that it has verified already.
    pub fn remove(&self, kid: &str) {
        let mut heard = self.heard();
        if let Some(meanwhile) = &mut heard.meanwhile {
            meanwhile.push(Change::Removed(kid.into()));
        }
        self.bar(&mut heard, kid);
    }

    /// Finds a key.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<Arc<VerifyingKey>> {
        self.keys.get(kid).map(|key| key.clone())
    }

    /// Whether this key is known to be revoked.
    #[must_use]
    pub fn is_revoked(&self, kid: &str) -> bool {
        self.heard().revoked.contains(kid)
    }

    /// The database is about to be asked for all its keys: remembers what comes until [`start_over`](Self::start_over).
    pub fn begin_over(&self) {
        self.heard().meanwhile = Some(Vec::new());
    }

    /// The log may be another one now: exactly these keys are good, and these revoked, but for what came after
    /// [`begin_over`](Self::begin_over). A secret shared by configuration stays, unless it is revoked.
    pub fn start_over<'a>(&self, good: Vec<VerifyingKey>, revoked: impl Iterator<Item = &'a str>) {
        let mut heard = self.heard();
        heard.revoked = revoked.map(Into::into).collect();
        let meanwhile = heard.meanwhile.take().unwrap_or_default();
        let added =
            |kid: &str| meanwhile.iter().any(|change| matches!(change, Change::Added(key) if **key.kid() == *kid));
        let stays = |key: &VerifyingKey| {
            let registered = good.iter().any(|other| other.kid() == key.kid()) || added(key.kid());
            !heard.revoked.contains(key.kid()) && (key.public().is_none() || registered)
        };
        let gone: Vec<_> = self.keys.iter().filter(|key| !stays(key)).map(|key| key.kid().clone()).collect();
        gone.iter().for_each(|kid| self.take(kid));
        for key in good {
            self.put(&heard, Arc::new(key));
        }
        for change in meanwhile {
            match change {
                Change::Added(key) => self.put(&heard, key),
                Change::Removed(kid) => self.bar(&mut heard, &kid),
            }
        }
    }

    /// The ids of the registered keys.
    #[must_use]
    pub fn registered(&self) -> Vec<Arc<str>> {
        self.keys.iter().filter(|key| key.public().is_some()).map(|key| key.kid().clone()).collect()
    }

    /// Lets go of a key that nobody has signed with for longer than a token lives. Nothing ends by it.
    pub fn retire(&self, kid: &str) {
        self.keys.remove(kid);
    }

    /// Takes a shared secret out that the settings name no more. They may name it again.
    pub fn unlist(&self, kid: &str) {
        self.take(kid);
    }

    /// Waits until a key was removed. One that was while nobody waited counts.
    pub async fn key_removed(&self) {
        self.removed.notified().await;
    }

    /// The public keys as a JWK Set (RFC 7517 section 5).
    #[must_use]
    pub fn jwks(&self) -> serde_json::Value {
        let mut keys: Vec<_> =
            self.keys.iter().filter_map(|key| key.public().map(|public| public.jwk.clone())).collect();
        keys.sort_by(|a, b| a["kid"].as_str().cmp(&b["kid"].as_str()));
        serde_json::json!({ "keys": keys })
    }

    fn take(&self, kid: &str) {
        if let Some((_, key)) = self.keys.remove(kid) {
            key.remove();
            self.removed.notify_one();
        }
    }

    fn put(&self, heard: &Heard, key: Arc<VerifyingKey>) {
        if !heard.revoked.contains(key.kid()) {
            self.keys.entry(key.kid().clone()).or_insert(key);
        }
    }

    fn bar(&self, heard: &mut Heard, kid: &str) {
        heard.revoked.insert(kid.into());
        self.take(kid);
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Algorithm, SigningKey};
    use super::*;

    fn key() -> SigningKey {
        SigningKey::generate(Algorithm::EdDsa).expect("makes a key")
    }

    #[test]
    fn a_registration_that_comes_after_the_revocation_brings_no_key_back() {
        let (keys, key) = (KeySet::default(), key());
        keys.remove(key.kid());
        keys.add(key.verifying());
        assert!(keys.find(key.kid()).is_none());
        assert!(keys.is_revoked(key.kid()));
    }

    #[test]
    fn what_was_verified_before_notices_a_revocation_but_not_a_retirement() {
        let (keys, revoked, retired) = (KeySet::default(), key(), key());
        keys.add(revoked.verifying());
        keys.add(retired.verifying());
        let (held, spared) = (keys.find(revoked.kid()).expect("known"), keys.find(retired.kid()).expect("known"));
        keys.remove(revoked.kid());
        keys.retire(retired.kid());
        assert!(held.is_removed());
        assert!(!spared.is_removed());
        assert!(keys.registered().is_empty());
    }

    #[test]
    fn starting_over_believes_the_database_about_registered_keys_and_leaves_shared_secrets() {
        let secret = SigningKey::from_secret(b"0123456789abcdef0123456789abcdef").expect("32 bytes are enough");
        let (keys, kept, swept, revoked, new) = (KeySet::default(), key(), key(), key(), key());
        for known in [&secret, &kept, &swept, &revoked] {
            keys.add(known.verifying());
        }
        let good = vec![kept.verifying(), new.verifying()];
        keys.start_over(good, [revoked.kid()].into_iter());
        let known = |key: &SigningKey| keys.find(key.kid()).is_some();
        assert!(known(&secret) && known(&kept) && known(&new));
        assert!(!known(&swept) && !known(&revoked));
        keys.start_over(vec![], [secret.kid()].into_iter());
        assert!(!known(&secret), "a shared secret can be revoked too");
    }
    #[test]
    fn what_comes_while_the_database_is_asked_is_newer_than_its_answer() {
        let (keys, added, revoked, raced) = (KeySet::default(), key(), key(), key());
        keys.add(revoked.verifying());
        keys.begin_over();
        keys.add(added.verifying());
        keys.remove(revoked.kid());
        keys.add(raced.verifying());
        keys.remove(raced.kid());
        let held = keys.find(added.kid()).expect("known");
        keys.start_over(vec![revoked.verifying()], [].into_iter());
        let known = |key: &SigningKey| keys.find(key.kid()).is_some();
        assert!(known(&added) && !known(&revoked) && !known(&raced));
        assert!(!held.is_removed(), "tokens that it has verified stay verified");
        assert!(keys.is_revoked(revoked.kid()));
        keys.start_over(vec![], [].into_iter());
        assert!(!known(&added), "the next time counts for itself");
    }
}
