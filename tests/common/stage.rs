//! What a test stands on: one embedded node, or two nodes on a real Postgres and a real Redis.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::client::Node;
use super::database::Database;
use super::gateway::{Gateway, Settings};
use super::people::Login;
use super::servers::{PostgresServer, RedisServer};
use super::wait::eventually;

/// The two ways to run the gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One node, SQLite, no Redis.
    Embedded,
    /// Two nodes, one Postgres, one Redis.
    Cluster,
}

impl Mode {
    /// A stage with the default settings, shared by the tests of this process. Its tests keep apart by using people of
    /// their own, and break nothing.
    pub async fn stage(self) -> Stage {
        static EMBEDDED: OnceCell<Arc<Parts>> = OnceCell::const_new();
        static CLUSTER: OnceCell<Arc<Parts>> = OnceCell::const_new();
        let shared = match self {
            Self::Embedded => &EMBEDDED,
            Self::Cluster => &CLUSTER,
        };
        let parts = shared.get_or_init(async || Arc::new(self.own().raise().await)).await;
        Stage::on(Arc::clone(parts), true)
    }

    /// A stage of the test's own, for settings of its own or for breaking things.
    pub fn own(self) -> StageBuilder {
        StageBuilder { mode: self, settings: Settings::embedded(), settings_of_b: Vec::new(), own_postgres: false }
    }
}

/// Settings of a stage that does not stand yet.
pub struct StageBuilder {
    mode: Mode,
    settings: Settings,
    settings_of_b: Vec<(String, String)>,
    own_postgres: bool,
}

impl StageBuilder {
    /// An environment variable for every node.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.settings = self.settings.env(name, value);
        self
    }

    /// An environment variable for the second node alone.
    pub fn env_of_b(mut self, name: &str, value: &str) -> Self {
        self.settings_of_b.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a default of the tests out.
    pub fn without(mut self, name: &str) -> Self {
        self.settings = self.settings.without(name);
        self
    }

    /// A Postgres that only this test uses, because it breaks it.
    pub fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// Raises it.
    pub async fn start(self) -> Stage {
        Stage::on(Arc::new(self.raise().await), false)
    }

    async fn raise(self) -> Parts {
        match self.mode {
            Mode::Embedded => {
                let gateway = self.settings.start().await;
                let database = Database::Embedded(gateway.data_dir());
                Parts { gateways: vec![gateway], redis: None, postgres: None, database }
            }
            Mode::Cluster => {
                let postgres = self.own_postgres.then(PostgresServer::start);
                let url = match &postgres {
                    Some(own) => own.database().await,
                    None => PostgresServer::shared().database().await,
                };
                let redis = RedisServer::start();
                let settings = self.settings.postgres(&url).redis(&redis);
                let of_b = self.settings_of_b.iter().fold(settings.clone(), |all, (name, value)| all.env(name, value));
                let gateways = vec![settings.spawn(), of_b.spawn()];
                for gateway in &gateways {
                    gateway.ready().await;
                }
                Parts { gateways, redis: Some(redis), postgres, database: Database::Postgres(url) }
            }
        }
    }
}

/// The processes of a stage. Nodes end before the servers they use.
pub struct Parts {
    /// The nodes.
    pub gateways: Vec<Gateway>,
    redis: Option<RedisServer>,
    postgres: Option<PostgresServer>,
    /// Where they keep their data.
    pub database: Database,
}

impl Parts {
    /// The Redis of a cluster.
    pub fn redis(&self) -> &RedisServer {
        self.redis.as_ref().expect("a stage with Redis")
    }

    /// The Postgres that only this stage uses.
    pub fn postgres(&self) -> &PostgresServer {
        self.postgres.as_ref().expect("a stage with a Postgres of its own")
    }
}

/// A running stage with a client for each node. The clients belong to one test, the processes perhaps to several.
pub struct Stage {
    nodes: Vec<Node>,
    parts: Arc<Parts>,
    shared: bool,
}

impl Stage {
    fn on(parts: Arc<Parts>, shared: bool) -> Self {
        Self { nodes: parts.gateways.iter().map(Gateway::node).collect(), parts, shared }
    }

    /// The first node.
    pub fn a(&self) -> &Node {
        &self.nodes[0]
    }

    /// The second node of a cluster; embedded, the only one.
    pub fn b(&self) -> &Node {
        self.nodes.last().expect("a node")
    }

    /// Every node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
}

impl Deref for Stage {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Gateways of the test's own show their logs when they are dropped, shared ones are never dropped.
        if self.shared && std::thread::panicking() {
            self.gateways.iter().for_each(Gateway::show_log);
        }
    }
}
