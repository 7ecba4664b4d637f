//! `cargo bench --bench admission`: authenticated handshakes per second, and the server's CPU time for a thousand.
//!
//! Ten thousand sockets a round (or as many as `-- 5000` says), admitted by their `Authorization` header with tokens that
//! the node has verified before, and held open until the round ends. Beside it, in alternating rounds, a bare
//! tokio-tungstenite accept loop, which reads the same requests and judges nothing. Then, apart, tokens and sessions that
//! the node meets for the first time. Aim: at most 1.7 times the CPU time of the bare loop.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::io::Write as _;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use common::gateway::Settings;
use common::servers::{PostgresServer, RedisServer};
use support::process::{cpu_time, raise_open_files};
use support::role::{Player, Role, end_with_input};
use support::{Spread, grouped, seed, size};

const SOCKETS: usize = 10_000;
const SESSIONS: usize = 500;
const COLD: usize = 5_000;
const ROUNDS: usize = 5;
/// Handshakes under way at once.
const AT_ONCE: usize = 64;
const AIM: f64 = 1.7;

fn main() {
    match Role::of_this_process() {
        Role::Measure => measure(size(SOCKETS)),
        Role::Play(name, _) if name == "floor" => floor(),
        Role::Play(_, arguments) => crowd(&arguments),
        Role::Nothing => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure(sockets: usize) {
    let files = raise_open_files();
    assert!(files > sockets as u64 + 200, "{files} open files a process are too few for {sockets} sockets");
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    let settings = Settings::embedded().without("RUST_LOG").env("PORTCULLIS_ACCESS_TOKEN_TTL", "6h");
    let settings = settings.postgres(&database).redis(&redis);
    let gateway = settings.clone().start().await;
    let node = gateway.node();
    let tokens = seed::tokens(&node, &seed::sessions(&database, SESSIONS).await).await;
    let mut floor = Player::start("floor", &[]);
    let floor_authority = floor.hear();

    println!("{} handshakes a round, {AT_ONCE} at once; CPU time of the server's process", grouped(sockets as u64));
    println!("                          handshakes/s    CPU s per 1,000   to close them, per 1,000");
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let bare_round = Round::run(floor.pid(), &floor_authority, &tokens, sockets).await;
        let our_round = Round::run(gateway.pid(), node.authority(), &tokens, sockets).await;
        if round == 0 {
            // Caches, pools and the allocator are warm from here on.
            continue;
        }
        bare_round.print("bare tokio-tungstenite");
        our_round.print("portcullis, warm");
        bare.push(bare_round);
        ours.push(our_round);
    }
    let ratios = Spread::of(ours.iter().zip(&bare).map(|(ours, bare)| ours.opening / bare.opening));
    println!(
        "portcullis, warm: {:.2} times the CPU time of the bare loop (rounds from {:.2} to {:.2}); aim: at most {AIM}",
        ratios.middle, ratios.least, ratios.most
    );

    let second = settings.start().await;
    let fresh = seed::tokens(&node, &seed::sessions(&database, COLD).await).await;
    Round::run(second.pid(), second.node().authority(), &fresh, COLD).await.print("cold: Redis hit");
    let fresh = seed::tokens(&node, &seed::sessions(&database, COLD).await).await;
    support::redis::flush(&redis);
    Round::run(second.pid(), second.node().authority(), &fresh, COLD).await.print("cold: database read");
    println!("cold: the signature is checked, and the session and its user are looked up, once for each socket");
}

/// One crowd that came and went.
struct Round {
    per_second: f64,
    /// CPU seconds per thousand, open and close.
    opening: f64,
    closing: f64,
}

impl Round {
    async fn run(pid: u32, authority: &str, tokens: &[String], sockets: usize) -> Self {
        let mut crowd = Player::start("crowd", &[authority.to_owned(), sockets.to_string(), tokens.len().to_string()]);
        tokens.iter().for_each(|token| crowd.say(token));
        assert_eq!(crowd.hear(), "ready");
        let (before, started) = (cpu_time(pid), Instant::now());
        crowd.say("open");
        assert_eq!(crowd.hear(), "open");
        let (opened_in, opened) = (started.elapsed(), cpu_time(pid));
        drop(crowd);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let closed = cpu_time(pid);
        let thousands = sockets as f64 / 1000.0;
        Self {
            per_second: sockets as f64 / opened_in.as_secs_f64(),
            opening: (opened - before).as_secs_f64() / thousands,
            closing: (closed - opened).as_secs_f64() / thousands,
        }
    }

    fn print(&self, name: &str) {
        println!("{name:25} {:>12.0} {:>18.4} {:>26.4}", self.per_second, self.opening, self.closing);
    }
}

/// The clients: open as many sockets as they are told, and hold them.
fn crowd(arguments: &[String]) {
    raise_open_files();
    let [authority, sockets, tokens] = arguments else { panic!("three arguments") };
    let (sockets, tokens): (usize, usize) = (sockets.parse().expect("a number"), tokens.parse().expect("a number"));
    let mut input = std::io::stdin().lines();
    let tokens: Vec<String> = input.by_ref().take(tokens).map(|line| line.expect("a token")).collect();
    let requests: Vec<Vec<u8>> = tokens.iter().map(|token| request(authority, token)).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    say("ready");
    input.next();
    let opening = stream::iter(0..sockets).map(|index| open(authority, &requests[index % requests.len()]));
    let held: Vec<TcpStream> = runtime.block_on(opening.buffer_unordered(AT_ONCE).collect());
    say("open");
    input.for_each(drop);
    drop(held);
    std::process::exit(0);
}

/// What a client sends that is no browser.
fn request(authority: &str, token: &str) -> Vec<u8> {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

async fn open(authority: &str, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(authority).await.expect("connect");
    // Closing by a reset leaves no port waiting: there are more rounds than ports.
    stream.set_zero_linger().expect("set SO_LINGER");
    stream.write_all(request).await.expect("send a handshake");
    let (mut head, mut filled) = ([0; 1024], 0);
    while !head[..filled].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut head[filled..]).await.expect("read the answer");
        assert!(read > 0, "hung up: {:?}", String::from_utf8_lossy(&head[..filled]));
        filled += read;
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{:?}", String::from_utf8_lossy(&head[..filled]));
    stream
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("write to whoever measures");
}

/// The floor: accepts whoever comes, and waits for messages.
#[tokio::main]
async fn floor() {
    raise_open_files();
    end_with_input();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    say(&listener.local_addr().expect("an address").to_string());
    let config = WebSocketConfig::default().read_buffer_size(512);
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        tokio::spawn(async move {
            if let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await {
                while let Some(Ok(_)) = socket.next().await {}
            }
        });
    }
}
