//! The server's half of the opening handshake, RFC 6455 section 4.2. No I/O; knows no credentials.

use axum::extract::Query;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::credentials::{BEARER_SUBPROTOCOL, subprotocols};
use crate::problem::Problem;

const OWN_SUBPROTOCOL: &str = "portcullis.v1";
const CENTRIFUGE_JSON: &str = "centrifuge-json";
const CENTRIFUGE_PROTOBUF: &str = "centrifuge-protobuf";

/// A handshake that keeps to the RFC, and what it asks for. Holds nothing of the request, whose headers share one
/// buffer with all that hyper has read.
#[derive(Debug)]
pub struct Offer {
    /// `Sec-WebSocket-Accept`.
    accept: String,
    /// What the answer selects.
    subprotocol: Option<&'static str>,
    /// The client wants the pings of RFC 6455 instead of `{}`.
    pub frame_pings: bool,
    /// The decoded query string.
    pub query: Vec<(String, String)>,
}

/// A request that is no handshake we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not a GET.
    Method,
    /// Nothing that asks for a WebSocket.
    NoUpgrade,
    /// A version other than 13.
    Version,
    /// Something else that the RFC demands.
    Malformed(&'static str),
    /// Protobuf.
    Encoding,
}

impl Offer {
    /// Reads the request's head.
    ///
    /// # Errors
    /// [`Refused`], which is an answer too.
    pub fn read(parts: &Parts) -> Result<Self, Refused> {
        if parts.method != Method::GET {
            return Err(Refused::Method);
        }
        let headers = &parts.headers;
        let asks_upgrade =
            lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket");
        if parts.version != Version::HTTP_11 || !asks_upgrade {
            return Err(Refused::NoUpgrade);
        }
        if single(headers, &header::SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(Refused::Version);
        }
        let key = single(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_nonce(key));
        let key = key.ok_or(Refused::Malformed("Sec-WebSocket-Key must be 16 bytes in base64, once."))?;
        let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| Refused::Malformed("The query string cannot be read."))?
            .0;
        let asks = |name: &str, value: &str| query.iter().any(|pair| pair.0 == name && pair.1 == value);
        if asks("format", "protobuf") || asks("cf_protocol", "protobuf") {
            return Err(Refused::Encoding);
        }
        Ok(Self {
            accept: derive_accept_key(key.as_bytes()),
            subprotocol: select(headers)?,
            frame_pings: asks("cf_ws_frame_ping_pong", "true"),
            query,
        })
    }

    /// 101.
    #[must_use]
    pub fn accept(&self) -> Response {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(subprotocol) = self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        }
        response
    }
}

/// Picks the subprotocol. With a token among them it is ours, so that the token is never echoed.
fn select(headers: &HeaderMap) -> Result<Option<&'static str>, Refused> {
    let offers = |wanted: &str| subprotocols(headers).any(|name| name == wanted);
    let has_token = subprotocols(headers).any(|name| name.starts_with(BEARER_SUBPROTOCOL));
    if offers(CENTRIFUGE_JSON) && !(has_token && offers(OWN_SUBPROTOCOL)) {
        return Ok(Some(CENTRIFUGE_JSON));
    }
    if offers(CENTRIFUGE_PROTOBUF) {
        return Err(Refused::Encoding);
    }
    Ok(offers(OWN_SUBPROTOCOL).then_some(OWN_SUBPROTOCOL))
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_nonce(key: &str) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Method => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "A WebSocket is opened with GET.")
            }
            Refused::NoUpgrade => Self::new(
                StatusCode::UPGRADE_REQUIRED,
                "upgrade_required",
                "This address takes WebSocket handshakes over HTTP/1.1 only.",
            ),
            Refused::Version => Self::new(
                StatusCode::UPGRADE_REQUIRED,
                "unsupported_version",
                "Only version 13 of the WebSocket protocol is spoken here.",
            ),
            Refused::Malformed(detail) => Self::bad_request("bad_handshake", detail),
            Refused::Encoding => Self::bad_request("unsupported_encoding", "Only the JSON encoding is spoken here."),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = Problem::from(self).into_response();
        let headers = response.headers_mut();
        match self {
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            Self::NoUpgrade | Self::Version => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::Malformed(_) | Self::Encoding => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn parts(path: &str, change: impl FnOnce(&mut HeaderMap)) -> Parts {
        let request = Request::get(path)
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut parts = request.body(()).expect("a request").into_parts().0;
        change(&mut parts.headers);
        parts
    }

    fn offered(list: &'static str) -> Result<Option<&'static str>, Refused> {
        let parts = parts("/ws", |headers| {
            headers.insert("sec-websocket-protocol", HeaderValue::from_static(list));
        });
        Offer::read(&parts).map(|offer| offer.subprotocol)
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let offer = Offer::read(&parts("/ws", |_| {})).expect("a handshake");
        let response = offer.accept();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!response.headers().contains_key("sec-websocket-protocol"));
    }

    #[test]
    fn what_the_rfc_demands_is_demanded() {
        let without =
            |name: &'static str| Offer::read(&parts("/ws", |headers| drop(headers.remove(name)))).expect_err(name);
        assert_eq!(without("connection"), Refused::NoUpgrade);
        assert_eq!(without("upgrade"), Refused::NoUpgrade);
        assert_eq!(without("sec-websocket-version"), Refused::Version);
        assert!(matches!(without("sec-websocket-key"), Refused::Malformed(_)));
        for key in ["", "dGhlIHNhbXBsZSBub25jZQ", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZSBvZiBsZW5ndGg="] {
            let parts = parts("/ws", |headers| {
                headers.insert("sec-websocket-key", HeaderValue::from_static(key));
            });
            assert!(matches!(Offer::read(&parts), Err(Refused::Malformed(_))), "{key}");
        }
        let twice = parts("/ws", |headers| {
            headers.append("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        });
        assert!(matches!(Offer::read(&twice), Err(Refused::Malformed(_))));
        let mut posted = parts("/ws", |_| {});
        posted.method = Method::POST;
        assert_eq!(Offer::read(&posted).expect_err("POST"), Refused::Method);
        let mut old = parts("/ws", |_| {});
        old.version = Version::HTTP_10;
        assert_eq!(Offer::read(&old).expect_err("HTTP/1.0"), Refused::NoUpgrade);
    }

    #[test]
    fn a_refusal_says_what_is_spoken() {
        let response = Refused::Version.into_response();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["sec-websocket-version"]),
            (426, &HeaderValue::from_static("13"))
        );
    }

    #[test]
    fn the_token_among_the_subprotocols_is_never_selected() {
        assert_eq!(offered("portcullis.bearer.a.b.c, portcullis.v1"), Ok(Some("portcullis.v1")));
        assert_eq!(offered("portcullis.bearer.a.b.c, portcullis.v1, centrifuge-json"), Ok(Some("portcullis.v1")));
        assert_eq!(offered("portcullis.bearer.a.b.c, centrifuge-json"), Ok(Some("centrifuge-json")));
        assert_eq!(offered("portcullis.bearer.a.b.c"), Ok(None));
        assert_eq!(offered("centrifuge-json"), Ok(Some("centrifuge-json")));
        assert_eq!(offered("something-else"), Ok(None));
    }

    #[test]
    fn protobuf_is_refused_unless_json_is_offered_too() {
        assert_eq!(offered("centrifuge-protobuf"), Err(Refused::Encoding));
        assert_eq!(offered("centrifuge-protobuf, centrifuge-json"), Ok(Some("centrifuge-json")));
        for path in ["/ws?format=protobuf", "/ws?cf_protocol=protobuf", "/ws?a=1&format=%70rotobuf"] {
            assert_eq!(Offer::read(&parts(path, |_| {})).expect_err(path), Refused::Encoding);
        }
        let offer = Offer::read(&parts("/ws?format=json&cf_ws_frame_ping_pong=true", |_| {})).expect("a handshake");
        assert!(offer.frame_pings);
    }
}
