//! Socket tickets: sealed, single use, 30 s, bound to a session and to the Origin they were issued to.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Auth, AuthError, Denied, Principal};
use crate::ids::{Sid, UserId};
use crate::seal::Purpose;
use crate::secret::{SecretHash, Ticket};

const LIFE: Duration = Duration::from_secs(30);
const NAME: &[u8] = b"ws-ticket";
const LONGEST_BYTES: usize = 2048;

/// A ticket whose seal, age and Origin are good; not yet spent.
#[derive(Clone, Debug)]
pub struct OpenTicket {
    /// Whose it is.
    pub principal: Principal,
    /// Its name in the table of used tickets.
    pub id: SecretHash,
    /// Its end.
    pub expires_at: OffsetDateTime,
}

#[derive(Serialize, Deserialize)]
struct Content {
    id: Uuid,
    sid: Sid,
    user_id: UserId,
    origin: Option<String>,
    #[serde(with = "time::serde::timestamp::milliseconds")]
    expires_at: OffsetDateTime,
}

impl Auth {
    /// Seals a ticket for this principal and the Origin of the request that asks for it; `None` when there was none.
    ///
    /// # Panics
    /// Never for a key that sealed a probe at the start.
    #[must_use]
    pub fn issue_ticket(&self, principal: &Principal, origin: Option<&str>) -> (Ticket, Duration) {
        let session = &principal.session;
        let content = Content {
            id: Uuid::new_v4(),
            sid: session.sid,
            user_id: session.user_id,
            origin: origin.map(str::to_owned),
            expires_at: self.now() + LIFE,
        };
        let plain = serde_json::to_vec(&content).expect("plain data becomes JSON");
        let sealed =
            self.parts.sealer.seal(Purpose::Ticket, NAME, plain).expect("the key has sealed a probe at the start");
        (Ticket::new(URL_SAFE_NO_PAD.encode(sealed)), LIFE)
    }

    /// Opens a ticket that came with this `Origin` header (`None`: there was none).
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn open_ticket(&self, ticket: &Ticket, origin: Option<&str>) -> Result<OpenTicket, AuthError> {
        let content = self.unseal(ticket).ok_or(AuthError::Denied(Denied::TicketSpent))?;
        if content.expires_at <= self.now() || content.origin.as_deref() != origin {
            return Err(AuthError::Denied(Denied::TicketSpent));
        }
        let standing = self.parts.cache.session(content.sid, content.user_id).await?;
        let principal = Self::principal(standing, None)?;
        let id = SecretHash::of(content.id.as_bytes());
        Ok(OpenTicket { principal, id, expires_at: content.expires_at })
    }

    /// Spends it. The last step before the handshake is answered with 101.
    ///
    /// # Errors
    /// `Denied(TicketSpent)` when somebody was first, `CannotTell` when the database cannot say.
    pub async fn spend_ticket(&self, ticket: &OpenTicket) -> Result<(), AuthError> {
        match self.parts.store.redeem_ticket(ticket.id, ticket.expires_at).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(AuthError::Denied(Denied::TicketSpent)),
            Err(_) => Err(AuthError::CannotTell),
        }
    }

    fn unseal(&self, ticket: &Ticket) -> Option<Content> {
        let text = ticket.expose();
        if text.len() > LONGEST_BYTES {
            return None;
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let opened = self.parts.sealer.open(Purpose::Ticket, NAME, &sealed)?;
        serde_json::from_slice(&opened.plain).ok()
    }
}
