//! The published clients and a real browser against real nodes. The scripts are in `tests/browser`; each ends with 0 when
//! what it tells came true.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Mode, Stage, stages};

stages! {
    both: [
        the_javascript_client_refreshes_and_stays_away_after_4501,
        the_python_client_connects_and_refreshes,
        the_console_shows_the_two_windows_story,
    ],
    cluster: [
        a_drained_crowd_comes_back_to_the_other_node_one_after_the_other,
    ],
}

/// A browser's story takes its time on a small machine.
const LIMIT: Duration = Duration::from_secs(180);

const NODE_MODULES: &str = "npm ci --prefix tests/browser";
const VENV: &str = "python3 -m venv tests/browser/.venv && \
    tests/browser/.venv/bin/pip install -r tests/browser/requirements.txt";

fn browser() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Fails, with the command that mends it, when a tool is missing: a test that is skipped shows nothing.
#[track_caller]
fn needs(path: &Path, command: &str) {
    assert!(path.exists(), "{} is missing. In the repository: {command}", path.display());
}

/// Runs a script against the stage and fails with all that it said.
async fn run(stage: &Stage, program: &Path, script: &str, name: &str) {
    run_with(stage, program, script, name, &[]).await;
}

async fn run_with(stage: &Stage, program: &Path, script: &str, name: &str, environment: &[(&str, &str)]) {
    let screenshots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots").join(name);
    std::fs::create_dir_all(&screenshots).expect("make a directory");
    let mut command = Command::new(program);
    command.arg(browser().join(script)).current_dir(browser());
    command.env("PORTCULLIS_URL", &stage.a().url).env("PORTCULLIS_URL_B", &stage.b().url);
    command.env("SCREENSHOT_DIR", &screenshots).env("NO_PROXY", "127.0.0.1,localhost");
    command.envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| {
        panic!("{} does not run ({error}): sudo apt-get install --yes nodejs npm chromium", program.display())
    });
    let pid = child.id();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().expect("the script's output"));
    let Ok(ended) = tokio::time::timeout(LIMIT, waiting).await else {
        let family = common::watchdog::family(pid);
        common::watchdog::signal("KILL", &family);
        panic!("{script} did not end within {LIMIT:?}");
    };
    let output = ended.expect("the script's end");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} ended with {}:\n{said}", output.status);
    println!("{said}");
    println!("screenshots, if any: {}", screenshots.display());
}

/// Tokens that run out while one watches, so that a client has to refresh.
async fn with_short_tokens(mode: Mode) -> Stage {
    mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", "4s").start().await
}

async fn the_javascript_client_refreshes_and_stays_away_after_4501(mode: Mode) {
    needs(&browser().join("node_modules/centrifuge"), NODE_MODULES);
    let stage = with_short_tokens(mode).await;
    run(&stage, Path::new("node"), "centrifuge_client.mjs", "javascript").await;
}

async fn the_python_client_connects_and_refreshes(mode: Mode) {
    let python = browser().join(".venv/bin/python");
    needs(&python, VENV);
    let stage = with_short_tokens(mode).await;
    run(&stage, &python, "centrifuge_client.py", "python").await;
}

async fn the_console_shows_the_two_windows_story(mode: Mode) {
    needs(&browser().join("node_modules"), NODE_MODULES);
    let stage = mode.own().start().await;
    run(&stage, Path::new("node"), "console.mjs", if mode == Mode::Cluster { "cluster" } else { "embedded" }).await;
}

async fn a_drained_crowd_comes_back_to_the_other_node_one_after_the_other(mode: Mode) {
    needs(&browser().join("node_modules/centrifuge"), NODE_MODULES);
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "8s").start().await;
    let pid = stage.gateways[0].pid().to_string();
    let environment = [("PORTCULLIS_PID", pid.as_str()), ("DRAIN_WINDOW_MS", "8000")];
    run_with(&stage, Path::new("node"), "drain_crowd.mjs", "drain", &environment).await;
    assert_eq!(stage.gateways[0].exited().await, 0);
}
