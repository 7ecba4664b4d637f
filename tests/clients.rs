//! The published clients and a real browser against real nodes. The scripts are in `tests/browser`; each ends with 0 when
//! what it tells came true.

mod common;

use std::path::Path;

use common::script::{NODE_MODULES, folder, needs, run};
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

const VENV: &str = "python3 -m venv tests/browser/.venv && \
    tests/browser/.venv/bin/pip install -r tests/browser/requirements.txt";

/// Tokens that run out while one watches, so that a client has to refresh.
async fn with_short_tokens(mode: Mode) -> Stage {
    mode.own().env("PORTCULLIS_ACCESS_TOKEN_TTL", "4s").start().await
}

async fn the_javascript_client_refreshes_and_stays_away_after_4501(mode: Mode) {
    needs(&folder().join("node_modules/centrifuge"), NODE_MODULES);
    let stage = with_short_tokens(mode).await;
    run(&stage, Path::new("node"), "centrifuge_client.mjs", "javascript", &[]).await;
}

async fn the_python_client_connects_and_refreshes(mode: Mode) {
    let python = folder().join(".venv/bin/python");
    needs(&python, VENV);
    let stage = with_short_tokens(mode).await;
    run(&stage, &python, "centrifuge_client.py", "python", &[]).await;
}

async fn the_console_shows_the_two_windows_story(mode: Mode) {
    needs(&folder().join("node_modules"), NODE_MODULES);
    let stage = mode.own().start().await;
    run(&stage, Path::new("node"), "console.mjs", if mode == Mode::Cluster { "cluster" } else { "embedded" }, &[])
        .await;
}

async fn a_drained_crowd_comes_back_to_the_other_node_one_after_the_other(mode: Mode) {
    needs(&folder().join("node_modules/centrifuge"), NODE_MODULES);
    let stage = mode.own().env("PORTCULLIS_DRAIN_WINDOW", "8s").start().await;
    let pid = stage.gateways[0].pid().to_string();
    let environment = [("PORTCULLIS_PID", pid), ("DRAIN_WINDOW_MS", "8000".to_owned())];
    run(&stage, Path::new("node"), "drain_crowd.mjs", "drain", &environment).await;
    assert_eq!(stage.gateways[0].exited().await, 0);
}
