//! What users do with their account: sign up, log in, come back, change things, leave. Shared by REST and socket RPC.
//!
//! Sits above `auth`, `revocation` and `store`; knows neither HTTP nor frames.

use std::time::Duration;

use serde::Serialize;

use crate::auth::Principal;
use crate::store::{Device, StoreError};

/// One row of the device list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct DeviceEntry {
    /// The session.
    #[serde(flatten)]
    pub device: Device,
    /// It is the one that asks.
    pub current: bool,
}

/// The answer to logout-all-devices.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct LoggedOutEverywhere {
    /// Live sessions that ended.
    pub sessions_revoked: u64,
    /// With `Prefer: wait`: sockets closed on the nodes that confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets_closed: Option<u64>,
    /// With `Prefer: wait`: nodes that confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_confirmed: Option<u64>,
    /// With `Prefer: wait`: nodes that are alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes_live: Option<u64>,
}

/// The account service.
#[derive(Clone)]
pub struct Accounts(());

#[allow(unused_variables, clippy::todo)]
impl Accounts {
    /// The caller's live sessions.
    pub async fn devices(&self, principal: &Principal) -> Result<Vec<DeviceEntry>, StoreError> {
        todo!()
    }
    /// Logs the caller's session out (4500) and lists its token.
    pub async fn log_out(&self, principal: &Principal) -> Result<(), StoreError> {
        todo!()
    }
    /// Ends every session of the caller (4501).
    pub async fn log_out_everywhere(
        &self,
        principal: &Principal,
        wait: Option<Duration>,
    ) -> Result<LoggedOutEverywhere, StoreError> {
        todo!()
    }
}
