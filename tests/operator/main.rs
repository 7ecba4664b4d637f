//! The operator's side: the admin API, the subcommands, the audit trail and webhooks, on both stages.

#[path = "../common/mod.rs"]
mod common;

mod everybody;
mod keys;
mod people;
mod prompt;
mod receiver;
mod tokens;
mod trail;
mod webhooks;

use common::{Answer, Login, Node, Socket, Stage};
use reqwest::Method;
use serde_json::Value;

/// A node as the holder of a key of the admin API sees it.
struct Admin<'a> {
    node: &'a Node,
    key: String,
}

impl<'a> Admin<'a> {
    /// With every scope, on the first node.
    async fn of(stage: &'a Stage) -> Self {
        Self::with(stage, &["all"]).await
    }

    async fn with(stage: &'a Stage, scopes: &[&str]) -> Self {
        Self { node: stage.a(), key: stage.gateways[0].admin_key(scopes).await }
    }

    async fn get(&self, path: &str) -> Answer {
        self.node.get(&format!("/api/v1/admin{path}")).bearer(&self.key).send().await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.node.post(&format!("/api/v1/admin{path}")).bearer(&self.key).json(body).send().await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.node.call(Method::DELETE, &format!("/api/v1/admin{path}")).bearer(&self.key).send().await
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

/// On every node, within the bound, and not before.
async fn refused(stage: &Stage, login: &Login) {
    for node in stage.nodes() {
        common::eventually("the credentials are refused", async || {
            (node.me(&login.token).await.status == 401).then_some(())
        })
        .await;
        node.validate(&login.session_id).await.is_unauthenticated();
    }
}
