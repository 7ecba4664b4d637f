//! The OpenAPI document, made from the handlers, and a page that shows it. Works offline: Swagger UI is in the binary.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::extract::PathText;
use super::pages::guarded;
use super::state::Shared;
use crate::problem::{Problem, ProblemDocument};

/// Where the document is.
pub(super) const DOCUMENT_PATH: &str = "/api/openapi.json";

/// Swagger UI writes style attributes; everything else comes from here.
const PAGE_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Swagger UI's own page has relative links, which would need a slash at the end of the address.
const PAGE: &str = r#"<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Portcullis API</title>
  <link rel="stylesheet" href="/docs/swagger-ui.css">
  <link rel="stylesheet" href="/docs/index.css">
  <link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <noscript>The document itself is at <a href="/api/openapi.json">/api/openapi.json</a>.</noscript>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/swagger-ui-standalone-preset.js"></script>
  <script src="/docs/swagger-initializer.js"></script>
</body>
</html>
"#;

/// What the handlers do not say themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Portcullis",
        description = "Logs users in, answers \"who is this?\", keeps authenticated WebSockets open, and closes every one \
            of them, on every node, milliseconds after a logout.\n\nErrors are problem details (RFC 9457) with a stable `code`. \
            401: this credential is not good. 403: good, but not for this. 503 with `Retry-After`: the gateway cannot tell \
            right now. Unknown JSON fields are ignored. Times are RFC 3339 in UTC."
    ),
    paths(socket),
    components(schemas(ProblemDocument<'static>)),
    tags(
        (name = "sessions", description = "Begin, take up, list and end sessions"),
        (name = "profile", description = "Who the caller is"),
        (name = "sockets", description = "Centrifuge protocol, version 2, JSON"),
        (name = "operators", description = "For scrapers, probes and verifiers"),
        (name = "admin", description = "For operators, with keys of their own; every use is audited"),
    ),
    modifiers(&Schemes)
)]
pub(super) struct Document;

struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description(
            "__Host-portcullis_session",
            "In cookie mode. On plain http the name is portcullis_session.",
        ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(cookie));
        let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
            "A key of the admin API, made by `portcullis admin-key create`; also as the password of Basic.",
        ));
        components.add_security_scheme("admin_key", SecurityScheme::Http(key.build()));
    }
}

/// Open a socket.
///
/// The Centrifuge client protocol, version 2, JSON encoding; also at `/connection/websocket`. A credential may ride in
/// `Authorization`, in `Sec-WebSocket-Protocol: portcullis.bearer.<token>, portcullis.v1`, in `?ticket=`, in the cookie,
/// or later in `connect`.
#[utoipa::path(
    get, path = "/ws", tag = "sockets", security((), ("bearer" = []), ("cookie" = [])),
    params(("ticket" = Option<String>, Query, description = "From ws-ticket")),
    responses(
        (status = 101, description = "A socket"),
        (status = 400, description = "`unsupported_encoding`, or two credentials that differ"),
        (status = 403, description = "The Origin is not allowed"),
    )
)]
#[allow(dead_code)]
fn socket() {}

/// The document as JSON. Handlers say what is special about them; what follows from an operation's body and security,
/// and that a failure is a problem document, is said here.
pub(super) fn finish(mut document: utoipa::openapi::OpenApi) -> bytes::Bytes {
    document.info.version = env!("CARGO_PKG_VERSION").into();
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            add_common_problems(path, operation);
        }
    }
    document.to_json().unwrap_or_default().into()
}

fn add_common_problems(path: &str, operation: &mut Operation) {
    let mut common = Vec::new();
    if operation.request_body.is_some() {
        common.extend([
            ("400", "Malformed"),
            ("413", "Too large"),
            ("415", "Another content type"),
            ("422", "A value that is missing or not allowed; `field` names it"),
        ]);
    }
    if operation.security.is_some() {
        common.push(("401", "No credential, or one that is not good"));
    }
    if path.starts_with("/api/v1/admin") {
        common.push(("403", "`insufficient_scope`: the key is good, but not for this"));
        common.push(("429", "Too many calls"));
    }
    if path.starts_with("/api/v1/") || path == "/ws" {
        common.push(("503", "The gateway cannot tell right now; see `Retry-After`"));
    }
    let responses = &mut operation.responses.responses;
    for (status, description) in common {
        responses
            .entry(status.into())
            .or_insert_with(|| ResponseBuilder::new().description(description).build().into());
    }
    for (status, response) in responses {
        match response {
            RefOr::T(response) if status.as_str() >= "400" && response.content.is_empty() => {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                response.content.insert("application/problem+json".into(), content.into());
            }
            _ => {}
        }
    }
}

/// `GET /api/openapi.json`
pub(super) async fn document(State(gateway): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], gateway.document.clone()).into_response()
}

/// `GET /docs`
pub(super) async fn page() -> Response {
    guarded(axum::response::Html(PAGE), PAGE_POLICY)
}

/// `GET /docs/{file}`
pub(super) async fn file(PathText(path): PathText) -> Response {
    // No name at all would be the library's own page.
    let path = path.unwrap_or_else(|| "?".to_owned());
    let config = Arc::new(utoipa_swagger_ui::Config::from(DOCUMENT_PATH));
    match utoipa_swagger_ui::serve(&path, config) {
        Ok(Some(file)) => {
            let headers = [(header::CONTENT_TYPE, file.content_type), (header::CACHE_CONTROL, "max-age=3600".into())];
            guarded((headers, file.bytes.into_owned()), PAGE_POLICY)
        }
        _ => Problem::not_found("There is no such file.").into_response(),
    }
}
