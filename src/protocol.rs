//! The wire: the Centrifuge client protocol, version 2, JSON encoding. Commands, replies, pushes, close codes.
//!
//! Called by the socket, which does the I/O. Nothing here waits, judges or knows a connection.

mod close;

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::ConnectionId;
use crate::secret::AccessToken;

pub use close::Close;

/// The heartbeat, in both directions.
pub const HEARTBEAT: &str = "{}";

/// One line from a client.
#[derive(Debug)]
pub enum Line<'a> {
    /// `{}`: the answer to a heartbeat.
    Pong,
    /// `send`, which has no reply.
    Send,
    /// Anything that is answered.
    Command {
        /// Never 0.
        id: u32,
        /// What is asked for.
        request: Request<'a>,
    },
}

/// What a command asks for.
#[derive(Debug)]
pub enum Request<'a> {
    /// `connect`, with its token when there is one that is not empty.
    Connect(Option<AccessToken>),
    /// `refresh`, likewise.
    Refresh(Option<AccessToken>),
    /// `rpc`.
    Rpc {
        /// The method; empty when absent.
        method: Cow<'a, str>,
        /// Its argument as it came.
        data: Option<&'a RawValue>,
    },
    /// `ping`.
    Ping,
    /// One of the channel commands.
    Channel,
}

/// A line that is no command of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read a command")]
pub struct Malformed;

/// A command as it stands on the wire. Fields that we do not know are ignored, as the protocol grows by adding some.
#[derive(Deserialize)]
struct RawCommand<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<&'a RawValue>,
    #[serde(borrow)]
    refresh: Option<&'a RawValue>,
    #[serde(borrow)]
    rpc: Option<&'a RawValue>,
    #[serde(borrow)]
    ping: Option<&'a RawValue>,
    #[serde(borrow)]
    send: Option<&'a RawValue>,
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    unsubscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    presence_stats: Option<&'a RawValue>,
    #[serde(borrow)]
    history: Option<&'a RawValue>,
    #[serde(borrow)]
    sub_refresh: Option<&'a RawValue>,
}

#[derive(Clone, Copy)]
enum Kind {
    Connect,
    Refresh,
    Rpc,
    Ping,
    Send,
    Channel,
}

#[derive(Deserialize)]
struct TokenHolder {
    // Not &str: JSON may write any character as an escape.
    token: Option<String>,
}

#[derive(Deserialize)]
struct RpcCall<'a> {
    #[serde(borrow, default)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Reads one line. An empty one is malformed too.
pub fn parse(line: &str) -> Result<Line<'_>, Malformed> {
    let line = line.trim_matches([' ', '\t', '\r']);
    // Serde would read a struct from an array as well.
    let inside = line.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or(Malformed)?;
    if inside.trim_matches([' ', '\t', '\r']).is_empty() {
        return Ok(Line::Pong);
    }
    let raw: RawCommand<'_> = serde_json::from_str(line).map_err(|_| Malformed)?;
    let (kind, body) = raw.only_request()?;
    match (kind, raw.id) {
        (Kind::Send, _) => Ok(Line::Send),
        (_, 0) => Err(Malformed),
        (kind, id) => Ok(Line::Command { id, request: request(kind, body)? }),
    }
}

impl<'a> RawCommand<'a> {
    /// The one request in the command: none is malformed, and so are two, of which one would be ignored in silence.
    fn only_request(&self) -> Result<(Kind, &'a str), Malformed> {
        let mut present = [
            (Kind::Connect, self.connect),
            (Kind::Refresh, self.refresh),
            (Kind::Rpc, self.rpc),
            (Kind::Ping, self.ping),
            (Kind::Send, self.send),
            (Kind::Channel, self.subscribe),
            (Kind::Channel, self.unsubscribe),
            (Kind::Channel, self.publish),
            (Kind::Channel, self.presence),
            (Kind::Channel, self.presence_stats),
            (Kind::Channel, self.history),
            (Kind::Channel, self.sub_refresh),
        ]
        .into_iter()
        .filter_map(|(kind, body)| Some((kind, body?.get())));
        match (present.next(), present.next()) {
            (Some((kind, body)), None) if body.starts_with('{') => Ok((kind, body)),
            _ => Err(Malformed),
        }
    }
}

fn request(kind: Kind, body: &str) -> Result<Request<'_>, Malformed> {
    Ok(match kind {
        Kind::Connect => Request::Connect(token(body)?),
        Kind::Refresh => Request::Refresh(token(body)?),
        Kind::Rpc => {
            let call: RpcCall<'_> = serde_json::from_str(body).map_err(|_| Malformed)?;
            Request::Rpc { method: call.method, data: call.data }
        }
        Kind::Ping => Request::Ping,
        Kind::Send | Kind::Channel => Request::Channel,
    })
}

fn token(body: &str) -> Result<Option<AccessToken>, Malformed> {
    let holder: TokenHolder = serde_json::from_str(body).map_err(|_| Malformed)?;
    Ok(holder.token.filter(|token| !token.is_empty()).map(AccessToken::new))
}

/// An error in a reply. Codes and texts are those of the reference server, so that SDKs know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ReplyError {
    /// What programs look at.
    pub code: u16,
    /// What people look at.
    pub message: &'static str,
    /// Worth another try.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub temporary: bool,
}

impl ReplyError {
    /// 100: ours, or cannot tell now.
    pub const INTERNAL: Self = Self { code: 100, message: "internal server error", temporary: true };
    /// 101.
    pub const UNAUTHORIZED: Self = Self::lasting(101, "unauthorized");
    /// 103.
    pub const PERMISSION_DENIED: Self = Self::lasting(103, "permission denied");
    /// 104.
    pub const METHOD_NOT_FOUND: Self = Self::lasting(104, "method not found");
    /// 106.
    pub const LIMIT_EXCEEDED: Self = Self::lasting(106, "limit exceeded");
    /// 107.
    pub const BAD_REQUEST: Self = Self::lasting(107, "bad request");
    /// 108.
    pub const NOT_AVAILABLE: Self = Self::lasting(108, "not available");
    /// 109: SDKs fetch a new token upon it.
    pub const TOKEN_EXPIRED: Self = Self::lasting(109, "token expired");
    /// 111.
    pub const TOO_MANY_REQUESTS: Self = Self { code: 111, message: "too many requests", temporary: true };

    const fn lasting(code: u16, message: &'static str) -> Self {
        Self { code, message, temporary: false }
    }
}

/// What `connect` and `refresh` answer.
#[derive(Clone, Debug, Serialize)]
pub struct Admission {
    /// The connection's id.
    pub client: ConnectionId,
    /// The gateway's version.
    pub version: &'static str,
    /// There is a token to refresh.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub expires: bool,
    /// When to refresh it, in seconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Seconds between heartbeats; `connect` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping: Option<u32>,
    /// Heartbeats are to be answered; `connect` only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pong: bool,
}

/// When to refresh a token with `remaining` seconds of life: a fifth of it earlier than its end, at most 30 s earlier.
#[must_use]
pub fn refresh_ttl(remaining: i64) -> u32 {
    let ttl = if remaining > 150 { remaining - 30 } else { remaining * 4 / 5 };
    u32::try_from(ttl).unwrap_or(if ttl < 0 { 1 } else { u32::MAX }).max(1)
}

#[derive(Serialize, Default)]
struct Reply<T> {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ReplyError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Admission>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh: Option<Admission>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc: Option<RpcResult<T>>,
}

#[derive(Serialize)]
struct RpcResult<T> {
    data: T,
}

fn write<T: Serialize>(value: &T) -> String {
    // Our own types write themselves; a failure would be a map with a key that is no string, and there is none.
    serde_json::to_string(value).unwrap_or_default()
}

fn reply() -> Reply<()> {
    Reply::default()
}

/// The answer to `connect`.
#[must_use]
pub fn connect_reply(id: u32, admission: Admission) -> String {
    write(&Reply { id, connect: Some(admission), ..reply() })
}

/// The answer to `refresh`.
#[must_use]
pub fn refresh_reply(id: u32, admission: Admission) -> String {
    write(&Reply { id, refresh: Some(admission), ..reply() })
}

/// The answer to `rpc`.
#[must_use]
pub fn rpc_reply<T: Serialize>(id: u32, data: &T) -> String {
    write(&Reply { id, error: None, connect: None, refresh: None, rpc: Some(RpcResult { data }) })
}

/// The answer to `ping`.
#[must_use]
pub fn ping_reply(id: u32) -> String {
    format!("{{\"id\":{id},\"ping\":{{}}}}")
}

/// An answer that says what went wrong.
#[must_use]
pub fn error_reply(id: u32, error: ReplyError) -> String {
    write(&Reply { id, error: Some(error), ..reply() })
}

/// The push before the close frame of a forced disconnect.
#[must_use]
pub fn disconnect_push(close: Close) -> String {
    format!(
        "{{\"push\":{{\"disconnect\":{{\"code\":{},\"reason\":\"{}\",\"reconnect\":{}}}}}}}",
        close.code,
        close.reason,
        close.reconnects()
    )
}

/// The push that tells a user's sockets of a change of the profile.
#[must_use]
pub fn user_updated_push(user: &impl Serialize) -> Arc<str> {
    write(&serde_json::json!({"push": {"message": {"data": {"type": "user.updated", "user": user}}}})).into()
}

#[cfg(test)]
mod tests;
