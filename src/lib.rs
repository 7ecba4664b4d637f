//! Portcullis: a WebSocket-first realtime gateway with cached auth.
//!
//! ```text
//! in:   socket / http  →  auth  →  cache  →  store
//! out:  revocation  →  log and bus  →  every node  →  registry  →  sockets
//! ```

pub mod store;

pub mod clock;
pub mod entry;
pub mod freshness;
pub mod ids;
pub mod secret;
