//! The HTTP side: the route table, and one file for each group of endpoints.
//!
//! Handlers read a request, ask `accounts` or `auth`, and write the answer; a failure becomes a problem document, whose
//! status `problem` picks. Nothing here decides whether a credential is good.

mod admin;
mod audit;
mod body;
mod cookies;
mod docs;
mod edge;
mod extract;
pub mod health;
mod limits;
mod login;
mod logout;
mod me;
mod pages;
pub mod state;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
pub use limits::SharedCounts;
pub use state::HttpState;
use state::{Gateway, Shared};

/// How long a browser may remember what a preflight said.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(600);

/// Every endpoint of the contract but `verify` and `/ws`.
fn endpoints() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(docs::Document::openapi())
        .routes(routes!(login::signup))
        .routes(routes!(login::login))
        .routes(routes!(login::validate_session))
        .routes(routes!(logout::logout))
        .routes(routes!(logout::logout_all_devices))
        .routes(routes!(logout::sessions))
        .routes(routes!(logout::end_session))
        .routes(routes!(audit::own))
        .routes(routes!(me::me))
        .routes(routes!(me::replace_profile, me::merge_profile))
        .routes(routes!(me::change_password))
        .routes(routes!(me::change_email))
        .routes(routes!(me::delete_account))
        .routes(routes!(me::ws_ticket))
        .routes(routes!(health::jwks))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

/// The hot path, which goes without layers.
fn forward_auth() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(verify::verify))
}

/// What browsers are shown.
fn pages() -> Router<Shared> {
    Router::new()
        .route("/", get(pages::console))
        .route("/static/{*path}", get(pages::asset))
        .route(docs::DOCUMENT_PATH, get(docs::document))
        .route("/docs", get(docs::page))
        .route("/docs/", get(docs::page))
        .route("/docs/{file}", get(docs::file))
}

/// The whole HTTP side as the server sees it.
#[derive(Clone)]
pub struct Front {
    gateway: Shared,
    router: Router,
}

impl Front {
    /// Joins the endpoints here with `others`. Metrics must be installed before.
    pub fn new(state: HttpState, others: Router) -> Self {
        let document = docs::finish(endpoints().merge(forward_auth()).merge(admin::endpoints()).into_openapi());
        let gateway = Arc::new(Gateway::new(state, document));
        let router = router(&gateway).merge(others);
        Self { gateway, router }
    }

    /// The answer to a request of the hot path, if memory alone has it. With `None` ask the [`router`](Self::router).
    pub fn at_once<B>(&self, request: &axum::http::Request<B>) -> Option<Response> {
        verify::at_once(&self.gateway, request)
    }

    /// Answers everything. Requests must come with a `ConnectInfo<SocketAddr>`.
    pub fn router(&self) -> Router {
        self.router.clone()
    }
}

fn router(gateway: &Shared) -> Router {
    let cors = cors(&gateway.config.allowed_origins);
    let with_cors = |router: Router<Shared>| match &cors {
        Some(cors) => router.layer(cors.clone()),
        None => router,
    };
    let trusted: Arc<[ipnet::IpNet]> = gateway.config.trusted_proxies.as_slice().into();
    let attributed = axum::middleware::from_fn_with_state(trusted, audit::attribute);
    let everything = Router::from(endpoints())
        .layer(attributed)
        .merge(pages())
        .fallback(async || Problem::not_found("There is nothing here."))
        .method_not_allowed_fallback(wrong_method);
    // No page has business with the admin API: it stands outside of CORS.
    let admin = Router::from(admin::endpoints()).method_not_allowed_fallback(wrong_method);
    let everything = with_cors(everything).merge(admin).layer(axum::middleware::from_fn(edge::edge));
    let forward_auth = Router::from(forward_auth()).method_not_allowed_fallback(wrong_method);
    everything.merge(with_cors(forward_auth)).with_state(Arc::clone(gateway))
}

/// The router adds `Allow`; the marks are for `verify`, which has no layer for them.
async fn wrong_method(headers: HeaderMap) -> Response {
    let detail = "This does not take that method; see Allow.";
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).into_response();
    edge::mark(&mut response, edge::request_id(&headers), true);
    response
}

/// Without a list only the gateway's own pages may call, and these need no CORS.
fn cors(allowed_origins: &[String]) -> Option<CorsLayer> {
    let listed: Vec<HeaderValue> =
        allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect();
    if listed.is_empty() {
        return None;
    }
    let requested = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("prefer"),
        HeaderName::from_static("x-requested-with"),
        edge::REQUEST_ID,
    ];
    let shown = [
        header::RETRY_AFTER,
        header::WWW_AUTHENTICATE,
        edge::REQUEST_ID,
        HeaderName::from_static("preference-applied"),
    ];
    let shown = shown.into_iter().chain(limits::FIELDS).collect::<Vec<_>>();
    let with_credentials = listed.clone();
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::list(listed))
        .allow_credentials(AllowCredentials::predicate(move |origin, _| with_credentials.contains(origin)))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(requested)
        .expose_headers(shown)
        .max_age(PREFLIGHT_LIFE);
    Some(cors)
}
