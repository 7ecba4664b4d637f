//! The running clients: checks over HTTP, sockets with commands, logins, profile changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::common::{Event, Login, Node, Socket};
use crate::ledger::{Credential, Ledger, Taken};
use crate::people::{Ending, PATIENCE, Person};
use crate::rig::Rig;

/// From one use of a credential on a node to the next.
const PACE: Duration = Duration::from_millis(200);

/// From one login, or profile change, to the next.
const SLOW_PACE: Duration = Duration::from_millis(700);

/// Everybody who is at work.
pub struct Mix {
    rig: Arc<Rig>,
    ledger: Arc<Ledger>,
    started: Instant,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    revokers: JoinSet<()>,
}

impl Mix {
    /// Puts these persons and a few bystanders to work.
    pub async fn start(rig: Arc<Rig>, ledger: Arc<Ledger>, persons: &[Arc<Person>], bystander: &Login) -> Self {
        let (clients, revokers) = (JoinSet::new(), JoinSet::new());
        let stop = Arc::new(AtomicBool::new(false));
        let mut mix = Self { rig, ledger, started: Instant::now(), stop, clients, revokers };
        for person in persons {
            for credential in &person.sessions {
                for node in 0..2 {
                    let (http, socket) = (mix.worker(node, credential), mix.worker(node, credential));
                    mix.clients.spawn(http.check());
                    mix.clients.spawn(socket.hold_a_socket());
                }
            }
            // Changed while the other session of the same user ends.
            if let Some(spared) = person.spared() {
                let worker = mix.worker(0, spared);
                mix.clients.spawn(worker.change_profile(Arc::clone(&mix.rig), mix.started));
            }
        }
        for node in 0..2 {
            let worker = mix.worker(node, &Arc::new(Credential::new(bystander.clone())));
            mix.clients.spawn(worker.log_in(Arc::clone(&mix.rig), node + 1));
        }
        mix
    }

    /// Has each person's credentials ended, evenly over this time, on alternating nodes.
    pub fn revoke_all(&mut self, persons: &[Arc<Person>], over: Duration) {
        for (index, person) in persons.iter().enumerate() {
            let (rig, ledger, person) = (Arc::clone(&self.rig), Arc::clone(&self.ledger), Arc::clone(person));
            let after = over * index as u32 / persons.len() as u32;
            self.revokers.spawn(async move {
                tokio::time::sleep(after).await;
                let node = index / Ending::ALL.len() + index;
                person.revoke(&rig, &ledger, node).await;
            });
        }
    }

    /// Waits until every revocation was answered.
    pub async fn all_revoked(&mut self) {
        while let Some(ended) = self.revokers.join_next().await {
            ended.expect("a revoker ends");
        }
    }

    /// Sends everybody home.
    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client ends");
        }
    }

    fn worker(&self, node: usize, credential: &Arc<Credential>) -> Worker {
        Worker {
            node: self.rig.node(node).clone(),
            place: ["first node", "second node"][node % 2],
            credential: Arc::clone(credential),
            ledger: Arc::clone(&self.ledger),
            stop: Arc::clone(&self.stop),
            started: self.started,
        }
    }
}

/// One device that uses its credential on one node.
struct Worker {
    node: Node,
    place: &'static str,
    credential: Arc<Credential>,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    started: Instant,
}

impl Worker {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn used(&self, what: &str, sent: Instant, taken: &Taken) {
        let at = sent - self.started;
        self.ledger.used(&self.credential, &format!("{at:.1?}: {what} on the {}", self.place), sent, taken);
    }

    /// `verify` and `validate-session` in turn.
    async fn check(self) {
        for round in 0_u32.. {
            if !self.goes_on() {
                return;
            }
            let login = self.credential.login();
            let by_secret = round % 3 == 2;
            let call = if by_secret {
                let body = json!({"session_id": login.session_id});
                self.node.post("/api/v1/auth/validate-session").json(&body)
            } else {
                self.node.get("/api/v1/auth/verify").bearer(&login.token)
            };
            let sent = Instant::now();
            let answer = call.timeout(PATIENCE).try_send().await;
            let what = if by_secret { "validate-session" } else { "verify" };
            self.used(what, sent, &Taken::by(answer.as_ref()));
            if let (true, Some(answer)) = (by_secret, answer)
                && let Some(token) = answer["access_token"].as_str()
            {
                self.credential.renew(token);
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Opens a socket, sends commands, listens to pushes, and opens the next when it is closed.
    async fn hold_a_socket(self) {
        while self.goes_on() {
            if let Some(mut socket) = self.open().await {
                while self.goes_on() && self.command(&mut socket).await {
                    tokio::time::sleep(PACE).await;
                }
            }
            tokio::time::sleep(2 * PACE).await;
        }
    }

    async fn open(&self) -> Option<Socket> {
        let sent = Instant::now();
        let opening = tokio::time::timeout(PATIENCE, self.node.socket().try_open());
        let Ok(Ok(mut socket)) = opening.await else {
            self.used("handshake", sent, &Taken::NoAnswer);
            return None;
        };
        let command = json!({"connect": {"token": self.credential.login().token}});
        let taken = self.ask(&mut socket, "connect", command).await;
        (taken == Taken::Accepted).then_some(socket)
    }

    /// One command. False when the socket is of no use any more.
    async fn command(&self, socket: &mut Socket) -> bool {
        let rpc = json!({"rpc": {"method": "echo", "data": "echo"}});
        let taken = self.ask(socket, "rpc", rpc).await;
        !matches!(taken, Taken::Refused(_) | Taken::NoAnswer | Taken::CannotTell(3000..))
    }

    async fn ask(&self, socket: &mut Socket, what: &str, command: Value) -> Taken {
        let sent = Instant::now();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let id = match tokio::time::timeout(PATIENCE, socket.send_command(command)).await {
            Ok(id) => id,
            Err(_) => return Taken::NoAnswer,
        };
        loop {
            let taken = match socket.next_by(deadline).await {
                None => Taken::NoAnswer,
                Some(Event::Reply(reply)) if reply["id"] == id => match reply["error"]["code"].as_u64() {
                    None => Taken::Accepted,
                    Some(100) => Taken::CannotTell(100),
                    Some(code) => Taken::Refused(format!("error {code}")),
                },
                Some(Event::Closed(code @ (3500..=3999 | 4500..=4999), reason)) => {
                    Taken::Refused(format!("{code} {reason}"))
                }
                Some(Event::Closed(1006, _)) => Taken::NoAnswer,
                Some(Event::Closed(code, _)) => Taken::CannotTell(code),
                Some(Event::Push(push)) => {
                    self.heard(&push);
                    continue;
                }
                Some(_) => continue,
            };
            self.used(what, sent, &taken);
            return taken;
        }
    }

    /// A changed profile says when its change was asked for: in microseconds since the start.
    fn heard(&self, push: &Value) {
        let name = push["message"]["data"]["user"]["full_name"].as_str().unwrap_or_default();
        if let Some(micros) = name.strip_prefix("changed ").and_then(|at| at.parse().ok()) {
            let arose = self.started + Duration::from_micros(micros);
            self.ledger.pushed(&self.credential, &format!("push on the {}", self.place), arose);
        }
    }

    async fn change_profile(self, rig: Arc<Rig>, started: Instant) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        while self.goes_on() {
            let node = rig.node(NEXT.fetch_add(1, Ordering::Relaxed) as usize);
            let sent = Instant::now();
            let change = json!({"full_name": format!("changed {}", (sent - started).as_micros())});
            let token = self.credential.login().token;
            let call = node.call(Method::PATCH, "/api/v1/auth/update-profile").bearer(&token).json(&change);
            let answer = call.timeout(PATIENCE).try_send().await;
            self.used("profile change", sent, &Taken::by(answer.as_ref()));
            tokio::time::sleep(SLOW_PACE).await;
        }
    }

    /// Logs in, and shows the new credential on the other node at once.
    async fn log_in(self, rig: Arc<Rig>, elsewhere: usize) {
        while self.goes_on() {
            let who = self.credential.login();
            let body = json!({"email": who.email, "password": who.password});
            let sent = Instant::now();
            let answer = self.node.post("/api/v1/auth/login").json(&body).timeout(PATIENCE).try_send().await;
            self.used("login", sent, &Taken::by(answer.as_ref()));
            if let Some(token) = answer.as_ref().and_then(|answer| answer["access_token"].as_str()) {
                let sent = Instant::now();
                let call = rig.node(elsewhere).get("/api/v1/auth/verify").bearer(token);
                let answer = call.timeout(PATIENCE).try_send().await;
                self.used("a new login elsewhere", sent, &Taken::by(answer.as_ref()));
            }
            tokio::time::sleep(SLOW_PACE).await;
        }
    }
}
