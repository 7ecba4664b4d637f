//! `cargo bench --bench login_timing`: does the time of a refused login tell whether there is such an account?
//!
//! Logins with a wrong password, known and unknown addresses by turns, one at a time. Beside the two medians stands the
//! Mann-Whitney U test, which asks whether the one kind tends to take longer than the other. Aims: medians within 5 %,
//! and p at 0.01 or above.

#[path = "../tests/common/mod.rs"]
mod common;
mod support;

use std::time::{Duration, Instant};

use serde_json::json;

use common::gateway::Settings;
use common::people::{new_email, new_password};
use common::servers::{PostgresServer, RedisServer};
use common::{Login, Node};
use support::role::Role;
use support::{Spread, size};

/// Of each kind.
const LOGINS: usize = 500;
/// Before any of them counts.
const WARM_UP: usize = 20;
const PEOPLE: usize = 25;
const AIM: f64 = 0.05;
const SIGNIFICANT: f64 = 0.01;

fn main() {
    if let Role::Measure = Role::of_this_process() {
        measure();
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure() {
    let (postgres, redis) = (PostgresServer::start(), RedisServer::start());
    let settings = Settings::embedded().without("RUST_LOG").postgres(&postgres.database().await).redis(&redis);
    let gateway = settings.start().await;
    let node = gateway.node();
    let mut people: Vec<Login> = Vec::new();
    for _ in 0..PEOPLE {
        people.push(node.signup().await);
    }
    let logins = size(LOGINS);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP + logins {
        let somebody = people[round % PEOPLE].email.clone();
        let nobody = new_email();
        // Who goes first changes, so that neither kind always follows the other.
        let order =
            if round % 2 == 0 { [(true, &somebody), (false, &nobody)] } else { [(false, &nobody), (true, &somebody)] };
        for (is_known, email) in order {
            let took = refused_login(&node, email).await;
            if round >= WARM_UP {
                if is_known { &mut known } else { &mut unknown }.push(took);
            }
        }
    }
    report(&known, &unknown);
}

async fn refused_login(node: &Node, email: &str) -> f64 {
    let body = json!({"email": email, "password": new_password()});
    let call = node.post("/api/v1/auth/login").json(&body);
    let started = Instant::now();
    let answer = call.send().await;
    let took = started.elapsed();
    answer.is_problem(401, "invalid_credentials");
    millis(took)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn report(known: &[f64], unknown: &[f64]) {
    println!("Refused logins, {} of each kind, by turns           median      least       most", known.len());
    for (name, times) in [("known address, wrong password", known), ("unknown address", unknown)] {
        let Spread { least, middle, most } = Spread::of(times.iter().copied());
        println!("{name:46} {middle:>8.2} ms {least:>7.2} ms {most:>7.2} ms");
    }
    let middle = |times: &[f64]| Spread::of(times.iter().copied()).middle;
    let apart = (middle(known) / middle(unknown) - 1.0).abs();
    println!("medians apart by {:.2} %; aim {:.0} %", apart * 100.0, AIM * 100.0);
    let (u, p) = mann_whitney(known, unknown);
    let verdict = if p < SIGNIFICANT { "SIGNIFICANT: the time tells" } else { "not significant" };
    println!("Mann-Whitney U {u:.0}, two-sided p {p:.3}; {verdict} at {SIGNIFICANT}");
}

/// U of the first sample, and the two-sided p by the normal approximation with ties corrected; good from some twenty of
/// each on.
fn mann_whitney(first: &[f64], second: &[f64]) -> (f64, f64) {
    let mut all: Vec<(f64, bool)> =
        first.iter().map(|&time| (time, true)).chain(second.iter().map(|&time| (time, false))).collect();
    all.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut ranks_of_first, mut ties, mut before) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|left, right| left.0 == right.0) {
        let size = group.len() as f64;
        ties += size.powi(3) - size;
        let rank = before + (size + 1.0) / 2.0;
        ranks_of_first += rank * group.iter().filter(|(_, is_first)| *is_first).count() as f64;
        before += size;
    }
    let (n1, n2) = (first.len() as f64, second.len() as f64);
    let (n, u) = (n1 + n2, ranks_of_first - n1 * (n1 + 1.0) / 2.0);
    let deviation = (n1 * n2 / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)))).sqrt();
    let z = ((u - n1 * n2 / 2.0).abs() - 0.5).max(0.0) / deviation;
    (u, 2.0 * upper_tail(z))
}

/// The standard normal distribution's upper tail (Abramowitz and Stegun 26.2.17, good to 7.5e-8).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let polynomial =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}
