//! What stands in Redis: for each user or address a hash with one count a node, and a sorted set of the nodes alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::Pipeline;

use crate::ids::{DeploymentId, NodeId};
use crate::redis_link::{RedisAway, RedisLink};
use crate::registry::Counted;
use crate::seal::Sealer;

/// How long a node is alive after it said so, by the clock of Redis.
const ALIVE_SECONDS: u32 = 8;

/// Life of a count that nobody writes again.
const COUNT_SECONDS: u32 = 180;

/// Claims a place: KEYS 1 the counts, 2 the nodes; ARGV 1 this node, 2 its place, 3 the limit, 4 life in seconds.
/// Says how many the others have, or -1 when that makes too many. Before it says that, it forgets whoever is dead.
const ENTER: &str = r"
local others, own = 0, 0
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  if counts[i] == ARGV[1] then own = tonumber(counts[i + 1]) else others = others + tonumber(counts[i + 1]) end
end
local place, limit = tonumber(ARGV[2]), tonumber(ARGV[3])
if others + place > limit then
  local now = tonumber(redis.call('TIME')[1])
  for i = 1, #counts, 2 do
    if counts[i] ~= ARGV[1] then
      local alive = redis.call('ZSCORE', KEYS[2], counts[i])
      if not alive or tonumber(alive) < now then
        redis.call('HDEL', KEYS[1], counts[i])
        others = others - tonumber(counts[i + 1])
      end
    end
  end
end
if others + place > limit then return -1 end
if own < place then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
redis.call('EXPIRE', KEYS[1], ARGV[4])
return others
";

/// Says that a node lives: KEYS 1 the nodes; ARGV 1 this node, 2 for how many seconds, 3 its name before, if it had one.
/// Says how many do, and 1 when the node was not there before.
const RENEW: &str = r"
local now = tonumber(redis.call('TIME')[1])
if ARGV[3] ~= ARGV[1] then redis.call('ZREM', KEYS[1], ARGV[3]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
local new = redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('EXPIRE', KEYS[1], 10 * tonumber(ARGV[2]))
return {redis.call('ZCARD', KEYS[1]), new}
";

/// A place among those of one user or address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) counted: Counted,
    /// Among those of this node; the first is 1.
    pub(super) place: usize,
    /// For all nodes together.
    pub(super) limit: usize,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is within the limit; so many have the other nodes.
    Others(usize),
    /// It is not.
    Full,
}

/// One node's view of it.
pub(super) struct RedisCounts {
    node: NodeId,
    link: Arc<RedisLink>,
    sealer: Arc<Sealer>,
    prefix: String,
    /// Which of this node's names holds.
    name: AtomicU64,
    /// Redis has been told that name.
    known: AtomicBool,
}

impl RedisCounts {
    pub(super) fn new(node: NodeId, link: Arc<RedisLink>, sealer: Arc<Sealer>, deployment: DeploymentId) -> Self {
        // One hash tag, because a script's keys must be in one place.
        let prefix = format!("portcullis:{{{}:n}}", deployment.0.simple());
        Self { node, link, sealer, prefix, name: AtomicU64::new(0), known: AtomicBool::new(false) }
    }

    /// Says that this node lives, and asks how many do. True beside it when Redis had forgotten this node: it was emptied,
    /// or took the node for dead.
    pub(super) async fn renew(&self) -> Result<(usize, bool), RedisAway> {
        let number = self.name.load(Ordering::Relaxed);
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(RENEW).arg(1).arg(self.nodes_key());
        pipeline.arg(self.field(number)).arg(ALIVE_SECONDS).arg(self.field(number.saturating_sub(1)));
        let ((nodes, new),): ((usize, u8),) = self.link.run(&pipeline).await?;
        let known = self.known.swap(true, Ordering::Relaxed);
        Ok((nodes, known && new == 1))
    }

    /// From now on this node counts under another name; its counts so far are those of a dead one.
    pub(super) fn take_new_name(&self) {
        // A name that Redis was never told need not be forgotten.
        if self.known.swap(false, Ordering::Relaxed) {
            self.name.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether Redis knows this node under its name.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Claims places, each judged by itself.
    pub(super) async fn enter(&self, claims: &[Claim]) -> Result<Vec<Verdict>, RedisAway> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let (mut pipeline, field) = (redis::pipe(), self.field(self.name.load(Ordering::Relaxed)));
        for claim in claims {
            pipeline.cmd("EVAL").arg(ENTER).arg(2).arg(self.key(claim.counted)).arg(self.nodes_key());
            pipeline.arg(&field).arg(claim.place).arg(claim.limit).arg(COUNT_SECONDS);
        }
        let answers: Vec<i64> = self.link.run(&pipeline).await?;
        Ok(answers.into_iter().map(|others| usize::try_from(others).map_or(Verdict::Full, Verdict::Others)).collect())
    }

    /// Writes counts as they are; 0 is none.
    pub(super) async fn write(&self, counts: &[(Counted, usize)]) -> Result<(), RedisAway> {
        if counts.is_empty() {
            return Ok(());
        }
        let (mut pipeline, field) = (redis::pipe(), self.field(self.name.load(Ordering::Relaxed)));
        for &(counted, count) in counts {
            self.write_one(&mut pipeline, &self.key(counted), &field, count);
        }
        self.link.run(&pipeline).await
    }

    fn write_one(&self, pipeline: &mut Pipeline, key: &str, field: &str, count: usize) {
        if count == 0 {
            pipeline.cmd("HDEL").arg(key).arg(field).ignore();
        } else {
            pipeline.cmd("HSET").arg(key).arg(field).arg(count).ignore();
            pipeline.cmd("EXPIRE").arg(key).arg(COUNT_SECONDS).ignore();
        }
    }

    /// Takes this node off the list of those alive.
    pub(super) async fn say_farewell(&self) {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZREM").arg(self.nodes_key()).arg(self.field(self.name.load(Ordering::Relaxed))).ignore();
        // Whoever is not told sees it by the clock.
        let _ = self.link.run::<()>(&pipeline).await;
    }

    fn field(&self, number: u64) -> String {
        format!("{}.{number}", &self.node.0.simple().to_string()[..16])
    }

    fn nodes_key(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    /// Names are keyed hashes here too: who has how many sockets is nobody's business.
    fn key(&self, counted: Counted) -> String {
        let (kind, name) = match counted {
            Counted::User(user_id) => ("u", self.sealer.name("count of a user", user_id.0.as_bytes())),
            Counted::Address(address) => ("a", self.sealer.name("count of an address", &address.to_bytes())),
        };
        format!("{}:{kind}:{name}", self.prefix)
    }
}
