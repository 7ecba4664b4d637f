//! Signup, the login's two statements, and the change of password. Texts from outside are bound values here.

use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use super::script::Script;
use super::{Postgres, Transaction};
use crate::clock::BootInstant;
use crate::entry::EndReason;
use crate::ids::{Sid, UserId};
use crate::store::folding::email_key;
use crate::store::rows::{Answer, LoginRowRow, SessionRow, UserRow, duration_micros};
use crate::store::{
    LoginRow, NewSession, NewUser, PasswordOutcome, Read, SessionRead, SignupOutcome, StoreResult, UserRecord,
};

const INSERT_USER: &str = concat!(
    "WITH u AS (INSERT INTO users (id, email, email_key, password_hash, full_name) VALUES ($1, $2, $3, $4, $5) ",
    "ON CONFLICT (email_key) DO NOTHING RETURNING *) SELECT coalesce(json_agg(",
    user_json!(),
    "), '[]')::text FROM u"
);

/// A login that waited for its hash while the user's epoch rose, or was disabled, finds no row to select.
const INSERT_SESSION: &str = concat!(
    "WITH s AS (INSERT INTO sessions (sid, secret_hash, user_id, auth_epoch, device_name, user_agent, ip, ",
    "browser, network, created_at, last_seen_at, expires_at, max_expires_at) ",
    "SELECT $1, $2, id, auth_epoch, $5, $6, $7::inet, $10, $11, now(), now(), ",
    "now() + interval '1 microsecond' * least($8, $9), now() + interval '1 microsecond' * $9 ",
    "FROM users WHERE id = $3 AND auth_epoch = $4 AND disabled_at IS NULL RETURNING *) ",
    "SELECT json_build_object('position', ",
    position!(),
    ", 'rows', coalesce(json_agg(",
    session_json!(),
    "), '[]'))::text FROM s JOIN users u ON u.id = s.user_id"
);

/// The login row of the user `u`, whom the source gives; `$2` is the network that is asked about.
macro_rules! login_row {
    ($source:literal) => {
        concat!(
            "SELECT coalesce(json_agg(json_build_object('user_id', u.id, 'password_hash', u.password_hash, ",
            "'auth_epoch', u.auth_epoch, 'disabled', u.disabled_at IS NOT NULL, 'known_network', EXISTS (SELECT 1 ",
            "FROM sessions s WHERE s.user_id = u.id AND s.network = $2))), '[]')::text FROM ",
            $source
        )
    };
}

const LOGIN_ROW_BY_KEY: &str = login_row!("users u WHERE u.email_key = $1");
const LOGIN_ROW_BY_ID: &str = login_row!("users u WHERE u.id = $1");
const LOCKED_LOGIN_ROW: &str = login_row!("(SELECT * FROM users WHERE id = $1 FOR NO KEY UPDATE) u");

const SET_PASSWORD: &str = "WITH changed AS (UPDATE users SET password_hash = $2, auth_epoch = auth_epoch + 1, \
     epoch_reason = 'credentials_changed', epoch_except = $3, epoch_reason_for = auth_epoch + 1, updated_at = now() \
     WHERE id = $1 RETURNING id) SELECT count(*)::text FROM changed";

impl Postgres {
    pub(in crate::store) async fn sign_up(
        &self,
        user: &NewUser,
        session: Option<&NewSession>,
    ) -> StoreResult<SignupOutcome> {
        let mut transaction = self.begin("sign_up").await?;
        let insert_user = sqlx::query(INSERT_USER)
            .bind(Uuid::new_v4())
            .bind(&user.email)
            .bind(email_key(&user.email))
            .bind(&user.password_hash)
            .bind(&user.full_name);
        let rows: Vec<UserRow> = transaction.query(insert_user).await?;
        let Some(user) = rows.into_iter().next().map(UserRecord::from) else {
            transaction.rollback().await?;
            return Ok(SignupOutcome::EmailTaken);
        };
        let session = match session {
            Some(session) => insert(&mut transaction, user.user.id, user.auth_epoch, session).await?,
            None => None,
        };
        transaction.commit().await?;
        Ok(SignupOutcome::Created { user, session })
    }

    pub(in crate::store) async fn login_row(
        &self,
        email: &str,
        network: Option<&str>,
    ) -> StoreResult<Option<LoginRow>> {
        self.one_login_row("login_row", sqlx::query(LOGIN_ROW_BY_KEY).bind(email_key(email)).bind(network)).await
    }

    pub(in crate::store) async fn login_row_by_id(&self, user_id: UserId) -> StoreResult<Option<LoginRow>> {
        self.one_login_row("login_row_by_id", sqlx::query(LOGIN_ROW_BY_ID).bind(user_id.0).bind(None::<&str>)).await
    }

    async fn one_login_row(
        &self,
        name: &'static str,
        query: Query<'_, sqlx::Postgres, PgArguments>,
    ) -> StoreResult<Option<LoginRow>> {
        // Not a read-only transaction: a standby must refuse, and not answer with an old hash.
        let mut transaction = self.begin(name).await?;
        let rows: Vec<LoginRowRow> = transaction.query(query).await?;
        transaction.commit().await?;
        Ok(rows.into_iter().next().map(LoginRow::from))
    }

    pub(in crate::store) async fn insert_session(
        &self,
        user_id: UserId,
        expected_epoch: u64,
        session: &NewSession,
    ) -> StoreResult<Option<Read<SessionRead>>> {
        let mut transaction = self.begin("insert_session").await?;
        let read = insert(&mut transaction, user_id, expected_epoch, session).await?;
        transaction.commit().await?;
        Ok(read)
    }

    pub(in crate::store) async fn change_password(
        &self,
        user_id: UserId,
        keep: Sid,
        verified_hash: &str,
        new_hash: &str,
    ) -> StoreResult<PasswordOutcome> {
        let mut transaction = self.begin("change_password").await?;
        let Some(row) = locked_row(&mut transaction, user_id, verified_hash).await? else {
            transaction.rollback().await?;
            return Ok(PasswordOutcome::Superseded);
        };
        let kept = lift(&mut transaction, keep, user_id, row.auth_epoch).await?;
        let raise = sqlx::query(SET_PASSWORD).bind(user_id.0).bind(new_hash).bind(kept.map(|sid| sid.0));
        transaction.query::<u64>(raise).await?;
        let others = Script::new("UPDATE sessions SET ended_at = now(), end_reason = ")
            .reason(EndReason::CredentialsChanged)
            .text(" WHERE ended_at IS NULL AND user_id = ")
            .uuid(user_id.0)
            .text(" AND auth_epoch = ")
            .unsigned(row.auth_epoch);
        transaction.run(others).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(PasswordOutcome::Changed { entries })
    }
}

/// The login row, locked; `None` when its hash is no longer the one that was verified.
pub(super) async fn locked_row(
    transaction: &mut Transaction<'_>,
    user_id: UserId,
    verified_hash: &str,
) -> StoreResult<Option<LoginRow>> {
    let lock = sqlx::query(LOCKED_LOGIN_ROW).bind(user_id.0).bind(None::<&str>);
    let locked: Vec<LoginRowRow> = transaction.query(lock).await?;
    Ok(locked.into_iter().next().map(LoginRow::from).filter(|row| row.password_hash == verified_hash))
}

async fn insert(
    transaction: &mut Transaction<'_>,
    user_id: UserId,
    epoch: u64,
    session: &NewSession,
) -> StoreResult<Option<Read<SessionRead>>> {
    let insert = sqlx::query(INSERT_SESSION)
        .bind(session.sid.0)
        .bind(&session.secret_hash.0[..])
        .bind(user_id.0)
        .bind(i64::try_from(epoch).unwrap_or(i64::MAX))
        .bind(&session.device_name)
        .bind(&session.user_agent)
        .bind(session.ip.map(|ip| ip.to_string()))
        .bind(duration_micros(session.ttl))
        .bind(duration_micros(session.max_age))
        .bind(&session.seen_from.browser)
        .bind(&session.seen_from.network);
    let read_at = BootInstant::now();
    let answer: Answer<SessionRow> = transaction.query(insert).await?;
    let Read { value, stamp } = answer.facts(read_at);
    Ok(value.into_iter().next().map(|value| Read { value, stamp }))
}

/// Lifts the session that goes on into the epoch to come. One that is dead already is not brought back by it.
async fn lift(transaction: &mut Transaction<'_>, keep: Sid, user_id: UserId, epoch: u64) -> StoreResult<Option<Sid>> {
    let lift =
        Script::new("WITH kept AS (UPDATE sessions SET auth_epoch = auth_epoch + 1 WHERE ended_at IS NULL AND sid = ")
            .uuid(keep.0)
            .text(" AND user_id = ")
            .uuid(user_id.0)
            .text(" AND auth_epoch = ")
            .unsigned(epoch)
            .text(" RETURNING sid) SELECT coalesce(json_agg(sid), '[]')::text FROM kept");
    Ok(transaction.json::<Vec<Sid>>(lift).await?.pop())
}
