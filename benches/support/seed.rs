//! Users who are logged in already. They come by SQL and not by signup: ten thousand password hashes would take minutes
//! and are none of the figures here.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::load::{Connection, post_request};
use crate::common::Node;

const USERS: &str = "
    INSERT INTO users (id, email, email_key, password_hash, full_name, metadata)
    SELECT id, id || '@example.test', id || '@example.test', 'none', 'Ada Lovelace', '{\"theme\": \"dark\", \"plan\": \"team\"}'
    FROM unnest($1::uuid[]) AS id";

/// The database keeps SHA-256 of the secret's 16 bytes.
const SESSIONS: &str = "
    INSERT INTO sessions (sid, secret_hash, user_id, auth_epoch, device_name, user_agent, expires_at, max_expires_at)
    SELECT gen_random_uuid(), sha256(uuid_send(secret)), id, 1, 'Benchmark', 'Mozilla/5.0 (X11; Linux x86_64)',
           now() + interval '7 days', now() + interval '30 days'
    FROM unnest($1::uuid[], $2::uuid[]) AS someone (id, secret)";

/// Inserts `count` users with one session each, and says the sessions' secrets.
pub async fn sessions(database_url: &str, count: usize) -> Vec<Uuid> {
    let users: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let secrets: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let mut connection = PgConnection::connect(database_url).await.expect("connect to Postgres");
    sqlx::query(USERS).bind(&users).execute(&mut connection).await.expect("insert users");
    sqlx::query(SESSIONS).bind(&users).bind(&secrets).execute(&mut connection).await.expect("insert sessions");
    sqlx::raw_sql("ANALYZE users; ANALYZE sessions").execute(&mut connection).await.expect("analyze");
    connection.close().await.expect("leave Postgres");
    secrets
}

/// Gets an access token for each of these secrets.
pub async fn tokens(node: &Node, secrets: &[Uuid]) -> Vec<String> {
    let mut connections = Connection::open_many(node.authority(), 16.min(secrets.len())).await;
    let share = secrets.len().div_ceil(connections.len()).max(1);
    let asking = connections.iter_mut().zip(secrets.chunks(share)).map(async |(connection, secrets)| {
        let mut tokens = Vec::with_capacity(secrets.len());
        for secret in secrets {
            let body = json!({ "session_id": secret }).to_string();
            let request = post_request(node.authority(), "/api/v1/auth/validate-session", &body);
            let answer: Value = serde_json::from_slice(connection.expect(200, &request).await.body).expect("JSON");
            tokens.push(answer["access_token"].as_str().expect("a token").to_owned());
        }
        tokens
    });
    futures_util::future::join_all(asking).await.concat()
}
