//! The address of the client, through listed proxies only.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

/// Finds the client's address: `peer`, unless `peer` is a trusted proxy; then the right-most address of
/// `X-Forwarded-For` that is not a trusted proxy itself. What anybody else writes into that header counts for nothing.
#[must_use]
#[allow(unused_variables, clippy::todo)]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    todo!()
}
