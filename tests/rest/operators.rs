//! What orchestrators, scrapers, proxies and people with a browser see.

use std::collections::BTreeSet;

use serde_json::json;

use crate::common::people::token_header;
use crate::common::{Mode, Node, eventually, stages};

stages! {
    both: [
        jwks_publishes_every_public_key_and_nothing_private,
        health_has_its_shape,
        live_and_ready_are_good,
        metrics_have_the_names_of_the_contract,
        look_ups_are_counted_by_cache_and_tier,
        openapi_names_every_path,
        pages_are_there,
        an_unknown_route_is_a_problem,
        a_wrong_method_is_a_problem,
        a_request_id_comes_back,
        no_origin_is_reflected,
    ],
}

const PATHS: &[(&str, &[&str])] = &[
    ("/api/v1/auth/signup", &["post"]),
    ("/api/v1/auth/login", &["post"]),
    ("/api/v1/auth/validate-session", &["post"]),
    ("/api/v1/auth/logout", &["post"]),
    ("/api/v1/auth/logout-all-devices", &["post"]),
    ("/api/v1/auth/me", &["get"]),
    ("/api/v1/auth/update-profile", &["put", "patch"]),
    ("/api/v1/auth/change-password", &["post"]),
    ("/api/v1/auth/change-email", &["post"]),
    ("/api/v1/auth/delete-account", &["post"]),
    ("/api/v1/auth/sessions", &["get"]),
    ("/api/v1/auth/sessions/{sid}", &["delete"]),
    ("/api/v1/auth/ws-ticket", &["post"]),
    ("/api/v1/auth/verify", &["get"]),
    ("/.well-known/jwks.json", &["get"]),
    ("/health", &["get"]),
    ("/health/live", &["get"]),
    ("/health/ready", &["get"]),
    ("/metrics", &["get"]),
    ("/ws", &["get"]),
];

const CACHE_REQUESTS: &str = "portcullis_cache_requests_total";

const METRICS: [&str; 14] = [
    CACHE_REQUESTS,
    "portcullis_auth_duration_seconds",
    "portcullis_database_queries_total",
    "portcullis_database_query_duration_seconds",
    "portcullis_logins_total",
    "portcullis_websocket_connections",
    "portcullis_websocket_handshakes_total",
    "portcullis_revocations_total",
    "portcullis_forced_disconnects_total",
    "portcullis_revocation_delay_seconds",
    "portcullis_revocation_log_lag_seconds",
    "portcullis_dependency_up",
    "portcullis_build_info",
    "process_resident_memory_bytes",
];

async fn jwks_publishes_every_public_key_and_nothing_private(mode: Mode) {
    let stage = mode.stage().await;
    let mut signing = BTreeSet::new();
    for node in stage.nodes() {
        let header = token_header(&node.signup().await.token);
        signing.insert(header["kid"].as_str().expect("a kid").to_owned());
        assert_eq!(header["alg"], "EdDSA");
    }
    assert_eq!(signing.len(), stage.nodes().len(), "each node signs with a key of its own");
    for node in stage.nodes() {
        let jwks = node.get("/.well-known/jwks.json").send().await.expect(200);
        let keys = jwks["keys"].as_array().expect("keys");
        let published: BTreeSet<_> = keys.iter().filter_map(|key| Some(key["kid"].as_str()?.to_owned())).collect();
        assert!(published.is_superset(&signing), "{jwks:#?}");
        for key in keys {
            assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("OKP"), &json!("Ed25519"), &json!("EdDSA")));
            assert!(key["x"].is_string());
            assert!(key.get("d").is_none() && key.get("k").is_none(), "a private key is published");
        }
    }
}

async fn health_has_its_shape(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().me(&alice.token).await.expect(200);
    for node in stage.nodes() {
        let health = node.get("/health").send().await.expect(200);
        assert_eq!(health["status"], "ok");
        let redis = &health["redis_cache"];
        assert_eq!(redis["enabled"], mode == Mode::Cluster);
        assert_eq!(redis["connected"], mode == Mode::Cluster);
        for count in ["hits", "misses", "users_cached", "sessions_cached", "tokens_blacklisted"] {
            assert!(redis[count].is_u64(), "{count}: {redis}");
        }
        assert!(redis["hit_ratio"].as_f64().is_none_or(|ratio| (0.0..=1.0).contains(&ratio)), "{redis}");
        for member in ["hit_ratio", "latency_ms", "used_memory_bytes"] {
            assert!(redis.get(member).is_some(), "{member}: {redis}");
            assert!(mode == Mode::Embedded || redis[member].is_number(), "{member}: {redis}");
        }
        assert!(health["database"].is_object() && health["node"].is_object(), "{health:#?}");
    }
}

async fn live_and_ready_are_good(mode: Mode) {
    let stage = mode.stage().await;
    for node in stage.nodes() {
        node.get("/health/live").send().await.expect(200);
        node.get("/health/ready").send().await.expect(200);
    }
}

async fn metrics_have_the_names_of_the_contract(mode: Mode) {
    let stage = mode.stage().await;
    let alice = stage.a().signup().await;
    stage.a().validate(&alice.session_id).await.expect(200);
    stage.a().me(&alice.token).await.expect(200);
    let mut socket = stage.a().connect(&alice.token).await;
    stage.a().logout_all(&alice.token).await.expect(200);
    socket.expect_forced(4501, "logged out everywhere").await;
    let missing = |text: &str| METRICS.iter().filter(|name| !text.contains(*name)).copied().collect::<Vec<_>>();
    eventually("all metrics show", async || {
        let metrics = stage.a().get("/metrics").send().await.expect(200);
        assert!(metrics.header("content-type").starts_with("text/plain"));
        for label in ["tier=\"local\"", "surface=\"http\"", "surface=\"websocket\"", "dependency=\"database\""] {
            assert!(metrics.text.contains(label), "no {label}");
        }
        for secret in [&alice.email, &alice.user_id, &alice.sid, &alice.session_id] {
            assert!(!metrics.text.contains(secret.as_str()), "a label without a bound");
        }
        let missing = missing(&metrics.text);
        eprintln!("missing: {missing:?}");
        missing.is_empty().then_some(())
    })
    .await;
}

async fn look_ups_are_counted_by_cache_and_tier(mode: Mode) {
    let stage = mode.own().start().await;
    let alice = stage.a().signup().await;
    stage.a().verify(&alice.token).await.expect(204);
    // What was written here a moment ago is known here.
    counted(stage.a(), &[("session", "local"), ("user", "local")]).await;
    if let Mode::Cluster = mode {
        let redis = stage.redis();
        let held = |kind: &str| redis.run(&[&format!("KEYS portcullis:*:{kind}")])[0].trim() == "*1";
        eventually("Redis has her", async || (held("s:*") && held("u")).then_some(())).await;
        stage.b().verify(&alice.token).await.expect(204);
        counted(stage.b(), &[("session", "redis"), ("user", "redis")]).await;
        redis.run(&["FLUSHALL"]);
    }
    stage.gateways[0].restart().await;
    stage.a().verify(&alice.token).await.expect(204);
    counted(stage.a(), &[("session", "database"), ("user", "database")]).await;
}

/// Waits until this node has counted a hit of each.
async fn counted(node: &Node, wanted: &[(&str, &str)]) {
    let missing = |text: &str, (cache, tier): (&str, &str)| {
        !text.lines().any(|line| {
            let labels = [format!("cache=\"{cache}\""), format!("tier=\"{tier}\""), "result=\"hit\"".to_owned()];
            line.starts_with(CACHE_REQUESTS) && labels.iter().all(|label| line.contains(label)) && !line.ends_with(" 0")
        })
    };
    eventually(&format!("hits of {wanted:?}"), async || {
        let metrics = node.get("/metrics").send().await.expect(200);
        (!wanted.iter().any(|&wanted| missing(&metrics.text, wanted))).then_some(())
    })
    .await;
}

async fn openapi_names_every_path(mode: Mode) {
    let stage = mode.stage().await;
    let document = stage.a().get("/api/openapi.json").send().await.expect(200);
    assert!(document.str("openapi").starts_with("3.1"), "{}", document["openapi"]);
    for (path, methods) in PATHS.iter().copied() {
        for method in methods {
            let operation = &document["paths"][path][method];
            assert!(operation["responses"].is_object(), "{method} {path} is not described");
        }
    }
}

async fn pages_are_there(mode: Mode) {
    let stage = mode.stage().await;
    let docs = stage.a().get("/docs").send().await;
    let docs = match docs.header("location") {
        "" => docs,
        // The page may live behind a slash.
        location => stage.a().get(location).send().await,
    };
    let console = stage.a().get("/").send().await;
    for page in [docs, console] {
        let page = page.expect(200);
        assert!(page.header("content-type").starts_with("text/html"), "{page:#?}");
        assert!(page.text.contains("<html"), "{page:#?}");
    }
}

async fn an_unknown_route_is_a_problem(mode: Mode) {
    let stage = mode.stage().await;
    for path in ["/api/v1/auth/nothing", "/api/v2/auth/me", "/nothing", "/api/v1/auth/me/", "/%00", "/..%2f..%2fetc"] {
        stage.a().get(path).send().await.problem(&[404]);
        stage.a().post(path).body("{}").send().await.problem(&[404]);
    }
}

async fn a_wrong_method_is_a_problem(mode: Mode) {
    let stage = mode.stage().await;
    let wrong = [("GET", "/api/v1/auth/login"), ("DELETE", "/api/v1/auth/me"), ("POST", "/api/v1/auth/update-profile")];
    for (method, path) in wrong {
        let answer = stage.a().call(method.parse().expect("a method"), path).send().await;
        answer.problem(&[405]);
        assert!(!answer.header("allow").is_empty(), "{answer:#?}");
    }
}

async fn a_request_id_comes_back(mode: Mode) {
    let stage = mode.stage().await;
    let given = stage.a().get("/health/live").header("x-request-id", "from-the-proxy-7").send().await;
    assert_eq!(given.header("x-request-id"), "from-the-proxy-7");
    let made = stage.a().get("/health/live").send().await;
    let next = stage.a().get("/health/live").send().await;
    assert!(!made.header("x-request-id").is_empty());
    assert_ne!(made.header("x-request-id"), next.header("x-request-id"));
}

async fn no_origin_is_reflected(mode: Mode) {
    let stage = mode.own().env("PORTCULLIS_ALLOWED_ORIGINS", "https://app.example").start().await;
    let alice = stage.a().signup().await;
    let ask = |origin: &str| stage.a().get("/api/v1/auth/me").bearer(&alice.token).header("origin", origin).send();
    let listed = ask("https://app.example").await.expect(200);
    assert_eq!(listed.header("access-control-allow-origin"), "https://app.example");
    for foreign in ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"] {
        assert_eq!(ask(foreign).await.header("access-control-allow-origin"), "", "{foreign}");
    }
}
