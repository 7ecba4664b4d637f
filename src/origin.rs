//! Where a browser's request comes from: the one exact allow-list behind CORS, the Origin check and the CSRF defence.

use axum::http::HeaderMap;

/// Origins (RFC 6454) whose pages may act with a user's ambient credentials.
#[derive(Clone, Debug)]
pub struct AllowedOrigins {
    listed: std::sync::Arc<[String]>,
}

#[allow(unused_variables, clippy::todo)]
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
        todo!()
    }

    /// Whether a call that a cookie authorises may have come from an allowed page: by `Origin`, else by
    /// `Sec-Fetch-Site`, else by the presence of the header `X-Requested-With` (CSRF defence).
    #[must_use]
    pub fn allows_cookie_call(&self, headers: &HeaderMap) -> bool {
        todo!()
    }
}
