//! Signup, the login's two statements, the change of password and of the profile.

use super::{Sqlite, Transaction};
use crate::clock::BootInstant;
use crate::entry::EndReason;
use crate::ids::{Sid, UserId};
use crate::store::folding::{TooLarge, apply, email_key};
use crate::store::rows::{Answer, LoginRowRow, SessionRow, UserRow, duration_micros, to_hex};
use crate::store::{
    LoginRow, NewSession, NewUser, PasswordOutcome, ProfileChange, ProfileOutcome, Read, SessionRead, SignupOutcome,
    StoreError, StoreResult, UserRecord,
};

const INSERT_USER: &str = "INSERT INTO users (id, email, email_key, password_hash, full_name) \
     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (email_key) DO NOTHING";

const USER: &str = concat!("SELECT ", user_json!(), " FROM users u WHERE u.id = ?1");

/// A login that waited for its hash while the user's epoch rose, or was disabled, finds no row to select.
const INSERT_SESSION: &str = concat!(
    "INSERT INTO sessions (sid, secret_hash, user_id, auth_epoch, device_name, user_agent, ip, browser, network, \
     created_at, last_seen_at, expires_at, max_expires_at) SELECT ?1, ?2, id, auth_epoch, ?5, ?6, ?7, ?10, ?11, ",
    now!(),
    ", ",
    now!(),
    ", ",
    now!(),
    " + min(?8, ?9), ",
    now!(),
    " + ?9 FROM users WHERE id = ?3 AND auth_epoch = ?4 AND disabled_at IS NULL"
);

pub(super) const SESSION: &str =
    answer!(session_json!(), "sessions s JOIN users u ON u.id = s.user_id WHERE s.sid = ?1");

/// The login row of the users `u` that match; `?2` is the network that is asked about.
macro_rules! login_row {
    () => {
        "json_object('user_id', u.id, 'password_hash', u.password_hash, 'auth_epoch', u.auth_epoch, \
         'disabled', u.disabled_at IS NOT NULL, 'known_network', EXISTS (SELECT 1 FROM sessions s \
         WHERE s.user_id = u.id AND s.network = ?2))"
    };
}
const LOGIN_ROW: &str = answer!(login_row!(), "users u WHERE u.email_key = ?1");
const LOGIN_ROW_BY_ID: &str = answer!(login_row!(), "users u WHERE u.id = ?1");

/// Lifts the session that goes on into the epoch to come. One that is dead already is not brought back by it.
const LIFT: &str = "UPDATE sessions SET auth_epoch = auth_epoch + 1 \
     WHERE sid = ?1 AND user_id = ?2 AND auth_epoch = ?3 AND ended_at IS NULL";

const SET_PASSWORD: &str = concat!(
    "UPDATE users SET password_hash = ?2, auth_epoch = auth_epoch + 1, epoch_reason = 'credentials_changed', \
     epoch_except = ?3, epoch_reason_for = auth_epoch + 1, updated_at = ",
    now!(),
    " WHERE id = ?1"
);

const END_OTHERS: &str = concat!(
    "UPDATE sessions SET ended_at = ",
    now!(),
    ", end_reason = ?3 WHERE user_id = ?1 AND auth_epoch = ?2 AND ended_at IS NULL"
);

/// The time only moves forward, so that of two answers the newer one can be told.
const UPDATE_PROFILE: &str = concat!(
    "UPDATE users SET full_name = ?2, avatar_url = ?3, metadata = ?4, updated_at = max(",
    now!(),
    ", updated_at + 1) WHERE id = ?1"
);

impl Sqlite {
    pub(in crate::store) async fn sign_up(
        &self,
        user: &NewUser,
        session: Option<&NewSession>,
    ) -> StoreResult<SignupOutcome> {
        let mut transaction = self.begin("sign_up").await?;
        let id = UserId::random();
        let insert_user = sqlx::query(INSERT_USER)
            .bind(id.to_string())
            .bind(&user.email)
            .bind(email_key(&user.email))
            .bind(&user.password_hash)
            .bind(&user.full_name);
        if transaction.run(insert_user).await? == 0 {
            return Ok(SignupOutcome::EmailTaken);
        }
        let user = user_by_id(&mut transaction, id).await?;
        let user = user.ok_or_else(|| StoreError::Corrupt("a new user is not there".into()))?;
        let session = match session {
            Some(session) => insert(&mut transaction, id, user.auth_epoch, session).await?,
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
        let query = sqlx::query(LOGIN_ROW).bind(email_key(email)).bind(network);
        let (answer, _) = self.read::<LoginRowRow>("login_row", query).await?;
        Ok(answer.into_rows().pop())
    }

    pub(in crate::store) async fn login_row_by_id(&self, user_id: UserId) -> StoreResult<Option<LoginRow>> {
        let query = sqlx::query(LOGIN_ROW_BY_ID).bind(user_id.to_string()).bind(None::<&str>);
        let (answer, _) = self.read::<LoginRowRow>("login_row_by_id", query).await?;
        Ok(answer.into_rows().pop())
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
            return Ok(PasswordOutcome::Superseded);
        };
        let epoch = to_column(row.auth_epoch);
        let lift = sqlx::query(LIFT).bind(keep.to_string()).bind(user_id.to_string()).bind(epoch);
        let kept = (transaction.run(lift).await? > 0).then(|| keep.to_string());
        let set = sqlx::query(SET_PASSWORD).bind(user_id.to_string()).bind(new_hash).bind(kept);
        transaction.run(set).await?;
        let reason = EndReason::CredentialsChanged.as_str();
        let others = sqlx::query(END_OTHERS).bind(user_id.to_string()).bind(epoch).bind(reason);
        transaction.run(others).await?;
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(PasswordOutcome::Changed { entries })
    }

    pub(in crate::store) async fn update_profile(
        &self,
        user_id: UserId,
        change: &ProfileChange,
        max_metadata_bytes: usize,
    ) -> StoreResult<ProfileOutcome> {
        let mut transaction = self.begin("update_profile").await?;
        let Some(mut record) = user_by_id(&mut transaction, user_id).await? else {
            return Ok(ProfileOutcome::NotFound);
        };
        match apply(&mut record.user, change, max_metadata_bytes) {
            Err(TooLarge) => return Ok(ProfileOutcome::MetadataTooLarge),
            Ok(false) => return Ok(ProfileOutcome::Updated { user: record, entries: Vec::new() }),
            Ok(true) => {}
        }
        let update = sqlx::query(UPDATE_PROFILE)
            .bind(user_id.to_string())
            .bind(&record.user.full_name)
            .bind(&record.user.avatar_url)
            .bind(record.user.metadata.to_string());
        transaction.run(update).await?;
        let user = user_by_id(&mut transaction, user_id).await?.unwrap_or(record);
        let entries = transaction.entries().await?;
        transaction.commit().await?;
        Ok(ProfileOutcome::Updated { user, entries })
    }
}

/// The login row; `None` when its hash is no longer the one that was verified. The transaction holds the write lock.
pub(super) async fn locked_row(
    transaction: &mut Transaction<'_>,
    user_id: UserId,
    verified_hash: &str,
) -> StoreResult<Option<LoginRow>> {
    let select = sqlx::query(LOGIN_ROW_BY_ID).bind(user_id.to_string()).bind(None::<&str>);
    let rows = transaction.rows::<Answer<LoginRowRow>>(select).await?;
    let row = rows.into_iter().flat_map(Answer::into_rows::<LoginRow>).next();
    Ok(row.filter(|row| row.password_hash == verified_hash))
}

pub(super) async fn user_by_id(transaction: &mut Transaction<'_>, id: UserId) -> StoreResult<Option<UserRecord>> {
    let rows = transaction.rows::<UserRow>(sqlx::query(USER).bind(id.to_string())).await?;
    Ok(rows.into_iter().next().map(UserRecord::from))
}

async fn insert(
    transaction: &mut Transaction<'_>,
    user_id: UserId,
    epoch: u64,
    session: &NewSession,
) -> StoreResult<Option<Read<SessionRead>>> {
    let insert = sqlx::query(INSERT_SESSION)
        .bind(session.sid.to_string())
        .bind(to_hex(&session.secret_hash.0))
        .bind(user_id.to_string())
        .bind(to_column(epoch))
        .bind(&session.device_name)
        .bind(&session.user_agent)
        .bind(session.ip.map(|ip| ip.to_string()))
        .bind(duration_micros(session.ttl))
        .bind(duration_micros(session.max_age))
        .bind(&session.seen_from.browser)
        .bind(&session.seen_from.network);
    let read_at = BootInstant::now();
    if transaction.run(insert).await? == 0 {
        return Ok(None);
    }
    let select = sqlx::query(SESSION).bind(session.sid.to_string());
    let answer = transaction.rows::<Answer<SessionRow>>(select).await?.into_iter().next();
    Ok(answer.and_then(|answer| {
        let Read { mut value, stamp } = answer.facts(read_at);
        value.pop().map(|value| Read { value, stamp })
    }))
}

/// Epochs and ids as a column holds them; they never come near its end.
pub(super) fn to_column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
