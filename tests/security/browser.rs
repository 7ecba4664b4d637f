//! Cookie mode in a real browser, under pages of other origins and other sites: `tests/browser/cookies.mjs`.

use std::path::Path;

use crate::common::script;
use crate::common::wait::free_port;
use crate::common::{Mode, stages};

stages! {
    cluster: [
        a_foreign_page_gains_nothing_from_the_cookie,
        the_console_keeps_no_secret_where_a_script_could_read_it,
    ],
}

/// The first node allows its own pages alone, the second one those of one other origin. The script's pages stand on
/// ports of their own, one of them behind TLS.
async fn run(mode: Mode, name: &str) {
    script::needs(&script::folder().join("node_modules"), script::NODE_MODULES);
    let (foreign, listed, tls) = (free_port(), free_port(), free_port());
    let stage = mode.own().env("PORTCULLIS_COOKIES", "on").env("PORTCULLIS_TRUSTED_PROXIES", "127.0.0.1");
    let stage = stage.env_of_b("PORTCULLIS_ALLOWED_ORIGINS", &format!("http://127.0.0.1:{listed}")).start().await;
    let ports = [("FOREIGN_PORT", foreign), ("LISTED_PORT", listed), ("TLS_PORT", tls)];
    let environment = ports.map(|(name, port)| (name, port.to_string()));
    script::run(&stage, Path::new("node"), &format!("{name}.mjs"), name, &environment).await;
}

async fn a_foreign_page_gains_nothing_from_the_cookie(mode: Mode) {
    run(mode, "cookies").await;
}

async fn the_console_keeps_no_secret_where_a_script_could_read_it(mode: Mode) {
    run(mode, "console_cookies").await;
}
