//! A small HTTP client that reads like a conversation.

use std::ops::Index;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::DEADLINE;

/// One node as its clients see it.
#[derive(Clone)]
pub struct Node {
    /// `http://host:port`.
    pub url: String,
    http: reqwest::Client,
}

impl Node {
    /// A client for the node at this address. It follows no redirect, keeps no cookie and uses no proxy.
    pub fn new(url: &str) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(DEADLINE)
            .build()
            .expect("an HTTP client");
        Self { url: url.to_owned(), http }
    }

    /// `host:port`.
    pub fn authority(&self) -> &str {
        self.url.strip_prefix("http://").expect("an http URL")
    }

    /// A request.
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call(self.http.request(method, format!("{}{path}", self.url)))
    }

    /// A GET request.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// A POST request.
    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    /// Sends bytes as they are and reads the answer until the node has nothing more to say. For what no proper client
    /// sends; the request should ask for `Connection: close`.
    pub async fn raw(&self, request: &[u8]) -> String {
        let stream = TcpStream::connect(self.authority()).await.expect("connect");
        let (mut reader, mut writer) = stream.into_split();
        let request = request.to_vec();
        // Sent while the answer is read: a node may answer and hang up before it has taken everything.
        let sending = tokio::spawn(async move {
            let _ = writer.write_all(&request).await;
            writer
        });
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        let reading = async {
            while let Ok(read @ 1..) = reader.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..read]);
            }
        };
        let ended = tokio::time::timeout(DEADLINE, reading).await;
        sending.abort();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(ended.is_ok(), "the node neither answered nor hung up; so far: {answer:?}");
        answer
    }
}

/// A request in the making.
pub struct Call(RequestBuilder);

impl Call {
    /// With an access token.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// With one more header; a second one of the same name stands beside the first.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// With a header that need not be text.
    pub fn header_bytes(self, name: &str, value: &[u8]) -> Self {
        Self(self.0.header(name, value))
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// With a form body.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        Self(self.0.form(fields))
    }

    /// With these bytes as the body, called JSON.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        self.body_as("application/json", body)
    }

    /// With these bytes as the body and this content type.
    pub fn body_as(self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self(self.0.header("content-type", content_type).body(body.into()))
    }

    /// With these bytes as the body and no content type.
    pub fn untyped_body(self, body: impl Into<Vec<u8>>) -> Self {
        Self(self.0.body(body.into()))
    }

    /// With another limit than the usual one.
    pub fn timeout(self, limit: Duration) -> Self {
        Self(self.0.timeout(limit))
    }

    /// Sends it; no answer fails the test.
    pub async fn send(self) -> Answer {
        let response = self.0.send().await.expect("an answer");
        Answer::read(response).await.expect("the whole answer")
    }

    /// Sends it and reads the body only when the node did not switch to another protocol.
    pub async fn send_head(self) -> Answer {
        let response = self.0.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status == 101 {
            return Answer { status, headers, text: String::new(), json: Value::Null };
        }
        Answer::read(response).await.expect("the whole answer")
    }

    /// Sends it; none when no answer came.
    pub async fn try_send(self) -> Option<Answer> {
        Answer::read(self.0.send().await.ok()?).await
    }
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as text.
    pub text: String,
    /// The body as JSON; null when it is none.
    pub json: Value,
}

impl Answer {
    async fn read(response: reqwest::Response) -> Option<Self> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.ok()?;
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Some(Self { status, headers, text, json })
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:#?}");
        self
    }

    /// Fails unless it is a problem document with one of these statuses. Says its `code`.
    #[track_caller]
    pub fn problem(&self, statuses: &[u16]) -> &str {
        assert!(statuses.contains(&self.status), "expected one of {statuses:?}: {self:#?}");
        assert_eq!(self.header("content-type").split(';').next(), Some("application/problem+json"), "{self:#?}");
        for member in ["type", "title", "detail", "code"] {
            assert!(self[member].as_str().is_some_and(|text| !text.is_empty()), "no `{member}`: {self:#?}");
        }
        assert_eq!(self["status"], self.status, "{self:#?}");
        if [429, 503].contains(&self.status) {
            let seconds: Option<u32> = self.header("retry-after").parse().ok();
            assert!(seconds.is_some(), "no Retry-After: {self:#?}");
        }
        if self.status == 401 {
            assert!(self.header("www-authenticate").starts_with("Bearer"), "{self:#?}");
        }
        let code = self["code"].as_str().unwrap_or_default();
        let machine_readable = code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        assert!(machine_readable, "{self:#?}");
        code
    }

    /// Fails unless it is the problem with this status and code.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.problem(&[status]), code, "{self:#?}");
    }

    /// Fails unless it refuses a bearer token that was shown: RFC 6750 with `error`.
    #[track_caller]
    pub fn is_bad_token(&self) {
        self.problem(&[401]);
        assert!(self.header("www-authenticate").contains("error=\"invalid_token\""), "{self:#?}");
    }

    /// Fails unless it asks for a credential, or refuses one that is no bearer token: RFC 6750 without `error`.
    #[track_caller]
    pub fn is_unauthenticated(&self) {
        self.problem(&[401]);
        assert!(!self.header("www-authenticate").contains("error"), "{self:#?}");
    }

    /// A header's text, empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A member that must be text.
    #[track_caller]
    pub fn str(&self, member: &str) -> &str {
        self[member].as_str().unwrap_or_else(|| panic!("no text `{member}`: {self:#?}"))
    }
}

impl Index<&str> for Answer {
    type Output = Value;

    fn index(&self, member: &str) -> &Value {
        self.json.get(member).unwrap_or(&Value::Null)
    }
}
