//! What a fault happens to: two nodes, each with a network of its own to one Redis and one Postgres.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::database::Database;
use crate::common::gateway::{Gateway, Settings};
use crate::common::proxy::{Network, Proxy};
use crate::common::servers::{PostgresServer, RedisServer};
use crate::common::{Login, Node, Socket, eventually};

/// Connections that Postgres admits when they are to run out.
pub const FEW_CONNECTIONS: u32 = 24;

/// A node and its lines to the servers.
pub struct Member {
    /// The process.
    pub gateway: Gateway,
    /// Its clients' view.
    pub node: Node,
    /// Its line to Redis.
    pub redis: Proxy,
    /// Its line to Postgres.
    pub postgres: Proxy,
}

impl Member {
    /// Samples of a metric by their labels, as Prometheus text has them; none when the node does not answer.
    pub async fn metric(&self, name: &str) -> Vec<(String, f64)> {
        let metrics = self.node.get("/metrics").timeout(Duration::from_secs(2)).try_send().await;
        let text = metrics.map(|answer| answer.text).unwrap_or_default();
        let sample = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(sample).collect()
    }

    /// Queries that the node has sent to the database since it started, by name.
    pub async fn queries(&self) -> BTreeMap<String, u64> {
        let name = |labels: String| labels.trim_start_matches("{query=\"").trim_end_matches("\"}").to_owned();
        let samples = self.metric("portcullis_database_queries_total").await;
        samples.into_iter().map(|(labels, count)| (name(labels), count as u64)).collect()
    }
}

/// Two nodes, two servers, four lines. Nodes end before the servers they use.
pub struct Rig {
    /// The nodes.
    pub members: Vec<Member>,
    /// Their Redis.
    pub redis: RedisServer,
    /// Another Redis, for a failover.
    other_redis: OnceLock<RedisServer>,
    /// Their Postgres.
    pub postgres: PostgresServer,
    /// The database, reached past the proxies.
    pub database: Database,
    /// The database's URL, past the proxies.
    pub database_url: String,
    /// No node has a connection to the database, yet somebody else may get one. What is written by hand then is known
    /// to no node: the lease does not cover it, and the design excludes it.
    pub nodes_have_no_connection: AtomicBool,
}

impl Rig {
    /// Starts everything.
    pub async fn start(settings: Settings) -> Self {
        let (redis, postgres) = tokio::task::block_in_place(|| {
            let redis = RedisServer::start();
            (redis, PostgresServer::start_for(FEW_CONNECTIONS))
        });
        let database_url = postgres.database().await;
        let name = database_url.rsplit('/').next().expect("a database name");
        let mut members = Vec::new();
        for _ in 0..2 {
            let (to_redis, to_postgres) = (Proxy::before(redis.port()), Proxy::before(postgres.port()));
            let gateway = settings
                .clone()
                .env("REDIS_URL", &format!("redis://127.0.0.1:{}/0", to_redis.port()))
                .postgres(&format!("postgres://postgres@127.0.0.1:{}/{name}", to_postgres.port()))
                .spawn();
            members.push(Member { node: gateway.node(), gateway, redis: to_redis, postgres: to_postgres });
        }
        for member in &members {
            member.gateway.ready().await;
        }
        let database = Database::Postgres(database_url.clone());
        Self {
            members,
            redis,
            other_redis: OnceLock::new(),
            postgres,
            database,
            database_url,
            nodes_have_no_connection: AtomicBool::new(false),
        }
    }

    /// The second node: the one that things happen to.
    pub fn victim(&self) -> &Member {
        &self.members[1]
    }

    /// Another Redis, which nobody knows before a failover.
    pub fn other_redis(&self) -> &RedisServer {
        self.other_redis.get_or_init(RedisServer::start)
    }

    /// A client of this node.
    pub fn node(&self, index: usize) -> &Node {
        &self.members[index % self.members.len()].node
    }

    /// The network between all nodes and Postgres.
    pub fn postgres_network(&self, network: Network) {
        self.members.iter().for_each(|member| member.postgres.network(network));
    }

    /// Queries that the nodes have sent to the database since they started.
    pub async fn queries(&self) -> Vec<u64> {
        let mut queries = Vec::new();
        for member in &self.members {
            queries.push(member.queries().await.into_values().sum());
        }
        queries
    }

    /// Waits until this person can do everything on every node, and says how long that took.
    pub async fn works_for(&self, who: &Login) -> Duration {
        let started = Instant::now();
        for member in &self.members {
            let node = &member.node;
            let limit = Duration::from_secs(2);
            eventually("everything works again", async || {
                let body = json!({"session_id": who.session_id});
                let profile = json!({"full_name": "back"});
                let (verify, validate, change) = tokio::join!(
                    node.get("/api/v1/auth/verify").bearer(&who.token).timeout(limit).try_send(),
                    node.post("/api/v1/auth/validate-session").json(&body).timeout(limit).try_send(),
                    node.call(reqwest::Method::PATCH, "/api/v1/auth/update-profile")
                        .bearer(&who.token)
                        .json(&profile)
                        .timeout(limit)
                        .try_send(),
                );
                let good = [verify?.status, validate?.status, change?.status] == [204, 200, 200];
                (good && socket_works(node, &who.token).await).then_some(())
            })
            .await;
        }
        started.elapsed()
    }
}

async fn socket_works(node: &Node, token: &str) -> bool {
    let trying = async {
        let mut socket: Socket = node.socket().bearer(token).try_open().await.ok()?;
        socket.send_command(json!({"connect": {}})).await;
        let asked = socket.send_command(json!({"rpc": {"method": "echo", "data": 1}})).await;
        loop {
            match socket.next_by(tokio::time::Instant::now() + Duration::from_secs(2)).await? {
                crate::common::Event::Reply(reply) if reply["id"] == asked => return Some(reply["rpc"].is_object()),
                crate::common::Event::Closed(..) => return None,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(2), trying).await.ok().flatten().unwrap_or(false)
}
