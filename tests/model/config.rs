//! How large a world is, and which guard is missing from it.

/// A guard of the design, taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// `Freshness::check` does not look at the slots.
    MarksChecked,
    /// `follow::read_once` raises H before it applies the entries.
    AppliedBeforeRise,
    /// `LogReader::ask` looks at the clock when the answer is there.
    TimeTakenBeforeRead,
    /// The cursor is the greatest id seen, not the snapshot's xmin.
    CursorBySnapshot,
    /// A record from Redis is stamped with the time of the `GET`.
    DistrustOfRedis,
    /// P is the newest transaction id of the snapshot, not its xmin.
    PositionBySnapshot,
    /// `Cache::admit` uses an answer of the database without the check.
    FillChecked,
    /// The own beat's return is enough for the lease.
    PeersAsked,
    /// Beats count no announced messages.
    AnnouncedCounted,
    /// A baseline counts without a complete log read after it.
    LogReadAfterBaseline,
    /// Beats call everything settled that they announce.
    SettledBeforeLogRead,
}

/// The size of a world: how often each thing may happen. Within it everything happens in every order.
#[derive(Clone, Debug)]
pub struct Config {
    /// Ticks of 450 ms.
    pub ticks: u64,
    /// A second transaction, that takes its id and commits at any moment.
    pub second_transaction: bool,
    /// Complete log reads of the checker.
    pub log_reads: u8,
    /// Log reads whose answer is lost on the way.
    pub lost_reads: u8,
    /// Reads of the credential by the checker.
    pub loads: u8,
    /// Redis serves records, as stale as they can be.
    pub records: bool,
    /// Redis carries messages.
    pub bus: bool,
    /// Beats of each node.
    pub beats: [u8; 2],
    /// Messages of any kind lost on the way to one of the nodes.
    pub lost_messages: u8,
    /// Times that the checker's subscription breaks and comes back.
    pub resubscriptions: u8,
    /// Beats have been exchanged and the log was read before the story begins.
    pub acquainted: bool,
    /// What is taken away.
    pub without: Option<Without>,
}

impl Config {
    /// One revocation, a second transaction and the log's tail.
    pub fn log() -> Self {
        Self {
            ticks: 3,
            second_transaction: true,
            log_reads: 2,
            lost_reads: 0,
            loads: 1,
            records: true,
            bus: false,
            beats: [0, 0],
            lost_messages: 0,
            resubscriptions: 0,
            acquainted: false,
            without: None,
        }
    }

    /// One revocation, beats and messages between two nodes that know each other.
    pub fn lease() -> Self {
        Self {
            ticks: 3,
            second_transaction: false,
            log_reads: 1,
            lost_reads: 0,
            loads: 0,
            records: false,
            bus: true,
            beats: [1, 1],
            lost_messages: 1,
            resubscriptions: 0,
            acquainted: true,
            without: None,
        }
    }

    /// The same, but the checker's first beat of the revoker came while R was announced and had not committed.
    pub fn baseline() -> Self {
        Self { acquainted: false, ..Self::lease() }
    }

    pub fn without(self, guard: Without) -> Self {
        Self { without: Some(guard), ..self }
    }

    pub fn lacks(&self, guard: Without) -> bool {
        self.without == Some(guard)
    }
}
