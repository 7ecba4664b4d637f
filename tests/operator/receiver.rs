//! A receiver of webhooks: a small real HTTP server that does what a test tells it to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::common::eventually;

/// What nodes are given as their secret.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One request that came.
#[derive(Clone, Debug)]
pub struct Received {
    pub id: String,
    pub path: String,
    pub authorization: String,
    pub token: String,
    pub claims: Value,
    pub answered: u16,
}

#[derive(Default)]
struct Inner {
    received: Mutex<Vec<Received>>,
    answers: Mutex<VecDeque<u16>>,
    always: Mutex<Option<u16>>,
}

/// The server. Ends with the test's runtime.
pub struct Receiver {
    pub url: String,
    inner: Arc<Inner>,
}

impl Receiver {
    /// Answers with these statuses in turn, then 202. A zero hangs for ever.
    pub async fn start(answers: &[u16]) -> Self {
        let inner = Arc::new(Inner::default());
        inner.answers.lock().expect("answers").extend(answers);
        let router = axum::Router::new().fallback(take).with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://tester:hunter2@{}/hook?key=secret", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inner }
    }

    /// From now on answers this, whatever stands in the list.
    pub fn always(&self, status: Option<u16>) {
        *self.inner.always.lock().expect("always") = status;
    }

    pub fn received(&self) -> Vec<Received> {
        self.inner.received.lock().expect("received").clone()
    }

    /// Waits until so many requests were taken (202).
    pub async fn taken(&self, count: usize) -> Vec<Received> {
        eventually("the webhooks arrive", async || {
            let taken: Vec<_> = self.received().into_iter().filter(|request| request.answered == 202).collect();
            (taken.len() >= count).then_some(taken)
        })
        .await
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, uri: axum::http::Uri, body: String) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (id, timestamp) = (text("webhook-id"), text("webhook-timestamp"));
    let secret = BASE64_STANDARD.decode(SECRET.trim_start_matches("whsec_")).expect("base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let signed = BASE64_STANDARD.encode(hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes()));
    assert_eq!(text("webhook-signature"), format!("v1,{signed}"));
    assert_eq!(text("content-type"), "application/secevent+jwt");
    let claims = body.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let next = inner.answers.lock().expect("answers").pop_front();
    let always = *inner.always.lock().expect("always");
    let answered = always.or(next).unwrap_or(202);
    let (path, authorization) = (uri.to_string(), text("authorization"));
    inner.received.lock().expect("received").push(Received { id, path, authorization, token: body, claims, answered });
    if answered == 0 {
        std::future::pending::<()>().await;
    }
    let status = StatusCode::from_u16(answered.max(200)).expect("a status");
    (status, [(header::LOCATION, "/elsewhere")]).into_response()
}
