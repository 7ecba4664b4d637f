//! Accepts TCP connections and speaks HTTP/1.1 on them.
//!
//! Our own loop and not `axum::serve`, because that one never cuts a half-sent head or a connection that sends nothing.

mod doorway;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use doorway::{Doorway, Visit};

/// A connection that has sent nothing for this long is closed.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(15);

/// A request's head must have arrived by then.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Largest request head, in bytes. Also what an idle connection may hold.
const HEAD_BYTES: usize = 16 * 1024;

/// After a failed `accept` (no file descriptors left), so that the loop does not spin.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Serves `router` until `stop`; then no connection is accepted any more, requests in flight are finished, and
/// connections are closed as they become idle. The connections' tasks belong to `tasks`. Of connections that are no
/// sockets (yet) there are at most `most_connections`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    most_connections: usize,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let doorway = Doorway::new(most_connections);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        // Waits for a moment at most: when there is no place, somebody is sent away.
        let visit = tokio::select! {
            () = stop.cancelled() => return,
            visit = doorway.enter() => visit,
        };
        let Some(visit) = visit else { return };
        tasks.spawn(serve_connection(stream, peer, router.clone(), visit, stop.clone()));
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    visit: Arc<Visit>,
    stop: CancellationToken,
) {
    // A close frame must leave at once.
    let _ = stream.set_nodelay(true);
    let first_byte = tokio::time::timeout(FIRST_BYTE_WITHIN, stream.readable());
    tokio::select! {
        readable = first_byte => if readable.is_err() { return },
        () = visit.gives_way() => return,
        () = stop.cancelled() => return,
    }
    let asking = Arc::clone(&visit);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        asking.asks();
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Errors here are the client's: it went away or sent no HTTP.
        _ = connection.as_mut() => return,
        () = visit.gives_way() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
