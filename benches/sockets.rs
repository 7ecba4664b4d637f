//! `cargo bench --bench sockets`: resident memory per idle authenticated socket.
//!
//! Ten thousand sockets (or as many as `-- 15000` says), admitted by their `Authorization` header, `connect` answered,
//! heartbeats running. Counted is the growth of the server's own resident memory. Beside it a bare tokio-tungstenite accept
//! loop with a read buffer of 512 bytes, in the same run. Aim: at most 4 KiB a socket, better 2.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use common::gateway::Settings;
use common::servers::{PostgresServer, RedisServer};
use support::process::{raise_open_files, resident_bytes};
use support::role::{Player, Role, end_with_input};
use support::{grouped, seed, size};

const SOCKETS: usize = 10_000;
const SESSIONS: usize = 500;
/// Opened and closed before the count begins, so that what every server needs once is there.
const WARM_UP: usize = 500;
/// Handshakes under way at once.
const AT_ONCE: usize = 64;
/// Two heartbeats of 25 s each, with the first after at most one.
const SETTLE: Duration = Duration::from_secs(55);
const AIM_BYTES: u64 = 4 * 1024;
const READ_BUFFER: usize = 512;

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
    assert!(
        files > sockets as u64 + 200,
        "{files} open files a process are too few for {sockets} sockets: see `ulimit -Hn`"
    );
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    // A refresh is no part of an idle socket, so tokens outlive the run.
    let settings = Settings::embedded().without("RUST_LOG").env("PORTCULLIS_ACCESS_TOKEN_TTL", "6h");
    let gateway = settings.postgres(&database).redis(&redis).start().await;
    let secrets = seed::sessions(&database, SESSIONS).await;
    let tokens = seed::tokens(&gateway.node(), &secrets).await;
    let mut bare = Player::start("floor", &[]);
    let bare_authority = bare.hear();

    println!(
        "{} idle sockets of {SESSIONS} sessions; growth of the server's anonymous resident memory",
        grouped(sockets as u64)
    );
    println!(
        "                                        bytes      total  opened  heartbeats   left after   with a second"
    );
    println!(
        "                                     a socket                 in    answered      the end           crowd"
    );
    measure_one("bare tokio-tungstenite, 512 B buffer", bare.pid(), &bare_authority, &tokens, sockets).await;
    let node = gateway.node();
    let bytes = measure_one("portcullis", gateway.pid(), node.authority(), &tokens, sockets).await;
    println!("portcullis: {} bytes a socket; aim: at most {}", grouped(bytes), grouped(AIM_BYTES));
}

async fn measure_one(name: &str, pid: u32, authority: &str, tokens: &[String], sockets: usize) -> u64 {
    drop(Crowd::gather(authority, tokens, WARM_UP));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = resident_bytes(pid);
    let started = Instant::now();
    let mut crowd = Crowd::gather(authority, tokens, sockets);
    let opened_in = started.elapsed();
    tokio::time::sleep(SETTLE).await;
    let grown = resident_bytes(pid).saturating_sub(before);
    let (heartbeats, closed) = crowd.ask();
    assert_eq!(closed, 0, "sockets were closed while they should have been idle");
    drop(crowd);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let left = resident_bytes(pid).saturating_sub(before);
    // What is left must serve those who come next.
    let second = Crowd::gather(authority, tokens, sockets);
    let again = resident_bytes(pid).saturating_sub(before);
    drop(second);
    let each = grown / sockets as u64;
    println!(
        "{name:36} {:>9} {:>6.1} MiB {:>5.1} s {:>11} {:>8.1} MiB {:>11.1} MiB",
        grouped(each),
        mebibytes(grown),
        opened_in.as_secs_f64(),
        grouped(heartbeats),
        mebibytes(left),
        mebibytes(again)
    );
    each
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Clients in a process of their own.
struct Crowd(Player);

impl Crowd {
    /// Returns when every socket is open and has its answer to `connect`.
    fn gather(authority: &str, tokens: &[String], sockets: usize) -> Self {
        let mut player = Player::start("crowd", &[authority.to_owned(), sockets.to_string(), tokens.len().to_string()]);
        tokens.iter().for_each(|token| player.say(token));
        assert_eq!(player.hear(), "open");
        Self(player)
    }

    /// Heartbeats answered and sockets closed so far.
    fn ask(&mut self) -> (u64, u64) {
        self.0.say("count");
        let line = self.0.hear();
        let (heartbeats, closed) = line.split_once(' ').expect("two numbers");
        (heartbeats.parse().expect("a number"), closed.parse().expect("a number"))
    }
}

#[derive(Default)]
struct Counts {
    heartbeats: AtomicU64,
    closed: AtomicU64,
}

/// The clients: reads tokens, opens sockets, and then answers heartbeats for as long as somebody holds its input.
fn crowd(arguments: &[String]) {
    raise_open_files();
    let [authority, sockets, tokens] = arguments else { panic!("three arguments") };
    let (sockets, tokens): (usize, usize) = (sockets.parse().expect("a number"), tokens.parse().expect("a number"));
    let mut input = std::io::stdin().lines();
    let tokens: Vec<String> = input.by_ref().take(tokens).map(|line| line.expect("a token")).collect();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let counts = Arc::new(Counts::default());
    let opening =
        stream::iter(0..sockets).map(|index| open(authority, &tokens[index % tokens.len()])).buffer_unordered(AT_ONCE);
    runtime.block_on(opening.for_each(async |socket| drop(tokio::spawn(stay(socket, counts.clone())))));
    say("open");
    for _ in input {
        say(&format!("{} {}", counts.heartbeats.load(Ordering::Relaxed), counts.closed.load(Ordering::Relaxed)));
    }
    // The sockets end with the process.
    std::process::exit(0);
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("write to whoever measures");
}

async fn open(authority: &str, token: &str) -> WebSocketStream<TcpStream> {
    let mut request = format!("ws://{authority}/ws").into_client_request().expect("a request");
    let bearer = HeaderValue::try_from(format!("Bearer {token}")).expect("a header value");
    request.headers_mut().insert("authorization", bearer);
    let stream = TcpStream::connect(authority).await.expect("connect");
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
    let (mut socket, _) = handshake.await.expect("a handshake");
    socket.send(Message::text(r#"{"id":1,"connect":{}}"#)).await.expect("send connect");
    // The floor sends it back, which is as good as an answer.
    let answer = socket.next().await.expect("an answer").expect("a frame");
    assert!(answer.to_text().is_ok_and(|text| text.contains("connect")), "{answer:?}");
    socket
}

async fn stay(mut socket: WebSocketStream<TcpStream>, counts: Arc<Counts>) {
    while let Some(Ok(message)) = socket.next().await {
        if message.to_text().is_ok_and(|text| text == "{}") && socket.send(message).await.is_ok() {
            counts.heartbeats.fetch_add(1, Ordering::Relaxed);
        }
    }
    counts.closed.fetch_add(1, Ordering::Relaxed);
}

/// The floor: accepts whoever comes and echoes.
#[tokio::main]
async fn floor() {
    raise_open_files();
    end_with_input();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    say(&listener.local_addr().expect("an address").to_string());
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER);
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        tokio::spawn(async move {
            let Ok(mut socket) = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await else {
                return;
            };
            while let Some(Ok(message)) = socket.next().await {
                if message.is_text() && socket.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}
