//! Persons with one revocation ahead of them, and how it is asked for until it is answered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::common::people::new_password;
use crate::common::{Answer, Node};
use crate::ledger::{Credential, Ledger};
use crate::rig::Rig;

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What ends credentials.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// The first session is logged out; the second lives on.
    Logout,
    /// By the secret instead of the token.
    LogoutBySecret,
    /// Both sessions end.
    LogoutEverywhere,
    /// The first session is ended from the second.
    EndOne,
    /// From the second session: the first ends.
    PasswordChange,
    /// An operator's SQL: both end.
    Disable,
}

impl Ending {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Logout, Self::LogoutBySecret, Self::LogoutEverywhere, Self::EndOne, Self::PasswordChange, Self::Disable];
}

/// Somebody on two devices.
pub struct Person {
    /// What will happen to them.
    pub ending: Ending,
    /// Their sessions, one made on each node.
    pub sessions: [Arc<Credential>; 2],
}

impl Person {
    /// Signs up on one node and logs in on the other.
    pub async fn new(rig: &Rig, ending: Ending) -> Self {
        let first = rig.node(0).signup().await;
        let second = rig.node(1).login(&first).await;
        Self { ending, sessions: [first, second].map(|login| Arc::new(Credential::new(login))) }
    }

    fn doomed(&self) -> &[Arc<Credential>] {
        match self.ending {
            Ending::LogoutEverywhere | Ending::Disable => &self.sessions,
            Ending::Logout | Ending::LogoutBySecret | Ending::EndOne | Ending::PasswordChange => &self.sessions[..1],
        }
    }

    /// The session that lives to the end, if one does.
    pub fn spared(&self) -> Option<&Arc<Credential>> {
        self.sessions.get(self.doomed().len())
    }

    /// Asks for the end on one node after the other until it is answered.
    pub async fn revoke(&self, rig: &Rig, ledger: &Ledger, first_node: usize) {
        let new_password = new_password();
        self.doomed().iter().for_each(|credential| credential.ending());
        let mut perhaps_done = false;
        for attempt in 0.. {
            let answered = match self.ending {
                Ending::Disable => self.disable(rig).await.then_some(200),
                _ => self.ask(rig.node(first_node + attempt), &new_password).await.map(|answer| answer.status),
            };
            let done = match answered {
                Some(200..=299) => true,
                // It was done before, and the answer did not come through.
                Some(status) if status < 500 && perhaps_done => self.says_done(status),
                Some(status) if status < 500 => {
                    ledger.falsely_refused(&format!("{:?}: {status}", self.ending));
                    return;
                }
                _ => false,
            };
            if done {
                let now = Instant::now();
                self.doomed().iter().for_each(|credential| credential.ended(now));
                ledger.revoked();
                return;
            }
            perhaps_done = true;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn says_done(&self, status: u16) -> bool {
        match self.ending {
            Ending::LogoutEverywhere => status == 401,
            Ending::EndOne => status == 404,
            Ending::PasswordChange => status == 403,
            Ending::Logout | Ending::LogoutBySecret | Ending::Disable => false,
        }
    }

    async fn ask(&self, node: &Node, new_password: &str) -> Option<Answer> {
        let (first, second) = (self.sessions[0].login(), self.sessions[1].login());
        let call = match self.ending {
            Ending::Logout => node.post("/api/v1/auth/logout").bearer(&first.token),
            Ending::LogoutBySecret => node.post("/api/v1/auth/logout").json(&json!({"session_id": first.session_id})),
            Ending::LogoutEverywhere => node.post("/api/v1/auth/logout-all-devices").bearer(&first.token),
            Ending::EndOne => {
                let path = format!("/api/v1/auth/sessions/{}", first.sid);
                node.call(Method::DELETE, &path).bearer(&second.token)
            }
            Ending::PasswordChange => {
                let body = json!({"current_password": second.password, "new_password": new_password});
                node.post("/api/v1/auth/change-password").bearer(&second.token).json(&body)
            }
            Ending::Disable => unreachable!("an operator does it"),
        };
        call.timeout(PATIENCE).try_send().await
    }

    async fn disable(&self, rig: &Rig) -> bool {
        if rig.nodes_have_no_connection.load(Ordering::SeqCst) {
            return false;
        }
        let email = self.sessions[0].login().email;
        let disabling = rig.database.try_disable(&email);
        tokio::time::timeout(PATIENCE, disabling).await.is_ok_and(|outcome| outcome.is_ok())
    }
}
