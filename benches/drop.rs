//! `cargo bench --bench drop`: how long a mass drop takes, and what others feel of it.
//!
//! Two nodes, one gateway. The delay is from the moment the revocation is sent to the close frame read by the client, for
//! each socket. Meanwhile a probe echoes on 20 other sockets (50 times a second each) and opens 50 new ones a second; shown
//! is what it saw before and during. The floor, in the same run: a bare tokio-tungstenite server that closes as many
//! sockets in one go. Last a node is drained. `-- 2000` makes the largest crowd smaller.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use common::gateway::{Gateway, Settings};
use common::servers::{PostgresServer, RedisServer};
use common::{Login, Node};
use support::crowd::{Crowd, End, now_micros};
use support::probe::{Lap, Probe, Quantiles};
use support::process::raise_open_files;
use support::role::{Player, Role};
use support::{bare, crowd, grouped, probe, seed, size};

const SOCKETS: usize = 10_000;
/// What the probe sees before anything happens.
const BEFORE: Duration = Duration::from_secs(5);
const DRAIN_WINDOW: Duration = Duration::from_secs(10);
const LOGGED_OUT_EVERYWHERE: u16 = 4501;
const ACCOUNT_DISABLED: u16 = 4503;
const SHUTDOWN: u16 = 3001;

fn main() {
    match Role::of_this_process() {
        Role::Measure => measure(size(SOCKETS)),
        Role::Play(name, arguments) => match name.as_str() {
            "bare" => bare::play(),
            "probe" => probe::play(&arguments),
            _ => crowd::play(&arguments),
        },
        Role::Nothing => {}
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn measure(sockets: usize) {
    raise_open_files();
    println!(
        "                                     drop delay, ms             echo, ms, before        during                  new socket, ms, before  during"
    );
    println!(
        "                                     p50      p99      max      p50    p99    max       p50    p99    max       p50    p99    max       p50    p99    max"
    );
    for count in [sockets / 10, sockets] {
        floor(count);
    }
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let database = postgres.database().await;
    let settings = Settings::embedded()
        .without("RUST_LOG")
        .env("PORTCULLIS_ACCESS_TOKEN_TTL", "6h")
        .env("PORTCULLIS_MAX_CONNECTIONS_PER_USER", "100000")
        .env("PORTCULLIS_DRAIN_WINDOW", &format!("{}s", DRAIN_WINDOW.as_secs()))
        .postgres(&database)
        .redis(&redis);
    let gateways = [settings.clone().start().await, settings.start().await];
    let nodes = [gateways[0].node(), gateways[1].node()];
    let bystander = nodes[0].signup().await;
    for count in [sockets / 10, sockets] {
        log_out_everywhere(&nodes, &bystander, count).await;
    }
    disable(&nodes, &bystander, &database, sockets).await;
    drain(&gateways, &nodes, &bystander, &database, sockets + sockets / 2).await;
}

fn floor(count: usize) {
    let mut server = Player::start("bare", &[]);
    let authority = server.hear();
    let mut probe = Probe::start(&authority, "/stay", None);
    let mut crowd = Crowd::start(&authority, count, 1, &[]);
    crowd.opened();
    let before = quiet(&mut probe);
    let started = now_micros();
    server.say("close");
    let ends = crowd.wait_for_ends(count);
    report(&format!("bare tungstenite, {}", grouped(count as u64)), &ends, started, before, probe.lap());
}

async fn log_out_everywhere(nodes: &[Node; 2], bystander: &Login, count: usize) {
    let victim = nodes[0].signup().await;
    let mut crowds = gather(nodes, count, std::slice::from_ref(&victim.token));
    let mut probe = Probe::start(nodes[1].authority(), "/ws", Some(&bystander.token));
    let before = quiet(&mut probe);
    let started = now_micros();
    nodes[0].logout_all(&victim.token).await.expect(200);
    let answered = (now_micros() - started) as f64 / 1e3;
    let ends = all_ends(&mut crowds, LOGGED_OUT_EVERYWHERE);
    report(&format!("log out everywhere, {}", grouped(count as u64)), &ends, started, before, probe.lap());
    println!("    answered after {answered:.1} ms");
}

async fn disable(nodes: &[Node; 2], bystander: &Login, database: &str, count: usize) {
    let tokens = seeded(nodes, database, count).await;
    let mut crowds = gather(nodes, count, &tokens);
    let mut probe = Probe::start(nodes[1].authority(), "/ws", Some(&bystander.token));
    let before = quiet(&mut probe);
    let mut operator = PgConnection::connect(database).await.expect("connect to Postgres");
    let started = now_micros();
    let update = "UPDATE users SET disabled_at = now() WHERE full_name = 'Ada Lovelace' AND disabled_at IS NULL";
    let disabled = sqlx::query(update).execute(&mut operator).await.expect("disable users").rows_affected();
    let committed = (now_micros() - started) as f64 / 1e3;
    assert_eq!(disabled, count as u64);
    let ends = all_ends(&mut crowds, ACCOUNT_DISABLED);
    report(&format!("one UPDATE disables {}", grouped(count as u64)), &ends, started, before, probe.lap());
    println!("    of that the UPDATE itself took {committed:.1} ms, and the log is read every 250 ms");
}

/// The probe uses the node that stays.
async fn drain(gateways: &[Gateway; 2], nodes: &[Node; 2], bystander: &Login, database: &str, count: usize) {
    let tokens = seeded(nodes, database, 500).await;
    let mut crowd = Crowd::start(nodes[0].authority(), count, 1, &tokens);
    crowd.opened();
    let mut probe = Probe::start(nodes[1].authority(), "/ws", Some(&bystander.token));
    let before = quiet(&mut probe);
    let started = now_micros();
    gateways[0].terminate();
    let ends = crowd.wait_for_ends(count);
    assert!(ends.iter().all(|end| end.code == SHUTDOWN), "each is told of the shutdown");
    report(
        &format!("drain in {} s, {}", DRAIN_WINDOW.as_secs(), grouped(count as u64)),
        &ends,
        started,
        before,
        probe.lap(),
    );
    println!("    closed in each second: {}", by_second(&ends, started));
}

async fn seeded(nodes: &[Node; 2], database: &str, count: usize) -> Vec<String> {
    let secrets = seed::sessions(database, count).await;
    seed::tokens(&nodes[0], &secrets).await
}

/// Half of them on each node.
fn gather(nodes: &[Node; 2], count: usize, tokens: &[String]) -> Vec<Crowd> {
    let halves = if tokens.len() > 1 { [&tokens[..count / 2], &tokens[count / 2..]] } else { [tokens, tokens] };
    let shares = [count / 2, count - count / 2];
    let mut crowds: Vec<_> =
        (0..2).map(|half| Crowd::start(nodes[half].authority(), shares[half], 1 + half as u8, halves[half])).collect();
    crowds.iter_mut().for_each(Crowd::opened);
    crowds
}

fn all_ends(crowds: &mut [Crowd], code: u16) -> Vec<End> {
    let ends: Vec<End> = crowds.iter_mut().flat_map(|crowd| crowd.wait_for_ends(crowd.sockets())).collect();
    let others: Vec<_> = ends.iter().filter(|end| end.code != code).take(3).collect();
    assert!(others.is_empty(), "closed with another code than {code}: {others:?}");
    ends
}

fn quiet(probe: &mut Probe) -> Lap {
    probe.lap();
    std::thread::sleep(BEFORE);
    probe.lap()
}

fn report(name: &str, ends: &[End], started: u64, before: Lap, during: Lap) {
    let delays = Quantiles::of(ends.iter().map(|end| end.at_micros.saturating_sub(started) as f64 / 1e3).collect());
    println!("{name:34} {delays}  {}  {}  {}  {}", before.echo, during.echo, before.open, during.open);
    println!("    during: {} echoes, {} new sockets", during.echo.count, during.open.count);
}

fn by_second(ends: &[End], started: u64) -> Value {
    let mut seconds = vec![0_u32; DRAIN_WINDOW.as_secs() as usize + 2];
    for end in ends {
        let second = (end.at_micros.saturating_sub(started) / 1_000_000) as usize;
        let last = seconds.len() - 1;
        seconds[second.min(last)] += 1;
    }
    seconds.into()
}
