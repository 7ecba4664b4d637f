//! A real Redis and a real Postgres, started by the tests, breakable on purpose.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

use super::wait::{eventually_blocking, free_port};
use super::watchdog::{Watched, family, scratch, signal};

/// A server process that can be killed, started again on its port, frozen and thawed.
struct Server {
    command: Command,
    farewell: &'static str,
    log: PathBuf,
    process: Mutex<Option<Watched>>,
}

impl Server {
    fn new(command: Command, farewell: &'static str, log: PathBuf) -> Self {
        let server = Self { command, farewell, log, process: Mutex::new(None) };
        server.start();
        server
    }

    fn start(&self) {
        self.start_with(&[]);
    }

    /// Starts it with more arguments, this once.
    fn start_with(&self, arguments: &[&str]) {
        let mut command = Command::new(self.command.get_program());
        command.args(self.command.get_args()).args(arguments);
        if let Some(directory) = self.command.get_current_dir() {
            command.current_dir(directory);
        }
        *self.process.lock().expect("process") = Some(Watched::spawn(&command, self.farewell, &self.log));
    }

    fn kill(&self) {
        if let Some(process) = self.process.lock().expect("process").take() {
            process.kill();
        }
    }

    /// Ends it the way its farewell does, and waits for that.
    fn end(&self) {
        drop(self.process.lock().expect("process").take());
    }

    fn signal_all(&self, name: &str) {
        if let Some(process) = self.process.lock().expect("process").as_ref() {
            // The parent first, so that it makes no more children; then whoever is there.
            signal(name, &[process.pid()]);
            signal(name, &family(process.pid())[1..]);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// One `redis-server` without persistence.
pub struct RedisServer {
    server: Server,
    port: u16,
    _scratch: TempDir,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        let scratch = scratch("redis-");
        let port = free_port();
        let mut command = Command::new(program("redis-server", &[]));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(scratch.path());
        let server = Server::new(command, "KILL", scratch.path().join("redis.log"));
        let redis = Self { server, port, _scratch: scratch };
        redis.wait();
        redis
    }

    /// The URL for `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs commands as an operator at its prompt does, one after the other, and says what it answered to each.
    pub fn run(&self, commands: &[&str]) -> Vec<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect to Redis");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set a time limit");
        let mut answers = BufReader::new(stream.try_clone().expect("share the connection"));
        let run = |command: &&str| {
            stream.write_all(format!("{command}\r\n").as_bytes()).expect("send a command");
            let mut answer = String::new();
            answers.read_line(&mut answer).expect("an answer of Redis");
            assert!(!answer.starts_with('-'), "Redis refuses `{command}`: {answer}");
            answer
        };
        commands.iter().map(run).collect()
    }

    /// Kills it: connections are reset, everything in it is lost.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&self) {
        self.server.end();
        self.server.start();
        self.wait();
    }

    /// Kills it and starts it again with as much to load as takes half a minute: it accepts connections, lets people
    /// publish and subscribe, and answers `LOADING` to everything else.
    pub fn restart_loading(&self) {
        let filler = "x".repeat(2048);
        let fill: Vec<_> = (0..600).map(|key| format!("SET filler:{key} {filler}")).collect();
        self.run(&fill.iter().map(String::as_str).collect::<Vec<_>>());
        self.run(&["SAVE"]);
        self.server.end();
        self.server.start_with(&["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"]);
        let what = || format!("redis-server loads; its log:\n{}", self.server.log());
        eventually_blocking(what, || self.ping().is_ok_and(|answer| answer == *b"-LOADIN"));
    }

    /// Lets it finish loading, and waits for that.
    pub fn finish_loading(&self) {
        self.run(&["CONFIG SET key-load-delay 0"]);
        self.wait();
    }

    /// Freezes it: connections stay open and nothing is answered.
    pub fn stop_signal(&self) {
        self.server.signal_all("STOP");
    }

    /// Lets it go on.
    pub fn cont_signal(&self) {
        self.server.signal_all("CONT");
    }

    fn wait(&self) {
        let what = || format!("redis-server answers; its log:\n{}", self.server.log());
        eventually_blocking(what, || self.ping().is_ok_and(|answer| answer == *b"+PONG\r\n"));
    }

    fn ping(&self) -> std::io::Result<[u8; 7]> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }
}

/// One Postgres cluster in a directory of its own.
pub struct PostgresServer {
    server: Server,
    port: u16,
    databases: AtomicU32,
    _scratch: TempDir,
}

impl PostgresServer {
    /// The one of this test process, for tests that leave it alone.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<PostgresServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one of its own, for a test that breaks it.
    pub fn start() -> Self {
        Self::start_for(400)
    }

    /// Starts one that admits this many connections.
    pub fn start_for(connections: u32) -> Self {
        let scratch = scratch("postgres-");
        let data = scratch.path().join("data");
        let port = free_port();
        own(scratch.path());
        let mut initdb = as_postgres(&program("initdb", &postgres_folders()));
        initdb.args(["-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        let made = initdb.current_dir(scratch.path()).output().expect("run initdb");
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let mut command = as_postgres(&program("postgres", &postgres_folders()));
        command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        // Commits survive the death of the server's processes without fsync; only the machine's would lose them.
        for setting in ["fsync=off", "shared_buffers=32MB", "log_min_messages=warning"] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("max_connections={connections}"));
        command.current_dir(scratch.path());
        let server = Server::new(command, "QUIT", scratch.path().join("postgres.log"));
        let postgres = Self { server, port, databases: AtomicU32::new(0), _scratch: scratch };
        postgres.wait();
        postgres
    }

    /// Makes an empty database and says its URL.
    pub async fn database(&self) -> String {
        let name = format!("gateway_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.expect("connect to Postgres");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("create a database");
        connection.close().await.expect("leave Postgres");
        self.url(&name)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a crash does: no clean shutdown, recovery at the next start.
    pub fn kill(&self) {
        self.server.end();
    }

    /// Starts it again on the same port with what was committed.
    pub fn restart(&self) {
        self.server.end();
        self.server.start();
        self.wait();
    }

    /// Freezes it with all its processes: connections stay open and nothing is answered.
    pub fn stop_signal(&self) {
        self.server.signal_all("STOP");
    }

    /// Lets it go on.
    pub fn cont_signal(&self) {
        self.server.signal_all("CONT");
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn wait(&self) {
        let pg_isready = program("pg_isready", &postgres_folders());
        let port = self.port.to_string();
        let what = || format!("Postgres answers; its log:\n{}", self.server.log());
        eventually_blocking(what, || {
            let mut ask = Command::new(&pg_isready);
            ask.args(["-q", "-h", "127.0.0.1", "-U", "postgres", "-d", "postgres", "-p", &port]);
            ask.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        });
    }
}

/// Debian keeps the server's programs outside the path, one folder a version.
fn postgres_folders() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut folders: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    folders.sort();
    folders.reverse();
    folders
}

fn program(name: &str, folders: &[PathBuf]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = folders.iter().cloned().chain(std::env::split_paths(&path)).map(|folder| folder.join(name));
    found.into_iter().find(|candidate| candidate.is_file()).unwrap_or_else(|| {
        panic!("`{name}` is not installed: sudo apt-get install --yes redis-server postgresql");
    })
}

/// Postgres refuses to run as root, so root hands over to the user that Debian's package makes.
fn as_postgres(program: &Path) -> Command {
    if !running_as_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

fn own(folder: &Path) {
    if running_as_root() {
        let status = Command::new("chown").arg("postgres:").arg(folder).status().expect("run chown");
        assert!(status.success(), "the user `postgres` is missing: sudo apt-get install --yes postgresql");
    }
}

fn running_as_root() -> bool {
    static ROOT: OnceLock<bool> = OnceLock::new();
    *ROOT.get_or_init(|| Command::new("id").arg("-u").output().expect("run id").stdout == *b"0\n")
}
