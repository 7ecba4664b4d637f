//! Every REST endpoint of the contract, its good and its bad paths, on both stages.

#[path = "../common/mod.rs"]
mod common;

mod accounts;
mod credentials;
mod fingerprint;
mod operators;
mod profile;
mod sessions;
mod throttling;
mod tokens;
