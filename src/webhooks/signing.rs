//! What receivers are told, and how they can tell that it is from us: a security event token (RFC 8417) with the CAEP event
//! `session-revoked`, in a request signed as Standard Webhooks has it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use url::Url;

use crate::store::OutboxEvent;

/// CAEP 1.0 section 3.1.
pub const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// The claims of the token for one event.
pub(super) fn claims(event: &OutboxEvent, id: &str, issuer: &str, audience: &str, now_unix: i64) -> Value {
    let user = json!({ "format": "iss_sub", "iss": issuer, "sub": event.user_id });
    // With the user alone it concerns all their sessions (CAEP 1.0 section 3.1).
    let subject = match event.sid {
        Some(sid) => json!({ "format": "complex", "user": user, "session": { "format": "opaque", "id": sid } }),
        None => json!({ "format": "complex", "user": user }),
    };
    let initiator = match event.initiator.as_str() {
        "user" => "user",
        "system" => "system",
        _ => "admin",
    };
    let reason = json!({ "en": event.reason });
    json!({
        "iss": issuer,
        "aud": audience,
        "iat": now_unix,
        "jti": id,
        "sub_id": subject,
        "events": { SESSION_REVOKED: {
            "event_timestamp": event.at.unix_timestamp(),
            "initiating_entity": initiator,
            "reason_admin": reason,
            "reason_user": reason,
        } },
    })
}

/// The receiver's name in `aud`: its URL without what may be secret.
pub(super) fn audience(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Only URLs without a host refuse.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

/// The key behind `webhook-signature`.
pub(super) struct Secret(hmac::Key);

impl Secret {
    pub fn new(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64.
    pub fn signature(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        format!("v1,{}", STANDARD.encode(hmac::sign(&self.0, signed.as_bytes())))
    }

    /// A security event token with HS256: where access tokens are signed with a shared secret, receivers must not have it.
    pub fn event_token(&self, claims: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"secevent+jwt"}"#);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, message.as_bytes()));
        format!("{message}.{signature}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Sid, UserId};

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        // The example of the specification.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            Secret::new(&secret).signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn an_audience_tells_no_secret() {
        let url = Url::parse("https://user:hunter2@receiver.example/hook?token=hunter2#x").unwrap();
        assert_eq!(audience(&url), "https://receiver.example/hook");
    }

    #[test]
    fn the_event_is_caeps() {
        let event = OutboxEvent {
            id: 7,
            target: String::new(),
            at: time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
            reason: "account_disabled".into(),
            initiator: "operator".into(),
            user_id: UserId::random(),
            sid: Some(Sid::random()),
            attempts: 1,
            last_error: None,
            given_up_at: None,
        };
        let claims = claims(&event, "id", "https://issuer.example", "https://receiver.example/hook", 1_700_000_005);
        let told = &claims["events"][SESSION_REVOKED];
        assert_eq!((&told["event_timestamp"], &told["initiating_entity"]), (&json!(1_700_000_000), &json!("admin")));
        assert_eq!(claims["sub_id"]["session"], json!({ "format": "opaque", "id": event.sid }));
        assert_eq!(claims["sub_id"]["user"]["sub"], json!(event.user_id));
        assert!(claims.get("sub").is_none() && claims.get("exp").is_none(), "RFC 8417 section 2.2, SSF 1.0");
    }
}
