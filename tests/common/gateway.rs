//! The real program as a child process, on a free port, with a data directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use super::client::Node;
use super::servers::RedisServer;
use super::wait::{DEADLINE, eventually, eventually_within, free_port};
use super::watchdog::{Watched, scratch};

/// What a gateway is started with.
#[derive(Clone)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// The embedded default with the rate limits off: tests come from one address and are many.
    pub fn embedded() -> Self {
        Self(Vec::new()).env("PORTCULLIS_THROTTLING", "off").env("RUST_LOG", "info,portcullis=debug")
    }

    /// Sets one environment variable; the last one counts.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves one environment variable out.
    pub fn without(mut self, name: &str) -> Self {
        self.0.retain(|(known, _)| known != name);
        self
    }

    /// Keeps users and sessions in this Postgres database.
    pub fn postgres(self, url: &str) -> Self {
        self.env("DATABASE_URL", url)
    }

    /// Caches in this Redis and talks to other nodes through it.
    pub fn redis(self, redis: &RedisServer) -> Self {
        self.env("REDIS_URL", &redis.url())
    }

    /// Starts the program without waiting for it.
    pub fn spawn(self) -> Gateway {
        let scratch = scratch("gateway-");
        let port = free_port();
        let gateway = Gateway { settings: self, port, scratch, process: Mutex::new(None) };
        gateway.spawn();
        gateway
    }

    /// Starts the program and waits until it is ready.
    pub async fn start(self) -> Gateway {
        let gateway = self.spawn();
        gateway.ready().await;
        gateway
    }
}

/// One node: the program, where it listens, what it wrote.
pub struct Gateway {
    settings: Settings,
    port: u16,
    scratch: TempDir,
    process: Mutex<Option<Watched>>,
}

impl Gateway {
    /// A client of this node.
    pub fn node(&self) -> Node {
        Node::new(&format!("http://127.0.0.1:{}", self.port))
    }

    /// The node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The process that runs now.
    pub fn pid(&self) -> u32 {
        self.process.lock().expect("process").as_ref().expect("a running gateway").pid()
    }

    /// All it has written so far, since its first start.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Waits until it says that it is ready, or fails with its log when it ends instead.
    pub async fn ready(&self) {
        let node = self.node();
        eventually_within(2 * DEADLINE, "the gateway is ready", async || {
            if let Some(code) = self.exit_code() {
                panic!("the gateway ended with {code} instead of getting ready");
            }
            let answer = node.get("/health/ready").try_send().await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Asks it to stop, as an orchestrator does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal by its name without the SIG.
    pub fn signal(&self, name: &str) {
        self.process.lock().expect("process").as_ref().expect("a running gateway").signal(name);
    }

    /// Waits for its end and says its exit status (128 and the number for a signal).
    pub async fn exited(&self) -> i32 {
        eventually_within(2 * DEADLINE, "the gateway ends", async || self.exit_code()).await
    }

    /// Stops it politely and checks that it ends well.
    pub async fn stop(&self) {
        self.terminate();
        assert_eq!(self.exited().await, 0, "exit status after SIGTERM");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        if let Some(process) = self.process.lock().expect("process").take() {
            process.kill();
        }
    }

    /// Starts it again without waiting for it.
    pub fn start_again(&self) {
        self.spawn();
    }

    /// Starts it again with the same settings, port and data directory.
    pub async fn restart(&self) {
        self.kill();
        self.spawn();
        self.ready().await;
    }

    /// The exit status, if it has ended.
    pub fn exit_code(&self) -> Option<i32> {
        self.process.lock().expect("process").as_mut().and_then(Watched::exit_code)
    }

    /// Shows the end of its log, for a test that failed.
    pub fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(80);
        eprintln!(
            "--- the log of the gateway on port {}, its last lines:\n{}\n---",
            self.port,
            lines[from..].join("\n")
        );
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("gateway.log")
    }

    /// Runs a subcommand with the node's settings, as an operator would beside it.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        let mut command = self.program();
        command.args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("a task");
        let output = output.expect("run the program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// A key of the admin API with these scopes, made at the prompt.
    pub async fn admin_key(&self, scopes: &[&str]) -> String {
        let mut arguments = vec!["admin-key", "create", "--name", "of the tests"];
        scopes.iter().for_each(|scope| arguments.extend(["--scope", scope]));
        let said = self.run(&arguments).await.well();
        said.stdout.trim().to_owned()
    }

    /// Runs a subcommand with this node's settings, as an operator beside it does. Says its exit status, and all that
    /// it wrote.
    pub async fn operate(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = self.program();
        command.args(arguments).stdin(Stdio::null());
        let running = tokio::task::spawn_blocking(move || command.output().expect("run the program"));
        let output =
            tokio::time::timeout(2 * DEADLINE, running).await.expect("the subcommand ends").expect("its output");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    fn spawn(&self) {
        let process = Watched::spawn(&self.program(), "KILL", &self.log_file());
        *self.process.lock().expect("process") = Some(process);
    }

    fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        // Nothing that happens to be set around the tests may reach the program.
        for (name, _) in std::env::vars_os() {
            let known =
                ["DATABASE_URL", "REDIS_URL", "REDIS_ENABLED", "HOST", "PORT", "DATA_DIR", "RUST_LOG", "NO_COLOR"];
            if name.to_str().is_none_or(|name| name.starts_with("PORTCULLIS_") || known.contains(&name)) {
                command.env_remove(&name);
            }
        }
        command.env("HOST", "127.0.0.1").env("PORT", self.port.to_string()).env("DATA_DIR", self.data_dir());
        command.envs(self.settings.0.iter().map(|(name, value)| (name, value)));
        // No `.env` there.
        command.current_dir(self.scratch.path());
        command
    }
}

/// What a subcommand said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// For programs.
    pub stdout: String,
    /// For people.
    pub stderr: String,
}

impl Said {
    /// Fails unless it ended well.
    #[track_caller]
    pub fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_log();
        }
    }
}
