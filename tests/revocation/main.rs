//! Whatever ends a credential ends it everywhere: on every node, over HTTP and on sockets, and whatever Redis does.

#[path = "../common/mod.rs"]
mod common;

mod cookies;
mod database_away;
mod ends;
mod redis_away;
mod rotation;

use std::time::{Duration, Instant};

use common::{DEADLINE, Event, Login, Node, Socket, Stage};
use serde_json::json;

/// The bound of the first promise: a request whose first byte was sent later than this after the revocation was answered
/// is never accepted.
const BOUND: Duration = Duration::from_secs(1);

/// How a credential was taken.
#[derive(Debug, PartialEq)]
enum Taken {
    Accepted,
    Refused,
    CannotTell,
}

impl Taken {
    fn by_status(status: u16) -> Self {
        match status {
            200 | 204 => Self::Accepted,
            401 => Self::Refused,
            503 => Self::CannotTell,
            other => panic!("a credential was answered with {other}"),
        }
    }
}

/// Shows what ended to each node, over HTTP and on new sockets, until it is refused; fails when it was accepted later
/// than the bound allows. `answered` is when the success of the revocation was read.
async fn refused_everywhere(stage: &Stage, ended: &Login, answered: Instant) {
    for node in stage.nodes() {
        let who = &ended.token;
        refused("me", answered, async || Taken::by_status(node.me(who).await.status)).await;
        refused("verify", answered, async || Taken::by_status(node.verify(who).await.status)).await;
        refused("validate-session", answered, async || Taken::by_status(node.validate(&ended.session_id).await.status))
            .await;
        refused("connect", answered, async || connect_is_taken(node, who).await).await;
        node.me(who).await.is_bad_token();
        node.verify(who).await.is_bad_token();
        node.validate(&ended.session_id).await.is_unauthenticated();
        node.socket().bearer(who).attempt().await.is_bad_token();
    }
}

async fn refused(what: &str, answered: Instant, probe: impl AsyncFn() -> Taken) {
    loop {
        let sent = answered.elapsed();
        match probe().await {
            Taken::Refused => return,
            Taken::Accepted => assert!(sent <= BOUND, "{what}: accepted, though sent {sent:?} after the revocation"),
            Taken::CannotTell => assert!(sent <= DEADLINE, "{what}: nobody can tell, {sent:?} after the revocation"),
        }
        tokio::time::sleep(common::wait::POLL).await;
    }
}

async fn connect_is_taken(node: &Node, token: &str) -> Taken {
    let mut socket = node.socket().open().await;
    socket.send_command(json!({"connect": {"token": token}})).await;
    loop {
        match socket.next().await {
            Event::Reply(reply) if reply["connect"].is_object() => return Taken::Accepted,
            Event::Closed(3500 | 4500..=4505, _) => return Taken::Refused,
            Event::Closed(4000, _) => return Taken::CannotTell,
            Event::Push(_) | Event::Ping | Event::FramePing => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Fails unless it is good on every node, at once and at the first try.
async fn accepted_everywhere(stage: &Stage, login: &Login) {
    for node in stage.nodes() {
        node.me(&login.token).await.expect(200);
        node.verify(&login.token).await.expect(204);
        node.validate(&login.session_id).await.expect(200);
        node.connect(&login.token).await.expect_open().await;
    }
}

/// One socket of this login on every node.
async fn sockets(stage: &Stage, login: &Login) -> Vec<Socket> {
    let mut sockets = Vec::new();
    for node in stage.nodes() {
        sockets.push(node.connect(&login.token).await);
    }
    sockets
}

async fn all_forced(sockets: &mut [Socket], code: u16, reason: &str) {
    for socket in sockets {
        socket.expect_forced(code, reason).await;
    }
}

async fn all_open(sockets: &mut [Socket]) {
    for socket in sockets {
        socket.expect_open().await;
    }
}
