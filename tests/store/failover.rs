//! A primary goes, its standby takes over behind the same address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use portcullis::entry::EndReason;
use portcullis::secret::SecretHash;
use portcullis::store::{LogReader, StoreError, StoreResult};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::database::{Database, HOUR};
use crate::postgres_server::Server;

/// An address that stays while what is behind it changes.
struct Address {
    port: u16,
    target: Arc<AtomicU16>,
    generation: watch::Sender<u32>,
}

impl Address {
    async fn of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let target = Arc::new(AtomicU16::new(port));
        let (generation, watching) = watch::channel(0);
        let address = Self { port: listener.local_addr().expect("a port").port(), target: target.clone(), generation };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut watching) = (target.clone(), watching.clone());
                watching.mark_unchanged();
                tokio::spawn(async move {
                    let port = target.load(Ordering::SeqCst);
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = watching.changed() => {}
                    }
                });
            }
        });
        address
    }

    /// Cuts every connection; the next ones lead elsewhere.
    fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::SeqCst);
        self.generation.send_modify(|generation| *generation += 1);
    }
}

fn is_unavailable<T>(answer: StoreResult<T>) -> bool {
    matches!(answer, Err(StoreError::Unavailable(_)))
}

/// Reads until the reader has noticed that its connection was cut: those who cut it may take a moment.
async fn until_cut(reader: &mut LogReader) {
    for _ in 0..1_000 {
        if is_unavailable(reader.read().await) {
            return;
        }
    }
    panic!("the connection was never cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_never_believed_and_a_promoted_one_is_a_new_history() {
    let database = Database::postgres().await;
    let user = database.user().await;
    let sid = database.session(user).await.session.sid;
    let address = Address::of(Server::get().port).await;
    let store = database
        .another_store(|config| {
            let name = database.name();
            config.database_url = Some(format!("postgres://postgres@127.0.0.1:{}/{name}", address.port).into());
        })
        .await;
    let mut reader = store.log_reader();
    reader.read().await.unwrap();
    let entries = store.end_session(sid, user, EndReason::LoggedOut, None).await.unwrap().entries;
    assert_eq!(reader.read().await.unwrap().entries, entries);
    let standby = tokio::task::spawn_blocking(|| Server::get().standby()).await.unwrap();

    address.lead_to(standby.port);
    until_cut(&mut reader).await;
    for _ in 0..3 {
        assert!(is_unavailable(reader.read().await), "a standby may be behind");
        assert!(is_unavailable(store.load_sessions(&[sid]).await));
        assert!(is_unavailable(store.login_row_by_id(user).await));
        assert!(is_unavailable(store.end_all_sessions(user, EndReason::Revoked, false).await));
        let expires_at = time::OffsetDateTime::now_utc() + HOUR;
        assert!(is_unavailable(store.redeem_ticket(SecretHash::of(b"x"), expires_at).await));
    }

    // The reader did not keep the standby's connection.
    address.lead_to(Server::get().port);
    let read = reader.read().await.unwrap();
    assert!(read.continuous && read.entries.is_empty(), "the old primary is the same history");

    let options: sqlx::postgres::PgConnectOptions =
        format!("postgres://postgres@127.0.0.1:{}/postgres", standby.port).parse().unwrap();
    let mut hand = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql("SELECT pg_promote()").execute(&mut hand).await.unwrap();
    address.lead_to(standby.port);
    until_cut(&mut reader).await;
    let read = reader.read().await.unwrap();
    assert!(!read.continuous, "another timeline");
    assert_eq!(read.entries, entries, "all that is retained");
    assert!(store.load_sessions(&[sid]).await.unwrap().value[0].ended.is_some());
    let more = store.end_all_sessions(user, EndReason::Revoked, false).await.unwrap().entries;
    let read = reader.read().await.unwrap();
    assert!(read.continuous);
    assert_eq!(read.entries, more);
}
