//! The same counts in Redis, shared by the nodes: one round trip at most, and none worth waiting for.
//!
//! Names are keyed hashes under the deployment's id: neither an address nor an e-mail address stands there. The time is
//! Redis' own, so that the nodes' clocks do not matter. Whatever goes wrong with Redis, this node's own counts stand.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;

use super::patience::Pauses;
use super::quota::Verdict;
use super::rate::Rate;
use crate::ids::DeploymentId;
use crate::redis_link::{RedisAway, RedisLink};
use crate::seal::Sealer;

/// The generic cell rate algorithm: the key holds the microsecond at which its debt is paid off.
const SPEND: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local after = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + interval
local too_much = after - now - burst * interval
if too_much > 0 then return {0, too_much} end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, after - now}";

/// One attempt at a password: pauses that grow for the pair, and a budget for the account. When the pair must wait, the
/// account is not charged: nobody looked.
const GUESS: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free, first, longest, memory = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local interval, burst = tonumber(ARGV[5]), tonumber(ARGV[6])
local known = redis.call('HMGET', KEYS[1], 'failures', 'until')
local failures, pause_ends = tonumber(known[1] or '0'), tonumber(known[2] or '0')
if pause_ends > now then return {0, pause_ends - now, failures, 0, 0} end
failures = failures + 1
local pause = 0
if failures >= free then pause = math.min(longest, first * 2 ^ math.min(failures - free, 30)) end
redis.call('HSET', KEYS[1], 'failures', failures, 'until', string.format('%.0f', now + pause))
redis.call('PEXPIRE', KEYS[1], math.ceil((pause + memory) / 1000))
local after = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), now) + interval
local too_much = after - now - burst * interval
if too_much > 0 then return {1, 0, failures, 0, too_much} end
redis.call('SET', KEYS[2], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, 0, failures, 1, after - now}";

/// Takes a guess back: the pair's failures are forgotten (the password was right) or one less (nobody looked).
const TAKE_BACK: &str = "
if ARGV[1] == 'forget' then
    redis.call('DEL', KEYS[1])
elseif redis.call('HINCRBY', KEYS[1], 'failures', -1) < 1 then
    redis.call('DEL', KEYS[1])
else
    redis.call('HSET', KEYS[1], 'until', 0)
end
if ARGV[2] ~= '0' and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[2]) end";

/// The counts that all nodes share.
#[derive(Clone)]
pub struct SharedCounts {
    link: Arc<RedisLink>,
    sealer: Arc<Sealer>,
    prefix: String,
}

/// What Redis said of one guess.
pub(super) struct GuessVerdicts {
    /// The address' budget, when it was asked.
    pub address: Option<Verdict>,
    /// The pair's pauses.
    pub pair: Verdict,
    /// The account's budget.
    pub account: Verdict,
}

/// What is to be undone of a guess.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakeBack {
    /// Forget the pair's failures altogether.
    pub forget: bool,
    /// The account was charged.
    pub account: bool,
}

impl SharedCounts {
    /// Counts by this link, in this deployment.
    #[must_use]
    pub fn new(link: Arc<RedisLink>, sealer: Arc<Sealer>, deployment: DeploymentId) -> Self {
        Self { link, sealer, prefix: format!("portcullis:{}:limit", deployment.0.simple()) }
    }

    /// Takes one from this rate's budget for `key`.
    pub(super) async fn spend(&self, rate: &Rate, key: &[u8]) -> Result<Verdict, RedisAway> {
        let mut pipeline = redis::pipe();
        self.add_spend(&mut pipeline, rate, key);
        let (answer,): ((u64, u64),) = self.link.run(&pipeline).await?;
        Ok(rate_verdict(rate, answer))
    }

    /// Charges one guess at an account, and the address when it has a rate of its own here.
    pub(super) async fn guess(
        &self,
        address: Option<(&Rate, &[u8])>,
        (pauses, rate): (&Pauses, &Rate),
        pair: &[u8],
        account: &[u8],
    ) -> Result<GuessVerdicts, RedisAway> {
        let mut pipeline = redis::pipe();
        if let Some((rate, key)) = address {
            self.add_spend(&mut pipeline, rate, key);
        }
        let [pair, account] = self.names(pair, account);
        pipeline.cmd("EVAL").arg(GUESS).arg(2).arg(pair).arg(account);
        for number in [pauses.free.into(), micros(pauses.first), micros(pauses.longest), micros(pauses.memory)] {
            pipeline.arg(number);
        }
        pipeline.arg(micros(rate.interval)).arg(rate.burst);
        let mut answers: Vec<Vec<u64>> = self.link.run(&pipeline).await?;
        let guess = answers.pop().and_then(|answer| <[u64; 5]>::try_from(answer).ok()).ok_or(RedisAway)?;
        let by_address = answers.pop().and_then(|answer| <[u64; 2]>::try_from(answer).ok());
        let [allowed, wait, failures, account_allowed, account_micros] = guess;
        let pair = match allowed {
            1 => pauses.allowed(u32::try_from(failures).unwrap_or(u32::MAX)),
            _ => pauses.refused(Duration::from_micros(wait)),
        };
        let account = rate_verdict(rate, (account_allowed, account_micros));
        let address =
            address.zip(by_address).map(|((rate, _), [allowed, micros])| rate_verdict(rate, (allowed, micros)));
        Ok(GuessVerdicts { address, pair, account })
    }

    /// Undoes a guess, best effort: what is not undone is forgotten within the hour.
    pub(super) async fn take_back(&self, what: TakeBack, rate: &Rate, pair: &[u8], account: &[u8]) {
        let [pair, account] = self.names(pair, account);
        let interval = if what.account { micros(rate.interval) } else { 0 };
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(TAKE_BACK).arg(2).arg(pair).arg(account);
        pipeline.arg(if what.forget { "forget" } else { "less" }).arg(interval).ignore();
        let _ = self.link.run::<()>(&pipeline).await;
    }

    fn add_spend(&self, pipeline: &mut Pipeline, rate: &Rate, key: &[u8]) {
        let name = format!("{}:{}:{}", self.prefix, rate.name, self.sealer.name(rate.name, key));
        pipeline.cmd("EVAL").arg(SPEND).arg(1).arg(name).arg(micros(rate.interval)).arg(rate.burst);
    }

    /// Both names of one guess share a hash tag: one script touches them.
    fn names(&self, pair: &[u8], account: &[u8]) -> [String; 2] {
        let account = self.sealer.name("limit-account", account);
        let pair = self.sealer.name("limit-pair", pair);
        [format!("{}:{{{account}}}:{pair}", self.prefix), format!("{}:{{{account}}}", self.prefix)]
    }
}

fn rate_verdict(rate: &Rate, (allowed, micros): (u64, u64)) -> Verdict {
    let micros = Duration::from_micros(micros);
    if allowed == 1 { rate.allowed(micros) } else { rate.refused(micros) }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
