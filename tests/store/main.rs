//! What the store promises, on Postgres, on Postgres behind a pooler in transaction mode, and on SQLite. Races are
//! forced: one transaction is held open by hand while the other runs.

mod accounts;
mod database;
mod failover;
mod hand_written;
mod keys_and_nodes;
mod limits;
mod log_tail;
mod metrics;
mod migrations;
mod operating;
mod postgres_only;
mod postgres_server;
mod revocations;
mod secrets;
mod sessions;
mod sweeping;

/// Writes each test three times, once for each way to a database.
#[macro_export]
macro_rules! on_each {
    ($(async fn $name:ident($database:ident) $body:block)*) => {
        mod postgres {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $database = $crate::database::Database::postgres().await; $body })*
        }
        mod pooler {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $database = $crate::database::Database::pooler().await; $body })*
        }
        mod sqlite {
            #[allow(unused_imports)]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { let $database = $crate::database::Database::sqlite().await; $body })*
        }
    };
}
