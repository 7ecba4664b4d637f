//! The freshness rule: may this fact still be believed? See `docs` in ARCHITECTURE.md for the argument.
//!
//! Holds the table G of what was applied, the horizon H up to which every answered revocation is known to be in G, and
//! the check. Called at every use of anything remembered. Does no I/O and takes no lock.
pub use crate::clock::BootInstant;
use crate::entry::Position;

/// Where a fact comes from and how old it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// P: every transaction below it was visible to the statement that read the value.
    pub position: Position,
    /// f0: when this node sent that read; `None` when the value came from Redis.
    pub read_at: Option<BootInstant>,
}
