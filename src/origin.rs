//! Where a browser's request comes from: the one exact allow-list behind CORS, the Origin check and the CSRF defence.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Origins (RFC 6454) whose pages may act with a user's ambient credentials.
#[derive(Clone, Debug)]
pub struct AllowedOrigins {
    listed: std::sync::Arc<[String]>,
}

impl AllowedOrigins {
    /// `listed` as configured; empty means same origin only.
    #[must_use]
    pub fn new(listed: &[String]) -> Self {
        Self { listed: listed.into() }
    }

    /// Whether the request's `Origin` header names an allowed origin: on the list, or, without a list, the host this
    /// request was sent to. A missing, `null`, repeated or look-alike Origin is not allowed.
    #[must_use]
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        match (only(headers, &header::ORIGIN), self.listed.is_empty()) {
            (None, _) => false,
            (Some(origin), false) => self.listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes()),
            (Some(origin), true) => is_same_origin(origin, headers),
        }
    }

    /// Whether a call that a cookie authorises may have come from an allowed page: by `Origin`, else by
    /// `Sec-Fetch-Site`, else by the presence of the header `X-Requested-With` (CSRF defence).
    #[must_use]
    pub fn allows_cookie_call(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(header::ORIGIN) {
            return self.allows(headers);
        }
        match site(headers) {
            Some(site) => site.is_ours(),
            // No other site's page can add it without a preflight, which the allow-list decides.
            None => headers.contains_key(REQUESTED_WITH),
        }
    }

    /// The same for a call whose answer sets the cookie and that brings its own credential: a login. Programs send none
    /// of these headers and hold no cookies of other people; a browser on a foreign page could be logged in as somebody
    /// else (login CSRF).
    #[must_use]
    pub fn allows_cookie_setting(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(header::ORIGIN) {
            return self.allows(headers);
        }
        site(headers).is_none_or(Site::is_ours)
    }

    /// The same for a call that changes nothing and whose answer no other page can read: forward-auth. A browser may
    /// follow a link from anywhere, and clients that send none of these headers are no victims of a foreign page.
    #[must_use]
    pub fn allows_cookie_read(&self, headers: &HeaderMap) -> bool {
        if headers.contains_key(header::ORIGIN) {
            return self.allows(headers);
        }
        site(headers).is_none_or(|site| site.is_ours() || is_navigation(headers))
    }
}

/// What `Sec-Fetch-Site` says (Fetch Metadata).
#[derive(Clone, Copy)]
enum Site {
    SameOrigin,
    /// The user did it: the address bar, a bookmark.
    UserInitiated,
    /// Another origin, also one of the same site: the allow-list is exact.
    Foreign,
}

impl Site {
    fn is_ours(self) -> bool {
        matches!(self, Self::SameOrigin | Self::UserInitiated)
    }
}

fn site(headers: &HeaderMap) -> Option<Site> {
    headers.contains_key(SEC_FETCH_SITE).then(|| match only(headers, &SEC_FETCH_SITE).map(HeaderValue::as_bytes) {
        Some(b"same-origin") => Site::SameOrigin,
        Some(b"none") => Site::UserInitiated,
        _ => Site::Foreign,
    })
}

fn is_navigation(headers: &HeaderMap) -> bool {
    only(headers, &SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate")
}

/// The header's value when it is there exactly once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// TLS ends before us, so the scheme we are reached by is not known; it is taken from the Origin, and the ports must fit.
fn is_same_origin(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let (Some(host), Ok(origin)) = (only(headers, &header::HOST), origin.to_str()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let (authority, default_port) = match origin.split_once("://") {
        Some(("http", authority)) => (authority, 80),
        Some(("https", authority)) => (authority, 443),
        _ => return false,
    };
    let (ours, theirs) = (host_and_port(host, default_port), host_and_port(authority, default_port));
    match (ours, theirs) {
        (Some((our_host, our_port)), Some((host, port))) => our_host.eq_ignore_ascii_case(host) && our_port == port,
        _ => false,
    }
}

/// Splits `host[:port]`, IPv6 in brackets. `None` for what is neither.
fn host_and_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    let end_of_host = match authority.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(end_of_host);
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_host) {
        return None;
    }
    match port.strip_prefix(':') {
        None => port.is_empty().then_some((host, default_port)),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some((host, digits.parse().ok()?)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn listed(origin: &str) -> bool {
        let allowed = AllowedOrigins::new(&["https://app.example".into(), "http://localhost:5173".into()]);
        allowed.allows(&headers(&[("host", "gateway.example"), ("origin", origin)]))
    }

    fn same(host: &str, origin: &str) -> bool {
        AllowedOrigins::new(&[]).allows(&headers(&[("host", host), ("origin", origin)]))
    }

    #[test]
    fn only_the_exact_origin_on_the_list_is_allowed() {
        assert!(listed("https://app.example"));
        assert!(listed("http://localhost:5173"));
        for foreign in [
            "https://app.example.evil.example",
            "https://evilapp.example",
            "https://app.exampl",
            "http://app.example",
            "https://app.example:444",
            "https://app.example/",
            "https://APP.example",
            "https://user@app.example",
            "http://localhost:51730",
            "http://localhost",
            "null",
            "",
            "*",
            // With a list, one's own host is allowed only when it is on it.
            "https://gateway.example",
        ] {
            assert!(!listed(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_missing_or_repeated_origin_is_not_allowed() {
        let allowed = AllowedOrigins::new(&["https://app.example".into()]);
        assert!(!allowed.allows(&headers(&[])));
        assert!(!allowed.allows(&headers(&[("origin", "https://app.example"), ("origin", "https://app.example")])));
    }

    #[test]
    fn without_a_list_only_the_host_itself_is_allowed() {
        assert!(same("127.0.0.1:8000", "http://127.0.0.1:8000"));
        assert!(same("gate.example", "https://gate.example"));
        assert!(same("gate.example", "http://gate.example"));
        assert!(same("gate.example:443", "https://gate.example"));
        assert!(same("Gate.Example", "https://gate.example"));
        assert!(same("[::1]:8000", "http://[::1]:8000"));
        assert!(same("[::1]", "http://[::1]:80"));
    }

    #[test]
    fn without_a_list_ports_and_look_alikes_differ() {
        for (host, origin) in [
            ("127.0.0.1:8000", "http://127.0.0.1:8001"),
            ("127.0.0.1:8000", "http://127.0.0.1"),
            ("gate.example:80", "https://gate.example"),
            ("gate.example", "https://gate.example.evil.example"),
            ("gate.example", "https://evil.example"),
            ("gate.example", "https://x@gate.example"),
            ("gate.example", "https://gate.example/"),
            ("gate.example", "ftp://gate.example"),
            ("gate.example", "gate.example"),
            ("gate.example", "null"),
            ("gate.example", "https://"),
            ("[::1]:8000", "http://[::2]:8000"),
            ("[::1]:8000", "http://[::1"),
            ("gate.example:+80", "http://gate.example"),
            ("", "http://"),
        ] {
            assert!(!same(host, origin), "{origin} at {host}");
        }
    }

    #[test]
    fn a_cookie_call_needs_proof_of_an_allowed_page() {
        let allowed = AllowedOrigins::new(&["https://app.example".into()]);
        for own in [
            vec![("origin", "https://app.example")],
            vec![("origin", "https://app.example"), ("sec-fetch-site", "cross-site")],
            vec![("sec-fetch-site", "same-origin")],
            vec![("sec-fetch-site", "none")],
            vec![("x-requested-with", "fetch")],
        ] {
            assert!(allowed.allows_cookie_call(&headers(&own)), "{own:?}");
        }
        for foreign in [
            vec![],
            vec![("origin", "https://evil.example"), ("x-requested-with", "fetch")],
            vec![("origin", "null"), ("sec-fetch-site", "same-origin")],
            vec![("sec-fetch-site", "same-site")],
            vec![("sec-fetch-site", "cross-site"), ("x-requested-with", "fetch")],
            vec![("sec-fetch-site", "same-origin"), ("sec-fetch-site", "same-origin")],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        ] {
            assert!(!allowed.allows_cookie_call(&headers(&foreign)), "{foreign:?}");
        }
    }

    #[test]
    fn a_login_may_come_from_a_program_but_from_no_foreign_page() {
        let allowed = AllowedOrigins::new(&["https://app.example".into()]);
        for own in [vec![], vec![("origin", "https://app.example")], vec![("sec-fetch-site", "same-origin")]] {
            assert!(allowed.allows_cookie_setting(&headers(&own)), "{own:?}");
        }
        for foreign in [
            vec![("origin", "https://evil.example")],
            vec![("origin", "null")],
            vec![("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
            vec![("sec-fetch-site", "same-site"), ("x-requested-with", "fetch")],
        ] {
            assert!(!allowed.allows_cookie_setting(&headers(&foreign)), "{foreign:?}");
        }
    }

    #[test]
    fn a_read_may_be_a_link_from_elsewhere_but_no_foreign_script() {
        let allowed = AllowedOrigins::new(&["https://app.example".into()]);
        assert!(allowed.allows_cookie_read(&headers(&[])));
        assert!(
            allowed.allows_cookie_read(&headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]))
        );
        assert!(
            !allowed.allows_cookie_read(&headers(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")]))
        );
        assert!(!allowed.allows_cookie_read(&headers(&[("origin", "https://evil.example")])));
    }
}
