//! `portcullis doctor`: checks what the gateway needs, one line each, on the real servers. Everything it writes has
//! names of its own and is removed again.

use std::os::unix::fs::PermissionsExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Serialize;
use uuid::Uuid;

use super::DoctorArgs;
use crate::app::store_config;
use crate::cache::{Cache, CacheParts, Standing};
use crate::clock::DatabaseClock;
use crate::config::Config;
use crate::entry::{EndReason, LogEntry};
use crate::freshness::Freshness;
use crate::ids::{DeploymentId, Jti, Sid};
use crate::redis_link::RedisLink;
use crate::seal::Sealer;
use crate::secret::SessionSecret;
use crate::store::{ListedToken, NewSession, NewUser, SessionRead, SignupOutcome, Store};

/// A difference between the clocks that is worth a word. Nothing depends on it: times are judged in database time.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// How long anything may take here.
const WITHIN: Duration = Duration::from_secs(10);

/// The result of one check.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    detail: String,
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    /// Notes a check; hands its value on when it passed.
    fn note<T>(&mut self, check: &'static str, outcome: anyhow::Result<(T, String)>) -> Option<T> {
        match outcome {
            Ok((value, detail)) => {
                self.0.push(Finding { check, ok: true, detail });
                Some(value)
            }
            Err(error) => {
                self.0.push(Finding { check, ok: false, detail: format!("{error:#}") });
                None
            }
        }
    }
}

/// Runs all checks and prints a line for each. The exit code says whether all passed.
///
/// # Errors
/// When the results cannot be printed.
pub async fn run(arguments: &DoctorArgs, config: Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    report.note("key files", key_files(&config));
    if let Some((store, deployment)) = check_database(&mut report, &config).await {
        let link = check_redis(&mut report, &config).await;
        check_cache(&mut report, &config, &store, link.map(|link| (link, deployment))).await;
        store.close().await;
    }
    let all_good = report.0.iter().all(|finding| finding.ok);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&serde_json::json!({ "ok": all_good, "checks": report.0 }))?);
    } else {
        for Finding { check, ok, detail } in &report.0 {
            println!("{}  {check:<24} {detail}", if *ok { "ok    " } else { "FAILED" });
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn key_files(config: &Config) -> anyhow::Result<((), String)> {
    if config.signing_key.is_some() {
        return Ok(((), "the signing key comes from the settings".into()));
    }
    let Ok(entries) = std::fs::read_dir(&config.data_dir) else {
        return Ok(((), format!("{} does not exist yet; the first start makes it", config.data_dir.display())));
    };
    let mut seen = 0;
    for entry in entries.flatten().filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pem"))
    {
        let mode = entry.metadata().context("failed to read a key file's mode")?.permissions().mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{} is readable by others (mode {mode:o}); chmod 600", entry.path().display());
        seen += 1;
    }
    Ok(((), format!("{seen} in {}, readable by the owner only", config.data_dir.display())))
}

async fn check_database(report: &mut Report, config: &Config) -> Option<(Store, DeploymentId)> {
    let opened = async {
        let store = Store::open(&store_config(config)).await?;
        let latency = store.ping().await?;
        let detail = format!("{} answers in {:.1} ms", store.kind(), latency.as_secs_f64() * 1e3);
        Ok((store, detail))
    };
    let store = report.note("database", within(opened).await)?;
    let deployment = async {
        let deployment = store.deployment().await.context("the schema is not there; run `portcullis migrate`")?;
        Ok((deployment.id, format!("schema in place, deployment {}", deployment.id)))
    };
    let deployment = report.note("migrations", within(deployment).await)?;
    report.note("clock", within(check_clock(&store)).await);
    Some((store, deployment))
}

async fn check_clock(store: &Store) -> anyhow::Result<((), String)> {
    let clock = DatabaseClock::default();
    let read = store.log_reader().read().await.context("failed to read the revocation log")?;
    clock.measure(read.sent_at, read.database_now);
    let offset = clock.offset_seconds();
    let remark = if offset.abs() > CLOCK_TOLERANCE.as_secs_f64() {
        "; worth mending, though times are judged by the database's"
    } else {
        ""
    };
    Ok(((), format!("the database's differs by {offset:+.3} s{remark}")))
}

async fn check_redis(report: &mut Report, config: &Config) -> Option<Arc<RedisLink>> {
    let Some(url) = &config.redis_url else {
        report.note("redis", Ok(((), "not configured: in-process cache only".into())));
        return None;
    };
    // Patience: here a slow answer is to be measured, not avoided.
    let link = report
        .note("redis", RedisLink::new(url, Duration::from_secs(2)).map(|link| (Arc::new(link), "configured".into())))?;
    report.note("redis connection", within(ping(&link)).await)?;
    report.note("redis operations", within(operations(&link)).await)?;
    Some(link)
}

async fn ping(link: &RedisLink) -> anyhow::Result<((), String)> {
    let mut ping = redis::pipe();
    ping.cmd("PING").ignore();
    link.run::<()>(&ping).await?;
    let sent = std::time::Instant::now();
    link.run::<()>(&ping).await?;
    Ok(((), format!("answers in {:.1} ms", sent.elapsed().as_secs_f64() * 1e3)))
}

async fn operations(link: &RedisLink) -> anyhow::Result<((), String)> {
    let name = format!("portcullis:doctor:{}", Uuid::new_v4().simple());
    let mut pipeline = redis::pipe();
    pipeline.pset_ex(&name, "value", 10_000).ignore().get(&name).del(&name).get(&name);
    let (written, deleted, gone): (Option<String>, u32, Option<String>) = link.run(&pipeline).await?;
    ensure!(written.as_deref() == Some("value"), "a value that was set did not come back");
    ensure!(deleted == 1 && gone.is_none(), "a key that was deleted is still there");
    let mut publish = redis::pipe();
    publish.cmd("PUBLISH").arg(&name).arg("hello").ignore();
    link.run::<()>(&publish).await.context("PUBLISH is not allowed")?;
    Ok(((), "SET, GET, DEL, PUBLISH work".into()))
}

/// A cache of its own over the real stores, with a user of its own.
struct Patient {
    store: Store,
    redis: Option<(Arc<RedisLink>, Arc<Sealer>, DeploymentId)>,
    freshness: Arc<Freshness>,
    clock: Arc<DatabaseClock>,
    session: SessionRead,
    secret: SessionSecret,
}

async fn check_cache(
    report: &mut Report,
    config: &Config,
    store: &Store,
    redis: Option<(Arc<RedisLink>, DeploymentId)>,
) {
    let Some(patient) = report.note("user and session", within(Patient::admit(config, store, redis)).await) else {
        return;
    };
    let user_id = patient.session.session.user_id;
    report.note("user caching", within(patient.caching()).await);
    report.note("token blacklisting", within(patient.listing()).await);
    report.note("session handling", within(patient.ending()).await);
    report.note("cache statistics", within(patient.statistics()).await);
    let removed = async { Ok((store.remove_user(user_id).await?, "the doctor's own user is gone".to_owned())) };
    report.note("clean-up", within(removed).await);
}

impl Patient {
    async fn admit(
        config: &Config,
        store: &Store,
        redis: Option<(Arc<RedisLink>, DeploymentId)>,
    ) -> anyhow::Result<(Self, String)> {
        let in_database = store.deployment().await?.record_key;
        let sealer = Arc::new(Sealer::new(&in_database, &config.record_keys(&in_database))?);
        let secret = SessionSecret::random();
        let user = NewUser {
            email: format!("doctor-{}@portcullis.invalid", Uuid::new_v4().simple()),
            // No password has this hash.
            password_hash: "!".into(),
            full_name: None,
        };
        let session = NewSession {
            sid: Sid::random(),
            secret_hash: secret.hash(),
            device_name: Some("portcullis doctor".into()),
            user_agent: None,
            ip: None,
            seen_from: Default::default(),
            ttl: Duration::from_secs(60),
            max_age: Duration::from_secs(60),
        };
        let outcome = store.sign_up(user, Some(session)).await.context("failed to write a user")?;
        let SignupOutcome::Created { session: Some(session), .. } = outcome else {
            anyhow::bail!("the database took no new user");
        };
        let (freshness, clock) = (Arc::new(Freshness::new()), Arc::new(DatabaseClock::default()));
        let redis = redis.map(|(link, deployment)| (link, sealer, deployment));
        let patient = Self { store: store.clone(), redis, freshness, clock, session: session.value, secret };
        patient.read_log().await?;
        Ok((patient, "written".into()))
    }

    /// A node's memory, empty. Two of them are two nodes.
    fn cache(&self) -> Arc<Cache> {
        let (cache, workers) = Cache::new(CacheParts {
            store: self.store.clone(),
            redis: self.redis.clone(),
            freshness: self.freshness.clone(),
            clock: self.clock.clone(),
            capacity: 100,
            rotation: false,
            user_ttl: Duration::from_secs(60),
        });
        workers.into_iter().for_each(|worker| drop(tokio::spawn(worker)));
        cache
    }

    async fn read_log(&self) -> anyhow::Result<()> {
        let read = self.store.log_reader().read().await?;
        self.clock.measure(read.sent_at, read.database_now);
        self.freshness.set_floor(read.watermark);
        self.apply(&read.entries);
        self.freshness.rise(read.sent_at);
        Ok(())
    }

    fn apply(&self, entries: &[LogEntry]) {
        for entry in entries {
            crate::cache::marked_by(&entry.scope).for_each(|id| self.freshness.mark(id, entry.position));
        }
    }

    async fn standing(&self, cache: &Cache) -> anyhow::Result<Standing> {
        let session = &self.session.session;
        cache.session(session.sid, session.user_id).await.map_err(|_| anyhow::anyhow!("the caches could not tell"))
    }

    async fn caching(&self) -> anyhow::Result<((), String)> {
        let first = self.cache();
        ensure!(matches!(self.standing(&first).await?, Standing::Alive(..)), "a living session was not found");
        ensure!(matches!(self.standing(&first).await?, Standing::Alive(..)), "a cached session was not found");
        ensure!(first.statistics().hits == 1, "the second look-up was no hit");
        if self.redis.is_none() {
            return Ok(((), "database, then memory".into()));
        }
        // The fill goes out behind the answer: ask with empty memories until one of them finds it.
        loop {
            self.read_log().await?;
            let other = self.cache();
            self.standing(&other).await?;
            if other.statistics().hits == 1 {
                return Ok(((), "database, then memory; another node finds it in Redis".into()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn listing(&self) -> anyhow::Result<((), String)> {
        let session = &self.session.session;
        let jti = Jti::random();
        let expires_at = self.clock.now() + Duration::from_secs(60);
        let token = ListedToken { jti, sid: session.sid, user_id: session.user_id, expires_at };
        let revoked = self.store.list_token(token).await?;
        ensure!(!revoked.entries.is_empty(), "the log was told nothing");
        let read = self.store.load_sessions(&[session.sid]).await?;
        let listed = read.value.first().is_some_and(|read| read.session.listed.contains(&jti));
        ensure!(listed, "a listed token is not on the list");
        Ok(((), "a listed token is known to every read of its session".into()))
    }

    async fn ending(&self) -> anyhow::Result<((), String)> {
        let by_secret = self.cache().session_by_secret(self.secret.hash()).await;
        ensure!(matches!(by_secret, Ok(Standing::Alive(..))), "the session's secret was not accepted");
        let (cache, session) = (self.cache(), &self.session.session);
        self.standing(&cache).await?;
        let revoked = self.store.end_session(session.sid, session.user_id, EndReason::LoggedOut, None).await?;
        self.apply(&revoked.entries);
        self.read_log().await?;
        ensure!(matches!(self.standing(&cache).await?, Standing::Ended(_)), "an ended session is still good");
        Ok(((), "found by its secret; ended, and refused at once".into()))
    }

    async fn statistics(&self) -> anyhow::Result<((), String)> {
        let cache = self.cache();
        let Some((latency, memory)) = cache.redis_statistics().await else {
            ensure!(self.redis.is_none(), "Redis gave none");
            return Ok(((), "in-process cache; see `portcullis stats` for a running gateway".into()));
        };
        let memory =
            memory.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / 1_048_576.0));
        Ok(((), format!("Redis: {memory} used, {:.1} ms; see `portcullis stats`", latency.as_secs_f64() * 1e3)))
    }
}

async fn within<T>(check: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(WITHIN, check)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no result within {} s", WITHIN.as_secs())))
}
