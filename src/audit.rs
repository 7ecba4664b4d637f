//! What happens too often to be written down one by one: failed logins, introspections. Counted in memory, written behind.
//!
//! Nobody waits here: noting takes a lock for a few instructions. What must not be lost (whatever ends a credential,
//! whatever operators do) does not come this way but is written by the transaction itself.
//!
//! A flood cannot fill the database: one row for each kind, user and address in a few seconds, so many such rows an hour,
//! and everything beyond that in one row a minute. Guesses at accounts that exist have a share of their own, so that a
//! flood of made-up addresses does not hide them. Nothing is dropped but detail, unless the node ends while the database
//! is away; both are counted.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use time::OffsetDateTime;

use crate::clock::{BootInstant, DatabaseClock};
use crate::ids::{AdminKeyId, UserId};
use crate::metrics::{AUDIT_DROPPED, AUDIT_FOLDED};
use crate::store::{AuditNote, Store};

/// How often what was counted is written, if there is something.
pub const WRITE_EVERY: Duration = Duration::from_secs(4);

/// How long detail-less counts may wait for company.
const FOLDED_EVERY: Duration = Duration::from_secs(60);

/// Different rows waiting at most.
const WAITING: usize = 512;

/// Rows an hour, on this node, that name a user or an operator's key.
const NAMED_AN_HOUR: u32 = 2000;
/// Rows an hour that name an address alone.
const NAMELESS_AN_HOUR: u32 = 400;

const HOUR: Duration = Duration::from_secs(3600);

/// A kind of event that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// A login with a wrong password, or for nobody.
    LoginFailed,
    /// The right password of a disabled account.
    LoginDisabled,
    /// A login that the limits refused.
    LoginThrottled,
    /// An operator's key asked whether a token is good.
    Introspected,
    /// Something that is no key, or none any more, tried the admin API.
    AdminRefused,
}

impl Counted {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::LoginFailed => ("login_failed", "user"),
            Self::LoginDisabled => ("login_disabled", "user"),
            Self::LoginThrottled => ("login_throttled", "user"),
            Self::Introspected => ("operator.token_introspect", "operator"),
            Self::AdminRefused => ("operator.refused", "operator"),
        }
    }
}

/// What is told apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Counted,
    user_id: Option<UserId>,
    key: Option<AdminKeyId>,
    ip: Option<IpAddr>,
}

impl Key {
    fn is_folded(&self) -> bool {
        self.user_id.is_none() && self.key.is_none() && self.ip.is_none()
    }
}

struct Waiting {
    counts: HashMap<Key, (u64, OffsetDateTime)>,
    named_left: u32,
    nameless_left: u32,
    hour_began: BootInstant,
    written_at: BootInstant,
}

/// Counts. Cheap to clone.
#[derive(Clone)]
pub struct Tally(Arc<Inner>);

struct Inner {
    clock: Arc<DatabaseClock>,
    waiting: Mutex<Waiting>,
}

impl Tally {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(clock: Arc<DatabaseClock>) -> Self {
        let now = BootInstant::now();
        let waiting = Waiting {
            counts: HashMap::new(),
            named_left: NAMED_AN_HOUR,
            nameless_left: NAMELESS_AN_HOUR,
            hour_began: now,
            written_at: now,
        };
        Self(Arc::new(Inner { clock, waiting: Mutex::new(waiting) }))
    }

    /// Counts something that concerns a user, if it is known whom.
    pub fn note(&self, kind: Counted, user_id: Option<UserId>, ip: Option<IpAddr>) {
        self.count(Key { kind, user_id, key: None, ip: ip.map(network) });
    }

    /// Counts something that an operator's key did.
    pub fn note_key(&self, kind: Counted, key: AdminKeyId) {
        self.count(Key { kind, user_id: None, key: Some(key), ip: None });
    }

    fn count(&self, key: Key) {
        let at = self.0.clock.now();
        let mut waiting = self.waiting();
        let key = waiting.room_for(key, BootInstant::now());
        let entry = waiting.counts.entry(key).or_insert((0, at));
        *entry = (entry.0 + 1, at);
    }

    /// Writes what is due. What the database does not take waits on.
    pub async fn write(&self, store: &Store) {
        let due = self.waiting().take_due(BootInstant::now());
        self.send(store, due).await;
    }

    /// Writes everything, at the end.
    pub async fn flush(&self, store: &Store) {
        let all = std::mem::take(&mut self.waiting().counts);
        self.send(store, all).await;
        let lost: u64 = self.waiting().counts.values().map(|(count, _)| count).sum();
        if lost > 0 {
            counter!(AUDIT_DROPPED).increment(lost);
            tracing::warn!(lost, "counts of the audit trail could not be written before the end");
        }
    }

    async fn send(&self, store: &Store, counts: HashMap<Key, (u64, OffsetDateTime)>) {
        if counts.is_empty() {
            return;
        }
        let notes: Vec<_> = counts.iter().map(|(key, &(count, at))| note(key, count, at)).collect();
        if let Err(error) = store.note_audit(&notes).await {
            tracing::debug!(%error, "failed to write the audit trail's counts; they wait");
            let mut waiting = self.waiting();
            for (key, (count, at)) in counts {
                let key = if waiting.counts.len() < WAITING { key } else { folded(key) };
                let entry = waiting.counts.entry(key).or_insert((0, at));
                *entry = (entry.0 + count, entry.1.max(at));
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// The key itself while there is room for one more row, else the one that takes everything of its kind.
    fn room_for(&mut self, key: Key, now: BootInstant) -> Key {
        if self.counts.contains_key(&key) {
            return key;
        }
        if now.since(self.hour_began) > HOUR {
            (self.hour_began, self.named_left, self.nameless_left) = (now, NAMED_AN_HOUR, NAMELESS_AN_HOUR);
        }
        let left = match (key.user_id, key.key) {
            (None, None) => &mut self.nameless_left,
            _ => &mut self.named_left,
        };
        if *left == 0 || self.counts.len() >= WAITING {
            counter!(AUDIT_FOLDED).increment(1);
            return folded(key);
        }
        *left -= 1;
        key
    }

    fn take_due(&mut self, now: BootInstant) -> HashMap<Key, (u64, OffsetDateTime)> {
        let only_folded = self.counts.keys().all(Key::is_folded);
        if only_folded && now.since(self.written_at) < FOLDED_EVERY {
            return HashMap::new();
        }
        self.written_at = now;
        std::mem::take(&mut self.counts)
    }
}

fn folded(key: Key) -> Key {
    Key { kind: key.kind, user_id: None, key: None, ip: None }
}

fn note(key: &Key, count: u64, at: OffsetDateTime) -> AuditNote {
    let (event, actor) = key.kind.names();
    AuditNote { event, actor, actor_id: key.key, user_id: key.user_id, ip: key.ip, count, at }
}

/// One customer of an IPv6 network has a whole /64 to send from.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::new(Arc::default())
    }

    fn ip(number: u32) -> Option<IpAddr> {
        Some(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn a_flood_of_addresses_is_few_rows_and_no_failure_is_lost() {
        let tally = tally();
        for number in 0..100_000 {
            tally.note(Counted::LoginFailed, None, ip(number));
        }
        let waiting = tally.waiting();
        assert!(waiting.counts.len() <= 401, "{}", waiting.counts.len());
        assert_eq!(waiting.counts.values().map(|(count, _)| count).sum::<u64>(), 100_000);
    }

    #[test]
    fn guesses_at_an_account_show_in_the_middle_of_a_flood() {
        let tally = tally();
        for number in 0..100_000 {
            tally.note(Counted::LoginFailed, None, ip(number));
        }
        let victim = UserId::random();
        tally.note(Counted::LoginFailed, Some(victim), ip(7));
        assert!(tally.waiting().counts.keys().any(|key| key.user_id == Some(victim)));
    }

    #[test]
    fn what_names_nobody_waits_for_company() {
        let tally = tally();
        let now = BootInstant::now();
        let only = Key { kind: Counted::LoginFailed, user_id: None, key: None, ip: None };
        tally.count(only);
        assert!(tally.waiting().take_due(now).is_empty());
        assert_eq!(tally.waiting().take_due(now.plus(FOLDED_EVERY)).len(), 1);
        tally.count(only);
        tally.note(Counted::LoginFailed, None, ip(1));
        assert_eq!(tally.waiting().take_due(now.plus(FOLDED_EVERY)).len(), 2);
    }

    #[test]
    fn an_hour_later_there_is_detail_again() {
        let tally = tally();
        for number in 0..1_000 {
            tally.note(Counted::LoginFailed, None, ip(number));
        }
        let later = BootInstant::now().plus(HOUR + FOLDED_EVERY);
        let mut waiting = tally.waiting();
        waiting.take_due(later);
        let key = Key { kind: Counted::LoginFailed, user_id: None, key: None, ip: ip(5_000) };
        assert!(!waiting.room_for(key, later).is_folded());
    }
}
