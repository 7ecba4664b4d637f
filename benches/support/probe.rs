//! Somebody who uses the server while something happens to others: echoes on a few sockets and opens new ones, and notes how
//! long each takes. In a process of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;

use super::crowd::{open, say, send};
use super::role::Player;

/// Sockets that echo.
const ECHOES: usize = 20;
/// From one echo of a socket to its next.
const ECHO_EVERY: Duration = Duration::from_millis(20);
/// From one new socket to the next.
const OPEN_EVERY: Duration = Duration::from_millis(20);
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 250, 1));

/// The other process.
pub struct Probe(Player);

/// Quantiles of what was noted, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    /// How many there were.
    pub count: usize,
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The largest.
    pub most: f64,
}

impl Quantiles {
    /// Of milliseconds in any order.
    pub fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (millis.len() as f64 * share).ceil() as usize;
            millis.get(rank.clamp(1, millis.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
        };
        Self { count: millis.len(), p50: at(0.5), p99: at(0.99), most: at(1.0) }
    }
}

impl std::fmt::Display for Quantiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>8.2} {:>8.2} {:>8.2}", self.p50, self.p99, self.most)
    }
}

/// What was noted since the last time it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Lap {
    /// Round trips of an echo.
    pub echo: Quantiles,
    /// From the SYN to the answer to `connect`.
    pub open: Quantiles,
}

impl Probe {
    /// Starts to use the server. The token is for sockets that nothing happens to; a bare server needs none.
    pub fn start(authority: &str, path: &str, token: Option<&str>) -> Self {
        let mut player = Player::start("probe", &[authority.to_owned(), path.to_owned()]);
        player.say(token.unwrap_or_default());
        assert_eq!(player.hear(), "ready");
        Self(player)
    }

    /// What was noted since the last lap.
    pub fn lap(&mut self) -> Lap {
        let mut ask = |what: &str| {
            self.0.say(what);
            Quantiles::of(self.0.hear().split_whitespace().map(|time| time.parse().expect("a time")).collect())
        };
        Lap { echo: ask("echo"), open: ask("open") }
    }
}

#[derive(Default)]
struct Notes {
    echo: Mutex<Vec<f64>>,
    open: Mutex<Vec<f64>>,
}

/// The role.
pub fn play(arguments: &[String]) {
    let [authority, path] = arguments else { panic!("two arguments") };
    let authority: SocketAddr = authority.parse().expect("an address");
    let path: &'static str = path.clone().leak();
    let mut input = std::io::stdin().lines();
    let token = input.next().expect("a token").expect("a line");
    let token: Option<&'static str> = if token.is_empty() { None } else { Some(token.leak()) };
    let notes: &'static Notes = Box::leak(Box::default());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for index in 0..ECHOES {
                let stream = open(authority, SOURCE, path, token).await;
                let first = ECHO_EVERY.mul_f64(index as f64 / ECHOES as f64);
                tokio::spawn(echo(stream, first, notes));
            }
            say("ready");
            loop {
                let started = Instant::now();
                drop(open(authority, SOURCE, path, token).await);
                notes.open.lock().expect("the notes").push(started.elapsed().as_secs_f64() * 1e3);
                tokio::time::sleep(OPEN_EVERY.saturating_sub(started.elapsed())).await;
            }
        });
    });
    for line in input {
        let of = if line.expect("a line") == "echo" { &notes.echo } else { &notes.open };
        let times = std::mem::take(&mut *of.lock().expect("the notes"));
        say(&times.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    }
    std::process::exit(0);
}

async fn echo(mut stream: tokio::net::TcpStream, first: Duration, notes: &Notes) {
    tokio::time::sleep(first).await;
    let mut buffer = [0; 512];
    for id in 2.. {
        let started = Instant::now();
        send(&mut stream, &format!("{{\"id\":{id},\"rpc\":{{\"method\":\"echo\",\"data\":{id}}}}}"))
            .await
            .expect("send");
        let wanted = format!("\"id\":{id},");
        loop {
            let read = stream.read(&mut buffer).await.expect("read an echo");
            assert!(read > 0, "the probe's socket was closed");
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            if text.contains("{}") {
                send(&mut stream, "{}").await.expect("answer a heartbeat");
            }
            if text.contains(&wanted) {
                break;
            }
        }
        notes.echo.lock().expect("the notes").push(started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(ECHO_EVERY.saturating_sub(started.elapsed())).await;
    }
}
