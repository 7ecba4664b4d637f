//! Who gets in: from the request for a socket to the task that lives its life.
//!
//! The order protects two things. A socket is registered **before** the last look at its credential, so that no
//! revocation falls between the two; and a ticket is spent after everything else that could refuse it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::Connection;
use super::handshake::{Offer, Refused};
use super::limits::too_many_handshakes;
use super::wire::{Limits, Wire};
use super::{Begun, SocketState, head, measure};
use crate::accounts::LoginDevice;
use crate::auth::{AuthError, OpenTicket, Principal, Recheck};
use crate::client_address::{Network, came_over_https, client_address};
use crate::credentials::{self, Credential, CredentialError};
use crate::problem::Problem;
use crate::registry::{LimitReached, Registration, Subject};

/// For the judge, all its loads included. Later than that nobody waits for the answer.
const JUDGING_TIME: Duration = Duration::from_secs(2);
/// For hyper to hand the connection over: the client must take the head of the 101.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// Where a socket comes from, for the logs.
#[derive(Clone)]
pub(super) struct Visitor {
    pub(super) ip: IpAddr,
    pub(super) origin: Option<Box<str>>,
}

impl Visitor {
    fn of(state: &SocketState, parts: &Parts) -> Self {
        let origin = parts.headers.get(header::ORIGIN).map(|origin| String::from_utf8_lossy(origin.as_bytes()).into());
        Self { ip: client_address(peer(parts), &parts.headers, &state.config.trusted_proxies), origin }
    }
}

fn peer(parts: &Parts) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |info| info.0.ip())
}

/// Why there is no socket.
enum Refusal {
    Handshake(Refused),
    Unreadable(CredentialError),
    Judged(AuthError),
    ForeignOrigin,
    Limit(LimitReached),
    TooOften(Duration),
}

impl Refusal {
    /// The limit that was reached, if one was.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Limit(limit) => limit.name(),
            Self::TooOften(_) => Some("handshakes"),
            Self::Handshake(_) | Self::Unreadable(_) | Self::Judged(_) | Self::ForeignOrigin => None,
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Self::Handshake(refused)
    }
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::Judged(error)
    }
}

impl From<LimitReached> for Refusal {
    fn from(limit: LimitReached) -> Self {
        Self::Limit(limit)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Handshake(refused) => refused.into_response(),
            Self::Unreadable(error) => Problem::from(error).into_response(),
            Self::Judged(error) => Problem::from(error).into_response(),
            Self::ForeignOrigin => {
                let detail = "The session cookie does not open sockets for pages of this origin.";
                Problem::new(StatusCode::FORBIDDEN, "origin_not_allowed", detail).into_response()
            }
            Self::Limit(limit) => Problem::from(limit).into_response(),
            Self::TooOften(wait) => too_many_handshakes(wait).into_response(),
        }
    }
}

/// `GET /ws`, as the HTTP server brings it: on a connection that has served something else before, or whose first bytes
/// were not a whole handshake. (The others come by the [`Door`].)
pub(super) async fn handle(State(state): State<Arc<SocketState>>, request: Request) -> Response {
    let mut parts = request.into_parts().0;
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
        // Something more to the point may be wrong with it.
        let refused = Offer::read(&parts).err().unwrap_or(Refused::NoUpgrade);
        return refuse(refused.into(), &Visitor::of(&state, &parts));
    };
    // Boxed, because the server keeps room for the largest of its handlers in every connection.
    match Box::pin(admit(&state, &parts)).await {
        Ok((answer, admitted)) => {
            spawn(state, upgrade, admitted);
            answer
        }
        Err(answer) => answer,
    }
}

/// The short way in, for connections whose first bytes are a whole handshake: judged, answered and turned into a socket
/// without an HTTP connection in between.
#[derive(Clone)]
pub struct Door(Arc<SocketState>);

/// What became of a connection at the [`Door`].
pub enum Knock {
    /// It is a socket now.
    Admitted(Socket),
    /// No request for a socket that could be read: the HTTP server's.
    NotOurs(TcpStream),
    /// A handshake that was refused, with the answer to it. What else the connection brings is the HTTP server's.
    Refused(TcpStream, Response),
}

/// An open socket.
pub struct Socket(Box<Connection>);

impl Socket {
    /// Lives until there is a reason to end.
    pub async fn live(self) {
        self.0.run().await;
    }
}

impl Door {
    pub(super) fn new(state: Arc<SocketState>) -> Self {
        Self(state)
    }

    /// Takes a connection with the first bytes that were read from it.
    pub async fn knock(&self, stream: TcpStream, peer: SocketAddr, bytes: &[u8]) -> Knock {
        if !head::asks_for(bytes, &super::PATHS) {
            return Knock::NotOurs(stream);
        }
        let Some((mut parts, size)) = head::read(bytes) else { return Knock::NotOurs(stream) };
        parts.extensions.insert(ConnectInfo(peer));
        match admit(&self.0, &parts).await {
            Ok((answer, admitted)) => {
                drop(parts);
                let wire = Wire::answering(stream, &head::write(&answer), &bytes[size..], limits(&self.0));
                Knock::Admitted(Socket(Connection::new(Arc::clone(&self.0), wire, admitted)))
            }
            Err(answer) => Knock::Refused(stream, answer),
        }
    }
}

fn limits(state: &SocketState) -> Limits {
    Limits { message_bytes: state.config.max_message_bytes, binary: false }
}

/// The answer, and what makes a socket when it is a good one.
async fn admit(state: &SocketState, parts: &Parts) -> Result<(Response, Admitted), Response> {
    let visitor = Visitor::of(state, parts);
    match judge(state, parts, &visitor).await {
        Ok((offer, principal, registration)) => {
            measure::accepted();
            let admitted = Admitted { registration, principal, visitor, frame_pings: offer.frame_pings };
            Ok((offer.accept(), admitted))
        }
        Err(refusal) => Err(refuse(refusal, &visitor)),
    }
}

fn refuse(refusal: Refusal, visitor: &Visitor) -> Response {
    let Visitor { ip, origin } = visitor;
    let denied = match &refusal {
        Refusal::Judged(AuthError::Denied(denied)) => Some(*denied),
        _ => None,
    };
    if let Some(limit) = refusal.limit() {
        measure::limit_reached(limit);
    }
    let response = refusal.into_response();
    let result = match response.status() {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::TOO_MANY_REQUESTS => "limited",
        StatusCode::SERVICE_UNAVAILABLE => "unavailable",
        _ => "bad_request",
    };
    measure::handshake(result);
    tracing::info!(%ip, ?origin, result, ?denied, "socket refused");
    response
}

async fn judge(
    state: &SocketState,
    parts: &Parts,
    visitor: &Visitor,
) -> Result<(Offer, Option<Principal>, Registration), Refusal> {
    // Before anything that costs more than this.
    state.handshakes.take(Network::of(visitor.ip)).map_err(Refusal::TooOften)?;
    let offer = Offer::read(parts)?;
    if state.draining.is_cancelled() {
        return Err(LimitReached::Draining.into());
    }
    let credential = credentials::explicit(&parts.headers, &offer.query)?;
    let judging = judge_and_register(state, parts, visitor, credential);
    let (principal, registration) = timeout(JUDGING_TIME, judging).await.map_err(|_| AuthError::CannotTell)??;
    // Once more: a server that stops spoils the head of a 101.
    if state.draining.is_cancelled() {
        return Err(LimitReached::Draining.into());
    }
    Ok((offer, principal, registration))
}

async fn judge_and_register(
    state: &SocketState,
    parts: &Parts,
    visitor: &Visitor,
    credential: Option<Credential>,
) -> Result<(Option<Principal>, Registration), Refusal> {
    let address = Network::of(visitor.ip);
    let (principal, ticket) = match credential {
        Some(Credential::Token(token)) => (Some(timed(state.auth.token(&token)).await?), None),
        Some(Credential::Ticket(ticket)) => {
            let origin = parts.headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
            let ticket = timed(state.auth.open_ticket(&ticket, origin)).await?;
            (Some(ticket.principal.clone()), Some(ticket))
        }
        None => (by_cookie(state, parts, visitor).await?, None),
    };
    let Some(mut principal) = principal else { return Ok((None, register(state, None, address).await?)) };
    if ticket.is_some() {
        // Whatever the ticket was bought with, the socket stands by the session.
        principal.token = None;
    }
    // What is revoked from here on finds the socket; what was revoked before is seen by the second look.
    let registration = register(state, Some(Subject::from(&principal)), address).await?;
    if state.auth.recheck(&principal) == Recheck::Unsure {
        principal = timed(state.auth.refetch(&principal)).await?;
    }
    if let Some(ticket) = ticket {
        spend(state, &ticket).await?;
    }
    state.auth.touch(&principal.session);
    Ok((Some(principal), registration))
}

async fn register(
    state: &SocketState,
    subject: Option<Subject>,
    address: Network,
) -> Result<Registration, LimitReached> {
    let (registration, standing) = state.registry.register(subject, address)?;
    if let Some(headcount) = &state.headcount {
        headcount.admits(standing).await?;
    }
    Ok(registration)
}

async fn spend(state: &SocketState, ticket: &OpenTicket) -> Result<(), AuthError> {
    state.auth.spend_ticket(ticket).await
}

/// The ambient credential. A bad one counts as none; a good one is nothing to a page of a foreign origin.
async fn by_cookie(state: &SocketState, parts: &Parts, visitor: &Visitor) -> Result<Option<Principal>, Refusal> {
    if !state.config.cookies {
        return Ok(None);
    }
    let headers = &parts.headers;
    let https = came_over_https(peer(parts), headers, &state.config.trusted_proxies);
    let Some(secret) = credentials::session_cookie(headers, https) else { return Ok(None) };
    let allowed = state.origins.allows(headers);
    // Before the judge is asked: a foreign page must not learn whether its visitor is logged in.
    if !allowed && headers.contains_key(header::ORIGIN) {
        return Err(Refusal::ForeignOrigin);
    }
    let user_agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).map(str::to_owned);
    let device = LoginDevice { name: None, user_agent, ip: Some(visitor.ip) };
    let judging = state.accounts.judge_secret(&secret, &device);
    match timed(async {
        judging.await.map_err(|error| error.as_denial().map_or(AuthError::CannotTell, AuthError::Denied))
    })
    .await
    {
        Ok(_) if !allowed => Err(Refusal::ForeignOrigin),
        Ok(principal) => Ok(Some(principal)),
        Err(AuthError::Denied(_)) => Ok(None),
        Err(AuthError::CannotTell) => Err(AuthError::CannotTell.into()),
    }
}

/// Asks the judge and notes how long it took.
pub(super) async fn timed<T>(judging: impl Future<Output = Result<T, AuthError>>) -> Result<T, AuthError> {
    let started = Instant::now();
    let outcome = judging.await;
    measure::judged(started.elapsed(), outcome.as_ref());
    outcome
}

/// What the handshake hands to the socket's task.
pub(super) struct Admitted {
    pub(super) registration: Registration,
    /// None while no credential was shown.
    pub(super) principal: Option<Principal>,
    pub(super) visitor: Visitor,
    pub(super) frame_pings: bool,
}

/// Two tasks, the second one after the upgrade, so that the socket's task does not keep the room that waiting for the
/// upgrade needs.
fn spawn(state: Arc<SocketState>, upgrade: OnUpgrade, admitted: Admitted) {
    let tasks = state.tasks.clone();
    tasks.clone().spawn(async move {
        let Ok(Ok(upgraded)) = timeout(UPGRADE_TIME, upgrade).await else {
            tracing::debug!("the client left before the upgrade");
            return;
        };
        // What our server hands over, without a layer in between.
        let Ok(parts) = upgraded.downcast::<TokioIo<Begun>>() else {
            tracing::error!("a socket that is no TCP connection");
            return;
        };
        let (stream, before) = parts.io.into_inner().into_parts();
        let already_read = [&before, &parts.read_buf[..]].concat();
        let wire = Wire::new(stream, &already_read, limits(&state));
        tasks.spawn(Connection::new(state, wire, admitted).run());
    });
}
