//! The console page and its files, embedded in the binary.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::extract::PathText;
use super::state::Shared;
use crate::problem::Problem;

/// Nothing from elsewhere, no inline script, nobody's frame.
const CONSOLE_POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// How the page learns that the session is in a cookie, and that no script needs to keep it.
const COOKIES_OFF: &str = r#"<meta name="portcullis-cookies" content="off">"#;
const COOKIES_ON: &str = r#"<meta name="portcullis-cookies" content="on">"#;

/// `GET /`
pub(super) async fn console(State(gateway): State<Shared>, headers: HeaderMap) -> Response {
    guarded(console_page(gateway.config.cookies, &headers), CONSOLE_POLICY)
}

fn console_page(cookies: bool, headers: &HeaderMap) -> Response {
    if !cookies {
        return file("index.html", headers);
    }
    let page =
        Files::get("index.html").map(|file| String::from_utf8_lossy(&file.data).replace(COOKIES_OFF, COOKIES_ON));
    // Made anew each time, so that no browser takes the page of the other mode for this one.
    let headers = [(header::CONTENT_TYPE, content_type("index.html")), (header::CACHE_CONTROL, "no-store".to_owned())];
    page.map_or_else(
        || Problem::not_found("There is no such file.").into_response(),
        |page| (headers, page).into_response(),
    )
}

/// `GET /static/{path}`
pub(super) async fn asset(PathText(path): PathText, headers: HeaderMap) -> Response {
    guarded(file(&path.unwrap_or_default(), &headers), CONSOLE_POLICY)
}

/// Adds what keeps a page to itself.
pub(super) fn guarded(page: impl IntoResponse, policy: &'static str) -> Response {
    let mut response = page.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn file(path: &str, headers: &HeaderMap) -> Response {
    let Some(file) = Files::get(path) else { return Problem::not_found("There is no such file.").into_response() };
    let etag = etag(&file.metadata.sha256_hash());
    // Asked again each time, answered with 304 while nothing has changed: a new version shows at once.
    let validators = [(header::ETAG, etag.as_str()), (header::CACHE_CONTROL, "no-cache")];
    if knows(headers, &etag) {
        return (StatusCode::NOT_MODIFIED, validators).into_response();
    }
    (validators, [(header::CONTENT_TYPE, content_type(path))], file.data.into_owned()).into_response()
}

fn etag(hash: &[u8; 32]) -> String {
    let hex: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

/// `If-None-Match` (RFC 9110 section 13.1.2): compared weakly, a list or `*`.
fn knows(headers: &HeaderMap, etag: &str) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.trim_start_matches("W/") == etag)
}

fn content_type(path: &str) -> String {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    match (guess.type_().as_str(), guess.subtype().as_str()) {
        ("text", _) | (_, "javascript" | "json") => format!("{guess}; charset=utf-8"),
        _ => guess.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_console_keeps_to_itself_and_is_asked_for_again() {
        let page = guarded(console_page(false, &HeaderMap::new()), CONSOLE_POLICY);
        assert_eq!(page.status(), 200);
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, page.headers()["etag"].clone());
        assert_eq!(console_page(false, &headers).status(), 304);
        assert_eq!(console_page(true, &headers).status(), 200, "in cookie mode it is another page");
    }

    #[tokio::test]
    async fn the_console_is_told_of_cookie_mode() {
        let page = axum::body::to_bytes(console_page(true, &HeaderMap::new()).into_body(), 1 << 20).await.unwrap();
        assert!(String::from_utf8_lossy(&page).contains(COOKIES_ON));
    }

    #[tokio::test]
    async fn only_files_of_the_folder_are_served() {
        for path in ["nothing", "../Cargo.toml", "..%2fCargo.toml", "/etc/passwd", ""] {
            let answer = asset(PathText(Some(path.to_owned())), HeaderMap::new()).await;
            assert_eq!(answer.status(), 404, "{path}");
        }
    }

    #[test]
    fn types_are_those_that_browsers_ask_for() {
        assert_eq!(content_type("a.js"), "text/javascript; charset=utf-8");
        assert_eq!(content_type("a.css"), "text/css; charset=utf-8");
        assert_eq!(content_type("a.svg"), "image/svg+xml");
        assert_eq!(content_type("LICENSE"), "application/octet-stream");
    }
}
