//! The keys this node signs with: the one in use, and those that come after it.

use std::sync::{Arc, PoisonError, RwLock};

use super::key_set::KeySet;
use super::keys::{SigningKey, VerifyingKey};

/// Private keys in the order in which they are taken. The first that was not revoked signs, so that a revocation finds
/// the next one at hand: the other nodes know it already.
pub struct Signer {
    known: Arc<KeySet>,
    keys: RwLock<Arc<[Arc<SigningKey>]>>,
}

impl Signer {
    /// Signs with the first of `keys` that is `known`.
    #[must_use]
    pub fn new(known: Arc<KeySet>, keys: Vec<Arc<SigningKey>>) -> Self {
        Self { known, keys: RwLock::new(keys.into()) }
    }

    /// The key to sign with now, and the half that verifies. `None` when all were revoked, until there is a new one.
    #[must_use]
    pub fn current(&self) -> Option<(Arc<SigningKey>, Arc<VerifyingKey>)> {
        self.keys().iter().find_map(|key| Some((key.clone(), self.known.find(key.kid())?)))
    }

    /// All of them.
    #[must_use]
    pub fn keys(&self) -> Arc<[Arc<SigningKey>]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Signs with these from here on. The other nodes must have been told of them.
    pub fn replace(&self, keys: Vec<Arc<SigningKey>>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into();
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Algorithm;
    use super::*;

    #[test]
    fn a_revocation_finds_the_next_key_at_hand() {
        let known = Arc::new(KeySet::default());
        let keys: Vec<_> =
            (0..2).map(|_| Arc::new(SigningKey::generate(Algorithm::EdDsa).expect("makes a key"))).collect();
        keys.iter().for_each(|key| known.add(key.verifying()));
        let signer = Signer::new(known.clone(), keys.clone());
        let current = || signer.current().map(|(key, _)| key.kid().to_owned());
        assert_eq!(current().as_deref(), Some(keys[0].kid()));
        known.remove(keys[0].kid());
        assert_eq!(current().as_deref(), Some(keys[1].kid()));
        known.remove(keys[1].kid());
        assert_eq!(current(), None, "a token of a revoked key would be void");
    }
}
