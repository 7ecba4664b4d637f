//! Waiting for conditions, never for time.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The longest a test waits for anything. No statement about speed: it only ends a test that would hang.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// How often a condition is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// Asks `probe` until it has an answer.
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, probe).await
}

/// Asks `probe` until it has an answer or `limit` has passed.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The same for what has no async side: servers that are starting. `what` may tell their logs.
pub fn eventually_blocking(what: impl Fn() -> String, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * DEADLINE;
    while !probe() {
        assert!(Instant::now() < deadline, "waited in vain: {}", what());
        std::thread::sleep(POLL);
    }
}

/// A port nobody listens on, below the range from which the system takes the near ends of connections, so that a server
/// finds its port free again after a restart.
pub fn free_port() -> u16 {
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id().wrapping_mul(7919) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start + step % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}
