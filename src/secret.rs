//! Values that must never be printed. None of these types shows its content in `Debug`, and none has `Display`.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// The secret of a session, which clients know as `session_id`. Whoever holds it can get access tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret(Uuid);

impl SessionSecret {
    /// A new secret from the operating system's generator (122 random bits).
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// Reads the usual text form of a UUID. `None` for anything else, which can be no session's secret.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The secret that follows this one in a rotation. Whoever shows this one while it is still good gets the same answer,
    /// without any node having to keep the next one; the salt is random, so that nobody can tell it beforehand.
    #[must_use]
    pub fn successor(&self, salt: Uuid) -> Self {
        let material = [b"portcullis session secret", &self.0.as_bytes()[..], salt.as_bytes()].concat();
        let SecretHash(digest) = SecretHash::of(&material);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }

    /// The only form that is ever stored.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.as_bytes())
    }

    /// The text handed to the client at login. Call it only where an answer is written.
    #[must_use]
    pub fn expose(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(…)")
    }
}

/// SHA-256 of a high-entropy secret (a session's secret, an access token, a ticket).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Hashes `secret`. Only for values with 122 random bits or more: there is no salt.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(bytes)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// 32 random bytes shared by the nodes of a deployment, from which the keys for records and tickets are derived.
#[derive(Clone, zeroize::ZeroizeOnDrop)]
pub struct RecordKey(pub [u8; 32]);

impl fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey(…)")
    }
}

/// A password in the clear, on its way from a request to the hash. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    /// Takes `text` as a password. Its length is checked where the request is validated.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The text itself. Call it only to hash or to measure.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// An access token as the client sent it or will get it: a JWT in compact form.
#[derive(Clone)]
pub struct AccessToken(SecretString);

impl AccessToken {
    /// Takes `text` as a token; nothing is judged here.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The compact form. Call it only to verify or to write an answer.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

/// A single-use socket ticket, sealed by the gateway; rides in `?ticket=`.
#[derive(Clone)]
pub struct Ticket(SecretString);

impl Ticket {
    /// Takes `text` as a ticket; nothing is judged here.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The sealed text.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(…)")
    }
}

/// A key of the admin API in the clear: what its holder sends. 256 random bits behind a word by which scanners of
/// repositories and logs can tell what was leaked.
#[derive(Clone)]
pub struct AdminSecret(SecretString);

impl AdminSecret {
    const PREFIX: &str = "portcullis_admin_";
    const DIGITS: usize = 43;

    /// A new one. `None` when the system gives no random bytes.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = zeroize::Zeroizing::new([0; 32]);
        aws_lc_rs::rand::fill(bytes.as_mut()).ok()?;
        Some(Self(SecretString::from(Self::PREFIX.to_owned() + &URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Reads one. `None` for what cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        let fits = digits.len() == Self::DIGITS
            && digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        fits.then(|| Self(SecretString::from(text)))
    }

    /// The only form that is stored, and by which it is looked up: a look-up tells nothing about the key by its time.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.0.expose_secret().as_bytes())
    }

    /// The text, shown once when it is made.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for AdminSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let secret = SessionSecret::random();
        assert!(!format!("{secret:?}").contains(&secret.expose()));
        assert_eq!(format!("{:?}", Password::new("hunter2".into())), "Password(…)");
        assert_eq!(format!("{:?}", AccessToken::new("a.b.c")), "AccessToken(…)");
    }

    #[test]
    fn a_successor_takes_both_the_secret_and_the_salt() {
        let (secret, salt) = (SessionSecret::random(), Uuid::new_v4());
        let next = secret.successor(salt);
        assert_eq!(next, secret.successor(salt));
        assert_ne!(next, secret);
        assert_ne!(next, secret.successor(Uuid::new_v4()));
        assert_ne!(next, SessionSecret::random().successor(salt));
        assert_eq!(next.0.get_version_num(), 4);
    }

    #[test]
    fn a_key_of_the_admin_api_survives_its_text_form() {
        let key = AdminSecret::random().unwrap();
        assert_eq!(AdminSecret::parse(key.expose()).unwrap().hash(), key.hash());
        assert_eq!(format!("{key:?}"), "AdminSecret(…)");
        let (text, shorter) = (key.expose().to_owned(), &key.expose()[1..]);
        for damaged in [&text[..text.len() - 1], shorter, "", "portcullis_admin_", &format!("{text} ")] {
            assert!(AdminSecret::parse(damaged).is_none(), "{damaged}");
        }
    }

    #[test]
    fn a_secret_survives_its_text_form() {
        let secret = SessionSecret::random();
        assert_eq!(SessionSecret::parse(&secret.expose()).map(|s| s.hash()), Some(secret.hash()));
        assert!(SessionSecret::parse("not-a-uuid").is_none());
    }
}
