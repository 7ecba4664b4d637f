use super::*;

#[test]
fn durations_need_a_unit_and_stay_within_their_range() {
    let parse = duration(SECOND..=DAY);
    assert_eq!(parse("15m"), Ok(Duration::from_secs(900)));
    assert_eq!(parse("1h 30m"), Ok(Duration::from_secs(5400)));
    assert!(parse("15").is_err());
    assert!(parse("900ms").unwrap_err().contains("1s"));
    assert!(parse("2d").is_err());
    assert!(whole_seconds(SECOND..=DAY)("1500ms").is_err());
}

#[test]
fn an_origin_is_exact() {
    assert_eq!(origin("https://App.Example.com").as_deref(), Ok("https://app.example.com"));
    assert_eq!(origin("https://app.example.com:443").as_deref(), Ok("https://app.example.com"));
    assert_eq!(origin("http://localhost:3000").as_deref(), Ok("http://localhost:3000"));
    assert_eq!(origin("http://[::1]:3000").as_deref(), Ok("http://[::1]:3000"));
    assert_eq!(origin("capacitor://localhost").as_deref(), Ok("capacitor://localhost"));
    for bad in [
        "*",
        "https://*.example.com",
        "example.com",
        "null",
        "https://a/",
        "https://a/x",
        "https://a?b",
        "https://u@a",
        "data:x",
        "a:b",
    ] {
        assert!(origin(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_usual_redis_url_passes() {
    for good in [
        "redis://localhost:6379/0",
        "redis://localhost",
        "redis://user:pass@host:6380/3",
        "redis://:pass@host",
        "rediss://cache.example.com:6379/1",
        "redis://[::1]:6379/0",
        "redis://ip6-localhost/0",
        "unix:///run/redis.sock",
    ] {
        assert_eq!(redis_url(good), Ok(()), "{good}");
    }
}

#[test]
fn a_bad_url_is_described_without_its_password() {
    for bad in
        ["localhost:6379", "http://u:hunter2@h", "redis://:hun#ter2@host", "hunter2", "redis://h/hunter2", "redis://"]
    {
        let reason = redis_url(bad).unwrap_err();
        assert!(!reason.contains("hun"), "{reason}");
    }
    for bad in ["host/hunter2", "mysql://u:hunter2@h/d", "postgresql+asyncpg://u:hunter2@h/d", "sqlite:hunter2.db"] {
        let reason = database_url(bad).unwrap_err();
        assert!(!reason.contains("hunter2"), "{reason}");
    }
    assert_eq!(database_url("postgresql://u:p@[::1]:5432/d?sslmode=disable"), Ok(()));
}

#[test]
fn a_record_key_is_32_bytes_in_any_usual_spelling() {
    let hex = "ff".repeat(32);
    let plain = STANDARD.encode([0xff; 32]);
    for text in [hex.as_str(), plain.as_str(), plain.trim_end_matches('='), &plain.replace('/', "_")] {
        assert_eq!(record_key(text).map(|key| key.0), Ok([0xff; 32]), "{text}");
    }
    assert!(record_key("ffff").is_err());
    assert!(record_key(&"zé".repeat(32)[..64]).is_err());
}

#[test]
fn a_signing_key_must_suit_its_algorithm() {
    let pem = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    assert!(signing_key(pem, "EdDSA").is_ok());
    assert!(signing_key(pem, "HS256").is_err(), "a key file taken for a secret");
    assert!(signing_key("short", "HS256").unwrap_err().contains("32 bytes"));
    assert!(signing_key(&"s".repeat(32), "HS256").is_ok());
    assert!(signing_key(&"s".repeat(32), "ES256").is_err());
    assert!(signing_key("-----BEGIN RSA PRIVATE KEY-----", "RS256").unwrap_err().contains("PKCS#8"));
}

#[test]
fn sizes_and_switches_and_addresses() {
    assert_eq!(bytes(1024..=1 << 20)("64KiB"), Ok(65536));
    assert_eq!(bytes(1024..=1 << 20)("65536"), Ok(65536));
    assert!(bytes(1024..=1 << 20)("2MiB").is_err());
    assert!(bytes(1024..=1 << 20)("many").is_err());
    assert_eq!(switch("ON"), Ok(true));
    assert_eq!(switch("0"), Ok(false));
    assert!(switch("maybe").is_err());
    assert_eq!(address("::").map(|a| a.is_ipv6()), Ok(true));
    assert_eq!(address("[::1]").map(|a| a.is_loopback()), Ok(true));
    assert!(address("example.com").is_err());
    assert_eq!(list(network)("10.0.0.0/8, ::1,").map(|nets| nets.len()), Ok(2));
    assert!(list(network)("10.0.0.0/33").is_err());
    assert_eq!(number(1u32..=9)("9"), Ok(9));
    assert!(number(1u32..=9)("-1").is_err());
}
