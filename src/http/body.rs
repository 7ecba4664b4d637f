//! Bodies of requests: read with a bound and a deadline, parsed with a clear word about what is wrong.
//!
//! 400 is for what is no JSON at all, 422 for JSON that does not fit, naming the field. Values are never repeated in an
//! answer: they may be secrets.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt as _;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::state::Shared;
use crate::problem::Problem;

/// Largest body taken.
const LIMIT: usize = 128 * 1024;

/// A body must have arrived by then.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// How much of a refused body is still read, and how long: a client that hears our answer only after it has sent
/// everything would otherwise see a broken connection instead.
const DRAIN_BYTES: usize = 8 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// A JSON body that must be there.
pub(super) struct Json<T>(pub T);

/// A JSON body that may be missing.
pub(super) struct OptionalJson<T>(pub Option<T>);

/// A body as JSON or, where a form is taken too, as its fields.
pub(super) enum JsonOrForm<T> {
    Json(T),
    Form(Vec<(String, String)>),
}

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Problem> {
        match read(request, false).await? {
            Some((_, bytes)) => parse(&bytes).map(Self),
            None => Err(empty()),
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Problem> {
        match read(request, false).await? {
            Some((_, bytes)) if !bytes.is_empty() => parse(&bytes).map(|body| Self(Some(body))),
            _ => Ok(Self(None)),
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Shared> for JsonOrForm<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Problem> {
        match read(request, true).await? {
            Some((Kind::Json, bytes)) => parse(&bytes).map(Self::Json),
            Some((Kind::Form, bytes)) => Ok(Self::Form(url::form_urlencoded::parse(&bytes).into_owned().collect())),
            None => Err(empty()),
        }
    }
}

/// The first field of this name in a form.
pub(super) fn form_field(form: &[(String, String)], name: &str) -> Option<String> {
    form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
}

/// 422 for a field that must be there.
pub(super) fn missing_field(name: &str) -> Problem {
    Problem::unprocessable("missing_field", format!("The field `{name}` is missing.")).about(name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Form,
}

/// Reads the body. `None` when there is none and no content type either.
async fn read(request: Request, form_too: bool) -> Result<Option<(Kind, Vec<u8>)>, Problem> {
    let (parts, body) = request.into_parts();
    if !parts.headers.contains_key(header::CONTENT_TYPE) && body.is_end_stream() {
        return Ok(None);
    }
    let Some(kind) = content_type(&parts.headers).filter(|&kind| form_too || kind == Kind::Json) else {
        drain(body).await;
        return Err(wrong_type(form_too));
    };
    let bytes = tokio::time::timeout(BODY_WITHIN, collect(body)).await;
    let bytes = bytes.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body came too slowly."))
    })?;
    Ok(Some((kind, bytes)))
}

fn content_type(headers: &HeaderMap) -> Option<Kind> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/x-www-form-urlencoded" => Some(Kind::Form),
        "application/json" => Some(Kind::Json),
        other => (other.starts_with("application/") && other.ends_with("+json")).then_some(Kind::Json),
    }
}

async fn collect(body: Body) -> Result<Vec<u8>, Problem> {
    // What is announced is believed when it is too much.
    if usize::try_from(body.size_hint().lower()).map_or(true, |announced| announced > LIMIT) {
        drain(body).await;
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk: Bytes = chunk.map_err(|_| Problem::bad_request("malformed_body", "The body broke off."))?;
        if bytes.len() + chunk.len() > LIMIT {
            drain(Body::from_stream(stream)).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Reads on for a moment and throws it away.
async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let mut drained = 0;
    let reading = async {
        while let Some(Ok(chunk)) = stream.next().await
            && drained < DRAIN_BYTES
        {
            drained += chunk.len();
        }
    };
    let _ = tokio::time::timeout(DRAIN_WITHIN, reading).await;
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("The body is larger than {} KiB.", LIMIT / 1024),
    )
}

fn wrong_type(form_too: bool) -> Problem {
    let detail = if form_too {
        "The content type must be application/json or application/x-www-form-urlencoded."
    } else {
        "The content type must be application/json."
    };
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn empty() -> Problem {
    Problem::bad_request("malformed_json", "The body is empty.")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let malformed = |detail: &str| Problem::bad_request("malformed_json", detail);
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("The body is no UTF-8 text."))?;
    // Grammar first: a wrong type in a text that breaks off later is malformed all the same.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| no_json(&error))?;
    // Derived code would take an array for an object, member by member.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Problem::unprocessable("invalid_body", "The body must be a JSON object."));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| does_not_fit(&error))
}

fn no_json(error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::bad_request("malformed_json", format!("The body is not valid JSON (line {line}, column {column})."))
}

fn does_not_fit(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if !inner.is_data() {
        return no_json(inner);
    }
    let message = inner.to_string();
    if let Some(field) = quoted_after(&message, "missing field ") {
        return missing_field(field);
    }
    if let Some(field) = quoted_after(&message, "duplicate field ") {
        return Problem::unprocessable("invalid_field", format!("The field `{field}` stands there twice."))
            .about(field);
    }
    let path = error.path().to_string();
    let field = path.split(['.', '[']).next().unwrap_or_default();
    let rule = match expected(&message) {
        Some(expected) => format!("must be {expected}"),
        None => "has a value that is not allowed".into(),
    };
    Problem::unprocessable("invalid_field", format!("The field `{field}` {rule}.")).about(field)
}

fn quoted_after<'a>(message: &'a str, start: &str) -> Option<&'a str> {
    message.strip_prefix(start)?.strip_prefix('`')?.split('`').next()
}

/// What serde wanted; what it got stays out, and may hold anything, also the word "expected".
fn expected(message: &str) -> Option<&'static str> {
    let wanted = message.rsplit_once(", expected ")?.1;
    let known = [("a string", "a string"), ("a map", "an object"), ("a boolean", "true or false")];
    known.iter().find(|(serde, _)| wanted.starts_with(serde)).map(|&(_, ours)| ours)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Example {
        email: String,
        #[allow(dead_code)]
        nick: Option<String>,
        #[allow(dead_code)]
        metadata: Option<serde_json::Map<String, serde_json::Value>>,
    }

    fn problem(body: &str) -> (u16, &'static str, String) {
        let problem = parse::<Example>(body.as_bytes()).unwrap_err();
        (problem.status().as_u16(), problem.code(), format!("{problem:?}"))
    }

    #[test]
    fn what_fits_is_taken_and_unknown_fields_are_ignored() {
        let body = br#" {"email": "a@b", "nick": null, "colour": {"deep": [1, 2]}} "#;
        assert_eq!(parse::<Example>(body).unwrap().email, "a@b");
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = format!("{{\"email\": \"a\", \"metadata\": {}{}}}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
        let deep = deep.replace(":}", ":1}");
        for body in
            ["", "{", "nonsense", "{\"email\": }", "{'email': 'x'}", "\u{feff}", "{\"email\": 7", "{} {}", &deep]
        {
            let (status, code, _) = problem(body);
            assert_eq!((status, code), (400, "malformed_json"), "{}", &body[..body.len().min(40)]);
        }
        let lone_surrogate = problem(r#"{"email": "\ud800"}"#);
        assert_eq!(lone_surrogate.0, 400);
        assert_eq!(parse::<Example>(b"{\"email\": \"\xc3\x28\"}").unwrap_err().status(), 400);
    }

    #[test]
    fn a_missing_field_is_named() {
        let (status, code, shown) = problem("{}");
        assert_eq!((status, code), (422, "missing_field"));
        assert!(shown.contains("The field `email` is missing."), "{shown}");
    }

    #[test]
    fn a_wrong_type_is_named_and_its_value_is_not_repeated() {
        for (body, field, rule) in [
            (r#"{"email": 7}"#, "email", "must be a string"),
            (r#"{"email": {"$gt": ""}}"#, "email", "must be a string"),
            (r#"{"email": "x", "nick": ["hunter2"]}"#, "nick", "must be a string"),
            (r#"{"email": "x", "metadata": "hunter2, expected nothing"}"#, "metadata", "must be an object"),
        ] {
            let (status, code, shown) = problem(body);
            assert_eq!((status, code), (422, "invalid_field"), "{body}");
            assert!(shown.contains(&format!("The field `{field}` {rule}.")), "{shown}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_body_that_is_no_object_does_not_fit() {
        for body in ["null", "[]", "7", "true", "\"text\"", "[\"a@b\", null, null]"] {
            assert_eq!(problem(body).1, "invalid_body", "{body}");
        }
    }

    #[test]
    fn a_field_that_stands_there_twice_does_not_fit() {
        assert_eq!(problem(r#"{"email": "a", "email": "b"}"#).1, "invalid_field");
    }

    #[test]
    fn content_types_have_no_case_and_may_have_parameters() {
        let kind = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, axum::http::HeaderValue::from_static(value));
            content_type(&headers)
        };
        assert!(kind("application/JSON; charset=utf-8") == Some(Kind::Json));
        assert!(kind("application/merge-patch+json") == Some(Kind::Json));
        assert!(kind("application/x-www-form-urlencoded") == Some(Kind::Form));
        for other in ["text/plain", "text/json", "nonsense", "", "applicationjson"] {
            assert!(kind(other).is_none(), "{other}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_too_large_announced_or_not() {
        assert_eq!(collect(Body::from(vec![b' '; LIMIT])).await.map(|bytes| bytes.len()).ok(), Some(LIMIT));
        assert_eq!(collect(Body::from(vec![b' '; LIMIT + 1])).await.unwrap_err().status(), 413);
        let chunks = std::iter::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024])).take(200);
        let endless = Body::from_stream(futures_util::stream::iter(chunks));
        assert_eq!(collect(endless).await.unwrap_err().status(), 413);
    }
}
