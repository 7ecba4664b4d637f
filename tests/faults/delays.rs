//! How long a revocation takes to the other node when nothing is broken but, perhaps, Redis.

use std::time::{Duration, Instant};

use crate::common::{Event, Socket};
use crate::herd::{crowded, sessions};
use crate::rig::{Member, Rig};

const DELAY: &str = "portcullis_revocation_delay_seconds";

/// From the commit to the close frame, on the node that did not revoke.
#[derive(Clone, Debug)]
pub struct Delays {
    /// Median by the node's histogram, interpolated within its bucket as Prometheus does.
    pub p50: Duration,
    /// 99th percentile by the same.
    pub p99: Duration,
    /// From the sending of the request to one node until the client of the other saw the close, by the client's clock:
    /// median and 99th percentile.
    pub seen: [Duration; 2],
}

/// Ends `count` sessions one by one on the first node, each with a socket on the second.
pub async fn measure(redis: bool, count: usize) -> Delays {
    // Without Redis it takes minutes, and a socket that waits for its turn reads no heartbeats.
    let rig = Rig::start(crowded().env("PORTCULLIS_PING_INTERVAL", "1h")).await;
    let tokens = sessions(&rig, count).await;
    let mut sockets = Vec::new();
    for token in &tokens {
        sockets.push(rig.victim().node.connect(token).await);
    }
    if !redis {
        rig.redis.kill();
        // The breaker opens once; what that costs is in the table.
        rig.node(0).me(&tokens[0]).await.expect(200);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let before = buckets(rig.victim()).await;
    let mut seen = Vec::new();
    for (index, (token, socket)) in tokens.iter().zip(&mut sockets).enumerate() {
        // Not in step with the reads of the log.
        tokio::time::sleep(Duration::from_millis(index as u64 * 37 % 50)).await;
        let asked = Instant::now();
        rig.node(0).logout(token).await.expect(200);
        closed(socket).await;
        seen.push(asked.elapsed());
    }
    let after = buckets(rig.victim()).await;
    seen.sort_unstable();
    let buckets: Vec<_> = after.iter().map(|(bound, count)| (*bound, count - value_at(&before, *bound))).collect();
    let nth = |quantile: f64| seen[((seen.len() - 1) as f64 * quantile) as usize];
    Delays { p50: quantile(&buckets, 0.5), p99: quantile(&buckets, 0.99), seen: [nth(0.5), nth(0.99)] }
}

async fn closed(socket: &mut Socket) {
    loop {
        match socket.next().await {
            Event::Closed(code, _) => return assert_eq!(code, 4500),
            _ => continue,
        }
    }
}

/// Cumulative counts by upper bound, the last one infinite; all kinds of label together.
async fn buckets(member: &Member) -> Vec<(f64, f64)> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for (labels, count) in member.metric(&format!("{DELAY}_bucket")).await {
        let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a bound");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a number") };
        match sums.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, sum)) => *sum += count,
            None => sums.push((bound, count)),
        }
    }
    sums.sort_by(|left, right| left.0.total_cmp(&right.0));
    sums
}

fn value_at(buckets: &[(f64, f64)], bound: f64) -> f64 {
    buckets.iter().find(|(known, _)| *known == bound).map_or(0.0, |(_, count)| *count)
}

/// Linear within the bucket, as `histogram_quantile` of Prometheus has it.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> Duration {
    let all = buckets.last().map_or(0.0, |(_, count)| *count);
    assert!(all > 0.0, "nothing was measured: {buckets:?}");
    let rank = all * quantile;
    let (mut lower, mut below) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank {
            let within = if count > below { (rank - below) / (count - below) } else { 1.0 };
            let upper = if bound.is_finite() { bound } else { lower };
            return Duration::from_secs_f64(lower + (upper - lower) * within);
        }
        (lower, below) = (bound, count);
    }
    Duration::MAX
}

/// The histogram is filled by what happens on the other node too, whichever carrier brought it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_histogram_shows_the_way_to_the_other_node() {
    for redis in [true, false] {
        let delays = measure(redis, 20).await;
        eprintln!("Redis {redis}: {delays:?}");
        assert!(delays.p50 > Duration::ZERO && delays.p99 < Duration::from_secs(5), "{delays:?}");
    }
}

#[test]
fn quantiles_are_those_of_prometheus() {
    let buckets = [(0.001, 0.0), (0.01, 50.0), (0.1, 100.0), (f64::INFINITY, 100.0)];
    assert_eq!(quantile(&buckets, 0.25), Duration::from_micros(5500));
    assert_eq!(quantile(&buckets, 0.75), Duration::from_millis(55));
    assert_eq!(quantile(&buckets, 1.0), Duration::from_millis(100));
}
