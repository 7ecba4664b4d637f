//! Writes `docs/promises.md`: every fault, longer, and what it came to.
//!
//!     cargo test --release --test faults -- --ignored table --nocapture

use std::fmt::Write;
use std::time::Duration;

use crate::delays::{self, Delays};
use crate::fault::Fault;
use crate::run::{Figures, Plan, run};

/// Revocations whose way is measured, with Redis and without.
const REVOCATIONS: usize = 300;

const COMMAND: &str = if cfg!(debug_assertions) {
    "cargo test --test faults -- --ignored table --nocapture"
} else {
    "cargo test --release --test faults -- --ignored table --nocapture"
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and writes docs/promises.md"]
async fn table() {
    let mut rows = Vec::new();
    for fault in Fault::ALL {
        let figures = run(fault, Plan::LONG).await;
        eprintln!("{}", row(&figures));
        rows.push(figures);
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/promises.md");
    std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/docs")).expect("make docs/");
    let delays = [delays::measure(true, REVOCATIONS).await, delays::measure(false, REVOCATIONS).await];
    std::fs::write(file, page(&rows, &delays)).expect("write docs/promises.md");
    rows.iter().for_each(Figures::must_keep_the_promises);
}

fn page(rows: &[Figures], delays: &[Delays; 2]) -> String {
    let mut page = format!(
        "# The promises under single faults\n\n\
        Printed by `{COMMAND}`, never by hand. Machine: {}.\n\n\
        Two nodes, one Redis, one Postgres; every line between them goes through a proxy. {} persons with two sessions \
        each, every session used on both nodes five times a second over HTTP and on sockets, profiles changed and people \
        logged in all the while. Their sessions are ended by every kind of revocation (logout by token and by secret, \
        logout everywhere, one session from another, a new password, an operator's SQL), evenly from half a second before \
        the fault to half a second after its {} s.\n\n\
        - **violations**: uses sent (or pushed events that arose) more than 1 s after the revocation was answered, and \
        accepted all the same. **false**: good credentials answered 401 or 403, or closed with 35xx or 45xx. Both are 0 or \
        the run fails.\n\
        - **worst delay**: from a revocation's answer to the sending of the last use that was accepted all the same, by the \
        clients' clock.\n\
        - **cannot tell**: 5xx, temporary errors and closes that say *come again*. **no answer**: the node was dead, or \
        nothing came for 5 s.\n\
        - **recovery**: from the fault's end until checks, profile changes and new sockets worked on both nodes. About \
        {:?} is what asking takes.\n\
        - **queries**: what both nodes sent to the database from the fault's beginning to the end.\n\n\
        | fault | revocations | violations | worst delay | accepted | false | cannot tell | no answer | longest wait | pushes | recovery | queries |\n\
        | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        machine(),
        Plan::LONG.persons * crate::people::Ending::ALL.len(),
        Plan::LONG.lasts.as_secs(),
        rows.first().map(|figures| Duration::from_millis(figures.recovery.as_millis() as u64)).unwrap_or_default(),
    );
    for figures in rows {
        writeln!(page, "{}", row(figures)).expect("writing to a string");
    }
    page.push_str(&format!(
        "\nIn sum: {} revocations, {} violations, {} good credentials called bad.\n\n\
        ## How long a revocation takes to the other node\n\n\
        {} sessions with a socket on one node, logged out one by one on the other, nothing else going on. By \
        `portcullis_revocation_delay_seconds` of the node with the sockets (from just before the commit, in database \
        time, to the close frame leaving; interpolated within the histogram's bucket), and by the client's clock from \
        the sending of the logout to the close frame in its hands.\n\n\
        | | metric p50 | metric p99 | client p50 | client p99 |\n| --- | --: | --: | --: | --: |\n\
        {}{}\n\
        Nodes, servers, proxies and clients share the machine's processors; longest waits and recoveries show it.\n",
        rows.iter().map(|row| row.sums.revocations).sum::<u64>(),
        rows.iter().map(|row| row.sums.violations.len()).sum::<usize>(),
        rows.iter().map(|row| row.sums.false_rejections.len()).sum::<usize>(),
        REVOCATIONS,
        delay("with Redis", &delays[0]),
        delay("Redis killed, the log alone", &delays[1]),
    ));
    page
}

fn delay(name: &str, delays: &Delays) -> String {
    let ms = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3);
    let [p50, p99] = delays.seen;
    format!("| {name} | {} | {} | {} | {} |\n", ms(delays.p50), ms(delays.p99), ms(p50), ms(p99))
}

fn row(figures: &Figures) -> String {
    let sums = &figures.sums;
    format!(
        "| {} | {} | {} | {} ms | {} | {} | {} | {} | {} ms | {} | {} ms | {} |",
        figures.fault.title(),
        sums.revocations,
        sums.violations.len(),
        sums.worst_delay.as_millis(),
        sums.accepted,
        sums.false_rejections.len(),
        sums.cannot_tell,
        sums.no_answer,
        sums.longest_wait.as_millis(),
        sums.pushes,
        figures.recovery.as_millis(),
        figures.queries,
    )
}

fn machine() -> String {
    let read = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let gib = read("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0) / 1024.0 / 1024.0;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    format!("{cores} cores ({}), {gib:.0} GiB, Linux {}, {build}", read("/proc/cpuinfo", "model name"), kernel.trim())
}
