use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::config::layers::Texts;

fn config(host: &str, port: u16) -> Config {
    let flags = [("HOST".to_string(), host.to_string()), ("PORT".to_string(), port.to_string())].into();
    Config::load(&flags, &Texts::new(), None).unwrap()
}

/// A gateway that says `health`.
async fn gateway(status: StatusCode, health: Value) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = move || async move { (status, health.to_string()) };
    let service =
        axum::Router::new().route("/health", axum::routing::get(answer)).into_service::<hyper::body::Incoming>();
    let service = hyper_util::service::TowerToHyperService::new(service);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.unwrap();
    });
    port
}

const ASK: StatsArgs = StatsArgs { url: None, json: false };

#[tokio::test]
async fn it_asks_the_configured_gateway() {
    let port = gateway(StatusCode::OK, json!({"status": "ok"})).await;
    assert_eq!(run(&ASK, &config("0.0.0.0", port)).await.unwrap(), ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_gateway_that_serves_nobody_is_a_failure() {
    let port = gateway(StatusCode::SERVICE_UNAVAILABLE, json!({"status": "degraded"})).await;
    assert_eq!(run(&ASK, &config("127.0.0.1", port)).await.unwrap(), ExitCode::FAILURE);
}

#[tokio::test]
async fn one_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = run(&ASK, &config("127.0.0.1", port)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("http://127.0.0.1:{port}/health")), "{error:#}");
}

#[tokio::test]
async fn one_that_hangs_up_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { drop(listener.accept().await) });
    assert!(run(&ASK, &config("127.0.0.1", port)).await.is_err());
}

#[test]
fn targets() {
    let config = config("::", 8000);
    let target = |url| target(url, &config).map(|url| url.to_string());
    assert_eq!(target(None).unwrap(), "http://[::1]:8000/health");
    assert_eq!(target(Some("localhost:9000")).unwrap(), "http://localhost:9000/health");
    assert_eq!(target(Some("http://gateway:8000/")).unwrap(), "http://gateway:8000/health");
    assert!(target(Some("https://gateway")).is_err());
}

#[test]
fn numbers_are_shown_for_people() {
    let health = json!({
        "status": "ok",
        "redis_cache": {"enabled": true, "hit_ratio": 0.987, "hits": 12345, "used_memory_bytes": 1572864, "latency_ms": 0.2},
        "database": {"kind": "sqlite"},
    });
    let text = readable(&Url::parse("http://127.0.0.1:8000/health").unwrap(), &health);
    for expected in ["status ok", "98.7 %", "12345", "1.5 MiB", "0.20 ms", "sqlite", "enabled                yes"] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
}
