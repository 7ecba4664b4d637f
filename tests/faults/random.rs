//! Everybody does anything and anything breaks, by dice, against a simple model of who may be in.
//!
//!     cargo test --test faults -- --ignored five_minutes_of_everything --nocapture
//!
//! The seed is printed; `SEED=…` rolls the same dice again. They choose what is done and what breaks when; how the
//! threads interleave stays open.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::common::gateway::Settings;
use crate::common::people::new_password;
use crate::common::wait::eventually_within;
use crate::common::{Event, Login, Node, Socket};
use crate::fault::{Fault, Hogs};
use crate::ledger::{BOUND, Credential, Ledger, Taken};
use crate::people::PATIENCE;
use crate::rig::Rig;

/// Sessions that one person keeps at most; beyond it some are ended before another is made.
const SESSIONS: usize = 5;

/// SplitMix64 (Steele, Lea and Flood, 2014): enough for dice, and the same everywhere.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + (to - from) * self.below(1001) as u32 / 1000
    }

    /// Dice of somebody else's, so that nobody's rolls depend on how fast the others are.
    fn fork(&mut self) -> Self {
        Self(self.roll())
    }
}

/// One person, and the model: each session is good, ending, or has ended.
struct Person {
    /// The one who has the password of now.
    account: Mutex<Login>,
    sessions: Mutex<Vec<Arc<Credential>>>,
}

struct World {
    rig: Rig,
    ledger: Ledger,
    started: Instant,
    stop: AtomicBool,
    steps: AtomicU64,
}

impl World {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn used(&self, credential: &Credential, what: &str, sent: Instant, taken: &Taken) {
        let at = sent - self.started;
        self.ledger.used(credential, &format!("{at:.1?}: {what}"), sent, taken);
    }
}

impl Person {
    fn account(&self) -> Login {
        self.account.lock().expect("account").clone()
    }

    /// One of the sessions that nobody has ended.
    fn a_good_one(&self, dice: &mut Dice) -> Option<Arc<Credential>> {
        let good: Vec<_> =
            self.sessions.lock().expect("sessions").iter().filter(|one| one.is_good()).cloned().collect();
        (!good.is_empty()).then(|| Arc::clone(&good[dice.below(good.len())]))
    }

    fn good_but(&self, spared: Option<&Arc<Credential>>) -> Vec<Arc<Credential>> {
        let sessions = self.sessions.lock().expect("sessions");
        let doomed = |one: &&Arc<Credential>| one.is_good() && spared.is_none_or(|spared| !Arc::ptr_eq(one, spared));
        sessions.iter().filter(doomed).cloned().collect()
    }

    /// Any of the newer sessions, ended or not.
    fn any(&self, dice: &mut Dice) -> Arc<Credential> {
        let sessions = self.sessions.lock().expect("sessions");
        let newest = sessions.len().min(2 * SESSIONS);
        Arc::clone(&sessions[sessions.len() - 1 - dice.below(newest)])
    }
}

/// A life: things done one after the other.
async fn live(world: Arc<World>, person: Arc<Person>, mut dice: Dice) {
    while world.goes_on() {
        world.steps.fetch_add(1, Ordering::Relaxed);
        let good = person.good_but(None).len();
        match dice.below(10) {
            0..=3 if good < SESSIONS => log_in(&world, &person, &mut dice).await,
            0..=4 => end_one(&world, &person, &mut dice).await,
            5 | 6 => change_profile(&world, &person, &mut dice).await,
            7 => change_password(&world, &person, &mut dice).await,
            8 => log_out_everywhere(&world, &person, &mut dice).await,
            _ => {}
        }
        tokio::time::sleep(dice.between(Duration::from_millis(20), Duration::from_millis(500))).await;
    }
}

async fn log_in(world: &World, person: &Person, dice: &mut Dice) {
    let (account, sent) = (person.account(), Instant::now());
    let body = json!({"email": account.email, "password": account.password});
    let call = world.rig.node(dice.below(2)).post("/api/v1/auth/login").json(&body);
    let Some(answer) = call.timeout(PATIENCE).try_send().await else { return };
    match answer.status {
        200 => {
            let login = Login::read(&answer, &account.email, &account.password);
            person.sessions.lock().expect("sessions").push(Arc::new(Credential::new(login)));
        }
        500.. => {}
        status => world.ledger.falsely_refused(&format!("{:.1?}: login: {status}", sent - world.started)),
    }
}

/// A revocation: what is asked for, and which refusals of a repetition mean that the first one took effect.
struct Asked {
    what: &'static str,
    method: Method,
    path: String,
    bearer: Option<String>,
    body: serde_json::Value,
    done: &'static [u16],
}

impl Asked {
    fn by(token: String, what: &'static str, method: Method, path: &str) -> Self {
        let path = format!("/api/v1/auth/{path}");
        Self { what, method, path, bearer: Some(token), body: json!({}), done: &[] }
    }

    async fn once(&self, node: &Node) -> Option<u16> {
        let call = node.call(self.method.clone(), &self.path);
        let call = match &self.bearer {
            Some(token) => call.bearer(token),
            None => call,
        };
        let call = if self.body == json!({}) { call } else { call.json(&self.body) };
        call.timeout(PATIENCE).try_send().await.map(|answer| answer.status)
    }

    /// Asks one node after the other until it is answered.
    async fn until_answered(self, world: &World, doomed: &[Arc<Credential>], first_node: usize) {
        doomed.iter().for_each(|credential| credential.ending());
        for attempt in 0.. {
            match self.once(world.rig.node(first_node + attempt)).await {
                Some(200..=299) => break,
                Some(status) if attempt > 0 && self.done.contains(&status) => break,
                None | Some(500..) => {}
                Some(status) => {
                    let at = world.started.elapsed();
                    return world.ledger.falsely_refused(&format!("{at:.1?}: {}: {status}", self.what));
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let answered = Instant::now();
        doomed.iter().for_each(|credential| credential.ended(answered));
        world.ledger.revoked();
    }
}

async fn end_one(world: &World, person: &Person, dice: &mut Dice) {
    let Some(doomed) = person.a_good_one(dice) else { return };
    let (login, way, node) = (doomed.login(), dice.below(3), dice.below(2));
    let asked = match (way, person.good_but(Some(&doomed)).first()) {
        (0, Some(other)) => {
            let (token, path) = (other.login().token, format!("sessions/{}", login.sid));
            Asked { done: &[404], ..Asked::by(token, "ending one session from another", Method::DELETE, &path) }
        }
        (1, _) => {
            let body = json!({"session_id": login.session_id});
            Asked { bearer: None, body, ..Asked::by(login.token, "logout by the secret", Method::POST, "logout") }
        }
        _ => Asked::by(login.token, "logout", Method::POST, "logout"),
    };
    asked.until_answered(world, &[doomed], node).await;
}

async fn log_out_everywhere(world: &World, person: &Person, dice: &mut Dice) {
    let Some(by) = person.a_good_one(dice) else { return };
    let asked = Asked::by(by.login().token, "logout everywhere", Method::POST, "logout-all-devices");
    Asked { done: &[401], ..asked }.until_answered(world, &person.good_but(None), dice.below(2)).await;
}

async fn change_password(world: &World, person: &Person, dice: &mut Dice) {
    let Some(by) = person.a_good_one(dice) else { return };
    let new = new_password();
    let body = json!({"current_password": person.account().password, "new_password": new});
    let asked = Asked::by(by.login().token, "a new password", Method::POST, "change-password");
    Asked { done: &[403], body, ..asked }.until_answered(world, &person.good_but(Some(&by)), dice.below(2)).await;
    person.account.lock().expect("account").password = new;
}

async fn change_profile(world: &World, person: &Person, dice: &mut Dice) {
    let Some(by) = person.a_good_one(dice) else { return };
    let sent = Instant::now();
    let change = json!({"full_name": format!("changed {}", (sent - world.started).as_micros())});
    let call = world.rig.node(dice.below(2)).call(Method::PATCH, "/api/v1/auth/update-profile");
    let answer = call.bearer(&by.login().token).json(&change).timeout(PATIENCE).try_send().await;
    world.used(&by, "profile change", sent, &Taken::by(answer.as_ref()));
}

/// Shows whatever there is, good or ended, to one node or the other.
async fn show(world: Arc<World>, person: Arc<Person>, mut dice: Dice) {
    while world.goes_on() {
        let credential = person.any(&mut dice);
        let (login, node) = (credential.login(), dice.below(2));
        let call = match dice.below(3) {
            0 => world
                .rig
                .node(node)
                .post("/api/v1/auth/validate-session")
                .json(&json!({"session_id": login.session_id})),
            1 => world.rig.node(node).get("/api/v1/auth/me").bearer(&login.token),
            _ => world.rig.node(node).get("/api/v1/auth/verify").bearer(&login.token),
        };
        let sent = Instant::now();
        let answer = call.timeout(PATIENCE).try_send().await;
        world.used(&credential, &format!("a look at node {node}"), sent, &Taken::by(answer.as_ref()));
        if let Some(token) = answer.as_ref().and_then(|answer| answer["access_token"].as_str()) {
            credential.renew(token);
        }
        tokio::time::sleep(dice.between(Duration::from_millis(10), Duration::from_millis(150))).await;
    }
}

/// Holds a socket of one session after the other, and uses it until it is closed or dull.
async fn hold(world: Arc<World>, person: Arc<Person>, mut dice: Dice) {
    while world.goes_on() {
        let (credential, node) = (person.any(&mut dice), dice.below(2));
        let opening = tokio::time::timeout(PATIENCE, world.rig.node(node).socket().try_open()).await;
        if let Ok(Ok(mut socket)) = opening {
            let connect = json!({"connect": {"token": credential.login().token}});
            let mut goes_on = command(&world, &credential, &mut socket, "connect", connect).await;
            for _ in 0..dice.below(40) {
                if !goes_on || !world.goes_on() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                let echo = json!({"rpc": {"method": "echo", "data": 1}});
                goes_on = command(&world, &credential, &mut socket, "rpc", echo).await;
            }
        }
        tokio::time::sleep(dice.between(Duration::from_millis(50), Duration::from_millis(300))).await;
    }
}

/// False when the socket is of no use any more.
async fn command(world: &World, who: &Credential, socket: &mut Socket, what: &str, command: serde_json::Value) -> bool {
    let sent = Instant::now();
    let Ok(id) = tokio::time::timeout(PATIENCE, socket.send_command(command)).await else { return false };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let taken = loop {
        match socket.next_by(deadline).await {
            None => break Taken::NoAnswer,
            Some(Event::Reply(reply)) if reply["id"] == id => match reply["error"]["code"].as_u64() {
                None => break Taken::Accepted,
                Some(100) => break Taken::CannotTell(100),
                Some(code) => break Taken::Refused(format!("error {code}")),
            },
            Some(Event::Closed(code @ (3500..=3999 | 4500..=4999), reason)) => {
                break Taken::Refused(format!("{code} {reason}"));
            }
            Some(Event::Closed(1006, _)) => break Taken::NoAnswer,
            Some(Event::Closed(code, _)) => break Taken::CannotTell(code),
            Some(Event::Push(push)) => {
                let name = push["message"]["data"]["user"]["full_name"].as_str().unwrap_or_default();
                if let Some(micros) = name.strip_prefix("changed ").and_then(|at| at.parse().ok()) {
                    world.ledger.pushed(who, "push", world.started + Duration::from_micros(micros));
                }
            }
            Some(_) => {}
        }
    };
    world.used(who, what, sent, &taken);
    matches!(taken, Taken::Accepted | Taken::CannotTell(100))
}

/// Breaks one thing after the other, with a rest after each.
async fn break_things(world: &World, bystander: &Login, lasts: Duration, dice: &mut Dice) {
    let began = Instant::now();
    while began.elapsed() < lasts {
        tokio::time::sleep(dice.between(Duration::from_millis(200), Duration::from_secs(2))).await;
        let fault = Fault::ALL[1 + dice.below(Fault::ALL.len() - 1)];
        let lasts = dice.between(Duration::from_secs(2), Duration::from_secs(6));
        let (hogs, since) = (Hogs::default(), Instant::now());
        eprintln!("{:6.1?}: {} for {lasts:.1?}", world.started.elapsed(), fault.title());
        fault.begin(&world.rig).await;
        while since.elapsed() < lasts {
            fault.go_on(&world.rig, &hogs).await;
            tokio::time::sleep(Duration::from_millis(500).min(lasts.saturating_sub(since.elapsed()))).await;
        }
        fault.end(&world.rig, &hogs).await;
        world.rig.works_for(bystander).await;
    }
}

async fn everything(persons: usize, lasts: Duration) {
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => uuid::Uuid::new_v4().as_u128() as u64,
    };
    eprintln!("SEED={seed}");
    let mut dice = Dice(seed);
    let rig = Rig::start(Settings::embedded()).await;
    let bystander = rig.node(0).signup().await;
    rig.works_for(&bystander).await;
    let mut people = Vec::new();
    for number in 0..persons {
        let login = rig.node(number).signup().await;
        let sessions = Mutex::new(vec![Arc::new(Credential::new(login.clone()))]);
        people.push(Arc::new(Person { account: Mutex::new(login), sessions }));
    }
    let (ledger, stop) = (Ledger::default(), AtomicBool::new(false));
    let world = Arc::new(World { rig, ledger, started: Instant::now(), stop, steps: AtomicU64::new(0) });
    let mut everybody = JoinSet::new();
    for person in &people {
        everybody.spawn(live(Arc::clone(&world), Arc::clone(person), dice.fork()));
        everybody.spawn(show(Arc::clone(&world), Arc::clone(person), dice.fork()));
        everybody.spawn(hold(Arc::clone(&world), Arc::clone(person), dice.fork()));
    }
    break_things(&world, &bystander, lasts, &mut dice).await;
    world.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = everybody.join_next().await {
        ended.expect("somebody ends");
    }
    tokio::time::sleep(BOUND).await;
    let (mut inside, mut outside) = (0, 0);
    for credential in people.iter().flat_map(|person| person.sessions.lock().expect("sessions").clone()) {
        is_as_the_model_says(&world, &credential).await;
        *(if credential.is_good() { &mut inside } else { &mut outside }) += 1;
    }
    let (sums, steps) = (world.ledger.sums(), world.steps.load(Ordering::Relaxed));
    eprintln!("SEED={seed}: {steps} steps, {inside} sessions in and {outside} out at the end, {sums:#?}");
    if !(sums.violations.is_empty() && sums.false_rejections.is_empty()) {
        world.rig.members.iter().for_each(|member| member.gateway.show_log());
    }
    assert!(sums.violations.is_empty(), "SEED={seed}: accepted after the bound: {:#?}", sums.violations);
    assert!(sums.false_rejections.is_empty(), "SEED={seed}: good and refused: {:#?}", sums.false_rejections);
    assert!(sums.revocations > 5 && outside > 5 && sums.accepted > 100, "SEED={seed}: too little happened: {sums:?}");
}

/// When all is well again, every node agrees with the model about every session there ever was.
async fn is_as_the_model_says(world: &World, credential: &Credential) {
    for member in &world.rig.members {
        let body = json!({"session_id": credential.login().session_id});
        eventually_within(4 * PATIENCE, "an answer about a session", async || {
            let sent = Instant::now();
            let answer =
                member.node.post("/api/v1/auth/validate-session").json(&body).timeout(PATIENCE).try_send().await;
            let taken = Taken::by(answer.as_ref());
            world.used(credential, "the last look", sent, &taken);
            matches!(taken, Taken::Accepted | Taken::Refused(_)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_minute_of_everything() {
    everything(6, Duration::from_secs(25)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes five minutes; half a minute of it runs with the others"]
async fn five_minutes_of_everything() {
    everything(12, Duration::from_secs(300)).await;
}
