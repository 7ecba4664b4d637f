//! What every answer has, whatever made it: a request id, no sniffing, no storing under `/api/v1/auth`; and a panic
//! becomes a problem document.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::problem::Problem;

/// Everything below them concerns credentials or people: no cache may keep an answer.
const PRIVATE_PREFIXES: [&str; 2] = ["/api/v1/auth", super::admin::PREFIX];

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES: usize = 128;

/// Bytes of a path's segment that is not logged. A UUID without its hyphens has 32.
const LONG_SEGMENT: usize = 24;

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The outermost layer of everything but `verify`, which does the same by hand.
pub(super) async fn edge(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let under_auth = PRIVATE_PREFIXES.iter().any(|prefix| request.uri().path().starts_with(prefix));
    let span = tracing::info_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = %loggable_path(&request),
    );
    let mut response = guarded(async { next.run(request).await }).instrument(span.clone()).await;
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
    mark(&mut response, id, under_auth);
    response
}

/// The route, without what stands in its parameters or in the query: somebody may have put a secret there. What meets no
/// route is shown, but for segments as long as a secret.
fn loggable_path(request: &Request) -> String {
    if let Some(route) = request.extensions().get::<MatchedPath>() {
        return route.as_str().to_owned();
    }
    let segments =
        request.uri().path().split('/').map(|segment| if segment.len() < LONG_SEGMENT { segment } else { "…" });
    segments.collect::<Vec<_>>().join("/")
}

/// Runs a handler; its panic costs this one request. (The panic hook has logged what and where.)
pub(super) async fn guarded(handler: impl Future<Output = Response>) -> Response {
    AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|panic| after_panic(&panic))
}

fn after_panic(_panic: &(dyn Any + Send)) -> Response {
    tracing::error!("a request handler panicked");
    Problem::internal().into_response()
}

/// Writes the headers that every answer has.
pub(super) fn mark(response: &mut Response, id: HeaderValue, under_auth: bool) {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if under_auth {
        headers.insert(header::CACHE_CONTROL, NO_STORE);
    }
}

/// The request's own id when it is a sane one (proxies set it), else a new one.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(REQUEST_ID) {
        Some(id) if is_sane(id.as_bytes()) => id.clone(),
        _ => new_id(),
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    let id = Uuid::new_v4().simple().encode_lower(&mut buffer);
    HeaderValue::from_str(id).unwrap_or(HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(given: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(given));
        request_id(&headers).to_str().unwrap().to_owned()
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(id_for("from-the-proxy-7"), "from-the-proxy-7");
        assert_eq!(id_for("two words").len(), 32);
        assert_eq!(id_for("").len(), 32);
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn a_path_is_logged_without_what_may_be_a_secret() {
        let path = |uri: &'static str| loggable_path(&Request::builder().uri(uri).body(Default::default()).unwrap());
        assert_eq!(path("/api/v2/login?password=x"), "/api/v2/login");
        assert_eq!(path("/x/c561848a-b2bb-43a6-bf7b-2e8087353ec0/y"), "/x/…/y");
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_document() {
        let response = guarded(async { panic!("on purpose") }).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
    }
}
