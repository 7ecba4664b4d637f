//! Child processes that cannot outlive the tests, whichever way the tests end.
//!
//! Each child runs under a small `sh` whose standard input is a pipe held by this process. However this process ends
//! (a return, a panic, statics that are never dropped, SIGKILL), the pipe closes and the shell ends the child.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

/// Runs the command given after two arguments: the signal that ends it and the file that takes its process id. Its exit
/// status becomes the shell's. SIGHUP is what the kernel sends to the shell's group when this process is gone while the
/// child is frozen.
const WATCHDOG: &str = r#"
trap '' HUP
farewell=$1 pidfile=$2
shift 2
exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( read -r _ <&3; kill -CONT "$server"; kill -"$farewell" "$server" ) </dev/null >/dev/null 2>&1 &
reader=$!
echo "$server" > "$pidfile.new" && mv "$pidfile.new" "$pidfile"
wait "$server"
status=$?
kill "$reader" 2>/dev/null
exit "$status"
"#;

/// Removes the directory of this test process when it is gone and the servers have let go of it.
const JANITOR: &str = r#"
read -r _
tries=0
while [ -e "$1" ] && [ "$tries" -lt 100 ]; do
    rm -rf "$1" 2>/dev/null
    tries=$((tries + 1))
    sleep 0.1
done
"#;

/// A running child and the leash that ends it.
pub struct Watched {
    shell: Child,
    leash: Option<ChildStdin>,
    pid: u32,
}

impl Watched {
    /// Starts `command` (its program, arguments, environment and directory), its output appended to `log`. `farewell` is
    /// the signal that ends it when nobody holds it any more.
    pub fn spawn(command: &Command, farewell: &str, log: &Path) -> Self {
        let pidfile = log.with_extension("pid");
        let _ = fs::remove_file(&pidfile);
        let output = File::options().create(true).append(true).open(log).expect("open the log");
        let mut shell = Command::new("sh");
        shell.args(["-c", WATCHDOG, "watchdog", farewell]).arg(&pidfile);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            shell.current_dir(directory);
        }
        shell.stdin(Stdio::piped());
        shell.stdout(output.try_clone().expect("share the log"));
        shell.stderr(output);
        // A group of its own: what a terminal or a test runner sends to ours must not end the watchdog first.
        shell.process_group(0);
        let mut shell = shell.spawn().expect("start sh");
        let leash = shell.stdin.take();
        let pid = read_pid(&pidfile);
        Self { shell, leash, pid }
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal by its name without the SIG.
    pub fn signal(&self, name: &str) {
        signal(name, &[self.pid]);
    }

    /// The exit status, if it has ended; 128 and the number for a signal.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.shell.try_wait().expect("ask for the watchdog's status").and_then(|status| status.code())
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        signal("KILL", &[self.pid]);
        let _ = self.shell.wait();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = self.shell.wait();
    }
}

fn read_pid(pidfile: &Path) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(pid) = fs::read_to_string(pidfile).ok().and_then(|text| text.trim().parse().ok()) {
            return pid;
        }
        assert!(Instant::now() < deadline, "the watchdog wrote no process id to {}", pidfile.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a signal to each process that still exists.
pub fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        let _ = Command::new("sh")
            .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
            .stderr(Stdio::null())
            .status()
            .expect("run kill");
    }
}

/// The process and all its descendants.
pub fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("read /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in parentheses, may hold anything; the state and then the parent follow the last parenthesis.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(child, _)| *child));
        next += 1;
    }
    family
}

/// A new directory that is gone when it is dropped, or else with this process.
pub fn scratch(name: &str) -> TempDir {
    static ROOT: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (root, _) = ROOT.get_or_init(|| {
        // Ordinary users begin with a thousand, which proxies and crowds of clients use up.
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let root = tempfile::Builder::new().prefix("portcullis-tests-").tempdir().expect("make a directory").keep();
        // Postgres runs as a user of its own below it.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("open the directory to other users");
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&root)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start sh");
        (root, janitor)
    });
    tempfile::Builder::new().prefix(name).tempdir_in(root).expect("make a directory")
}
