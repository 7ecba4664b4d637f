//! What the integration tests share: real servers, real nodes, and clients that talk to them through the front door.
//!
//! Read `stage.rs` for what a test stands on, `client.rs` and `people.rs` for HTTP, `ws.rs` for sockets.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]
#![allow(unused_macros, reason = "the benchmarks stand on the same servers and nodes, without suites")]
#![allow(unused_imports, reason = "each test crate uses its own part of this module")]

pub mod client;
pub mod database;
pub mod gateway;
pub mod people;
pub mod proxy;
pub mod raw;
pub mod script;
pub mod servers;
pub mod stage;
pub mod wait;
pub mod watchdog;
pub mod ws;

pub use client::{Answer, Node};
pub use gateway::Gateway;
pub use people::Login;
pub use stage::{Mode, Stage};
pub use wait::{DEADLINE, eventually, eventually_within};
pub use ws::{Event, Socket};

/// Makes `embedded::name` and `cluster::name` out of `async fn name(mode: Mode)`: the promises are the same on one node
/// with SQLite and on two nodes with Postgres and Redis.
#[allow(unused_macros, reason = "as above")]
macro_rules! stages {
    (
        $(both: [$($both:ident),* $(,)?] $(,)?)?
        $(cluster: [$($cluster:ident),* $(,)?] $(,)?)?
        $(embedded: [$($embedded:ident),* $(,)?] $(,)?)?
    ) => {
        mod embedded {
            $($(#[tokio::test] async fn $both() { super::$both($crate::common::Mode::Embedded).await; })*)?
            $($(#[tokio::test] async fn $embedded() { super::$embedded($crate::common::Mode::Embedded).await; })*)?
        }
        mod cluster {
            $($(#[tokio::test] async fn $both() { super::$both($crate::common::Mode::Cluster).await; })*)?
            $($(#[tokio::test] async fn $cluster() { super::$cluster($crate::common::Mode::Cluster).await; })*)?
        }
    };
}
pub(crate) use stages;
