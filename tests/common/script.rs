//! Scripts of `tests/browser`, run against a stage; each ends with 0 when what it tells came true.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::stage::Stage;
use super::watchdog;

/// A browser's story takes its time on a small machine.
const LIMIT: Duration = Duration::from_secs(180);

/// How to get what the scripts for node need.
pub const NODE_MODULES: &str = "npm ci --prefix tests/browser";

/// Where the scripts are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Fails, with the command that mends it, when a tool is missing: a test that is skipped shows nothing.
#[track_caller]
pub fn needs(path: &Path, command: &str) {
    assert!(path.exists(), "{} is missing. In the repository: {command}", path.display());
}

/// Runs a script against the stage and fails with all that it said.
pub async fn run(stage: &Stage, program: &Path, script: &str, name: &str, environment: &[(&str, String)]) {
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots").join(name);
    std::fs::create_dir_all(&screenshots).expect("make a directory");
    let mut command = Command::new(program);
    command.arg(folder().join(script)).current_dir(folder());
    command.env("PORTCULLIS_URL", &stage.a().url).env("PORTCULLIS_URL_B", &stage.b().url);
    command.env("SCREENSHOT_DIR", &screenshots).env("NO_PROXY", "127.0.0.1,localhost");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("{} does not run ({error}): sudo apt-get install --yes nodejs npm chromium", program.display())
    });
    let pid = child.id();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().expect("the script's output"));
    let Ok(ended) = tokio::time::timeout(LIMIT, waiting).await else {
        let family = watchdog::family(pid);
        watchdog::signal("KILL", &family);
        panic!("{script} did not end within {LIMIT:?}");
    };
    let output = ended.expect("the script's end");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} ended with {}:\n{said}", output.status);
    println!("{said}");
    println!("screenshots, if any: {}", screenshots.display());
}
