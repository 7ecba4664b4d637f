//! How many sockets a user or an address has on all nodes together, counted in Redis.
//!
//! Ordinary users cost nothing here. A node asks, and lets its own count be seen, only from a **floor** on: an eighth of
//! the limit divided by the number of nodes. Those below it on every node are far from any limit; those at the floor are
//! asked for in batches, one round trip on the way at a time, and a good answer with room left spares the next ones. So
//! a limit is exact when it is small beside eight times the nodes, and else overdrawn by a quarter at the worst: an
//! eighth that was below the floors, an eighth that answers with room have spared.
//!
//! A hash for each user or address holds one field a node. It is written and judged in one script, so that of two nodes
//! only one gets the last place. What a dead node left can only refuse, so whoever would be refused makes the script look
//! whether every node it counted is alive (a sorted set in which nodes renew themselves), and forget those that are not.
//! Everything expires; a pass a minute writes it again, also after a Redis that came back empty.
//!
//! Redis is never waited for longer than [`PATIENCE`]; without an answer a node's own count is what counts. No answer,
//! no refusal: trouble here keeps nobody out.

mod redis_counts;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::ids::{DeploymentId, NodeId};
use crate::redis_link::{RedisAway, RedisLink};
use crate::registry::{Counted, LimitReached, Limits, Registry, Standing};
use crate::seal::Sealer;
use redis_counts::{Claim, RedisCounts, Verdict};

/// How long an admission waits for the others' counts.
const PATIENCE: Duration = Duration::from_millis(100);

/// Questions that may wait for their turn. More are answered by this node's own count.
const QUEUE: usize = 4096;

/// Questions, or counts, in one round trip.
const BATCH: usize = 256;

/// How often a node says that it lives and asks who else does.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How soon after a failure.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How often every count is written again.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Part of a limit that may go by unseen below the floors of all nodes together.
const UNSEEN: usize = 8;

/// The counts of all nodes, as this one sees them.
pub struct Headcount {
    registry: Registry,
    counts: RedisCounts,
    user: Threshold,
    address: Threshold,
    nodes: AtomicUsize,
    /// From which place on to ask again, where an answer left room.
    spared: DashMap<Counted, usize>,
    questions: mpsc::Sender<Question>,
}

struct Threshold {
    limit: usize,
    floor: AtomicUsize,
}

struct Question {
    standing: Standing,
    answer: oneshot::Sender<Option<LimitReached>>,
}

impl Headcount {
    /// The counts, and the duty that keeps them.
    pub fn new(
        node: NodeId,
        link: Arc<RedisLink>,
        sealer: Arc<Sealer>,
        deployment: DeploymentId,
        registry: Registry,
        limits: Limits,
    ) -> (Arc<Self>, impl Future<Output = ()> + Send + 'static) {
        let (questions, queue) = mpsc::channel(QUEUE);
        // Until the nodes are counted, every count is seen.
        let threshold = |limit| Threshold { limit, floor: AtomicUsize::new(1) };
        let headcount = Arc::new(Self {
            registry,
            counts: RedisCounts::new(node, link, sealer, deployment),
            user: threshold(limits.connections_per_user),
            address: threshold(limits.connections_per_address),
            nodes: AtomicUsize::new(1),
            spared: DashMap::new(),
            questions,
        });
        let duty = Arc::clone(&headcount).keep(queue);
        (headcount, duty)
    }

    /// Whether [`admits`](Self::admits) would ask Redis about these places.
    pub fn must_ask(&self, standing: Standing) -> bool {
        standing.places().any(|(counted, place)| self.asks(counted, place))
    }

    /// Whether a socket that took these places on this node is within the limits of all nodes together. Waits for no
    /// longer than [`PATIENCE`], and for nothing when nobody is near a limit.
    ///
    /// # Errors
    /// Which limit was reached. A Redis that is away reaches none.
    pub async fn admits(&self, standing: Standing) -> Result<(), LimitReached> {
        if !self.must_ask(standing) {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        if self.questions.try_send(Question { standing, answer }).is_err() {
            return Ok(());
        }
        match timeout(PATIENCE, answered).await {
            Ok(Ok(Some(limit))) => Err(limit),
            Ok(Ok(None) | Err(_)) | Err(_) => Ok(()),
        }
    }

    fn asks(&self, counted: Counted, place: usize) -> bool {
        place >= self.threshold(counted).floor.load(Ordering::Relaxed)
            && self.spared.get(&counted).is_none_or(|from| place >= *from)
    }

    fn threshold(&self, counted: Counted) -> &Threshold {
        match counted {
            Counted::User(_) => &self.user,
            Counted::Address(_) => &self.address,
        }
    }

    async fn keep(self: Arc<Self>, mut queue: mpsc::Receiver<Question>) {
        let mut questions = Vec::with_capacity(BATCH);
        let mut to_write = VecDeque::new();
        let (mut renew_at, mut refresh_at) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                _ = queue.recv_many(&mut questions, BATCH) => {}
                () = self.registry.shrunk() => {}
                () = tokio::time::sleep_until(renew_at) => {}
                () = std::future::ready(()), if !to_write.is_empty() => {}
            }
            to_write.extend(self.registry.take_shrunk());
            let outcome = async {
                // Also before anything is claimed under a new name: until then the old one's places count beside it.
                if Instant::now() >= renew_at || !self.counts.is_known() {
                    renew_at = Instant::now() + RENEW_EVERY;
                    if self.renew().await? {
                        // The floors have moved: what is seen by the old ones is forgotten with the old name.
                        self.counts.take_new_name();
                        self.renew().await?;
                        refresh_at = Instant::now();
                    }
                }
                // Those that went first, so that a place that was left can be had again.
                let some = to_write.len().min(BATCH);
                self.write(to_write.drain(..some)).await?;
                self.answer(questions.drain(..)).await
            };
            if outcome.await.is_err() {
                // What Redis knows of this node may be wrong from here on, or lost. It is forgotten as if the node had
                // died, and all is written under a new name once Redis is back.
                questions.clear();
                to_write.clear();
                self.counts.take_new_name();
                (renew_at, refresh_at) = (Instant::now() + TRY_AGAIN_AFTER, Instant::now());
            } else if Instant::now() >= refresh_at && self.counts.is_known() {
                refresh_at = Instant::now() + REFRESH_EVERY;
                to_write.extend(self.refresh());
            }
        }
    }

    /// Says that this node lives, and sets the floors by how many do. True when their number has changed, or Redis knew
    /// nothing of this node any more: then every count is to be written anew.
    async fn renew(&self) -> Result<bool, RedisAway> {
        let (nodes, forgotten) = self.counts.renew().await?;
        let nodes = nodes.max(1);
        let changed = self.nodes.swap(nodes, Ordering::Relaxed) != nodes;
        for threshold in [&self.user, &self.address] {
            let floor = (threshold.limit / (UNSEEN * nodes)).max(1);
            threshold.floor.store(floor, Ordering::Relaxed);
        }
        Ok(changed || forgotten)
    }

    /// Whose counts are to be written again.
    fn refresh(&self) -> impl Iterator<Item = Counted> {
        let floor = |threshold: &Threshold| threshold.floor.load(Ordering::Relaxed);
        let counts = self.registry.counts_from(floor(&self.user), floor(&self.address));
        self.spared.retain(|&counted, _| self.registry.count(counted) >= floor(self.threshold(counted)));
        counts.into_iter().map(|(counted, _)| counted)
    }

    /// Writes this node's counts as they are now; what is below the floor is forgotten.
    async fn write(&self, whose: impl Iterator<Item = Counted>) -> Result<(), RedisAway> {
        let counts = whose.map(|counted| {
            // What was spared hangs together with what was written.
            self.spared.remove(&counted);
            let count = self.registry.count(counted);
            let seen = count >= self.threshold(counted).floor.load(Ordering::Relaxed);
            (counted, if seen { count } else { 0 })
        });
        self.counts.write(&counts.collect::<Vec<_>>()).await
    }

    async fn answer(&self, questions: impl Iterator<Item = Question>) -> Result<(), RedisAway> {
        let questions: Vec<_> = questions.collect();
        let mut asked = Vec::new();
        for (number, question) in questions.iter().enumerate() {
            let places = question.standing.places().filter(|&(counted, place)| self.asks(counted, place));
            asked.extend(places.map(|(counted, place)| (number, self.claim(counted, place))));
        }
        let claims: Vec<_> = asked.iter().map(|&(_, claim)| claim).collect();
        let verdicts = self.counts.enter(&claims).await?;
        let mut reached = vec![None; questions.len()];
        for (&(number, claim), verdict) in asked.iter().zip(verdicts) {
            match verdict {
                Verdict::Full => reached[number] = reached[number].or(Some(limit_of(claim.counted))),
                Verdict::Others(others) => self.spare(claim, others),
            }
        }
        for (question, reached) in questions.into_iter().zip(reached) {
            // Whoever asked may have gone.
            let _ = question.answer.send(reached);
        }
        Ok(())
    }

    /// Lets the next ones in without a question, where there is room for as many on every node.
    fn spare(&self, claim: Claim, others: usize) {
        let room = claim.limit.saturating_sub(others + claim.place) / (UNSEEN * self.nodes.load(Ordering::Relaxed));
        if room > 0 {
            self.spared.insert(claim.counted, claim.place + room + 1);
        } else {
            self.spared.remove(&claim.counted);
        }
    }

    fn claim(&self, counted: Counted, place: usize) -> Claim {
        // Somebody before it may have been refused since.
        let place = place.min(self.registry.count(counted)).max(1);
        Claim { counted, place, limit: self.threshold(counted).limit }
    }

    /// Lets the others forget this node's sockets at once, which are gone.
    pub async fn say_farewell(&self) {
        self.counts.say_farewell().await;
    }
}

fn limit_of(counted: Counted) -> LimitReached {
    match counted {
        Counted::User(_) => LimitReached::User,
        Counted::Address(_) => LimitReached::Address,
    }
}
