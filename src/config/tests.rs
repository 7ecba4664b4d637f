use super::*;

fn texts(pairs: &[(&str, &str)]) -> Texts {
    pairs.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
}

/// Settings from the environment alone.
fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::load(&Texts::new(), &texts(pairs), None)
}

fn refusal(pairs: &[(&str, &str)]) -> String {
    from_environment(pairs).expect_err("should be refused").to_string()
}

fn redis(pairs: &[(&str, &str)]) -> Option<String> {
    from_environment(pairs).unwrap().redis_url.map(|url| url.expose_secret().to_string())
}

#[test]
fn it_starts_without_any_configuration() {
    let config = from_environment(&[]).unwrap();
    assert_eq!((config.host.to_string().as_str(), config.port), ("127.0.0.1", 8000));
    assert_eq!(config.data_dir, PathBuf::from("data"));
    assert!(config.database_url.is_none() && config.redis_url.is_none() && config.signing_key.is_none());
    assert_eq!(config.access_token_ttl, Duration::from_secs(15 * 60));
    assert_eq!((config.session_ttl, config.session_max_age), (7 * DAY, 30 * DAY));
    assert_eq!(config.max_message_bytes, 65536);
    assert_eq!(config.database_acquire_timeout, Duration::from_secs(1));
    assert!(config.throttling && !config.cookies && !config.enumeration_defence);
    assert!(config.password_threads >= 1);
    assert!(config.warnings.is_empty());
}

#[test]
fn each_layer_hides_the_ones_below() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.toml");
    let dotenv = dir.path().join(".env");
    let all = "port = 1\nissuer = 'file'\naudience = 'file'\nsession_ttl = '1d'\ncookies = true\n";
    std::fs::write(&file, all.to_string() + "allowed_origins = ['https://a', 'https://b']\n").unwrap();
    let named = format!("PORTCULLIS_CONFIG={}\n", file.display());
    std::fs::write(&dotenv, named + "PORT=2\nPORTCULLIS_ISSUER=dotenv\nPORTCULLIS_AUDIENCE=dotenv\n").unwrap();
    let environment = texts(&[("PORT", "3"), ("PORTCULLIS_ISSUER", "environment")]);
    let config = Config::load(&texts(&[("PORT", "4")]), &environment, Some(&dotenv)).unwrap();
    assert_eq!(config.port, 4);
    assert_eq!(config.issuer, "environment");
    assert_eq!(config.audience, "dotenv");
    assert_eq!(config.session_ttl, DAY);
    assert!(config.cookies);
    assert_eq!(config.allowed_origins, ["https://a", "https://b"]);
    assert_eq!(config.files, [file, dotenv]);
}

#[test]
fn an_empty_variable_is_not_set() {
    assert_eq!(redis(&[("REDIS_URL", "")]), None);
    assert_eq!(from_environment(&[("PORT", "")]).unwrap().port, 8000);
}

#[test]
fn an_absent_dotenv_is_no_matter_but_an_absent_config_file_is() {
    let absent = Path::new("/nonexistent/portcullis");
    assert!(Config::load(&Texts::new(), &Texts::new(), Some(absent)).is_ok());
    assert!(refusal(&[("PORTCULLIS_CONFIG", "/nonexistent/portcullis")]).contains("/nonexistent/portcullis"));
}

#[test]
fn redis_follows_the_seeds_rules() {
    let url = ("REDIS_URL", "rediss://u:p@h:6380/2");
    assert_eq!(redis(&[]), None);
    assert_eq!(redis(&[url]).as_deref(), Some(url.1));
    assert_eq!(redis(&[url, ("REDIS_ENABLED", "true")]).as_deref(), Some(url.1));
    assert_eq!(redis(&[url, ("REDIS_ENABLED", "false")]), None);
    assert_eq!(redis(&[("REDIS_ENABLED", "1")]).as_deref(), Some("redis://localhost:6379/0"));
    assert_eq!(redis(&[("REDIS_URL", "nonsense"), ("REDIS_ENABLED", "off")]), None, "an unused URL is not judged");
}

#[test]
fn a_bad_value_is_refused_by_the_settings_name() {
    for (name, text) in [
        ("PORT", "70000"),
        ("HOST", "example.com"),
        ("REDIS_ENABLED", "perhaps"),
        ("REDIS_URL", "http://u:hunter2@host"),
        ("DATABASE_URL", "mysql://u:hunter2@host/db"),
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "0s"),
        ("PORTCULLIS_ACCESS_TOKEN_TTL", "15"),
        ("PORTCULLIS_TOKEN_LEEWAY", "10m"),
        ("PORTCULLIS_ALLOWED_ORIGINS", "*"),
        ("PORTCULLIS_ALLOWED_ORIGINS", "https://a.example/path"),
        ("PORTCULLIS_TRUSTED_PROXIES", "everyone"),
        ("PORTCULLIS_MAX_MESSAGE_BYTES", "0"),
        ("PORTCULLIS_SIGNING_ALGORITHM", "none"),
        ("PORTCULLIS_SIGNING_KEY", "hunter2"),
        ("PORTCULLIS_RECORD_KEY", "hunter2"),
        ("PORTCULLIS_COOKIES", "maybe"),
        ("PORTCULLIS_LOG", "info,,=x="),
        ("PORTCULLIS_LOG_FORMAT", "xml"),
        ("PORTCULLIS_PASSWORD_THREADS", "0"),
    ] {
        let message = refusal(&[(name, text)]);
        assert!(message.starts_with(name), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let flags = texts(&[("PORTCULLIS_SESSION_TTL", "soon")]);
    let message = Config::load(&flags, &Texts::new(), None).unwrap_err().to_string();
    assert!(message.starts_with("--session-ttl (PORTCULLIS_SESSION_TTL)"), "{message}");
}

#[test]
fn a_bad_file_is_refused_by_its_name_and_key_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.toml");
    for (content, expected) in [
        ("prot = 1", "prot is not a setting"),
        ("PORTCULLIS_SESSION_TTL = '1d'", "its key here is session_ttl"),
        ("config = 'other.toml'", "config is not a setting"),
        ("port = [1]", "port must be"),
        ("[redis]\nurl = 'x'", "redis is not a setting"),
        ("host = '::'\ndatabase_url = hunter2", "line 2"),
        ("session_ttl = 'soon'", "session_ttl"),
    ] {
        std::fs::write(&file, content).unwrap();
        let message = refusal(&[("PORTCULLIS_CONFIG", file.to_str().unwrap())]);
        assert!(message.contains(expected) && message.contains("portcullis.toml"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let dotenv = dir.path().join(".env");
    std::fs::write(&dotenv, "PORT=1\nDATABASE_URL=two words hunter2\n").unwrap();
    let message = Config::load(&Texts::new(), &Texts::new(), Some(&dotenv)).unwrap_err().to_string();
    assert!(message.contains("the entry after PORT") && !message.contains("hunter2"), "{message}");
}

#[test]
fn a_misspelt_variable_is_warned_of() {
    let config = from_environment(&[("PORTCULLIS_SESION_TTL", "1d"), ("UNRELATED", "1")]).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("PORTCULLIS_SESION_TTL"));
}

#[test]
fn a_secret_may_live_in_a_file_but_not_in_two_places() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("redis");
    std::fs::write(&file, "redis://:from-file@h/1\n").unwrap();
    let file = ("REDIS_URL_FILE", file.to_str().unwrap());
    let direct = ("REDIS_URL", "redis://direct");
    assert_eq!(redis(&[file]).as_deref(), Some("redis://:from-file@h/1"));
    let message = refusal(&[file, direct]);
    assert!(message.contains("REDIS_URL and REDIS_URL_FILE are both set"), "{message}");
    let config = Config::load(&texts(&[direct]), &texts(&[file]), None).unwrap();
    assert_eq!(config.redis_url.unwrap().expose_secret(), direct.1, "a flag hides the environment's file");
    let message = refusal(&[("DATABASE_URL_FILE", "/nonexistent/secret")]);
    assert!(message.starts_with("DATABASE_URL_FILE"), "{message}");
}

#[test]
fn hs256_needs_a_long_secret() {
    let algorithm = ("PORTCULLIS_SIGNING_ALGORITHM", "hs256");
    assert!(refusal(&[algorithm]).contains("PORTCULLIS_SIGNING_KEY"));
    assert!(refusal(&[algorithm, ("PORTCULLIS_SIGNING_KEY", "short")]).contains("32 bytes"));
    let config = from_environment(&[algorithm, ("PORTCULLIS_SIGNING_KEY", &"s".repeat(32))]).unwrap();
    assert_eq!(config.signing_algorithm, "HS256");
}

#[test]
fn a_pem_key_may_spell_its_line_ends() {
    let key = r"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    let config = from_environment(&[("PORTCULLIS_SIGNING_KEY", key)]).unwrap();
    assert_eq!(config.signing_key.unwrap().expose_secret().lines().count(), 3);
}

#[test]
fn a_session_fits_into_its_greatest_age() {
    let config = from_environment(&[("PORTCULLIS_SESSION_MAX_AGE", "1h")]).unwrap();
    assert_eq!(config.session_ttl, DAY / 24, "the default gives way");
    let message = refusal(&[("PORTCULLIS_SESSION_MAX_AGE", "1h"), ("PORTCULLIS_SESSION_TTL", "2h")]);
    assert!(
        message.starts_with("PORTCULLIS_SESSION_TTL") && message.contains("PORTCULLIS_SESSION_MAX_AGE"),
        "{message}"
    );
}

#[test]
fn debug_shows_no_secret() {
    let config = from_environment(&[
        ("DATABASE_URL", "postgres://u:hunter2@h/d"),
        ("REDIS_URL", "redis://:hunter2@h"),
        ("PORTCULLIS_SIGNING_ALGORITHM", "HS256"),
        ("PORTCULLIS_SIGNING_KEY", &"hunter2".repeat(8)),
        ("PORTCULLIS_RECORD_KEY", &"ab".repeat(32)),
    ])
    .unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("abab"), "{shown}");
    assert_eq!(config.record_keys(&RecordKey([0; 32]))[0].0, [0xab; 32]);
}

#[test]
fn the_example_file_lists_every_setting_with_its_default_and_nothing_else() {
    let example = include_str!("../../.env.example");
    let mut listed = Vec::new();
    for line in example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| !line.starts_with(' ')) {
        let (name, text) = line.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let setting = settings::ALL.iter().find(|setting| setting.env == name);
        let setting = setting.unwrap_or_else(|| panic!("{name} is not a setting"));
        match setting.default {
            settings::Fallback::Value(default) => assert_eq!(text, default, "{name}"),
            settings::Fallback::Unset(_) => assert_eq!(text, "", "{name}"),
        }
        listed.push(name);
    }
    let all: Vec<_> = settings::ALL.iter().map(|setting| setting.env).collect();
    assert_eq!(listed, all);
}

#[test]
fn the_example_file_can_be_copied_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let dotenv = dir.path().join(".env");
    let live: String = include_str!("../../.env.example").lines().map(|l| l.strip_prefix('#').unwrap_or(l)).fold(
        String::new(),
        |text, line| if line.starts_with(' ') || line.is_empty() { text } else { text + line + "\n" },
    );
    std::fs::write(&dotenv, live).unwrap();
    Config::load(&Texts::new(), &Texts::new(), Some(&dotenv)).unwrap();
}
