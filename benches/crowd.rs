//! `cargo bench --bench crowd`: a hundred thousand sockets on one machine.
//!
//! Six nodes of one gateway on a real Postgres and a real Redis, a process of clients for each with source addresses of its
//! own. They connect, stay idle for two heartbeats (memory, CPU, Redis traffic), and then some users log out everywhere,
//! whose sockets are on all nodes; a probe on the first node echoes and opens sockets meanwhile. Needs 20,000 open files a
//! process and about 4 GiB. `-- 12000` is a smaller crowd.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::time::{Duration, Instant};

use common::gateway::{Gateway, Settings};
use common::servers::{PostgresServer, RedisServer};
use support::crowd::{Crowd, now_micros};
use support::probe::{Probe, Quantiles};
use support::process::{cpu_time, raise_open_files, resident_bytes};
use support::role::Role;
use support::{crowd, grouped, probe, redis, seed, size};

const SOCKETS: usize = 100_000;
const NODES: usize = 6;
const USERS: usize = 2_000;
/// Of these, so many log out everywhere.
const LEAVING: usize = 100;
/// Two heartbeats of 25 s each, with the first after at most one.
const SETTLE: Duration = Duration::from_secs(55);
const IDLE: Duration = Duration::from_secs(20);
const LOGGED_OUT_EVERYWHERE: u16 = 4501;

fn main() {
    match Role::of_this_process() {
        Role::Measure => measure(size(SOCKETS)),
        Role::Play(name, arguments) if name == "probe" => probe::play(&arguments),
        Role::Play(_, arguments) => crowd::play(&arguments),
        Role::Nothing => {}
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn measure(sockets: usize) {
    let share = sockets.div_ceil(NODES);
    let files = raise_open_files();
    assert!(files as usize > share + 2_000, "{files} open files a process are too few: see `ulimit -Hn`");
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    let settings = Settings::embedded()
        .without("RUST_LOG")
        .env("PORTCULLIS_LOG", "warn")
        .env("PORTCULLIS_ACCESS_TOKEN_TTL", "6h")
        .env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "1000")
        .postgres(&database)
        .redis(&redis);
    let mut gateways = Vec::new();
    for _ in 0..NODES {
        gateways.push(settings.clone().start().await);
    }
    let node = gateways[0].node();
    let secrets = seed::sessions(&database, USERS).await;
    let tokens = seed::tokens(&node, &secrets).await;
    let bystander = node.signup().await;
    let fresh: Vec<u64> = gateways.iter().map(|gateway| resident_bytes(gateway.pid())).collect();

    let (started, cpu) = (Instant::now(), cpu_of(&gateways));
    let mut crowds = Vec::new();
    for (number, gateway) in gateways.iter().enumerate() {
        // One after the other: the machine has two processors for servers and clients together.
        let mut crowd = Crowd::start(gateway.node().authority(), share, 10 + number as u8, &tokens);
        crowd.opened();
        crowds.push(crowd);
    }
    let (took, spent) = (started.elapsed(), cpu_of(&gateways) - cpu);
    let all = share * NODES;
    println!("{} sockets on {NODES} nodes, of {} users", grouped(all as u64), grouped(USERS as u64));
    println!(
        "opened in {:.1} s: {:.0} a second with clients and servers on the same processors, {:.0} µs of the nodes' CPU each",
        took.as_secs_f64(),
        all as f64 / took.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / all as f64
    );
    std::thread::sleep(SETTLE);
    idle(&gateways, &mut crowds, &redis, &fresh, share);
    log_out(&gateways, crowds, &tokens, &bystander.token, all).await;
}

fn cpu_of(gateways: &[Gateway]) -> Duration {
    gateways.iter().map(|gateway| cpu_time(gateway.pid())).sum()
}

fn idle(gateways: &[Gateway], crowds: &mut [Crowd], redis: &RedisServer, fresh: &[u64], share: usize) {
    let before = (cpu_of(gateways), redis::traffic(redis), heartbeats(crowds));
    std::thread::sleep(IDLE);
    let seconds = IDLE.as_secs_f64();
    let spent = cpu_of(gateways) - before.0;
    let (commands, bytes) = redis::traffic(redis);
    let beats = heartbeats(crowds) - before.2;
    let grown: Vec<u64> = gateways
        .iter()
        .zip(fresh)
        .map(|(gateway, fresh)| resident_bytes(gateway.pid()).saturating_sub(*fresh) / share as u64)
        .collect();
    println!("idle: resident bytes a socket, by node: {grown:?}");
    println!(
        "idle: {:.1} % of one processor for all nodes together, {:.0} heartbeats a second; Redis: {:.0} commands and {:.0} KB a second",
        100.0 * spent.as_secs_f64() / seconds,
        beats as f64 / seconds,
        (commands - before.1.0) as f64 / seconds,
        (bytes - before.1.1) as f64 / seconds / 1e3,
    );
    let closed: usize = crowds.iter_mut().map(|crowd| crowd.ends().len()).sum();
    assert_eq!(closed, 0, "sockets were closed while they should have been idle");
}

fn heartbeats(crowds: &mut [Crowd]) -> u64 {
    crowds.iter_mut().map(Crowd::heartbeats).sum()
}

async fn log_out(gateways: &[Gateway], mut crowds: Vec<Crowd>, tokens: &[String], bystander: &str, all: usize) {
    let (first, last) = (gateways[0].node(), gateways[NODES - 1].node());
    let mut probe = Probe::start(last.authority(), "/ws", Some(bystander));
    std::thread::sleep(Duration::from_secs(1));
    probe.lap();
    std::thread::sleep(Duration::from_secs(5));
    let before = probe.lap();
    let mut sent = Vec::new();
    for token in &tokens[..LEAVING] {
        sent.push(now_micros());
        first.logout_all(token).await.expect(200);
    }
    let share = crowds[0].sockets();
    let of_one = |user: usize| (share - user).div_ceil(tokens.len());
    let expected: usize = (0..LEAVING).map(of_one).sum();
    let mut delays = Vec::new();
    for crowd in &mut crowds {
        for end in crowd.wait_for_ends(expected) {
            assert_eq!(end.code, LOGGED_OUT_EVERYWHERE);
            delays.push(end.at_micros.saturating_sub(sent[end.socket % tokens.len()]) as f64 / 1e3);
        }
    }
    let during = probe.lap();
    println!(
        "{LEAVING} users log out everywhere: {} of {} sockets on {NODES} nodes, in {:.1} ms",
        grouped(delays.len() as u64),
        grouped(all as u64),
        (now_micros() - sent[0]) as f64 / 1e3
    );
    assert_eq!(delays.len(), expected * NODES, "nobody else was closed");
    println!("                       p50      p99      max, ms");
    println!("drop delay        {}", Quantiles::of(delays));
    println!("echo, before      {}", before.echo);
    println!("echo, during      {}", during.echo);
    println!("new socket, before{}", before.open);
    println!("new socket, during{}", during.open);
}
