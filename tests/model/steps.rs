//! What can happen next. Every step is one of the real code's, small enough that anything may come between two.
//!
//! No step has to happen. A node that is stopped takes none for a while, one that is cut from the database none of the
//! log's, one that is cut from Redis loses what it sends or what is sent to it.

use portcullis::freshness::LIFETIME;

use crate::config::{Config, Without};
use crate::state::{CHECKER, Load, LogRead, Message, R, REVOKER, Stamp, State, Transaction, Use, instant, tick};

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// 450 ms go by.
    Tick,
    /// The transaction's insert: it takes its id.
    Begin(usize),
    /// `Bus::announce`, right before the commit.
    Announce(usize),
    /// The commit. From here on snapshots see it.
    Commit(usize),
    /// `Announced::publish`, which settles the message, then the answer: `Revoker::run`'s end. That the message is lost is a step of its own.
    PublishAndAnswer(usize),
    /// `LogReader::ask` looks at the clock and sends.
    LogSend,
    /// The database takes the snapshot of that statement.
    LogSnapshot,
    /// The answer, or the question, is lost; the cursor stays (`LogReader::state` fails).
    LogLost,
    /// `LogReader::take`, then `Applier::apply`.
    LogApply,
    /// `Freshness::rise`, then `Bus::log_read`.
    LogRise,
    /// The cache asks the database about the credential.
    LoadSend,
    /// The database takes the snapshot of that statement.
    LoadSnapshot,
    /// `Local::store_session`, before the check after the insert.
    LoadStore,
    /// `Bus::beat`.
    Beat(usize),
    /// `Bus::hear` on this node takes the next message.
    Hear(usize),
    /// The next message to the checker is lost, and nobody notices.
    Lose,
    /// The checker's subscription breaks, and comes back: `Bus::listen`.
    Resubscribe,
    /// A request comes and finds the fact in memory (`Local::peek`).
    UseFromMemory,
    /// A request comes and joins the load in flight (`Batcher::load`).
    UseOfLoad,
    /// That load answers (`Cache::admit`).
    LoadAnswers,
    /// A request comes and finds a record in Redis (`Cache::in_redis`).
    UseFromRedis,
    /// `Freshness::check_at` loads H.
    CheckHorizon,
    /// It looks at the slots.
    CheckMarks,
    /// It reads the clock and decides.
    CheckClock,
}

impl State {
    /// All that can happen next. After the judgement nothing matters any more.
    pub fn steps(&self, config: &Config) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut may = |step, possible: bool| {
            if possible {
                steps.push(step);
            }
        };
        let end = crate::state::START + config.ticks;
        if matches!(self.use_, Use::Accepted | Use::Refused) || self.is_too_late(end) || self.is_known_in_time(config) {
            return steps;
        }
        may(Step::Tick, self.now < end);
        for which in 0..=usize::from(config.second_transaction) {
            let transaction = self.transactions[which];
            may(Step::Begin(which), transaction == Transaction::Planned);
            may(Step::Announce(which), config.bus && matches!(transaction, Transaction::Open(_)));
            let ready = if config.bus {
                matches!(transaction, Transaction::Announced(_))
            } else {
                matches!(transaction, Transaction::Open(_))
            };
            may(Step::Commit(which), ready);
            // The second one's answer is nobody's business without a bus.
            let answers = which == R || config.bus;
            may(Step::PublishAndAnswer(which), answers && matches!(transaction, Transaction::Committed(_)));
        }

        let under_way = matches!(self.log_read, LogRead::Sent { .. } | LogRead::Answered { .. });
        let answered = matches!(self.log_read, LogRead::Answered { .. });
        let half = matches!(self.log_read, LogRead::Half { .. });
        let rise_first = config.lacks(Without::AppliedBeforeRise);
        may(Step::LogSend, self.log_read == LogRead::Idle && self.log_reads > 0);
        may(Step::LogSnapshot, matches!(self.log_read, LogRead::Sent { .. }));
        may(Step::LogLost, under_way && self.lost_reads > 0);
        may(Step::LogApply, if rise_first { half } else { answered });
        may(Step::LogRise, if rise_first { answered } else { half });

        may(Step::LoadSend, self.load == Load::Idle && self.loads > 0);
        may(Step::LoadSnapshot, matches!(self.load, Load::Sent { .. }));
        may(Step::LoadStore, matches!(self.load, Load::Answered(Some(_))));

        for node in [CHECKER, REVOKER] {
            may(Step::Beat(node), self.beats[node] > 0);
            may(Step::Hear(node), !self.under_way[node].is_empty());
        }
        // A beat that is lost changes what a beat that is never sent changes.
        let carries_entry = matches!(self.under_way[CHECKER].front(), Some(Message::Entry(_)));
        may(Step::Lose, carries_entry && self.lost_messages > 0);
        may(Step::Resubscribe, self.resubscriptions > 0);

        let may_begin = self.use_ == Use::NotBegun && self.is_after_bound();
        may(Step::UseFromMemory, may_begin && self.fact.is_some());
        may(Step::UseOfLoad, may_begin && self.load != Load::Idle);
        may(Step::UseFromRedis, may_begin && config.records);
        may(Step::LoadAnswers, self.use_ == Use::Joined && matches!(self.load, Load::Answered(_)));
        may(Step::CheckHorizon, matches!(self.use_, Use::HoldsFact(_)));
        may(Step::CheckMarks, matches!(self.use_, Use::LoadedHorizon(..)));
        may(Step::CheckClock, matches!(self.use_, Use::PassedMarks(..)));
        steps
    }

    /// Takes a step.
    pub fn take(&mut self, step: Step, config: &Config) {
        match step {
            Step::Tick => self.now += 1,
            Step::Begin(which) => self.begin(which),
            Step::Announce(which) => self.announce(which),
            Step::Commit(which) => self.commit(which, config),
            Step::PublishAndAnswer(which) => self.publish_and_answer(which, config),
            Step::LogSend | Step::LogSnapshot | Step::LogLost | Step::LogApply | Step::LogRise => {
                self.read_log(step, config);
            }
            Step::LoadSend => (self.load, self.loads) = (Load::Sent { f0: self.now }, self.loads - 1),
            Step::LoadSnapshot => self.answer_load(config),
            Step::LoadStore => {
                let Load::Answered(answer) = self.load else { unreachable!("not offered") };
                (self.load, self.fact) = (Load::Idle, answer);
            }
            Step::Beat(node) => self.beat(node, config),
            Step::Hear(node) => self.hear(node, config),
            Step::Lose => {
                self.lost_messages -= 1;
                self.under_way[CHECKER].pop_front();
            }
            Step::Resubscribe => {
                self.resubscriptions -= 1;
                self.under_way[CHECKER].clear();
                self.leases[CHECKER].start_over();
            }
            Step::UseFromMemory => self.use_ = self.fact.map_or(Use::Refused, Use::HoldsFact),
            Step::UseOfLoad => self.use_ = Use::Joined,
            Step::UseFromRedis => {
                let read_at = config.lacks(Without::DistrustOfRedis).then_some(self.now);
                self.use_ = Use::HoldsFact(Stamp { position: self.stale_position, read_at });
            }
            Step::LoadAnswers => {
                self.use_ = match self.load {
                    Load::Answered(Some(_)) if config.lacks(Without::FillChecked) => Use::Accepted,
                    Load::Answered(Some(stamp)) => Use::HoldsFact(stamp),
                    _ => Use::Refused,
                }
            }
            Step::CheckHorizon | Step::CheckMarks | Step::CheckClock => self.check(config),
        }
    }

    fn begin(&mut self, which: usize) {
        self.transactions[which] = Transaction::Open(self.next_id);
        self.next_id += 1;
    }

    fn announce(&mut self, which: usize) {
        let Transaction::Open(position) = self.transactions[which] else { unreachable!("not offered") };
        self.messages[which] = self.leases[REVOKER].announce();
        self.transactions[which] = Transaction::Announced(position);
    }

    fn commit(&mut self, which: usize, config: &Config) {
        let (Transaction::Open(position) | Transaction::Announced(position)) = self.transactions[which] else {
            unreachable!("not offered")
        };
        if which == R {
            // Of all records without R those of this moment have the greatest P: they are what Redis may serve.
            self.stale_position = self.position_of_a_read(config);
        }
        self.transactions[which] = Transaction::Committed(position);
    }

    fn publish_and_answer(&mut self, which: usize, config: &Config) {
        let Transaction::Committed(position) = self.transactions[which] else { unreachable!("not offered") };
        self.transactions[which] = Transaction::Answered(position);
        if config.bus {
            self.under_way[CHECKER].push_back(Message::Entry(which));
            self.leases[REVOKER].settle(self.messages[which]);
        }
        if which == R {
            self.answered_at = Some(self.now);
        }
    }

    fn position_of_a_read(&self, config: &Config) -> u64 {
        if config.lacks(Without::PositionBySnapshot) { self.next_id } else { self.xmin() }
    }

    fn read_log(&mut self, step: Step, config: &Config) {
        self.log_read = match (step, self.log_read) {
            (Step::LogSend, _) => {
                self.log_reads -= 1;
                LogRead::Sent { t0: self.now }
            }
            (Step::LogSnapshot, LogRead::Sent { t0 }) => {
                let committed = || self.transactions.iter().filter_map(|transaction| transaction.committed());
                let brings_r = self.transactions[R].committed().is_some_and(|position| position >= self.cursor);
                let by_id = committed().max().map_or(self.cursor, |newest| newest + 1).max(self.cursor);
                let cursor = if config.lacks(Without::CursorBySnapshot) { by_id } else { self.xmin() };
                LogRead::Answered { t0, brings_r, cursor }
            }
            (Step::LogLost, _) => {
                self.lost_reads -= 1;
                LogRead::Idle
            }
            (first, LogRead::Answered { t0, brings_r, cursor }) => {
                self.cursor = cursor;
                let t0 = if config.lacks(Without::TimeTakenBeforeRead) { self.now } else { t0 };
                self.apply_or_rise(first, t0, brings_r, config);
                LogRead::Half { t0, brings_r }
            }
            (second, LogRead::Half { t0, brings_r }) => {
                self.apply_or_rise(second, t0, brings_r, config);
                LogRead::Idle
            }
            _ => unreachable!("not offered"),
        };
    }

    fn apply_or_rise(&mut self, step: Step, t0: u64, brings_r: bool, config: &Config) {
        if step == Step::LogRise {
            self.horizon = self.horizon.max(t0);
            if config.bus {
                self.leases[CHECKER].log_read(instant(t0));
            }
        } else if brings_r {
            self.apply_r();
        }
    }

    /// `Applier::apply`: each entry once, the mark first, then the local fact.
    fn apply_r(&mut self) {
        let position = self.transactions[R].committed().expect("only what has committed is carried");
        if self.mark.is_none() {
            self.mark = Some((position, self.now));
            // The model keeps the fact: memory may be slow to forget, and the check must not depend on it.
        }
    }

    fn answer_load(&mut self, config: &Config) {
        let Load::Sent { f0 } = self.load else { unreachable!("not offered") };
        let stamp = Stamp { position: self.position_of_a_read(config), read_at: Some(f0) };
        let ended = self.transactions[R].committed().is_some();
        self.load = Load::Answered((!ended).then_some(stamp));
    }

    fn beat(&mut self, node: usize, config: &Config) {
        self.beats[node] -= 1;
        let mut beat = self.leases[node].beat(instant(self.now));
        if config.lacks(Without::AnnouncedCounted) {
            beat.announced = 0;
        }
        if config.lacks(Without::SettledBeforeLogRead) {
            beat.settled = beat.announced;
        }
        self.under_way[CHECKER].push_back(Message::Beat(beat.clone()));
        // What a revoker hears of itself changes nothing here.
        if node != REVOKER {
            self.under_way[REVOKER].push_back(Message::Beat(beat));
        }
    }

    fn hear(&mut self, node: usize, config: &Config) {
        match self.under_way[node].pop_front() {
            Some(Message::Entry(which)) => {
                if which == R {
                    self.apply_r();
                }
                self.leases[node].received(crate::state::name(REVOKER), self.messages[which]);
            }
            Some(Message::Beat(beat)) => {
                let own = beat.node == crate::state::name(CHECKER);
                // The time of hearing matters only to a baseline: elsewhere one time stands for all.
                let makes_baseline = node == CHECKER && !own && !config.acquainted;
                let now = if makes_baseline { self.now } else { crate::state::START };
                let proven = self.leases[node].heard(&beat, instant(now));
                let proven = match config.lacks(Without::PeersAsked) && own {
                    true => Some(instant(self.now)),
                    false => proven,
                };
                if node == CHECKER {
                    self.horizon = self.horizon.max(proven.map_or(0, tick));
                }
            }
            None => unreachable!("not offered"),
        }
    }

    fn check(&mut self, config: &Config) {
        self.use_ = match self.use_ {
            Use::HoldsFact(stamp) => Use::LoadedHorizon(stamp, self.horizon),
            Use::LoadedHorizon(stamp, horizon) if self.passes_marks(stamp) || config.lacks(Without::MarksChecked) => {
                Use::PassedMarks(stamp, horizon)
            }
            Use::PassedMarks(stamp, horizon) => {
                let known_until = instant(horizon.max(stamp.read_at.unwrap_or(0)));
                if instant(self.now) <= known_until.plus(LIFETIME) { Use::Accepted } else { Use::Refused }
            }
            _ => Use::Refused,
        };
    }

    /// `Slot::allows`.
    fn passes_marks(&self, stamp: Stamp) -> bool {
        let (position, applied_at) = self.mark.unwrap_or((0, 0));
        match stamp.read_at {
            Some(read_at) => self.mark.is_none() || read_at > applied_at,
            None => position < stamp.position,
        }
    }
}
