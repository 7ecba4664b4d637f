//! The lease: how Redis lets caches answer while the database is away. Pure bookkeeping, no I/O.
//!
//! Every node publishes beats through the same ordered connection as its entries. A beat says how many messages its
//! node has **announced** so far, and the newest beat it has heard of each peer. A message is announced before the
//! transaction behind it may commit, and published after it.
//!
//! # Why a lease raises the horizon
//!
//! Let t be when this node sent the newest beat that peer p says it heard, and let R be a revocation that p answered
//! before t. R was announced before it committed, so it is counted in every beat that p sent after hearing ours. When
//! as many of p's messages have arrived here as that beat counts, R's is among them, and it was applied on arrival. So
//! everything that p answered before t is in G; with all peers, everything answered before the least such t is. An own
//! beat that comes back alone proves nothing about others: the revoker may be the one who is cut off.
//!
//! Counts are compared from a **baseline**: the first beat heard of a peer after subscribing. What was lost before it
//! had committed before it, so a baseline counts only once a complete log read has begun after it. A count that stays
//! behind (a lost message) or runs ahead makes a new baseline.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootInstant;
use crate::ids::NodeId;

/// How long a peer's messages may stay behind its count before they are taken for lost. A commit may take this long.
const BEHIND_FOR: Duration = Duration::from_secs(3);

/// Silence after which somebody should find out whether a peer is still alive.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Own beats remembered: those of the last seconds. What a peer has not heard by then is too old to prove anything.
const REMEMBERED_BEATS: usize = 64;

/// A node's sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Beat {
    /// Who. New at every start, so a restart is a new peer.
    pub node: NodeId,
    /// Its how many-eth.
    pub number: u64,
    /// Messages announced so far.
    pub announced: u64,
    /// The newest beat heard of each peer.
    pub heard: Vec<(NodeId, u64)>,
}

/// What one node knows of the beats of all. A plain value, so that the model in `tests/model` can explore its states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    me: NodeId,
    number: u64,
    announced: u64,
    sent: VecDeque<(u64, BootInstant)>,
    peers: BTreeMap<NodeId, Peer>,
    /// When the newest complete log read was sent.
    log_read_at: BootInstant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    newest: u64,
    heard_at: BootInstant,
    received: u64,
    baseline: Option<Baseline>,
    behind_since: Option<BootInstant>,
    /// Everything this peer answered before is applied here.
    proven: BootInstant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Baseline {
    /// `announced` less `received`.
    offset: u64,
    at: BootInstant,
}

impl Lease {
    /// The lease of this process.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        let (sent, peers) = (VecDeque::new(), BTreeMap::new());
        Self { me, number: 0, announced: 0, sent, peers, log_read_at: BootInstant(0) }
    }

    /// Announces a message: from here on every beat counts it. Before the transaction may commit.
    pub fn announce(&mut self) {
        self.announced += 1;
    }

    /// The next beat, sent now.
    pub fn beat(&mut self, now: BootInstant) -> Beat {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED_BEATS {
            self.sent.pop_front();
        }
        let heard = self.peers.iter().map(|(&node, peer)| (node, peer.newest)).collect();
        Beat { node: self.me, number: self.number, announced: self.announced, heard }
    }

    /// A message of `node` arrived and was applied.
    pub fn received(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.received += 1;
        }
    }

    /// A beat arrived. The instant up to which everything is applied, if all peers prove one.
    pub fn heard(&mut self, beat: &Beat, now: BootInstant) -> Option<BootInstant> {
        let mine = if beat.node == self.me {
            Some(beat.number)
        } else {
            beat.heard.iter().find(|(node, _)| *node == self.me).map(|&(_, number)| number)
        };
        let sent_at = mine.and_then(|mine| self.sent.iter().find(|(number, _)| *number == mine)).map(|&(_, at)| at);
        let peer = self.peers.entry(beat.node).or_insert_with(Peer::new);
        (peer.newest, peer.heard_at) = (beat.number, now);
        if peer.is_complete(beat.announced, now)
            && let Some(sent_at) = sent_at
        {
            peer.proven = peer.proven.max(sent_at);
        }
        self.horizon()
    }

    /// A complete log read, sent at `sent_at`, has been applied: what was lost before it is made up for.
    pub fn log_read(&mut self, sent_at: BootInstant) {
        self.log_read_at = self.log_read_at.max(sent_at);
    }

    /// The subscription is a new one: what was heard before counts for nothing.
    pub fn start_over(&mut self) {
        self.peers.values_mut().for_each(|peer| peer.baseline = None);
    }

    /// Peers that have fallen silent. They hold the lease back until somebody has found out that they are dead.
    #[must_use]
    pub fn silent(&self, now: BootInstant) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, peer)| now.since(peer.heard_at) > SILENT_AFTER).map(|(&node, _)| node).collect()
    }

    /// This peer is dead or has said goodbye: no revocation comes from it any more.
    pub fn forget(&mut self, node: NodeId) {
        self.peers.remove(&node);
    }

    fn horizon(&self) -> Option<BootInstant> {
        // Without the own beat's return nothing shows that this subscription delivers.
        self.peers.get(&self.me)?;
        let proven = |peer: &Peer| {
            let made_up = peer.baseline.as_ref().is_some_and(|baseline| baseline.at < self.log_read_at);
            (made_up && peer.behind_since.is_none()).then_some(peer.proven)
        };
        self.peers.values().map(proven).collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

impl Peer {
    fn new() -> Self {
        let never = BootInstant(0);
        Self { newest: 0, heard_at: never, received: 0, baseline: None, behind_since: None, proven: never }
    }

    /// Whether every message announced by now has arrived.
    fn is_complete(&mut self, announced: u64, now: BootInstant) -> bool {
        let expected = self.baseline.as_ref().map(|baseline| self.received + baseline.offset);
        match expected {
            Some(expected) if expected == announced => {
                self.behind_since = None;
                true
            }
            // Under way: between commit and publication.
            Some(expected) if expected < announced => {
                let since = *self.behind_since.get_or_insert(now);
                if now.since(since) > BEHIND_FOR {
                    self.set_baseline(announced, now);
                }
                false
            }
            _ => {
                self.set_baseline(announced, now);
                false
            }
        }
    }

    fn set_baseline(&mut self, announced: u64, now: BootInstant) {
        self.received = 0;
        self.behind_since = None;
        self.baseline = Some(Baseline { offset: announced, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> BootInstant {
        BootInstant(ms * MS)
    }

    /// Two nodes on one bus, seen from the first.
    struct Pair {
        here: Lease,
        there: Lease,
    }

    impl Pair {
        /// Both have heard each other, and a complete log read came after.
        fn acquainted() -> Self {
            let mut pair = Self { here: Lease::new(NodeId::random()), there: Lease::new(NodeId::random()) };
            pair.round(10);
            pair.here.log_read(at(12));
            pair.round(20);
            pair
        }

        /// Each beats once, and each hears both; the horizon that the first has then.
        fn round(&mut self, ms: u64) -> Option<BootInstant> {
            let mine = self.here.beat(at(ms));
            self.there.heard(&mine, at(ms));
            self.here.heard(&mine, at(ms));
            let theirs = self.there.beat(at(ms + 1));
            self.there.heard(&theirs, at(ms + 1));
            self.here.heard(&theirs, at(ms + 1))
        }
    }

    #[test]
    fn beats_of_all_peers_raise_the_horizon_to_the_least_of_them() {
        assert_eq!(Pair::acquainted().round(30), Some(at(30)));
    }

    #[test]
    fn an_own_beat_alone_proves_nothing_while_a_peer_is_silent() {
        let mut pair = Pair::acquainted();
        let mine = pair.here.beat(at(500));
        assert_eq!(pair.here.heard(&mine, at(500)), Some(at(20)), "not beyond what the peer has confirmed");
        assert_eq!(pair.here.silent(at(5_000)).len(), 2);
    }

    #[test]
    fn a_revocation_under_way_holds_the_horizon_until_its_message_is_here() {
        let mut pair = Pair::acquainted();
        pair.there.announce();
        assert_eq!(pair.round(30), None, "announced, perhaps committed, not yet published");
        let there = pair.there.me;
        pair.here.received(there);
        assert_eq!(pair.round(40), Some(at(40)));
    }

    #[test]
    fn a_lost_message_ends_the_lease_until_the_log_was_read() {
        let mut pair = Pair::acquainted();
        pair.there.announce();
        let mut ms = 30;
        while ms < 30 + 2 * BEHIND_FOR.as_millis() as u64 {
            assert_eq!(pair.round(ms), None, "at {ms} ms");
            ms += 200;
        }
        pair.here.log_read(at(ms));
        assert!(pair.round(ms + 200).is_some());
    }

    #[test]
    fn a_new_subscription_proves_nothing_before_a_log_read_that_began_after_it() {
        let mut pair = Pair::acquainted();
        pair.here.start_over();
        assert_eq!(pair.round(30), None);
        assert_eq!(pair.round(40), None);
        pair.here.log_read(at(25));
        assert_eq!(pair.round(50), None, "the read began before the baseline");
        pair.here.log_read(at(51));
        assert_eq!(pair.round(60), Some(at(60)));
    }

    #[test]
    fn a_peer_that_is_known_to_be_dead_holds_nothing_back() {
        let mut pair = Pair::acquainted();
        let there = pair.there.me;
        pair.here.forget(there);
        let mine = pair.here.beat(at(30));
        assert_eq!(pair.here.heard(&mine, at(30)), Some(at(30)));
    }

    #[test]
    fn a_peer_never_heard_before_holds_the_lease_until_the_log_was_read() {
        let mut pair = Pair::acquainted();
        let mut third = Lease::new(NodeId::random());
        let beat = third.beat(at(30));
        assert_eq!(pair.here.heard(&beat, at(30)), None);
    }
}
