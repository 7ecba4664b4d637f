//! The world: a database, two nodes, and what is on its way between them.

use std::collections::VecDeque;
use std::time::Duration;

use portcullis::bus::lease::{Beat, Lease};
use portcullis::clock::BootInstant;
use portcullis::entry::Position;
use portcullis::ids::NodeId;
use uuid::Uuid;

use crate::config::{Config, Without};

/// The node whose caches are asked.
pub const CHECKER: usize = 0;
/// The node that ends the credential.
pub const REVOKER: usize = 1;
/// The transaction of R, the revocation that ends the credential.
pub const R: usize = 0;

/// Two ticks are L, three are more than the promised second.
pub const TICK: Duration = Duration::from_millis(450);
/// The least that is more than the second.
const BOUND_TICKS: u64 = 3;
/// Before it everything is "never".
pub const START: u64 = 1;

/// A transaction that writes to the log. Its position and its row's id are one number: both are taken at the insert.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Transaction {
    Planned,
    Open(Position),
    /// Still open, and announced on the bus: `COMMIT` comes next.
    Announced(Position),
    Committed(Position),
    /// Committed, published as far as Redis let it, answered.
    Answered(Position),
}

impl Transaction {
    pub fn committed(self) -> Option<Position> {
        match self {
            Self::Planned | Self::Open(_) | Self::Announced(_) => None,
            Self::Committed(position) | Self::Answered(position) => Some(position),
        }
    }
}

/// `freshness::Stamp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stamp {
    pub position: Position,
    pub read_at: Option<u64>,
}

/// A read of the log, by `follow::read_once`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LogRead {
    Idle,
    Sent {
        t0: u64,
    },
    /// The database has taken its snapshot; the answer is on its way.
    Answered {
        t0: u64,
        brings_r: bool,
        cursor: Position,
    },
    /// One of the two steps is done: the entries applied, or (guard removed) H raised.
    Half {
        t0: u64,
        brings_r: bool,
    },
}

/// A read of the credential, by `Cache::from_database`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Load {
    Idle,
    Sent {
        f0: u64,
    },
    /// `None`: the answer says that the credential has ended.
    Answered(Option<Stamp>),
}

/// The use of the credential that began after the bound. `Freshness::check_at`, step by step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    NotBegun,
    /// Waits for the load in flight, which others had asked for before it.
    Joined,
    HoldsFact(Stamp),
    LoadedHorizon(Stamp, u64),
    PassedMarks(Stamp, u64),
    Accepted,
    Refused,
}

/// What travels through Redis.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    Entry(usize),
    Beat(Beat),
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub now: u64,
    pub next_id: Position,
    pub transactions: [Transaction; 2],
    /// The numbers of their messages on the bus, once announced.
    pub messages: [u64; 2],
    /// a(R).
    pub answered_at: Option<u64>,
    /// The greatest P of a record without R.
    pub stale_position: Position,

    /// The credential's slot in the checker's G: position and time of the application.
    pub mark: Option<(Position, u64)>,
    pub horizon: u64,
    pub cursor: Position,
    pub log_read: LogRead,
    pub load: Load,
    pub fact: Option<Stamp>,
    pub use_: Use,

    /// The real bookkeeping of both nodes.
    pub leases: [Lease; 2],
    /// One ordered connection each.
    pub under_way: [VecDeque<Message>; 2],

    pub log_reads: u8,
    pub lost_reads: u8,
    pub loads: u8,
    pub beats: [u8; 2],
    pub lost_messages: u8,
    pub resubscriptions: u8,
}

impl State {
    pub fn new(config: &Config) -> Self {
        let lease = |node: usize| Lease::new(name(node));
        let mut leases = [lease(CHECKER), lease(REVOKER)];
        if config.lacks(Without::LogReadAfterBaseline) {
            leases[CHECKER].log_read(BootInstant(u64::MAX));
        }
        let message = introduce(&mut leases, config);
        let under_way =
            if config.acquainted || !config.bus { Transaction::Planned } else { Transaction::Announced(10) };
        Self {
            now: START,
            next_id: if under_way == Transaction::Planned { 10 } else { 11 },
            transactions: [under_way, Transaction::Planned],
            messages: [message, 0],
            answered_at: None,
            stale_position: 0,
            mark: None,
            horizon: 0,
            cursor: 10,
            log_read: LogRead::Idle,
            load: Load::Idle,
            // Read by this node a while ago.
            fact: Some(Stamp { position: 10, read_at: Some(START - 1) }),
            use_: Use::NotBegun,
            leases,
            under_way: Default::default(),
            log_reads: config.log_reads,
            lost_reads: config.lost_reads,
            loads: config.loads,
            beats: config.beats,
            lost_messages: config.lost_messages,
            resubscriptions: config.resubscriptions,
        }
    }

    /// `pg_snapshot_xmin`: the least transaction under way, or else the next.
    pub fn xmin(&self) -> Position {
        let open = |transaction: &Transaction| match transaction {
            Transaction::Open(position) | Transaction::Announced(position) => Some(*position),
            _ => None,
        };
        self.transactions.iter().filter_map(open).min().unwrap_or(self.next_id)
    }

    /// A use that begins now begins after a(R) + 1 s.
    pub fn is_after_bound(&self) -> bool {
        self.answered_at.is_some_and(|at| instant(self.now).since(instant(at)) > Duration::from_secs(1))
    }

    /// No use can begin any more within the time of this world: nothing that happens here matters.
    pub fn is_too_late(&self, end: u64) -> bool {
        self.use_ == Use::NotBegun && self.answered_at.unwrap_or(self.now) + BOUND_TICKS > end
    }

    /// R is marked, and the only fact there can ever be was read before: slots only rise, so no use of it passes.
    pub fn is_known_in_time(&self, config: &Config) -> bool {
        let only_fact = config.loads == 0 && !config.records && !config.lacks(Without::MarksChecked);
        self.use_ == Use::NotBegun && only_fact && self.mark.is_some()
    }

    /// A use is being judged by a fact that R ended.
    pub fn is_judging(&self) -> bool {
        matches!(self.use_, Use::HoldsFact(_))
    }

    /// No fact here contains R: a read that sees R answers that the credential has ended. So who is accepted is accepted
    /// wrongly.
    pub fn is_violated(&self) -> bool {
        self.use_ == Use::Accepted
    }
}

/// A tick as the real code's time.
pub fn instant(tick: u64) -> BootInstant {
    BootInstant(tick * TICK.as_nanos() as u64)
}

/// The tick of an instant that a lease gave back.
pub fn tick(instant: BootInstant) -> u64 {
    instant.0 / TICK.as_nanos() as u64
}

pub fn name(node: usize) -> NodeId {
    NodeId(Uuid::from_u128(node as u128))
}

/// Before the story begins each has heard the other, and a complete log read came after; without
/// `acquainted` that read came before the revoker's first beat, and R is announced and under way: its message's number.
fn introduce(leases: &mut [Lease; 2], config: &Config) -> u64 {
    let acquainted = config.acquainted;
    let before = |nanos: u64| BootInstant(instant(START).0 - 100 + nanos);
    let message = if acquainted { 0 } else { leases[REVOKER].announce() };
    for node in [CHECKER, REVOKER] {
        let mut beat = leases[node].beat(before(node as u64));
        if config.lacks(Without::SettledBeforeLogRead) {
            beat.settled = beat.announced;
        }
        for lease in leases.iter_mut() {
            let _ = lease.heard(&beat, before(node as u64));
        }
    }
    leases.iter_mut().for_each(|lease| lease.log_read(before(if acquainted { 10 } else { 1 })));
    message
}
