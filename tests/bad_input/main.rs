//! Whatever comes in, a clear problem document goes out: the right status, a code, and never a 500.

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod connections;
mod credentials;
