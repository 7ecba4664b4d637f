//! How the text of one setting becomes its value, and what is wrong when it cannot. The complaints name neither the
//! setting (the caller does) nor, for secrets, anything of the value.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;
use zeroize::Zeroizing;

use crate::secret::RecordKey;

/// A value, or a sentence about what is wrong with the text.
pub type Parsed<T> = Result<T, String>;

/// One second.
pub const SECOND: Duration = Duration::from_secs(1);
/// One day.
pub const DAY: Duration = Duration::from_secs(86_400);
/// No duration is longer, so that adding one to a time never overflows.
pub const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

/// An IP address, in brackets or not. `localhost` is understood; other names are not looked up.
pub fn address(text: &str) -> Parsed<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "is not an IP address such as 127.0.0.1, 0.0.0.0 or ::".into())
}

/// `on`, `off` and their synonyms.
pub fn switch(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" | "yes" => Ok(true),
        "off" | "false" | "0" | "no" => Ok(false),
        _ => Err("is neither on (true, 1) nor off (false, 0)".into()),
    }
}

/// A whole number within `range`.
pub fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Parsed<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    move |text| match text.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(format!("is not a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A duration such as `15m`, within `range`.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        let value = humantime::parse_duration(text)
            .map_err(|_| "is not a duration such as 900ms, 15m, 1h 30m or 7d".to_string())?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
        Err(format!("is not within {least} and {most}"))
    }
}

/// The same, or `off`.
pub fn duration_or_off(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Option<Duration>> {
    let parse = duration(range);
    move |text| {
        if text.eq_ignore_ascii_case("off") {
            return Ok(None);
        }
        parse(text).map(Some).map_err(|reason| format!("{reason}, nor off"))
    }
}

/// The same in whole seconds, for what the protocol counts in seconds.
pub fn whole_seconds(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    let parse = duration(range);
    move |text| {
        parse(text).and_then(|value| {
            if value.subsec_nanos() == 0 { Ok(value) } else { Err("is not a number of whole seconds".into()) }
        })
    }
}

/// A number of bytes, with `KiB` or `MiB` or bare, within `range`.
pub fn bytes(range: RangeInclusive<usize>) -> impl Fn(&str) -> Parsed<usize> {
    move |text| {
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "k" | "kib" => Some(1 << 10),
            "m" | "mib" => Some(1 << 20),
            _ => None,
        };
        let value = factor.and_then(|factor: usize| digits.parse::<usize>().ok()?.checked_mul(factor));
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            format!("is not a size such as 65536 or 64KiB, from {} to {} bytes", range.start(), range.end())
        })
    }
}

/// One of `choices`, whatever its case; returned as spelt there.
pub fn one_of(choices: &'static [&'static str]) -> impl Fn(&str) -> Parsed<String> {
    move |text| match choices.iter().find(|choice| choice.eq_ignore_ascii_case(text)) {
        Some(choice) => Ok((*choice).to_string()),
        None => Err(format!("is none of {}", choices.join(", "))),
    }
}

/// A name without spaces or control characters, for `iss` and `aud`.
pub fn name(text: &str) -> Parsed<String> {
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must be a name or a URL without spaces".into());
    }
    Ok(text.to_string())
}

/// A log filter.
pub fn log_filter(text: &str) -> Parsed<String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_string()),
        Err(error) => Err(format!("is not a log filter: {error}")),
    }
}

/// Reads each part of a list with commas; empty parts count for nothing.
pub fn list<T>(item: impl Fn(&str) -> Parsed<T>) -> impl Fn(&str) -> Parsed<Vec<T>> {
    move |text| {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| item(part).map_err(|reason| format!("({part:?}) {reason}"))).collect()
    }
}

/// An exact origin in the form in which browsers send it.
pub fn origin(text: &str) -> Parsed<String> {
    if text.contains('*') {
        return Err("holds a wildcard; origins are compared exactly, so name each one".into());
    }
    let shape = "is not an origin such as https://app.example.com or http://localhost:3000";
    let url = Url::parse(text).map_err(|_| shape.to_string())?;
    if !url.has_host() || !url.username().is_empty() || url.password().is_some() {
        return Err(shape.into());
    }
    let after_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
    if after_scheme.contains(['/', '?', '#', '\\']) {
        return Err("has something after the host; an origin ends there, without a slash".into());
    }
    match url.origin() {
        // Schemes of their own, such as capacitor://localhost, have an opaque origin in the URL standard.
        url::Origin::Opaque(_) => Ok(text.to_ascii_lowercase()),
        tuple => Ok(tuple.ascii_serialization()),
    }
}

/// A network in CIDR notation, or one address.
pub fn network(text: &str) -> Parsed<IpNet> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "is neither an address nor a network such as 10.0.0.0/8".into())
}

const ENCODE: &str = "cannot be read as a URL; special characters in user and password must be percent-encoded";

/// A URL of Redis. What is wrong is said without the value, which may hold a password.
pub fn redis_url(text: &str) -> Parsed<()> {
    let url = secret_url(text, "redis://localhost:6379/0")?;
    match url.scheme() {
        "redis" | "rediss" => {
            if url.host_str().is_none_or(str::is_empty) {
                return Err("names no host".into());
            }
            let database = url.path().trim_matches('/');
            if !database.is_empty() && database.parse::<u32>().is_err() {
                return Err("must end in the number of a database, such as /0".into());
            }
            Ok(())
        }
        "unix" | "redis+unix" => Ok(()),
        other => Err(format!("begins with {other}://, but only redis:// and rediss:// (or unix://) will do")),
    }
}

/// A URL of Postgres, with the same discretion.
pub fn database_url(text: &str) -> Parsed<()> {
    let url = secret_url(text, "postgres://user:password@host:5432/database")?;
    match url.scheme() {
        "postgres" | "postgresql" => Ok(()),
        "sqlite" => Err("begins with sqlite:; leave it out for the embedded SQLite, which lives in DATA_DIR".into()),
        other if other.starts_with("postgres") => {
            Err(format!("begins with {other}://; write postgres:// without the name of a driver"))
        }
        other => Err(format!("begins with {other}://, but only postgres:// (or postgresql://) will do")),
    }
}

fn secret_url(text: &str, example: &str) -> Parsed<Url> {
    // Without "://" there is no telling which part is the scheme and which a password: nothing of it is repeated.
    if !text.contains("://") && !text.starts_with("sqlite:") {
        return Err(format!("has no scheme; write it as {example}"));
    }
    Url::parse(text).map_err(|_| ENCODE.into())
}

/// In a list of record keys: the one that the first node made.
const IN_DATABASE: &str = "database";

/// One or more record keys between commas or spaces, `None` for the word `database`.
pub fn record_keys(text: &str) -> Parsed<Vec<Option<RecordKey>>> {
    let keys = text.split([',', ' ', '\n', '\r', '\t']).filter(|key| !key.is_empty());
    keys.map(|key| if key == IN_DATABASE { Ok(None) } else { record_key(key).map(Some) }).collect()
}

/// The 32 bytes of a record key written as base64 (any alphabet, padded or not) or hex.
pub fn record_key(text: &str) -> Parsed<RecordKey> {
    let text = text.trim();
    let decoded = unhex(text)
        .or_else(|| STANDARD.decode(text).ok())
        .or_else(|| STANDARD_NO_PAD.decode(text).ok())
        .or_else(|| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok());
    decoded
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(RecordKey)
        .ok_or_else(|| "is not 32 bytes as base64 or hex; `portcullis keygen --record-key` makes one".into())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 {
        return None;
    }
    let pair = |at: usize| text.get(at..at + 2).filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()));
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(pair(at)?, 16).ok()).collect()
}

/// Receivers of webhooks: https, or plain http to this machine. They are reached without redirects and without a proxy.
pub fn webhook_urls(text: &str) -> Parsed<Vec<SecretString>> {
    let urls: Vec<_> = text.split([',', '\n']).map(str::trim).filter(|url| !url.is_empty()).collect();
    for (number, url) in (1..).zip(&urls) {
        let parsed = Url::parse(url).map_err(|error| format!("receiver {number} is not a URL: {error}"))?;
        let loopback = match parsed.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        match parsed.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => {
                return Err(format!("receiver {number} must be https: only this machine may be told in the clear"));
            }
            _ => return Err(format!("receiver {number} must begin with https://")),
        }
    }
    Ok(urls.into_iter().map(SecretString::from).collect())
}

/// The bytes of a webhooks' secret: those behind `whsec_` (Standard Webhooks), or the text's own.
pub fn webhook_secret(text: &str) -> Parsed<Zeroizing<Vec<u8>>> {
    let (bytes, least) = match text.trim().strip_prefix("whsec_") {
        Some(encoded) => (STANDARD.decode(encoded).map_err(|_| "what follows whsec_ is not base64")?, 24),
        None => (text.trim().as_bytes().to_vec(), 32),
    };
    let bytes = Zeroizing::new(bytes);
    if bytes.len() < least { Err(format!("has {} bytes, at least {least} are needed", bytes.len())) } else { Ok(bytes) }
}

/// The single keys in a list of them: PEM blocks, or else lines.
pub fn key_texts(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN";
    let starts: Vec<_> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts.iter().zip(ends).filter_map(|(&start, end)| text.get(start..end)).map(str::trim).collect()
}

/// One or more signing keys for `algorithm`.
pub fn signing_keys(text: &str, algorithm: &str) -> Parsed<()> {
    let keys = key_texts(text);
    match keys.as_slice() {
        [one] => signing_key(one, algorithm),
        _ => keys.iter().zip(1..).try_for_each(|(key, number)| {
            signing_key(key, algorithm).map_err(|reason| format!("(key {number}) {reason}"))
        }),
    }
}

/// A signing key for `algorithm`. Here only what an operator gets wrong by hand: the token module reads the key itself.
pub fn signing_key(text: &str, algorithm: &str) -> Parsed<()> {
    let is_pem = text.contains("-----BEGIN");
    if algorithm == "HS256" {
        return match text {
            _ if is_pem => Err("is a PEM key, but HS256 wants a secret that nobody else knows".into()),
            _ if text.len() < 32 => Err("is shorter than the 32 bytes that HS256 needs".into()),
            _ => Ok(()),
        };
    }
    match text {
        _ if text.contains("-----BEGIN PRIVATE KEY-----") => Ok(()),
        _ if text.contains("PUBLIC KEY-----") => Err("is a public key; the private one is needed to sign".into()),
        _ if text.contains("ENCRYPTED PRIVATE KEY") => Err("is encrypted; decrypt it with `openssl pkcs8`".into()),
        _ if is_pem => Err("is not PKCS#8; convert it with `openssl pkcs8 -topk8 -nocrypt`".into()),
        _ => Err(format!("is not a PEM key, which {algorithm} needs; `portcullis keygen` makes one")),
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
