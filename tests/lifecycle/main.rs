//! How a node starts, stops and comes back; and what it never writes down.

#[path = "../common/mod.rs"]
mod common;

mod secrets;
mod starting;
mod stopping;
