//! The lease: how Redis lets caches answer while the database is away. Pure bookkeeping, no I/O.
//!
//! Every node publishes beats on the same ordered connection as its entries. Each message has a number, given when it is
//! **announced**: before the transaction behind it may commit. It is **settled** when its transaction is over and its
//! publication was tried. A beat says up to which number its node has announced, up to which all are settled, and the
//! newest beat it has heard of each peer.
//!
//! # Why a lease raises the horizon
//!
//! Let t be when this node sent the newest beat that peer p says it heard, and let R be a revocation that p answered
//! before t. R's message was announced before R committed, so its number is not above the one that p's beat announces.
//! When every message up to that number has arrived here, R's has, and it was applied on arrival. So everything that p
//! answered before t is in G; with all peers, everything answered before the least such t is. An own beat that comes back
//! alone proves nothing about others: the revoker may be the one who is cut off.
//!
//! A node that cannot tell whether R committed answers nothing; but another may read that it did, and say so. What it
//! publishes under R's number is whom R concerns, and nothing is believed of these until the log was read
//! (`freshness`), so that the horizon may pass R all the same.
//!
//! Messages are followed from a **baseline**: a number announced by a beat. Those up to it may never arrive. They make no
//! difference once a complete log read has begun after a beat that calls them settled, because then they had committed
//! before it, or never will. A message that stays away makes a new baseline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::BootInstant;
use crate::ids::NodeId;

/// How long a message may stay away before it is taken for lost. A commit may take this long.
const AWAY_FOR: Duration = Duration::from_secs(3);

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
    /// The number of the newest message announced.
    pub announced: u64,
    /// Every message up to this number is settled.
    pub settled: u64,
    /// The newest beat heard of each peer.
    pub heard: Vec<(NodeId, u64)>,
}

/// What one node knows of the beats of all. A plain value, so that the model in `tests/model` can explore its states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    me: NodeId,
    number: u64,
    announced: u64,
    unsettled: BTreeSet<u64>,
    sent: VecDeque<(u64, BootInstant)>,
    peers: BTreeMap<NodeId, Peer>,
    /// When the newest complete log read was sent.
    log_read_at: BootInstant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Peer {
    newest: u64,
    heard_at: BootInstant,
    following: Option<Following>,
    /// Everything this peer answered before is applied here.
    proven: BootInstant,
}

/// A peer's messages since a baseline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Following {
    baseline: u64,
    /// When a beat first called everything up to the baseline settled.
    settled_at: Option<BootInstant>,
    /// Every message above the baseline and up to this number has arrived.
    complete: u64,
    /// Those that arrived ahead of others.
    early: BTreeSet<u64>,
    /// Since when something announced is not here.
    away_since: Option<BootInstant>,
}

impl Lease {
    /// The lease of this process.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            number: 0,
            announced: 0,
            unsettled: BTreeSet::new(),
            sent: VecDeque::new(),
            peers: BTreeMap::new(),
            log_read_at: BootInstant(0),
        }
    }

    /// Announces a message, before the transaction behind it may commit: from here on every beat counts it. Its number.
    pub fn announce(&mut self) -> u64 {
        self.announced += 1;
        self.unsettled.insert(self.announced);
        self.announced
    }

    /// The message's transaction is over, and its publication was tried.
    pub fn settle(&mut self, message: u64) {
        self.unsettled.remove(&message);
    }

    /// The next beat, sent now.
    pub fn beat(&mut self, now: BootInstant) -> Beat {
        self.number += 1;
        self.sent.push_back((self.number, now));
        if self.sent.len() > REMEMBERED_BEATS {
            self.sent.pop_front();
        }
        let heard = self.peers.iter().map(|(&node, peer)| (node, peer.newest)).collect();
        let settled = self.unsettled.first().map_or(self.announced, |first| first - 1);
        Beat { node: self.me, number: self.number, announced: self.announced, settled, heard }
    }

    /// A message of `node` arrived and was applied.
    pub fn received(&mut self, node: NodeId, message: u64) {
        if let Some(following) = self.peers.get_mut(&node).and_then(|peer| peer.following.as_mut()) {
            following.received(message);
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
        if peer.has_everything(beat, now)
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
        self.peers.values_mut().for_each(|peer| peer.following = None);
    }

    /// The database says that this node is alive. One that is not heard holds the lease back: it may revoke all the same.
    pub fn expect(&mut self, node: NodeId) {
        self.peers.entry(node).or_insert_with(Peer::new);
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
            let following = peer.following.as_ref()?;
            let made_up = following.settled_at.is_some_and(|settled_at| settled_at < self.log_read_at);
            (made_up && following.away_since.is_none()).then_some(peer.proven)
        };
        self.peers.values().map(proven).collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

impl Peer {
    fn new() -> Self {
        let never = BootInstant(0);
        Self { newest: 0, heard_at: never, following: None, proven: never }
    }

    /// Whether every message that the beat announces has arrived.
    fn has_everything(&mut self, beat: &Beat, now: BootInstant) -> bool {
        let following = self.following.get_or_insert_with(|| Following::from(beat.announced));
        if beat.settled >= following.baseline {
            following.settled_at.get_or_insert(now);
        }
        if following.complete >= beat.announced {
            following.away_since = None;
            return true;
        }
        // Under way, between commit and publication; or lost.
        let since = *following.away_since.get_or_insert(now);
        if now.since(since) > AWAY_FOR {
            self.following = Some(Following::from(beat.announced));
        }
        false
    }
}

impl Following {
    fn from(baseline: u64) -> Self {
        Self { baseline, settled_at: None, complete: baseline, early: BTreeSet::new(), away_since: None }
    }

    fn received(&mut self, message: u64) {
        if message > self.complete {
            self.early.insert(message);
        }
        while self.early.remove(&(self.complete + 1)) {
            self.complete += 1;
        }
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

        fn arrives(&mut self, message: u64) {
            self.here.received(self.there.me, message);
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
        let message = pair.there.announce();
        assert_eq!(pair.round(30), None, "announced, perhaps committed, not yet published");
        pair.there.settle(message);
        pair.arrives(message);
        assert_eq!(pair.round(40), Some(at(40)));
    }

    #[test]
    fn messages_may_arrive_in_another_order_than_they_were_announced() {
        let mut pair = Pair::acquainted();
        let (first, second) = (pair.there.announce(), pair.there.announce());
        pair.arrives(second);
        assert_eq!(pair.round(30), None);
        pair.arrives(first);
        assert_eq!(pair.round(40), Some(at(40)));
    }

    #[test]
    fn a_lost_message_ends_the_lease_until_the_log_was_read() {
        let mut pair = Pair::acquainted();
        let message = pair.there.announce();
        pair.there.settle(message);
        let mut ms = 30;
        while ms < 30 + 2 * AWAY_FOR.as_millis() as u64 {
            assert_eq!(pair.round(ms), None, "at {ms} ms");
            ms += 200;
        }
        pair.here.log_read(at(ms));
        assert!(pair.round(ms + 200).is_some());
    }

    #[test]
    fn a_log_read_before_the_message_was_settled_does_not_make_up_for_it() {
        let mut pair = Pair::acquainted();
        let message = pair.there.announce();
        let mut ms = 30;
        while ms < 30 + 2 * AWAY_FOR.as_millis() as u64 {
            pair.round(ms);
            ms += 200;
        }
        pair.here.log_read(at(ms));
        assert_eq!(pair.round(ms + 1), None, "its transaction may commit after that read");
        pair.there.settle(message);
        assert_eq!(pair.round(ms + 200), None, "settled, but not read since");
        pair.here.log_read(at(ms + 300));
        assert!(pair.round(ms + 400).is_some());
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
    fn a_peer_that_is_alive_and_never_heard_holds_the_lease() {
        let mut pair = Pair::acquainted();
        let mute = NodeId::random();
        pair.here.expect(mute);
        assert_eq!(pair.round(30), None);
        pair.here.log_read(at(35));
        assert_eq!(pair.round(40), None, "it may revoke, and its messages do not come");
        pair.here.forget(mute);
        assert_eq!(pair.round(50), Some(at(50)));
    }

    #[test]
    fn a_peer_never_heard_before_holds_the_lease_until_the_log_was_read() {
        let mut pair = Pair::acquainted();
        let mut third = Lease::new(NodeId::random());
        let beat = third.beat(at(30));
        assert_eq!(pair.here.heard(&beat, at(30)), None);
    }
}
