//! Accepts TCP connections; sockets that begin with their handshake go through the door at once, everything else is
//! HTTP/1.1.
//!
//! Our own loop and not `axum::serve`, because that one never cuts a half-sent head or a connection that sends nothing.

mod doorway;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::response::Response;
use futures_util::future::{Either, ready};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::http::Front;
use crate::socket::{Begun, Door, Knock};
use doorway::{Doorway, Visit};

/// Connections that the kernel holds for us while they wait to be accepted, if its own limit allows as many.
const BACKLOG: i32 = 4096;

/// A peer that acknowledges nothing for this long is gone, whatever it was sent: a heartbeat, or the kernel's probe.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(30);

/// When the kernel probes a connection on which nothing happens, and how often then.
const PROBE_AFTER: Duration = Duration::from_secs(45);
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// What the kernel takes for a client beyond what is on its way: the rest of a backlog is the outbox's, which is bounded.
/// Else a client that does not read costs megabytes of the kernel's before anybody notices.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;

/// A connection that has sent nothing for this long is closed.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(15);

/// A request's head must have arrived by then.
const HEAD_WITHIN: Duration = Duration::from_secs(10);

/// Largest request head, in bytes. Also what an idle connection may hold.
const HEAD_BYTES: usize = 16 * 1024;

/// After a failed `accept` (no file descriptors left), so that the loop does not spin.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(50);

thread_local! {
    /// The first bytes of a connection, between two awaits.
    static FIRST: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEAD_BYTES].into());
}

/// Opens the listener. What is set here holds for every connection that it accepts, so none of them costs a call more.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restart must not wait for the last connections of the one before.
    socket.set_reuse_address(true)?;
    // A close frame must leave at once, and not wait for what was sent before it to be acknowledged.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY))?;
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR))?;
        socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `door` and `front` until `stop`; then no connection is accepted any more, requests in flight are finished,
/// and connections are closed as they become idle. The connections' tasks belong to `tasks`, the sockets' too. Of
/// connections that are no sockets (yet) there are at most `most_connections`.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    front: Front,
    most_connections: usize,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let doorway = Doorway::new(most_connections);
    let server = Arc::new(Server { door, front, stop: stop.clone() });
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
        // Boxed, and gone when it has ended: of a socket's task nothing remains but a pointer to the socket.
        let begin = Box::pin(Arc::clone(&server).begin(stream, peer, visit));
        tasks.spawn(async move {
            match begin.await {
                Begin::Gone => {}
                Begin::Socket(socket) => socket.live().await,
                Begin::Http(serving) => serving.await,
            }
        });
    }
}

struct Server {
    door: Door,
    front: Front,
    stop: CancellationToken,
}

/// What a connection turned out to be.
enum Begin {
    Gone,
    Socket(crate::socket::Socket),
    Http(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Server {
    /// Sockets have a bound of their own, so a connection that becomes one gives its place up.
    async fn begin(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, visit: Arc<Visit>) -> Begin {
        let Some(first) = self.first_bytes(&stream, &visit).await else { return Begin::Gone };
        let (stream, answer) = match self.door.knock(stream, peer, &first).await {
            Knock::Admitted(socket) => return Begin::Socket(socket),
            Knock::NotOurs(stream) => (stream, None),
            Knock::Refused(stream, answer) => (stream, Some(answer)),
        };
        let stream = Begun::new(stream, &first);
        Begin::Http(Box::pin(async move {
            self.serve_http(stream, peer, visit, answer).await;
        }))
    }

    /// What the client sends first, if it does so in time.
    async fn first_bytes(&self, stream: &TcpStream, visit: &Visit) -> Option<Vec<u8>> {
        let reading = async {
            loop {
                stream.readable().await.ok()?;
                match FIRST.with_borrow_mut(|buffer| stream.try_read(buffer).map(|read| buffer[..read].to_vec())) {
                    Ok(first) => return Some(first).filter(|first| !first.is_empty()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::select! {
            first = tokio::time::timeout(FIRST_BYTE_WITHIN, reading) => first.ok().flatten(),
            () = visit.gives_way() => None,
            () = self.stop.cancelled() => None,
        }
    }

    /// `answer` is the one to the first request, where there is one already.
    async fn serve_http(&self, stream: Begun, peer: SocketAddr, visit: Arc<Visit>, answer: Option<Response>) {
        let answer = Mutex::new(answer);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            visit.asks();
            let first = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(answer) = first.or_else(|| self.front.at_once(&request)) {
                return Either::Left(ready(Ok::<_, Infallible>(answer)));
            }
            request.extensions_mut().insert(ConnectInfo(peer));
            Either::Right(self.front.router().oneshot(request))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // What was read already is answered first, also when the node has stopped meanwhile.
            biased;
            // Errors here are the client's: it went away or sent no HTTP.
            _ = connection.as_mut() => return,
            () = visit.gives_way() => return,
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}
