//! The socket: every way in, the wire protocol, and every way out that is not a revocation.

#[path = "../common/mod.rs"]
mod common;

mod ambient;
mod commands;
mod expiry;
mod frames;
mod handshake;
mod heartbeat;
mod hostile;
mod limits;
mod rfc6455;
