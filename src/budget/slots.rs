//! Numbers for any number of keys in a fixed amount of memory.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

/// 512 KiB per limit.
const SLOTS: usize = 1 << 16;

/// A key has two slots of a fixed table, and what is known of it is the milder of the two. Keys that share one slot do
/// not harm each other; that somebody's both slots are those of exhausted keys is a matter of bad luck, because the hash
/// is keyed. Nothing grows, so nothing must be swept, however many keys an attacker makes up.
pub struct Slots {
    hashers: [RandomState; 2],
    values: Mutex<Box<[u64]>>,
}

impl Slots {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self { hashers: [RandomState::new(), RandomState::new()], values: Mutex::new(vec![0; SLOTS].into()) }
    }

    /// Reads both slots of a key and writes back what `change` makes of each, in one step.
    pub fn update<R>(&self, key: &impl Hash, change: impl FnOnce([u64; 2]) -> ([u64; 2], R)) -> R {
        let [one, other] = self.hashers.each_ref().map(|hasher| hasher.hash_one(key) as usize % SLOTS);
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let (after, answer) = change([values[one], values[other]]);
        values[one] = after[0];
        values[other] = after[1];
        answer
    }
}

impl Default for Slots {
    fn default() -> Self {
        Self::new()
    }
}
