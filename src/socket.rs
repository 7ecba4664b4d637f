//! Authenticated WebSockets: `GET /ws`.
//!
//! ```text
//! handshake (RFC 6455) → credential → judged → registered → judged again → 101 → one task until the close frame
//! ```
//!
//! `admission` decides who gets in, `connection` lives one socket's life. What ends sockets from outside reaches them
//! through the registry; what they ask for they ask of `auth` and `accounts`. Nothing here knows stores or caches.

mod admission;
mod begun;
mod commands;
mod connection;
pub mod handshake;
pub mod head;
mod judging;
mod limits;
mod measure;
mod rate;
mod timers;
mod verdicts;
pub mod wire;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::Accounts;
use crate::auth::Auth;
use crate::clock::DatabaseClock;
use crate::config::Config;
use crate::headcount::Headcount;
use crate::origin::AllowedOrigins;
use crate::registry::Registry;
use limits::Handshakes;

pub use admission::{Door, Knock, Socket};
pub use begun::Begun;
pub use timers::Wheel;

/// Where sockets are asked for.
const PATHS: [&str; 2] = ["/ws", "/connection/websocket"];

/// What sockets are given to work with.
pub struct SocketParts {
    /// The judge.
    pub auth: Auth,
    /// What `rpc` can do with an account.
    pub accounts: Accounts,
    /// Where sockets register.
    pub registry: Registry,
    /// The sockets of all nodes, where they are counted.
    pub headcount: Option<Arc<Headcount>>,
    /// The settings.
    pub config: Arc<Config>,
    /// Whose pages may use the cookie.
    pub origins: AllowedOrigins,
    /// The time in which credentials are judged and delays measured.
    pub clock: Arc<DatabaseClock>,
    /// Cancelled when the node drains: no new sockets then.
    pub draining: CancellationToken,
    /// Every socket's task.
    pub tasks: TaskTracker,
    /// What wakes them in time. Somebody has to [turn](Wheel::turn) it.
    pub wheel: Arc<Wheel>,
}

/// What they work with.
struct SocketState {
    parts: SocketParts,
    handshakes: Handshakes,
}

impl Deref for SocketState {
    type Target = SocketParts;

    fn deref(&self) -> &SocketParts {
        &self.parts
    }
}

/// The two ways in: a door for connections that begin with a handshake, and the routes for those that serve something
/// else first. Requests to these need the extension `ConnectInfo<SocketAddr>`, and a server with upgrades enabled.
pub fn ways_in(parts: SocketParts) -> (Door, Router) {
    let handshakes = Handshakes::new(&parts.config);
    let state = Arc::new(SocketState { parts, handshakes });
    let mut router = Router::new();
    for path in PATHS {
        // `any`, so that a wrong method is answered by a problem document like everything else.
        router = router.route(path, any(admission::handle));
    }
    (Door::new(state.clone()), router.with_state(state))
}

/// Closes the sockets with 4000 once the node could not show freshness for the whole grace time. One watcher for all:
/// being muted is the node's state, and a timer for each socket would find out the same thing many times.
pub async fn watch_freshness(auth: Auth, registry: Registry, config: Arc<Config>) {
    const LOOK: Duration = Duration::from_millis(100);
    // Clients come back at once, perhaps all to one node that is better off.
    let spread = (config.grace_time / 6).min(Duration::from_secs(10));
    let mut muted_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        if auth.caught_up() {
            muted_since = None;
            continue;
        }
        let since = *muted_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= config.grace_time && !registry.is_empty() {
            tracing::warn!(
                sockets = registry.len(),
                "freshness could not be shown for the grace time: closing sockets"
            );
            registry.close_unjudgeable(spread, || !auth.caught_up()).await;
        }
    }
}
