//! A Postgres of our own, and a pooler in transaction mode before it, started once for the whole test process and gone
//! with it, however it ends.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A copy of a server that follows it until it is promoted.
pub struct Standby {
    pub port: u16,
    _watchdog: Child,
}

/// The two ports. The processes die when this process's end of their watchdog's pipe closes.
pub struct Server {
    pub port: u16,
    pub pooler_port: u16,
    _watchdogs: [Child; 2],
}

impl Server {
    /// The one server of this process.
    pub fn get() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn pooler_url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.pooler_port)
    }

    /// Copies the server and starts the copy.
    pub fn standby(&self) -> Standby {
        let directory = own_directory();
        let data = directory.join("data");
        run(as_postgres(&binaries().join("pg_basebackup"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string()])
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
            .arg(&data));
        let port = free_port();
        let watchdog = watched(&directory, &postgres(&data, port));
        wait_until(&directory, || is_ready(port));
        Standby { port, _watchdog: watchdog }
    }

    fn start() -> Self {
        let directory = own_directory();
        let data = directory.join("data");
        run(as_postgres(&binaries().join("initdb")).arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]));
        let (port, pooler_port) = (free_port(), free_port());
        let postgres = watched(&directory, &postgres(&data, port));
        let settings = directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = user=postgres host=127.0.0.1 port={port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {pooler_port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 3\nmax_client_conn = 500\n"
        );
        std::fs::write(&settings, text).expect("the pooler's settings");
        let pgbouncer = Path::new("/usr/sbin/pgbouncer");
        assert!(pgbouncer.exists(), "these tests need Debian's pgbouncer: apt install pgbouncer");
        let pooler = watched(&directory, as_postgres(pgbouncer).arg("-q").arg(&settings));
        let server = Self { port, pooler_port, _watchdogs: [postgres, pooler] };
        let pooler_is_ready = || std::net::TcpStream::connect(("127.0.0.1", pooler_port)).is_ok();
        wait_until(&directory, || is_ready(port) && pooler_is_ready());
        server
    }
}

fn own_directory() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("portcullis-pg-").tempdir().expect("a directory").keep();
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(&directory));
    }
    directory
}

fn postgres(data: &Path, port: u16) -> Command {
    let mut command = as_postgres(&binaries().join("postgres"));
    command
        .arg("-D")
        .arg(data)
        .args(["-p", &port.to_string(), "-F"])
        .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
        .args(["-c", "full_page_writes=off", "-c", "max_connections=300", "-c", "max_wal_senders=4"]);
    command
}

fn is_ready(port: u16) -> bool {
    let mut ask = Command::new(binaries().join("pg_isready"));
    ask.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]).status().is_ok_and(|status| status.success())
}

fn wait_until(directory: &Path, is_up: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_up() {
        assert!(Instant::now() < deadline, "the server does not come up; see {}", directory.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs `command` until our end of the pipe closes, and then takes the directory away too.
fn watched(directory: &Path, command: &Command) -> Child {
    let script = r#"
        directory=$1; shift
        "$@" >>"$directory/log" 2>&1 &
        child=$!
        cat >/dev/null
        kill -INT "$child" 2>/dev/null
        wait "$child"
        rm -rf "$directory"
    "#;
    Command::new("setsid")
        .args(["sh", "-c", script, "sh"])
        .arg(directory)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a watchdog")
}

/// Postgres and pgbouncer refuse to run as root.
fn as_postgres(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn run(command: &mut Command) {
    let output = command.current_dir("/").output().expect("a program to run");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").expect("/proc").uid() == 0
}

/// The newest version that Debian put there.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("these tests need Debian's postgresql");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of postgresql");
    Path::new("/usr/lib/postgresql").join(newest.to_string()).join("bin")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
