//! People who sign up, log in on devices, and call the endpoints.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Answer, Node};
use super::wait::eventually;

/// A person on one device: what a client keeps after a login.
#[derive(Clone, Debug)]
pub struct Login {
    /// The e-mail address.
    pub email: String,
    /// The password.
    pub password: String,
    /// The access token.
    pub token: String,
    /// The session's secret.
    pub session_id: String,
    /// The session's public handle, read from the token.
    pub sid: String,
    /// The user.
    pub user_id: String,
}

impl Login {
    /// Reads a login answer.
    #[track_caller]
    pub fn read(answer: &Answer, email: &str, password: &str) -> Self {
        let token = answer.str("access_token").to_owned();
        Self {
            email: email.to_owned(),
            password: password.to_owned(),
            sid: claims(&token)["sid"].as_str().expect("a sid").to_owned(),
            session_id: answer.str("session_id").to_owned(),
            user_id: answer["user"]["id"].as_str().expect("a user id").to_owned(),
            token,
        }
    }

    /// The same device with another access token.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }
}

/// An address nobody has yet.
pub fn new_email() -> String {
    format!("{}@example.test", Uuid::new_v4().simple())
}

/// A password nobody else has, so that it can be searched for.
pub fn new_password() -> String {
    format!("Long enough {}", Uuid::new_v4().simple())
}

/// A token's claims, unverified.
pub fn claims(token: &str) -> Value {
    part(token, 1)
}

/// A token's header, unverified.
pub fn token_header(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("a JWT");
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("JSON in the JWT")
}

/// The token with another payload or signature than was signed: one character in the middle of its last part changed.
pub fn forged(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').expect("a JWT");
    let middle = signature.len() / 2;
    let other = if signature.as_bytes()[middle] == b'A' { 'B' } else { 'A' };
    format!("{signed}.{}{other}{}", &signature[..middle], &signature[middle + 1..])
}

impl Node {
    /// Somebody new.
    pub async fn signup(&self) -> Login {
        let (email, password) = (new_email(), new_password());
        let answer = self.post("/api/v1/auth/signup").json(&json!({"email": email, "password": password})).send().await;
        Login::read(&answer.expect(201), &email, &password)
    }

    /// The same person on another device.
    pub async fn login(&self, who: &Login) -> Login {
        Login::read(&self.try_login(&who.email, &who.password).await.expect(200), &who.email, &who.password)
    }

    /// A login that may fail.
    pub async fn try_login(&self, email: &str, password: &str) -> Answer {
        self.post("/api/v1/auth/login").json(&json!({"email": email, "password": password})).send().await
    }

    /// A new access token for the secret.
    pub async fn validate(&self, session_id: &str) -> Answer {
        self.post("/api/v1/auth/validate-session").json(&json!({"session_id": session_id})).send().await
    }

    /// Logs the bearer out.
    pub async fn logout(&self, token: &str) -> Answer {
        self.post("/api/v1/auth/logout").bearer(token).send().await
    }

    /// Logs the bearer out on every device.
    pub async fn logout_all(&self, token: &str) -> Answer {
        self.post("/api/v1/auth/logout-all-devices").bearer(token).send().await
    }

    /// Who the bearer is.
    pub async fn me(&self, token: &str) -> Answer {
        self.get("/api/v1/auth/me").bearer(token).send().await
    }

    /// Forward-auth.
    pub async fn verify(&self, token: &str) -> Answer {
        self.get("/api/v1/auth/verify").bearer(token).send().await
    }

    /// Merges into the profile.
    pub async fn patch_profile(&self, token: &str, change: &Value) -> Answer {
        self.call(reqwest::Method::PATCH, "/api/v1/auth/update-profile").bearer(token).json(change).send().await
    }

    /// Replaces what is named in the profile.
    pub async fn put_profile(&self, token: &str, change: &Value) -> Answer {
        self.call(reqwest::Method::PUT, "/api/v1/auth/update-profile").bearer(token).json(change).send().await
    }

    /// Changes the password.
    pub async fn change_password(&self, token: &str, current: &str, new: &str) -> Answer {
        let body = json!({"current_password": current, "new_password": new});
        self.post("/api/v1/auth/change-password").bearer(token).json(&body).send().await
    }

    /// Changes the address.
    pub async fn change_email(&self, token: &str, email: &str, current: &str) -> Answer {
        let body = json!({"email": email, "current_password": current});
        self.post("/api/v1/auth/change-email").bearer(token).json(&body).send().await
    }

    /// Removes the bearer's account.
    pub async fn delete_account(&self, token: &str, current: &str) -> Answer {
        let body = json!({"current_password": current});
        self.post("/api/v1/auth/delete-account").bearer(token).json(&body).send().await
    }

    /// The bearer's devices.
    pub async fn sessions(&self, token: &str) -> Answer {
        self.get("/api/v1/auth/sessions").bearer(token).send().await
    }

    /// Ends one session.
    pub async fn end_session(&self, token: &str, sid: &str) -> Answer {
        self.call(reqwest::Method::DELETE, &format!("/api/v1/auth/sessions/{sid}")).bearer(token).send().await
    }

    /// A ticket for a socket, for this page's origin.
    pub async fn ticket(&self, token: &str, origin: Option<&str>) -> String {
        let mut call = self.post("/api/v1/auth/ws-ticket").bearer(token);
        if let Some(origin) = origin {
            call = call.header("origin", origin);
        }
        call.send().await.expect(200).str("ticket").to_owned()
    }

    /// Waits until a token has run out.
    pub async fn expired(&self, token: &str) {
        eventually("the token expires", async || (self.me(token).await.status == 401).then_some(())).await;
    }
}
