use std::os::unix::fs::PermissionsExt;

use portcullis::store::StoreError;

use crate::database::Database;
use crate::on_each;

async fn at_once(database: Database) {
    let nodes = (0..4).map(|_| async {
        let store = database.another_store(|_| {}).await;
        tokio::spawn(async move {
            let applied = store.migrate().await.expect("a migration");
            (applied, store.deployment().await.expect("a deployment"))
        })
        .await
        .expect("a node")
    });
    let nodes = futures_util::future::join_all(nodes).await;
    assert_eq!(nodes.iter().filter(|(applied, _)| *applied > 0).count(), 1);
    let (_, first) = &nodes[0];
    assert!(nodes.iter().all(|(_, other)| other.id == first.id && other.record_key.0 == first.record_key.0));
    assert_ne!(first.record_key.0, [0; 32]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_start_at_once_on_an_empty_postgres_all_come_up() {
    at_once(Database::empty_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_start_at_once_on_an_empty_sqlite_all_come_up() {
    at_once(Database::empty_sqlite().await).await;
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    let database = Database::sqlite().await;
    for name in ["portcullis.db", "portcullis.db-wal"] {
        let mode = std::fs::metadata(database.file().with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(std::fs::metadata(database.config.data_dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_bad_address_is_told_without_the_password() {
    let database = Database::empty_sqlite().await;
    let mut config = database.config.clone();
    for url in ["postgres://u:hunter2@127.0.0.1:1/x", "postgres://u:hunter2@127.0.0.1:99999/x", "hunter2"] {
        config.database_url = Some(url.to_owned().into());
        config.acquire_timeout = std::time::Duration::from_millis(200);
        let error = match portcullis::store::Store::open(&config).await {
            Ok(store) => store.ping().await.expect_err("nobody listens"),
            Err(error) => error,
        };
        assert!(matches!(error, StoreError::Unavailable(_)));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

on_each! {
    async fn a_second_migration_finds_nothing_to_do(database) {
        let before = database.store.deployment().await.unwrap();
        assert_eq!(database.store.migrate().await.unwrap(), 0);
        let after = database.store.deployment().await.unwrap();
        assert_eq!((before.id, before.record_key.0), (after.id, after.record_key.0));
        assert!(database.store.ping().await.unwrap() < std::time::Duration::from_secs(5));
        let status = database.store.pool_status();
        assert!(status.open >= 1 && status.open <= status.max);
        database.store.close().await;
        assert!(matches!(database.store.ping().await, Err(StoreError::Unavailable(_))));
    }
}
