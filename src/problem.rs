//! Failures as the outside sees them: RFC 9457 problem details. The one place that picks a failure's status.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::accounts::{AccountError, NotAllowed};
use crate::auth::{AuthError, Denied};
use crate::operator::{OperatorError, Permission};
use crate::password::HashError;
use crate::store::StoreError;

/// A failure on its way to the client.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
    challenge: Option<&'static str>,
    retry_after_seconds: Option<u64>,
    /// Boxed, because almost always there are none.
    headers: Option<Box<HeaderMap>>,
}

impl Problem {
    /// A problem with this status, machine-readable code and a sentence for people. The detail never holds a secret.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            field: None,
            challenge: None,
            retry_after_seconds: None,
            headers: None,
        }
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

    /// 403, the cookie was good but the call may come from a page of somebody else (CSRF).
    #[must_use]
    pub fn csrf() -> Self {
        let detail = "A call that a cookie alone authorises, or that sets the cookie, must come from an allowed page: by Origin, Sec-Fetch-Site, or the header X-Requested-With.";
        Self::new(StatusCode::FORBIDDEN, "csrf", detail)
    }

    /// 404, nothing is here.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 500, ours. The detail says nothing of the inside.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side.")
    }

    /// The same problem with the name of the field it is about.
    #[must_use]
    pub fn about(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// The same problem with one more header in its answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
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

    /// 403, a key of the admin API that is good, but not for this (RFC 6750 section 3.1).
    #[must_use]
    pub fn insufficient_scope(needed: Permission) -> Self {
        let detail = format!("The key lacks the scope {}.", needed.as_str());
        Self { challenge: Some(needed.challenge()), ..Self::new(StatusCode::FORBIDDEN, "insufficient_scope", detail) }
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

    /// The same problem with `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
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
                Denied::Ended(_) | Denied::Replayed { .. } => "The session has ended.",
                Denied::SessionExpired => "The session has expired.",
                Denied::Unknown => "The session is not known.",
                Denied::TicketSpent => "The ticket is not valid any more.",
            }),
        }
    }
}

impl From<NotAllowed> for Problem {
    fn from(refused: NotAllowed) -> Self {
        Self::unprocessable(refused.code, refused.detail).about(refused.field)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "failed to answer from the database");
        Self::unavailable()
    }
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        tracing::warn!(%error, "failed to hash a password");
        match error {
            HashError::Busy => Self::overloaded("busy", "Too many logins at once. Try again shortly.", 1),
            HashError::Broken => Self::unavailable(),
        }
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotAllowed(refused) => refused.into(),
            AccountError::EmailTaken => {
                Self::new(StatusCode::CONFLICT, "email_taken", "There is an account with this e-mail address.")
                    .about("email")
            }
            AccountError::InvalidCredentials => {
                Self::unauthorized("invalid_credentials", "The e-mail address or the password is wrong.")
            }
            AccountError::Disabled => Self::new(StatusCode::FORBIDDEN, "account_disabled", "The account is disabled."),
            // Not a 401: that would log the page out.
            AccountError::InvalidCurrentPassword => {
                let detail = "The current password is wrong.";
                Self::new(StatusCode::FORBIDDEN, "invalid_current_password", detail).about("current_password")
            }
            AccountError::Stranger => Self::too_many_requests("Too many attempts. Try again later.", 60),
            // Not a 401: the session is good, where it belongs.
            AccountError::FromElsewhere => {
                let detail = "The session was begun elsewhere. Log in again to use it from here.";
                Self::new(StatusCode::FORBIDDEN, "reauthentication_required", detail)
            }
            AccountError::Denied(denied) => AuthError::Denied(denied).into(),
            AccountError::CannotTell => Self::unavailable(),
            AccountError::Hash(error) => error.into(),
            AccountError::Store(error) => error.into(),
        }
    }
}

impl From<OperatorError> for Problem {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::NoSuchUser => Self::new(StatusCode::NOT_FOUND, "no_such_user", "There is no such user."),
            OperatorError::NoSuchSession => {
                Self::new(StatusCode::NOT_FOUND, "no_such_session", "There is no such session.")
            }
            OperatorError::NoSuchKey => {
                let detail = "There is no such key, or it is not good any more.";
                Self::new(StatusCode::NOT_FOUND, "no_such_key", detail)
            }
            OperatorError::MoreThanOwn(scope) => {
                let detail = format!("A key cannot give the scope {scope}, which it does not have itself.");
                Self::new(StatusCode::FORBIDDEN, "more_than_own", detail).about("scopes")
            }
            OperatorError::NotAllowed { field, detail } => Self::unprocessable("invalid_field", detail).about(field),
            OperatorError::CannotTell => Self::unavailable(),
            OperatorError::Store(error) => error.into(),
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
    /// The field of the request that is to blame, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'a str>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = ProblemDocument {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            field: self.field.as_deref(),
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.extend(self.headers.into_iter().flat_map(|more| *more));
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

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    async fn shown(problem: Problem) -> (Response<()>, serde_json::Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_problem_is_a_document_for_people_and_programs() {
        let (response, document) = shown(Problem::unprocessable("invalid_field", "Too long.").about("full_name")).await;
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let expected = serde_json::json!({
            "type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "Too long.",
            "code": "invalid_field", "field": "full_name",
        });
        assert_eq!(document, expected);
    }

    #[tokio::test]
    async fn trouble_of_ours_is_503_and_says_when_to_come_back() {
        for problem in [
            Problem::from(AuthError::CannotTell),
            Problem::from(AccountError::CannotTell),
            Problem::from(StoreError::Unavailable("x".into())),
            Problem::from(StoreError::Corrupt("x".into())),
            Problem::from(HashError::Busy),
            Problem::from(HashError::Broken),
        ] {
            let (response, document) = shown(problem).await;
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
            assert!(!document.to_string().contains('x') || !document["detail"].as_str().unwrap().contains(": x"));
        }
    }

    #[tokio::test]
    async fn a_bad_bearer_names_its_error_and_a_bad_password_does_not() {
        let (response, _) = shown(AuthError::Denied(Denied::Expired).into()).await;
        assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        let (response, _) = shown(AccountError::InvalidCredentials.into()).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["www-authenticate"]),
            (401, &HeaderValue::from_static("Bearer"))
        );
    }
}
