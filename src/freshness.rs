//! The freshness rule: may this fact still be believed?
//!
//! Everything that answers from memory, from Redis or from a read asks [`Freshness::judge`] at **every** use. The module
//! does no I/O, takes no lock (but while something is in doubt) and allocates nothing after the start.
//!
//! # The promise
//!
//! Let a(R) be the moment when the success of revocation R was answered. No use that begins later than a(R) + 1 s
//! accepts a credential which R ended.
//!
//! # The parts
//!
//! * **G** is a fixed table of slots. Applying a log entry marks the slots of what it names (a session, a user) with
//!   the entry's position and the local time of the application. Slots are shared by hash: a collision costs a miss,
//!   never an acceptance.
//! * **H**, the horizon, is a local instant. Invariant: *every revocation answered before H is marked in G.* A complete
//!   log read that was sent at t0 returns every revocation committed before t0; after all its entries are marked, H may
//!   rise to t0.
//!   The same is shown by the beats of all peers on the bus (see `bus::lease`), so that caches can answer while the
//!   database is away.
//! * A **fact** carries a [`Stamp`]: P, below which every transaction was visible to the statement that read it, and
//!   f0, when this node sent that read (nothing for facts that came through Redis: Redis is never believed about time).
//!
//! # Why it holds
//!
//! Take a use that begins at u > a(R) + 1 s with a fact that does not contain R. The check loads H first.
//!
//! * H ≥ a(R): R was marked before H rose, and the slots are read after H, so the mark is seen. A fact of an own read
//!   that does not contain R was sent before R committed, hence before the mark: f0 is not later than the slot's time,
//!   a miss. A fact from Redis that does not contain R has P ≤ R's position: a miss.
//!   (An entry that was trimmed before this node started is not in G: the floor refuses facts that old.)
//! * H < a(R): then u − H > 1 s > L. The fact passes only by f0, within L of u, so f0 > a(R): the read was sent after R
//!   had committed and therefore contains it. Contradiction.
//!
//! # When the database goes away in the middle of `COMMIT`
//!
//! Such a revocation was not answered, but it may have taken effect, and whoever is asked again may read that it has and
//! answer so. The node that tried publishes, in place of the entries, whom they concern (see `bus::lease`: no lease rises
//! before that has arrived), and nothing is believed of these until a complete log read is beyond the transaction. So H
//! may stand beyond a(R) without R's mark, and no fact that R ended passes.
//!
//! The clock is read last, so that a node which is stopped in the middle of the check finds itself late.

mod doubts;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::BootInstant;
use crate::entry::Position;
use doubts::Doubts;

/// L: how long knowledge may be used after the moment up to which it is complete. Below the promised second by what an
/// answer needs to leave.
pub const LIFETIME: Duration = Duration::from_millis(900);

/// How long a request waits for the log read in flight before it asks the database itself.
pub const CATCH_UP_WAIT: Duration = Duration::from_millis(250);

const SLOTS: usize = 1 << 18;

/// Where a fact comes from and how old it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// P: every transaction below it was visible to the statement that read the value.
    pub position: Position,
    /// f0: when this node sent that read; `None` when the value came from Redis.
    pub read_at: Option<BootInstant>,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Believe the fact.
    Fresh,
    /// Something was applied to its session or user since: load it again.
    Superseded,
    /// This node does not know what was revoked lately: wait for the log, or load.
    NotCaughtUp,
}

/// G and H.
pub struct Freshness {
    slots: Box<[Slot]>,
    horizon: AtomicU64,
    floor: AtomicU64,
    risen: Notify,
    doubts: Doubts,
}

#[derive(Default)]
struct Slot {
    position: AtomicU64,
    applied_at: AtomicU64,
}

impl Freshness {
    /// Knows nothing yet: every fact but a read's own answer is [`Verdict::NotCaughtUp`].
    #[must_use]
    pub fn new() -> Self {
        let slots = std::iter::repeat_with(Slot::default).take(SLOTS).collect();
        Self {
            slots,
            horizon: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            risen: Notify::new(),
            doubts: Doubts::default(),
        }
    }

    /// Marks that an entry at `position` which concerns `id` (a session's or a user's) has been heard of.
    pub fn mark(&self, id: Uuid, position: Position) {
        let slot = self.slot(id);
        slot.applied_at.fetch_max(BootInstant::now().0, Ordering::SeqCst);
        slot.position.fetch_max(position, Ordering::SeqCst);
        self.doubts.settle(id, position);
    }

    /// A revocation at `position` that concerns these ids may have committed, or may yet: until that is known nothing is
    /// believed of them.
    pub fn doubt(&self, ids: &[Uuid], position: Position) {
        self.doubts.raise(ids, position);
    }

    /// Waits until nothing of these is in doubt.
    pub async fn until_settled(&self, ids: &[Uuid]) {
        self.until(|| !self.doubts.concern(ids)).await;
    }

    /// A complete log read, sent at `sent_at`, has been applied, and every transaction below `position` was over by then.
    pub fn settle_doubts(&self, position: Position, sent_at: BootInstant) {
        self.doubts.settle_below(position, sent_at);
    }

    /// Raises H after a complete log read sent at `sent_at`, all of whose entries have been marked and applied.
    pub fn rise(&self, sent_at: BootInstant) {
        self.horizon.fetch_max(sent_at.0, Ordering::SeqCst);
        self.risen.notify_waiters();
    }

    /// Entries below `watermark` have been trimmed from the log and may be missing from G: facts from Redis that were
    /// read before it are not believed.
    pub fn set_floor(&self, watermark: Position) {
        self.floor.store(watermark, Ordering::SeqCst);
    }

    /// Begins to judge: H is loaded now.
    pub fn judge(&self) -> Judgement<'_> {
        let horizon = self.horizon();
        Judgement { freshness: self, horizon, known_until: BootInstant(u64::MAX), superseded: false }
    }

    /// The rule for one fact. `about` are the ids whose entries would end it: its session and its user.
    #[must_use]
    pub fn check(&self, stamp: Stamp, about: &[Uuid]) -> Verdict {
        self.judge().fact(stamp, about).verdict()
    }

    /// Whether remembered facts can be used at all right now.
    #[must_use]
    pub fn caught_up(&self) -> bool {
        BootInstant::now() <= self.horizon().plus(LIFETIME)
    }

    /// H.
    #[must_use]
    pub fn horizon(&self) -> BootInstant {
        BootInstant(self.horizon.load(Ordering::SeqCst))
    }

    /// Waits until the node is caught up, at most `limit`. True when it is.
    pub async fn wait_caught_up(&self, limit: Duration) -> bool {
        self.wait_until(limit, || self.caught_up()).await
    }

    /// Waits until a complete log read that was sent after `instant` has been applied, at most `limit`.
    pub async fn wait_beyond(&self, instant: BootInstant, limit: Duration) -> bool {
        self.wait_until(limit, || self.horizon() >= instant).await
    }

    async fn wait_until(&self, limit: Duration, reached: impl Fn() -> bool) -> bool {
        tokio::time::timeout(limit, self.until(reached)).await.is_ok()
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        loop {
            let risen = self.risen.notified();
            tokio::pin!(risen);
            // Registered before the condition is looked at, or a rise in between would be missed.
            risen.as_mut().enable();
            if reached() {
                return;
            }
            risen.await;
        }
    }

    fn slot(&self, id: Uuid) -> &Slot {
        // The low bits of a version 4 UUID are random; ids of another make only collide more often.
        &self.slots[id.as_u128() as usize & (SLOTS - 1)]
    }
}

/// The rule, for all facts that one use stands on: H is loaded when it begins, then the slots of each fact are read,
/// and the clock is read once, last.
#[must_use]
#[derive(Clone, Copy)]
pub struct Judgement<'a> {
    freshness: &'a Freshness,
    horizon: BootInstant,
    /// Up to where every fact so far is known to hold.
    known_until: BootInstant,
    superseded: bool,
}

impl Judgement<'_> {
    /// Takes in a fact about these ids.
    pub fn fact(mut self, stamp: Stamp, about: &[Uuid]) -> Self {
        let untrimmed = stamp.read_at.is_some() || stamp.position >= self.freshness.floor.load(Ordering::SeqCst);
        let stands = untrimmed
            && about.iter().all(|&id| self.freshness.slot(id).allows(stamp))
            && !self.freshness.doubts.concern(about);
        self.superseded |= !stands;
        let known_until = stamp.read_at.map_or(self.horizon, |read_at| self.horizon.max(read_at));
        self.known_until = self.known_until.min(known_until);
        self
    }

    /// Takes in something that no read speaks of, only the log and the bus: that a signing key was not removed. Look
    /// at the key after the judgement has begun.
    pub fn by_the_log_alone(mut self) -> Self {
        self.known_until = self.known_until.min(self.horizon);
        self
    }

    /// Reads the clock and says whether all of it may be believed.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        self.verdict_at(BootInstant::now)
    }

    fn verdict_at(self, now: impl FnOnce() -> BootInstant) -> Verdict {
        if self.superseded {
            Verdict::Superseded
        } else if now() <= self.known_until.plus(LIFETIME) {
            Verdict::Fresh
        } else {
            Verdict::NotCaughtUp
        }
    }
}

impl Default for Freshness {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    fn allows(&self, stamp: Stamp) -> bool {
        match stamp.read_at {
            Some(read_at) => read_at.0 > self.applied_at.load(Ordering::SeqCst),
            None => self.position.load(Ordering::SeqCst) < stamp.position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_read(at: BootInstant) -> Stamp {
        Stamp { position: 10, read_at: Some(at) }
    }

    fn from_redis(position: Position) -> Stamp {
        Stamp { position, read_at: None }
    }

    #[test]
    fn an_own_read_is_good_for_its_lifetime_without_any_log() {
        let freshness = Freshness::new();
        let sent = BootInstant::now();
        let id = Uuid::new_v4();
        let judgement = freshness.judge().fact(own_read(sent), &[id]);
        assert_eq!(judgement.verdict_at(|| sent.plus(LIFETIME)), Verdict::Fresh);
        let late = sent.plus(LIFETIME + Duration::from_nanos(1));
        assert_eq!(judgement.verdict_at(|| late), Verdict::NotCaughtUp);
    }

    #[test]
    fn a_log_read_renews_every_fact_at_once() {
        let freshness = Freshness::new();
        let old = BootInstant(1);
        assert_eq!(freshness.check(own_read(old), &[Uuid::new_v4()]), Verdict::NotCaughtUp);
        freshness.rise(BootInstant::now());
        assert_eq!(freshness.check(own_read(old), &[Uuid::new_v4()]), Verdict::Fresh);
        assert_eq!(freshness.check(from_redis(1), &[Uuid::new_v4()]), Verdict::Fresh);
    }

    #[test]
    fn several_facts_hold_as_long_as_the_weakest() {
        let freshness = Freshness::new();
        let (session, user) = (Uuid::new_v4(), Uuid::new_v4());
        let (early, late) = (BootInstant::now(), BootInstant::now().plus(Duration::from_millis(300)));
        let both = freshness.judge().fact(own_read(late), &[session, user]).fact(own_read(early), &[user]);
        assert_eq!(both.verdict_at(|| early.plus(LIFETIME)), Verdict::Fresh);
        assert_eq!(both.verdict_at(|| late.plus(LIFETIME)), Verdict::NotCaughtUp);
        freshness.mark(user, 7);
        let marked = freshness.judge().fact(own_read(late.plus(LIFETIME)), &[session]).fact(own_read(early), &[user]);
        assert_eq!(marked.verdict_at(|| early), Verdict::Superseded);
    }

    #[test]
    fn what_the_log_alone_knows_needs_the_horizon() {
        let freshness = Freshness::new();
        let read = own_read(BootInstant::now());
        assert_eq!(freshness.judge().fact(read, &[Uuid::new_v4()]).by_the_log_alone().verdict(), Verdict::NotCaughtUp);
        freshness.rise(BootInstant::now());
        assert_eq!(freshness.judge().fact(read, &[Uuid::new_v4()]).by_the_log_alone().verdict(), Verdict::Fresh);
    }

    #[test]
    fn a_mark_ends_older_facts_and_spares_newer_ones() {
        let freshness = Freshness::new();
        let id = Uuid::new_v4();
        let before = BootInstant::now();
        freshness.mark(id, 41);
        freshness.rise(BootInstant::now());
        assert_eq!(freshness.check(own_read(before), &[id]), Verdict::Superseded);
        assert_eq!(freshness.check(own_read(BootInstant::now()), &[id]), Verdict::Fresh);
        assert_eq!(freshness.check(from_redis(41), &[id]), Verdict::Superseded, "41 was not visible below 41");
        assert_eq!(freshness.check(from_redis(42), &[id]), Verdict::Fresh);
    }

    #[test]
    fn a_late_mark_of_an_old_position_does_not_lower_the_slot() {
        let freshness = Freshness::new();
        let id = Uuid::new_v4();
        freshness.mark(id, 41);
        freshness.mark(id, 7);
        freshness.rise(BootInstant::now());
        assert_eq!(freshness.check(from_redis(41), &[id]), Verdict::Superseded);
    }

    #[test]
    fn redis_alone_proves_nothing() {
        let freshness = Freshness::new();
        assert_eq!(freshness.check(from_redis(u64::MAX), &[Uuid::new_v4()]), Verdict::NotCaughtUp);
    }

    #[test]
    fn a_record_older_than_the_retained_log_is_not_believed() {
        let freshness = Freshness::new();
        freshness.set_floor(100);
        freshness.rise(BootInstant::now());
        assert_eq!(freshness.check(from_redis(99), &[Uuid::new_v4()]), Verdict::Superseded);
        assert_eq!(freshness.check(from_redis(100), &[Uuid::new_v4()]), Verdict::Fresh);
    }

    #[test]
    fn nothing_is_believed_of_whom_a_revocation_in_doubt_concerns() {
        let freshness = Freshness::new();
        let (doubted, other) = (Uuid::new_v4(), Uuid::new_v4());
        freshness.doubt(&[doubted], 40);
        freshness.rise(BootInstant::now());
        let read = own_read(BootInstant::now());
        assert_eq!(freshness.check(read, &[doubted]), Verdict::Superseded, "it may commit after this read");
        assert_eq!(freshness.check(from_redis(u64::MAX), &[doubted]), Verdict::Superseded);
        assert_eq!(freshness.check(read, &[other]), Verdict::Fresh);
        freshness.settle_doubts(41, BootInstant::now());
        assert_eq!(freshness.check(read, &[doubted]), Verdict::Fresh);
    }

    #[tokio::test]
    async fn waiters_wake_when_the_horizon_rises() {
        let freshness = std::sync::Arc::new(Freshness::new());
        let asked = BootInstant::now();
        let waiter = tokio::spawn({
            let freshness = freshness.clone();
            async move { freshness.wait_beyond(asked, Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        freshness.rise(BootInstant::now());
        assert!(waiter.await.expect("the waiter does not panic"));
        assert!(!freshness.wait_beyond(BootInstant::now().plus(LIFETIME), Duration::from_millis(1)).await);
    }
}
