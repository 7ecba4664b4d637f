//! Where a credential may ride in: header, subprotocol, ticket, cookie. Reads, never judges.
//!
//! Called by the HTTP handlers and by the socket's handshake (the token of `connect` is read by `protocol`). Explicit
//! credentials go before the ambient one: whoever shows a token means it, a cookie comes along unasked.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};

use crate::problem::Problem;
use crate::secret::{AccessToken, SessionSecret, Ticket};

/// In front of an access token among the subprotocols, where browsers can put one.
pub const BEARER_SUBPROTOCOL: &str = "portcullis.bearer.";

/// The session cookie's names: over https, and on plain http, where browsers refuse the prefix.
pub const COOKIE_NAMES: [&str; 2] = ["__Host-portcullis_session", "portcullis_session"];

/// A credential that was shown on purpose.
#[derive(Clone, Debug)]
pub enum Credential {
    /// An access token.
    Token(AccessToken),
    /// A single-use ticket.
    Ticket(Ticket),
}

impl Credential {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Token(one), Self::Token(other)) => one == other,
            (Self::Ticket(one), Self::Ticket(other)) => one.expose() == other.expose(),
            (Self::Token(_), Self::Ticket(_)) | (Self::Ticket(_), Self::Token(_)) => false,
        }
    }
}

/// Credentials that cannot be read, whatever they are worth. All are the client's mistake: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A header that may come once came twice.
    #[error("The header {0} may be sent only once.")]
    Repeated(&'static str),
    /// An `Authorization` header with bytes that no credential has.
    #[error("The Authorization header cannot be read.")]
    Unreadable,
    /// Two explicit credentials that differ: whose request is it?
    #[error("The request carries two credentials that differ.")]
    Conflicting,
    /// `?token=`: query strings end up in logs.
    #[error(
        "A token must not be sent in the query string. Use the Authorization header, the connect command or a ticket."
    )]
    TokenInQuery,
}

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        let code = match error {
            CredentialError::Repeated(_) | CredentialError::Unreadable => "invalid_request",
            CredentialError::Conflicting => "conflicting_credentials",
            CredentialError::TokenInQuery => "token_in_query",
        };
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 section 2.1). Another scheme counts as none, because a proxy in front
/// may use the header for itself; so does `Bearer` with nothing behind it.
pub fn bearer(headers: &HeaderMap) -> Result<Option<AccessToken>, CredentialError> {
    Ok(bearer_text(headers)?.map(AccessToken::new))
}

/// The same where it stands in the header, for the look-up that needs no copy.
pub fn bearer_text(headers: &HeaderMap) -> Result<Option<&str>, CredentialError> {
    let Some(value) = only(headers, &header::AUTHORIZATION, "Authorization")? else { return Ok(None) };
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let token = rest.trim();
    let found = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    Ok(found.then_some(token))
}

/// The cookie's name for clients that came this way. On https its prefix makes browsers refuse one that another host or
/// plain http has planted, so that the other name is not even looked at there.
#[must_use]
pub fn cookie_name(https: bool) -> &'static str {
    let [https_name, http_name] = COOKIE_NAMES;
    if https { https_name } else { http_name }
}

/// The session's secret from the cookie. A bad one, or two that differ, count as none.
#[must_use]
pub fn session_cookie(headers: &HeaderMap, https: bool) -> Option<SessionSecret> {
    let name = cookie_name(https);
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut found = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim());
    let first = found.next()?;
    found.all(|other| other == first).then(|| SessionSecret::parse(first)).flatten()
}

/// The explicit credential of a socket's handshake, `query` being the decoded query string.
pub fn explicit(headers: &HeaderMap, query: &[(String, String)]) -> Result<Option<Credential>, CredentialError> {
    if query.iter().any(|(name, _)| name == "token") {
        return Err(CredentialError::TokenInQuery);
    }
    let from_header = bearer(headers)?.map(Credential::Token);
    let from_subprotocols = subprotocols(headers)
        .filter_map(|name| name.strip_prefix(BEARER_SUBPROTOCOL))
        .map(|token| Credential::Token(AccessToken::new(token)));
    let from_query = query
        .iter()
        .filter(|(name, _)| name == "ticket")
        .map(|(_, value)| Credential::Ticket(Ticket::new(value.as_str())));
    let mut all = from_header.into_iter().chain(from_subprotocols).chain(from_query);
    let Some(first) = all.next() else { return Ok(None) };
    if all.all(|other| first.is_same(&other)) { Ok(Some(first)) } else { Err(CredentialError::Conflicting) }
}

/// The subprotocols that a handshake offers, in its order.
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    lists.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

fn only<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<&'a str>, CredentialError> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| CredentialError::Unreadable),
        (Some(_), Some(_)) => Err(CredentialError::Repeated(shown)),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    fn appended(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).expect("a value"));
        }
        map
    }

    fn shown(found: &Credential) -> &str {
        match found {
            Credential::Token(token) => token.expose(),
            Credential::Ticket(ticket) => ticket.expose(),
        }
    }

    fn ticket(value: &str) -> Vec<(String, String)> {
        vec![("ticket".into(), value.into())]
    }

    #[test]
    fn a_bearer_token_is_read_whatever_the_case_of_its_scheme() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c"] {
            let token = bearer(&headers(&[("authorization", value)])).expect("readable").expect("a token");
            assert_eq!(token.expose(), "a.b.c");
        }
    }

    #[test]
    fn another_scheme_and_an_empty_bearer_count_as_none() {
        for value in ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "a.b.c", ""] {
            assert!(bearer(&headers(&[("authorization", value)])).expect("readable").is_none(), "{value}");
        }
        assert!(bearer(&HeaderMap::new()).expect("readable").is_none());
    }

    #[test]
    fn two_authorization_headers_are_refused_even_when_they_agree() {
        let twice = appended(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(bearer(&twice).expect_err("refused"), CredentialError::Repeated("Authorization"));
    }

    #[test]
    fn the_cookie_is_the_one_of_the_transport() {
        let (secret, other) = (SessionSecret::random(), SessionSecret::random());
        let line = format!("a=b; portcullis_session={}; __Host-portcullis_session={}", secret.expose(), other.expose());
        let headers = headers(&[("cookie", &line)]);
        assert_eq!(session_cookie(&headers, false), Some(secret.clone()));
        assert_eq!(session_cookie(&headers, true), Some(other));
        // Planted by a neighbouring host, over plain http.
        let planted = self::headers(&[("cookie", &format!("portcullis_session={}", secret.expose()))]);
        assert_eq!(session_cookie(&planted, true), None);
    }

    #[test]
    fn a_bad_cookie_counts_as_none() {
        let (secret, other) = (SessionSecret::random().expose(), SessionSecret::random().expose());
        for line in [
            "portcullis_session=".to_owned(),
            "portcullis_session=x".to_owned(),
            format!("portcullis_sessio={secret}"),
            format!("portcullis_session={secret}; portcullis_session={other}"),
        ] {
            assert_eq!(session_cookie(&headers(&[("cookie", &line)]), false), None, "{line}");
        }
        let twice = format!("portcullis_session={secret}; portcullis_session={secret}");
        assert!(session_cookie(&headers(&[("cookie", &twice)]), false).is_some());
    }

    #[test]
    fn a_token_rides_in_a_subprotocol() {
        let offered = headers(&[("sec-websocket-protocol", "portcullis.bearer.a.b.c, portcullis.v1")]);
        assert_eq!(shown(&explicit(&offered, &[]).expect("readable").expect("one")), "a.b.c");
    }

    #[test]
    fn credentials_that_agree_are_one_and_others_conflict() {
        let both = headers(&[("authorization", "Bearer a.b.c"), ("sec-websocket-protocol", "portcullis.bearer.a.b.c")]);
        assert_eq!(shown(&explicit(&both, &[]).expect("readable").expect("one")), "a.b.c");
        let differ = headers(&[("authorization", "Bearer a.b.c"), ("sec-websocket-protocol", "portcullis.bearer.x")]);
        assert_eq!(explicit(&differ, &[]).expect_err("refused"), CredentialError::Conflicting);
        assert_eq!(explicit(&both, &ticket("a.b.c")).expect_err("refused"), CredentialError::Conflicting);
        let tickets = [ticket("one"), ticket("other")].concat();
        assert_eq!(explicit(&HeaderMap::new(), &tickets).expect_err("refused"), CredentialError::Conflicting);
    }

    #[test]
    fn a_token_in_the_query_is_refused_beside_any_other() {
        let query = [("token".to_owned(), String::new())];
        assert_eq!(explicit(&HeaderMap::new(), &query).expect_err("refused"), CredentialError::TokenInQuery);
        let header = headers(&[("authorization", "Bearer a")]);
        assert_eq!(explicit(&header, &query).expect_err("refused"), CredentialError::TokenInQuery);
    }

    #[test]
    fn credentials_do_not_print() {
        assert!(!format!("{:?}", Credential::Token(AccessToken::new("a.b.c"))).contains("a.b.c"));
        assert!(!format!("{:?}", Credential::Ticket(Ticket::new("sealed"))).contains("sealed"));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(name in 0..3_usize, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let name = ["authorization", "cookie", "sec-websocket-protocol"][name];
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut map = HeaderMap::new();
                map.insert(name, value);
                let _ = (explicit(&map, &[]), session_cookie(&map, false));
            }
        }
    }
}
