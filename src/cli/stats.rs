//! `portcullis stats`: asks a running gateway how its caches do. Also good as a container's health check: it fails
//! when the gateway is out of reach or can serve nobody.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use url::Url;

use crate::config::Config;

/// Arguments of `portcullis stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    /// The gateway, such as http://127.0.0.1:8000 [default: from HOST and PORT]
    #[arg(long)]
    pub url: Option<String>,
    /// Print the answer of GET /health as it is
    #[arg(long)]
    pub json: bool,
}

/// For connection and answer together.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// A health document is far smaller.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Prints the statistics. Fails when the gateway cannot be asked; the exit code is 1 when it says that it serves nobody.
pub async fn run(args: &StatsArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let url = target(args.url.as_deref(), config)?;
    let asked = tokio::time::timeout(TIME_LIMIT, fetch(&url)).await;
    let (status, body) = asked
        .unwrap_or_else(|_| bail!("no answer in {} s", TIME_LIMIT.as_secs()))
        .with_context(|| format!("cannot ask the gateway at {url}; is it running?"))?;
    let health: Value = serde_json::from_slice(&body)
        .with_context(|| format!("what answers at {url} is no gateway: status {status} and no JSON"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&health)?);
    } else {
        print!("{}", readable(&url, &health));
    }
    Ok(if status == StatusCode::OK { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn target(url: Option<&str>, config: &Config) -> anyhow::Result<Url> {
    let Some(text) = url else {
        ensure!(config.port != 0, "PORT is 0, so the gateway's port is not known: pass --url");
        let address = SocketAddr::new(reachable(config.host), config.port);
        return Ok(Url::parse(&format!("http://{address}/health"))?);
    };
    let text = if text.contains("://") { text.to_string() } else { format!("http://{text}") };
    let mut url = Url::parse(&text).context("--url is not a URL")?;
    ensure!(url.scheme() == "http", "--url must begin with http://: ask the gateway itself, not the proxy before it");
    ensure!(url.has_host(), "--url names no host");
    if url.path() == "/" {
        url.set_path("/health");
    }
    Ok(url)
}

/// Nobody can connect to "every address".
fn reachable(host: IpAddr) -> IpAddr {
    match host {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

async fn fetch(url: &Url) -> anyhow::Result<(StatusCode, Vec<u8>)> {
    let host = url.host_str().context("the URL names no host")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(url.path())
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONNECTION, "close")
        .body(Body::empty())?;
    // It ends with the exchange; its failures reach us through the sender.
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = to_bytes(Body::new(response.into_body()), MAX_ANSWER_BYTES).await?;
    connection.abort();
    Ok((status, body.to_vec()))
}

/// The answer of `/health` for people. What it does not know it still shows, as `name value`.
fn readable(url: &Url, health: &Value) -> String {
    let mut text = format!("{url}  status {}\n", plain(health.get("status").unwrap_or(&Value::Null)));
    if let Some(cache) = health.get("redis_cache").and_then(Value::as_object) {
        text.push_str("\nRedis cache\n");
        for (name, value) in cache {
            row(&mut text, name, value);
        }
    }
    let Some(all) = health.as_object() else { return text };
    for (section, content) in all.iter().filter(|(name, _)| !matches!(name.as_str(), "status" | "redis_cache")) {
        match content {
            Value::Object(content) => {
                let _ = writeln!(text, "\n{}", words(section));
                rows(&mut text, content);
            }
            value => row(&mut text, section, value),
        }
    }
    text
}

fn rows(text: &mut String, content: &Map<String, Value>) {
    for (name, value) in content {
        row(text, name, value);
    }
}

fn row(text: &mut String, name: &str, value: &Value) {
    let shown = match (name, value.as_f64()) {
        ("hit_ratio", Some(ratio)) => format!("{:.1} %", ratio * 100.0),
        (_, Some(bytes)) if name.ends_with("_bytes") => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        (_, Some(time)) if name.ends_with("_ms") => format!("{time:.2} ms"),
        _ => plain(value),
    };
    let label = name.trim_end_matches("_bytes").trim_end_matches("_ms");
    let _ = writeln!(text, "  {:<22} {shown}", words(label));
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.into(),
        Value::Null => "-".into(),
        Value::Object(parts) => {
            let parts: Vec<_> = parts.iter().map(|(name, part)| format!("{} {}", plain(part), words(name))).collect();
            parts.join(", ")
        }
        other => other.to_string(),
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
