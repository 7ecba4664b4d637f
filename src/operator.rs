//! What operators do: find people, end sessions, disable accounts, revoke tokens, read the trail, keep the keys of the admin
//! API. Shared by the admin API and the subcommands, so that both say and do the same.
//!
//! Sits beside `accounts`, above `revocation` and `store`. Every use is written into the trail: what changes something, in
//! the very transaction that changes it; what only looks, in the transaction that looks. When it cannot be written down,
//! it is not done.

mod admin_keys;
mod error;
mod keys;
mod mass;
mod permission;

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::entry::EndReason;
use crate::ids::{AdminKeyId, Jti, Sid, UserId};
use crate::revocation::{Logged, Revoker};
use crate::store::attribution::{Action, Actor, Attribution, attributed};
use crate::store::{
    Account, AuditEntry, AuditQuery, ListedToken, OutboxEvent, SessionSummary, SessionsOf, Statistics, Store,
    StoreResult, UserFilter, UserQuery,
};
pub use admin_keys::AdminKeys;
pub use error::OperatorError;
pub use keys::NewKey;
pub use mass::Progress;
pub use permission::Permission;

/// Who operates, and from where.
#[derive(Clone, Debug)]
pub struct By {
    /// The key of the admin API; none on the command line.
    pub key: Option<AdminKeyId>,
    /// The key's name, or that of the person at the command line: the trail shall be readable when the key is long gone.
    pub name: String,
    /// The caller's address.
    pub ip: Option<IpAddr>,
}

impl By {
    fn doing(&self, event: &'static str, user_id: Option<UserId>, sid: Option<Sid>, mut details: Value) -> Attribution {
        details["by"] = Value::String(self.name.clone());
        Attribution { action: Some(Action { event, user_id, sid, details: Some(details) }), ..self.attribution() }
    }

    fn attribution(&self) -> Attribution {
        Attribution { actor: Actor::Operator(self.key), ip: self.ip, action: None }
    }
}

/// The operator's service.
#[derive(Clone)]
pub struct Operator {
    store: Store,
    /// The node around it: closes its own sockets first and tells the others at once. Without one, on the command line,
    /// the nodes hear of it from the log.
    revoker: Option<Revoker>,
    /// No access token lives longer.
    token_life: Duration,
}

impl Operator {
    /// On a node.
    #[must_use]
    pub fn on_node(store: Store, revoker: Revoker, token_life: Duration) -> Self {
        Self { store, revoker: Some(revoker), token_life }
    }

    /// On the database alone.
    #[must_use]
    pub fn on_database(store: Store, token_life: Duration) -> Self {
        Self { store, revoker: None, token_life }
    }

    /// A page of accounts.
    ///
    /// # Errors
    /// [`OperatorError::Store`]. So for everything here.
    pub async fn find_users(&self, by: &By, query: UserQuery) -> Result<Vec<Account>, OperatorError> {
        // What was looked for is personal data itself: the trail says how, not whom.
        let how = match &query.filter {
            UserFilter::All => "all",
            UserFilter::Id(_) => "id",
            UserFilter::Email(_) => "email",
            UserFilter::Prefix(_) => "prefix",
        };
        let user_id = if let UserFilter::Id(id) = query.filter { Some(id) } else { None };
        let doing = by.doing("operator.user_find", user_id, None, json!({ "filter": how }));
        Ok(attributed(doing, self.store.find_users(query)).await?)
    }

    /// One account.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchUser`].
    pub async fn user(&self, by: &By, user_id: UserId) -> Result<Account, OperatorError> {
        let query = UserQuery { filter: UserFilter::Id(user_id), after: None, limit: 1 };
        let doing = by.doing("operator.user_show", Some(user_id), None, json!({}));
        attributed(doing, self.store.find_users(query)).await?.pop().ok_or(OperatorError::NoSuchUser)
    }

    /// The account with this address or id, for people who type. Looks, but is not a use of its own.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchUser`].
    pub async fn resolve(&self, id_or_email: &str) -> Result<UserId, OperatorError> {
        if let Ok(id) = id_or_email.parse() {
            return Ok(id);
        }
        let query = UserQuery { filter: UserFilter::Email(id_or_email.to_owned()), after: None, limit: 1 };
        let found = self.store.find_users(query).await?.pop();
        found.map(|account| account.user.id).ok_or(OperatorError::NoSuchUser)
    }

    /// Disables an account, which ends everything of it everywhere (4503), or enables it, which brings nothing back. How
    /// many live sessions ended. What is so already is no error.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchUser`].
    pub async fn set_disabled(&self, by: &By, user_id: UserId, disabled: bool) -> Result<u64, OperatorError> {
        let event = if disabled { "operator.user_disable" } else { "operator.user_enable" };
        let doing = by.doing(event, Some(user_id), None, json!({}));
        let revoked = self.end(doing, async move |store| store.set_disabled(user_id, disabled).await).await?;
        self.must_exist(user_id).await?;
        Ok(revoked.sessions)
    }

    /// A user's sessions, live and ended.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchUser`].
    pub async fn sessions(&self, by: &By, user_id: UserId) -> Result<Vec<SessionSummary>, OperatorError> {
        let doing = by.doing("operator.session_list", Some(user_id), None, json!({}));
        let sessions = attributed(doing, self.store.session_summaries(SessionsOf::User(user_id))).await?;
        if sessions.is_empty() {
            self.must_exist(user_id).await?;
        }
        Ok(sessions)
    }

    /// One session.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchSession`].
    pub async fn session(&self, by: &By, sid: Sid) -> Result<SessionSummary, OperatorError> {
        let doing = by.doing("operator.session_show", None, Some(sid), json!({}));
        let mut found = attributed(doing, self.store.session_summaries(SessionsOf::Handle(sid))).await?;
        found.pop().ok_or(OperatorError::NoSuchSession)
    }

    /// Ends one session (4502). False when it had ended already.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchSession`].
    pub async fn end_session(&self, by: &By, sid: Sid) -> Result<bool, OperatorError> {
        let user_id = self.owner(sid).await?;
        let doing = by.doing("operator.session_revoke", Some(user_id), Some(sid), json!({}));
        let end = async move |store: Store| store.end_session(sid, user_id, EndReason::Revoked, None).await;
        Ok(self.end(doing, end).await?.sessions > 0)
    }

    /// Ends every session of a user (4502). How many were live.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchUser`].
    pub async fn end_user_sessions(&self, by: &By, user_id: UserId) -> Result<u64, OperatorError> {
        self.must_exist(user_id).await?;
        let doing = by.doing("operator.sessions_revoke", Some(user_id), None, json!({}));
        let end = async move |store: Store| store.end_all_sessions(user_id, EndReason::Revoked, false).await;
        Ok(self.end(doing, end).await?.sessions)
    }

    /// Lists one access token of a session; the session lives on (3014 for its socket). Without a known end it is listed
    /// for as long as any token of now can live.
    ///
    /// # Errors
    /// [`OperatorError::NoSuchSession`].
    pub async fn revoke_token(
        &self,
        by: &By,
        jti: Jti,
        sid: Sid,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<(), OperatorError> {
        let user_id = self.owner(sid).await?;
        let expires_at = match expires_at {
            Some(expires_at) => expires_at,
            None => self.store.remaining_before(OffsetDateTime::UNIX_EPOCH).await?.now + self.token_life,
        };
        let doing = by.doing("operator.token_revoke", Some(user_id), Some(sid), json!({ "jti": jti }));
        let token = ListedToken { jti, sid, user_id, expires_at };
        self.end(doing, async move |store| store.list_token(token).await).await?;
        Ok(())
    }

    /// A page of the trail.
    ///
    /// # Errors
    /// See [`find_users`](Self::find_users).
    pub async fn audit(&self, by: &By, query: AuditQuery) -> Result<Vec<AuditEntry>, OperatorError> {
        let doing = by.doing("operator.audit_read", query.user_id, None, json!({}));
        Ok(attributed(doing, self.store.audit_page(query)).await?)
    }

    /// Counts without names over the last days: by the hour for up to two days, else by the day.
    ///
    /// # Errors
    /// See [`find_users`](Self::find_users).
    pub async fn statistics(&self, by: &By, days: u32) -> Result<Statistics, OperatorError> {
        const HOUR: Duration = Duration::from_secs(3600);
        let window = HOUR * 24 * days;
        let step = if days <= 2 { HOUR } else { HOUR * 24 };
        let doing = by.doing("operator.stats_read", None, None, json!({ "days": days }));
        Ok(attributed(doing, self.store.statistics(window, step)).await?)
    }

    /// What receivers of webhooks have not got: what was given up, or what is waiting too.
    ///
    /// # Errors
    /// See [`find_users`](Self::find_users).
    pub async fn undelivered(
        &self,
        by: &By,
        before: Option<u64>,
        limit: u32,
        given_up_only: bool,
    ) -> Result<Vec<OutboxEvent>, OperatorError> {
        let doing = by.doing("operator.webhook_list", None, None, json!({}));
        Ok(attributed(doing, self.store.outbox_page(before, limit, given_up_only)).await?)
    }

    /// Tries again what was given up: one event, or all (a thousand at a time). How many.
    ///
    /// # Errors
    /// See [`find_users`](Self::find_users).
    pub async fn retry_webhooks(&self, by: &By, id: Option<u64>) -> Result<u64, OperatorError> {
        let doing = by.doing("operator.webhook_retry", None, None, json!({ "id": id }));
        Ok(attributed(doing, self.store.retry_events(id)).await?)
    }

    async fn owner(&self, sid: Sid) -> Result<UserId, OperatorError> {
        let found = self.store.session_summaries(SessionsOf::Handle(sid)).await?.pop();
        found.map(|session| session.user_id).ok_or(OperatorError::NoSuchSession)
    }

    async fn must_exist(&self, user_id: UserId) -> Result<(), OperatorError> {
        let found = self.store.load_users(&[user_id]).await?.value;
        if found.is_empty() { Err(OperatorError::NoSuchUser) } else { Ok(()) }
    }

    /// Ends something: through the node, or on the database alone.
    async fn end<T, F, Fut>(&self, doing: Attribution, transaction: F) -> StoreResult<T>
    where
        T: Logged + Send + 'static,
        F: FnOnce(Store) -> Fut + Send + 'static,
        Fut: Future<Output = StoreResult<T>> + Send,
    {
        match &self.revoker {
            Some(revoker) => attributed(doing, revoker.run(transaction)).await,
            None => attributed(doing, transaction(self.store.clone())).await,
        }
    }
}
