use metrics_exporter_prometheus::PrometheusBuilder;
use portcullis::entry::EndReason;

use crate::database::Database;

/// What the counter says of one kind of call.
fn count(rendered: &str, query: &str) -> u32 {
    let line = format!("portcullis_database_queries_total{{query=\"{query}\"}} ");
    rendered.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |number| number.parse().expect("a number"))
}

fn one_call_counts_once(open: impl AsyncFn() -> Database) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let database = open().await;
            let user = database.user().await;
            let sid = database.session(user).await.session.sid;
            database.load(sid).await;
            database.load(sid).await;
            database.store.end_all_sessions(user, EndReason::Revoked, true).await.expect("an end");
            let mut reader = database.store.log_reader();
            for _ in 0..3 {
                reader.read().await.expect("a read");
            }
        });
    });
    let rendered = handle.render();
    for (query, expected) in
        [("sign_up", 1), ("insert_session", 1), ("load_sessions", 2), ("end_all_sessions", 1), ("log_read", 3)]
    {
        assert_eq!(count(&rendered, query), expected, "{query}\n{rendered}");
    }
    assert!(rendered.contains("portcullis_database_query_duration_seconds"));
}

#[test]
fn one_call_counts_once_on_postgres() {
    one_call_counts_once(Database::postgres);
}

#[test]
fn one_call_counts_once_on_sqlite() {
    one_call_counts_once(Database::sqlite);
}
