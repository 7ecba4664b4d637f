//! Failures as the outside sees them: RFC 9457 problem details. The one place that picks a failure's status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::auth::{AuthError, Denied};

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    challenge: Option<&'static str>,
    retry_after_seconds: Option<u64>,
}

impl Problem {
    /// A problem with this status, machine-readable code and a sentence for people. The detail never holds a secret.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), challenge: None, retry_after_seconds: None }
    }

    /// 400, malformed.
    #[must_use]
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 422, a value that is not allowed.
    #[must_use]
    pub fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 401 with `WWW-Authenticate: Bearer error="invalid_token"` (RFC 6750 section 3.1).
    #[must_use]
    pub fn invalid_token(detail: impl Into<String>) -> Self {
        Self {
            challenge: Some("Bearer error=\"invalid_token\""),
            ..Self::new(StatusCode::UNAUTHORIZED, "invalid_token", detail)
        }
    }

    /// 401 with a bare `WWW-Authenticate: Bearer`: no credential, or one that is no bearer token.
    #[must_use]
    pub fn unauthorized(code: &'static str, detail: impl Into<String>) -> Self {
        Self { challenge: Some("Bearer"), ..Self::new(StatusCode::UNAUTHORIZED, code, detail) }
    }

    /// 503 with `Retry-After`: the gateway cannot tell now.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::overloaded("unavailable", "The gateway cannot answer this right now. Try again shortly.", 1)
    }

    /// 503 with a reason of its own.
    #[must_use]
    pub fn overloaded(code: &'static str, detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        }
    }

    /// 429 with `Retry-After`.
    #[must_use]
    pub fn too_many_requests(detail: impl Into<String>, retry_after_seconds: u64) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds.max(1)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        }
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The machine-readable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::CannotTell => Self::unavailable(),
            AuthError::Denied(denied) => Self::invalid_token(match denied {
                Denied::Forged => "The token is not valid.",
                Denied::Expired => "The token has expired.",
                Denied::TokenRevoked => "The token was revoked.",
                Denied::Ended(_) => "The session has ended.",
                Denied::SessionExpired => "The session has expired.",
                Denied::Unknown => "The session is not known.",
                Denied::TicketSpent => "The ticket is not valid any more.",
            }),
        }
    }
}

/// The members of RFC 9457 section 3.1, and `code`.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Always `about:blank`: `code` tells problems apart.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The status in words.
    pub title: &'a str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, for people.
    pub detail: &'a str,
    /// What is wrong, for programs.
    pub code: &'a str,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
