//! `cargo bench --bench verify`: what an authenticated `GET /api/v1/auth/verify` costs.
//!
//! * Requests per CPU second of the server process on a local hit, beside a bare axum handler whose answer is of the same
//!   size, in alternating rounds. Aim: 0.85 of it, and no database query.
//! * The time of one request on an idle node: a local hit, a Redis hit (a fresh node sees the session and the token for the
//!   first time), and a database miss (a fresh node and an empty Redis).

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use common::Gateway;
use common::gateway::Settings;
use common::servers::{PostgresServer, RedisServer};
use support::load::{self, Connection, Latencies, verify_request};
use support::process::cpu_time;
use support::role::{Player, Role, end_with_input};
use support::scrape::Counters;
use support::{Spread, grouped, micros, seed};

const SESSIONS: usize = 1_000;
const CONNECTIONS: usize = 32;
const ROUNDS: usize = 10;
const ROUND: Duration = Duration::from_secs(2);
const AIM: f64 = 0.85;

fn main() {
    match Role::of_this_process() {
        Role::Measure => measure(),
        Role::Play(_, arguments) => floor(arguments[0].parse().expect("a number of bytes")),
        Role::Nothing => {}
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    let settings = Settings::embedded().without("RUST_LOG").postgres(&database).redis(&redis);
    let gateway = settings.clone().start().await;
    let secrets = seed::sessions(&database, SESSIONS).await;
    let tokens = seed::tokens(&gateway.node(), &secrets).await;
    let floor = Floor::beside(&gateway, &tokens[0]).await;
    throughput(&gateway, &floor, &tokens).await;

    println!("\nTime of one request, one connection, one at a time        p50        p99   samples");
    let requests = requests(floor.authority(), &tokens);
    report("bare axum handler", &load::one_by_one(floor.authority(), repeated(&requests)).await);
    let requests = self::requests(gateway.node().authority(), &tokens);
    report("local hit", &load::one_by_one(gateway.node().authority(), repeated(&requests)).await);
    first_sight("Redis hit", "redis", &settings, &tokens).await;
    support::redis::flush(&redis);
    first_sight("database miss", "database", &settings, &tokens).await;
    println!("A first sight of a token on a node, as in the last two lines, costs a signature check too.");
}

async fn throughput(gateway: &Gateway, floor: &Floor, tokens: &[String]) {
    let node = gateway.node();
    let mut ours = Side::new(node.authority(), gateway.pid(), tokens).await;
    let mut bare = Side::new(floor.authority(), floor.player.pid(), tokens).await;
    bare.round().await;
    ours.round().await;
    let before = Counters::of(&node).await;
    let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_bare.push(bare.round().await);
        of_ours.push(ours.round().await);
    }
    let counted = Counters::of(&node).await.since(&before);

    println!(
        "Local hit: {SESSIONS} sessions, {CONNECTIONS} connections, {ROUNDS} alternating rounds of {} s, answers of {} bytes",
        ROUND.as_secs(),
        floor.answer_bytes
    );
    println!("                        requests per CPU second   CPU per request   requests a second");
    for (name, rounds) in [("bare axum handler", &of_bare), ("portcullis", &of_ours)] {
        let per_cpu = Spread::of(rounds.iter().map(Round::per_cpu_second)).middle;
        let pace = Spread::of(rounds.iter().map(|round| round.answers as f64 / ROUND.as_secs_f64())).middle;
        let cost = micros(Duration::from_secs_f64(1.0 / per_cpu));
        println!("{name:22} {:>24} {cost:>17} {:>19}", grouped(per_cpu as u64), grouped(pace as u64));
    }
    let ratios = of_ours.iter().zip(&of_bare).map(|(ours, bare)| ours.per_cpu_second() / bare.per_cpu_second());
    let ratio = Spread::of(ratios);
    println!("ratio {:.2} (rounds from {:.2} to {:.2}); aim {AIM}", ratio.middle, ratio.least, ratio.most);
    let checks: u64 = of_ours.iter().map(|round| round.answers).sum();
    let local = counted.cache("session", "local", "hit");
    let queries = counted.queries();
    println!(
        "{} checks, {} of them local hits; database queries for them: {}, aim 0: {}",
        grouped(checks),
        grouped(local),
        queries.asked(),
        queries.describe()
    );
}

/// A server under load.
struct Side {
    pid: u32,
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
}

struct Round {
    answers: u64,
    cpu: Duration,
}

impl Round {
    fn per_cpu_second(&self) -> f64 {
        self.answers as f64 / self.cpu.as_secs_f64()
    }
}

impl Side {
    async fn new(authority: &str, pid: u32, tokens: &[String]) -> Self {
        let connections = Connection::open_many(authority, CONNECTIONS).await;
        Self { pid, connections, requests: requests(authority, tokens) }
    }

    async fn round(&mut self) -> Round {
        let before = cpu_time(self.pid);
        let answers = load::for_a_while(&mut self.connections, &self.requests, ROUND).await;
        Round { answers, cpu: cpu_time(self.pid) - before }
    }
}

fn requests(authority: &str, tokens: &[String]) -> Vec<Vec<u8>> {
    tokens.iter().map(|token| verify_request(authority, token)).collect()
}

fn repeated(requests: &[Vec<u8>]) -> impl Iterator<Item = &Vec<u8>> {
    requests.iter().cycle().take(20 * requests.len())
}

/// Each session once on a node that knows none of them.
async fn first_sight(name: &str, tier: &str, settings: &Settings, tokens: &[String]) {
    let fresh = settings.clone().start().await;
    let node = fresh.node();
    let before = Counters::of(&node).await;
    let latencies = load::one_by_one(node.authority(), &requests(node.authority(), tokens)).await;
    let counted = Counters::of(&node).await.since(&before);
    report(name, &latencies);
    let answered = counted.cache("session", tier, "hit");
    println!(
        "    {answered} of {} answered there; database queries: {}",
        latencies.len(),
        counted.queries().describe()
    );
}

fn report(name: &str, latencies: &Latencies) {
    let (p50, p99) = (micros(latencies.quantile(0.5)), micros(latencies.quantile(0.99)));
    println!("{name:52} {p50:>10} {p99:>10} {:>9}", grouped(latencies.len() as u64));
}

/// A bare axum handler as a process of its own, whose answer is as long as the gateway's.
struct Floor {
    player: Player,
    authority: String,
    answer_bytes: usize,
}

impl Floor {
    async fn beside(gateway: &Gateway, token: &str) -> Self {
        let wanted = answer_bytes(gateway.node().authority(), token).await;
        let shortest = Self::start(1, token).await;
        let filler = 1 + wanted.saturating_sub(shortest.answer_bytes);
        drop(shortest);
        let floor = Self::start(filler, token).await;
        assert_eq!(floor.answer_bytes, wanted, "the floor's answer should be as long as the gateway's");
        floor
    }

    async fn start(filler: usize, token: &str) -> Self {
        let mut player = Player::start("floor", &[filler.to_string()]);
        let authority = player.hear();
        let answer_bytes = answer_bytes(&authority, token).await;
        Self { player, authority, answer_bytes }
    }

    fn authority(&self) -> &str {
        &self.authority
    }
}

async fn answer_bytes(authority: &str, token: &str) -> usize {
    Connection::open(authority).await.expect(204, &verify_request(authority, token)).await.size
}

/// The floor itself: axum and hyper as `src/server.rs` sets them, a handler that looks at nothing, the three headers that
/// forward-auth is about, and a filler.
#[tokio::main]
async fn floor(filler: usize) {
    end_with_input();
    let id = HeaderValue::from_static("00000000-0000-4000-8000-000000000000");
    let headers = [
        (HeaderName::from_static("x-auth-user-id"), id.clone()),
        (HeaderName::from_static("x-auth-session"), id),
        (HeaderName::from_static("x-auth-email"), HeaderValue::from_static("somebody@example.test")),
        (HeaderName::from_static("x-filler"), HeaderValue::try_from("x".repeat(filler)).expect("a header value")),
    ];
    let handler = async move || (StatusCode::NO_CONTENT, headers.clone());
    let router = Router::new().route("/api/v1/auth/verify", get(handler));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    println!("{}", listener.local_addr().expect("an address"));
    loop {
        let (stream, _) = listener.accept().await.expect("accept");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            let _ = connection.await;
        });
    }
}
