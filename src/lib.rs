//! Portcullis: a WebSocket-first realtime gateway with cached auth.
//!
//! ```text
//! in:   socket / http  →  auth  →  cache  →  store
//! out:  revocation  →  log and bus  →  every node  →  registry  →  sockets
//! ```
//!
//! The modules below stand in the order in which a request meets them; a module imports only what lies below it.

pub mod cli;

pub mod app;
pub mod telemetry;

pub mod http;
pub mod server;
pub mod socket;

pub mod accounts;
pub mod client_address;
pub mod credentials;
pub mod operator;
pub mod origin;
pub mod password;
pub mod problem;
pub mod webhooks;

pub mod audit;
pub mod auth;
pub mod keyring;
pub mod revocation;

pub mod cache;

pub mod bus;
pub mod headcount;
pub mod registry;
pub mod store;

pub mod budget;
pub mod clock;
pub mod config;
pub mod entry;
pub mod freshness;
pub mod ids;
pub mod metrics;
pub mod open_files;
pub mod protocol;
pub mod redis_link;
pub mod seal;
pub mod secret;
pub mod token;
