//! How a session begins and is taken up again: signup, login, validate-session.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

use super::body::{Json, JsonOrForm, OptionalJson, form_field, missing_field};
use super::cookies;
use super::extract::Client;
use super::state::{Gateway, Shared, count_login};
use crate::accounts::{AccountError, Email, LoggedIn, LoginDevice, Signup, new_password};
use crate::audit::Counted;
use crate::credentials::session_cookie;
use crate::problem::Problem;
use crate::secret::{Password, SessionSecret};
use crate::store::User;

/// The body of a signup.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct SignupRequest {
    /// Address, unique without regard to case.
    #[schema(format = Email)]
    email: String,
    /// 8 to 128 characters, and not one that everybody guesses first.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Password,
    /// Display name.
    #[schema(max_length = 200)]
    full_name: Option<String>,
    /// What the device list will call this device.
    #[schema(max_length = 100)]
    device_name: Option<String>,
}

/// The body of a login.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct LoginRequest {
    /// Address.
    #[schema(format = Email)]
    email: String,
    /// Password.
    #[schema(value_type = String, format = Password)]
    password: Password,
    /// What the device list will call this device.
    #[schema(max_length = 100)]
    device_name: Option<String>,
}

/// A login as the OAuth2 password form has it. Documentation only: forms are read field by field.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)]
pub(super) struct LoginForm {
    /// Address.
    username: String,
    /// Password.
    #[schema(format = Password)]
    password: String,
    /// What the device list will call this device.
    device_name: Option<String>,
}

/// The body of validate-session.
#[derive(Deserialize, utoipa::ToSchema)]
pub(super) struct SessionRequest {
    /// The session's secret.
    #[schema(format = Uuid)]
    pub session_id: String,
}

/// Somebody is in.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct LoginAnswer {
    /// Access token (RFC 9068), for `Authorization: Bearer`.
    access_token: String,
    /// Always `bearer`.
    token_type: &'static str,
    /// Seconds until the access token expires.
    expires_in: u64,
    /// Who is in.
    user: User,
    /// The session's secret: turns into a new access token at validate-session. Keep it.
    #[schema(format = Uuid)]
    session_id: String,
}

/// The session is good.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct SessionAnswer {
    /// Always true: a session that is not good is a 401.
    valid: bool,
    /// The same as after a login, with a new access token.
    #[serde(flatten)]
    login: LoginAnswer,
}

impl LoginAnswer {
    fn of(login: &LoggedIn) -> Self {
        Self {
            access_token: login.token.token.expose().to_owned(),
            token_type: "bearer",
            expires_in: login.token.expires_in,
            user: login.user.clone(),
            session_id: login.secret.expose(),
        }
    }
}

/// Make an account and log it in.
///
/// In cookie mode this and login end the session of a cookie that comes along.
/// With enumeration defence on, the answer is 202 and an empty object, for new and taken addresses alike: log in then.
#[utoipa::path(
    post, path = "/api/v1/auth/signup", tag = "sessions", request_body = SignupRequest,
    responses(
        (status = 201, description = "The account exists, and its first session", body = LoginAnswer),
        (status = 202, description = "Enumeration defence is on"),
        (status = 409, description = "`email_taken`"),
        (status = 429, description = "Too many"),
    )
)]
pub(super) async fn signup(
    State(gateway): State<Shared>,
    client: Client,
    headers: HeaderMap,
    Json(body): Json<SignupRequest>,
) -> Result<Response, Problem> {
    cookies::may_be_set(&gateway, &headers)?;
    let quotas = gateway.limits.signup(client.ip).await?;
    Ok(quotas.mark(make_account(&gateway, &client, &headers, body).await.into_response()))
}

async fn make_account(
    gateway: &Gateway,
    client: &Client,
    headers: &HeaderMap,
    body: SignupRequest,
) -> Result<Response, Problem> {
    let email = Email::parse(&body.email)?;
    let password = new_password("password", body.password, &email)?;
    let signup = Signup { email, password, full_name: body.full_name };
    match gateway.accounts.sign_up(signup, device(client, body.device_name)).await? {
        Some(login) => {
            tracing::info!(user = %login.user.id, sid = %login.session.sid, ip = %client.ip, "signed up");
            cookies::end_previous(gateway, client, headers).await;
            Ok(greet(gateway, client, &login, StatusCode::CREATED))
        }
        None => Ok((StatusCode::ACCEPTED, axum::Json(serde_json::json!({}))).into_response()),
    }
}

/// Begin a session.
///
/// Takes JSON, or the form that OAuth2 clients send. An unknown address and a wrong password get the same answer after
/// the same time; a disabled account is told so only after the right password.
#[utoipa::path(
    post, path = "/api/v1/auth/login", tag = "sessions",
    request_body(content((LoginRequest = "application/json"), (LoginForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "In", body = LoginAnswer),
        (status = 401, description = "`invalid_credentials`"),
        (status = 403, description = "`account_disabled`; in cookie mode `csrf`: a page that is not allowed"),
        (status = 429, description = "Too many wrong guesses"),
    )
)]
pub(super) async fn login(
    State(gateway): State<Shared>,
    client: Client,
    headers: HeaderMap,
    body: JsonOrForm<LoginRequest>,
) -> Result<Response, Problem> {
    cookies::may_be_set(&gateway, &headers)?;
    let request = LoginRequest::of(body)?;
    let email = Email::parse(&request.email)?;
    let throttled = |problem| {
        tracing::info!(ip = %client.ip, "login throttled");
        count_login("throttled");
        gateway.tally.note(Counted::LoginThrottled, None, Some(client.ip));
        problem
    };
    let guess = gateway.limits.login(client.ip, email.as_str()).await.map_err(throttled)?;
    let device = device(&client, request.device_name);
    let outcome = gateway.accounts.log_in(&email, request.password, device, guess.strangers_must_wait()).await;
    let quotas = guess.quotas();
    match &outcome {
        Ok(_) | Err(AccountError::Disabled) => guess.was_right(),
        Err(AccountError::InvalidCredentials) => {}
        Err(AccountError::Stranger) => return Err(throttled(guess.refuse_stranger())),
        Err(_) => guess.give_back(),
    }
    count(&outcome, &client);
    let answer = match outcome {
        Ok(login) => {
            cookies::end_previous(&gateway, &client, &headers).await;
            greet(&gateway, &client, &login, StatusCode::OK)
        }
        Err(error) => Problem::from(error).into_response(),
    };
    Ok(quotas.mark(answer))
}

/// A new access token for a session.
///
/// In cookie mode a call without a body is authorised by the cookie. Where secrets rotate, the answer's `session_id` is a
/// new one: store it. The one before works a little longer; shown after that it ends the session.
#[utoipa::path(
    post, path = "/api/v1/auth/validate-session", tag = "sessions", request_body = SessionRequest,
    responses(
        (status = 200, description = "The session is good", body = SessionAnswer),
        (status = 401, description = "`invalid_session`: unknown, expired or revoked"),
        (status = 403, description = "`reauthentication_required`: shown from elsewhere, log in again"),
        (status = 429, description = "Too many"),
    )
)]
pub(super) async fn validate_session(
    State(gateway): State<Shared>,
    client: Client,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<SessionRequest>,
) -> Result<Response, Problem> {
    let quotas = gateway.limits.validation(client.ip).await?;
    let secret = match body {
        Some(body) => {
            cookies::may_be_set(&gateway, &headers)?;
            SessionSecret::parse(&body.session_id)
        }
        None => Some(cookie_alone(&gateway, &client, &headers)?),
    };
    Ok(quotas.mark(take_up(&gateway, &client, secret).await.into_response()))
}

async fn take_up(gateway: &Gateway, client: &Client, secret: Option<SessionSecret>) -> Result<Response, Problem> {
    // No UUID is no session's secret.
    let secret = secret.ok_or_else(invalid_session)?;
    let login = gateway.come_back(secret, &device(client, None)).await.map_err(session_problem)?;
    let answer = SessionAnswer { valid: true, login: LoginAnswer::of(&login) };
    let mut response = axum::Json(answer).into_response();
    cookies::set(gateway, client, &login, &mut response);
    Ok(response)
}

/// The cookie of a request without a body; without a cookie the body is what is missing.
fn cookie_alone(gateway: &Gateway, client: &Client, headers: &HeaderMap) -> Result<SessionSecret, Problem> {
    let cookie = if gateway.config.cookies { session_cookie(headers, client.https) } else { None };
    let secret = cookie.ok_or_else(|| Problem::bad_request("malformed_json", "The body is empty."))?;
    if gateway.origins.allows_cookie_call(headers) { Ok(secret) } else { Err(Problem::csrf()) }
}

/// The 401 of a secret has no `error`: it is no bearer token.
fn session_problem(error: AccountError) -> Problem {
    match error {
        AccountError::Denied(_) => invalid_session(),
        other => other.into(),
    }
}

fn invalid_session() -> Problem {
    Problem::unauthorized("invalid_session", "The session is not known, has expired or was ended.")
}

impl LoginRequest {
    fn of(body: JsonOrForm<Self>) -> Result<Self, Problem> {
        match body {
            JsonOrForm::Json(request) => Ok(request),
            JsonOrForm::Form(form) => {
                let field = |name| form_field(&form, name).ok_or_else(|| missing_field(name));
                let (email, password) = (field("username")?, Password::new(field("password")?));
                Ok(Self { email, password, device_name: form_field(&form, "device_name") })
            }
        }
    }
}

pub(super) fn device(client: &Client, name: Option<String>) -> LoginDevice {
    LoginDevice { name, user_agent: client.user_agent.clone(), ip: Some(client.ip) }
}

fn greet(gateway: &Gateway, client: &Client, login: &LoggedIn, status: StatusCode) -> Response {
    let mut response = (status, axum::Json(LoginAnswer::of(login))).into_response();
    cookies::set(gateway, client, login, &mut response);
    response
}

/// Counts how a login went. Who was refused, `accounts` has logged: it knows whom.
fn count(outcome: &Result<LoggedIn, AccountError>, client: &Client) {
    match outcome {
        Ok(login) => {
            tracing::info!(user = %login.user.id, sid = %login.session.sid, ip = %client.ip, "logged in");
            count_login("success");
        }
        Err(AccountError::InvalidCredentials) => count_login("invalid_credentials"),
        Err(AccountError::Disabled) => count_login("disabled"),
        // Nobody has tried to log in with values that are not allowed.
        Err(AccountError::NotAllowed(_)) => {}
        Err(_) => count_login("unavailable"),
    }
}
