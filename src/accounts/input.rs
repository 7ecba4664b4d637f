//! What clients may write into an account. Checked before anything is hashed or stored.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::LoginDevice;
use super::error::NotAllowed;
use crate::revocation::MAX_METADATA_BYTES;
use crate::secret::Password;
use crate::store::{MetadataChange, ProfileChange};

/// RFC 5321 section 4.5.3.1.3, less the angle brackets.
const EMAIL_BYTES: usize = 254;
const PASSWORD_CHARACTERS: std::ops::RangeInclusive<usize> = 8..=128;
const DEVICE_NAME_CHARACTERS: usize = 100;
const FULL_NAME_CHARACTERS: usize = 200;
const AVATAR_URL_BYTES: usize = 2048;
const USER_AGENT_CHARACTERS: usize = 512;

/// Of the passwords in every attacker's list, the more than eight thousand that are long enough for us, in lower case
/// (OWASP ASVS 5.0, 6.2.4 wants three thousand).
const COMMON_PASSWORDS: &str = include_str!("common_passwords.txt");

static COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| COMMON_PASSWORDS.lines().collect());

/// An e-mail address that could be one. Whether mail arrives there is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Trims and checks an address.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn parse(text: &str) -> Result<Self, NotAllowed> {
        let text = text.trim();
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control();
        let mut parts = text.split('@');
        let (local, domain) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let shaped = !local.is_empty() && !domain.is_empty() && parts.next().is_none();
        if shaped && text.len() <= EMAIL_BYTES && text.chars().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(refuse("email", "invalid_email", "must be an e-mail address of at most 254 bytes"))
        }
    }

    /// The address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Checks a password that somebody with this address wants to have, sent in `field`. No rules of composition: length is
/// what counts.
///
/// # Errors
/// [`NotAllowed`].
pub fn new_password(field: &'static str, password: Password, email: &Email) -> Result<Password, NotAllowed> {
    let text = password.expose();
    let characters = text.chars().count();
    if characters < *PASSWORD_CHARACTERS.start() {
        return Err(refuse(field, "password_too_short", "must have at least 8 characters"));
    }
    if characters > *PASSWORD_CHARACTERS.end() {
        return Err(refuse(field, "password_too_long", "must have at most 128 characters"));
    }
    let lower = text.to_lowercase();
    let address = email.as_str().to_lowercase();
    let is_address = lower == address || address.split('@').next() == Some(&lower);
    if is_address || COMMON.contains(lower.as_str()) {
        return Err(refuse(field, "password_too_common", "is one of the first that everybody would guess"));
    }
    Ok(password)
}

/// A change of the profile as a client sends it. `None` leaves a field alone, `Some(None)` clears it.
#[derive(Clone, Debug)]
pub struct ProfileUpdate {
    /// Display name.
    pub full_name: Option<Option<String>>,
    /// Picture.
    pub avatar_url: Option<Option<String>>,
    /// Metadata.
    pub metadata: Option<Option<Map<String, Value>>>,
    /// Merge metadata (`PATCH`) instead of replacing it (`PUT`).
    pub merge: bool,
}

impl ProfileUpdate {
    pub(super) fn into_change(self) -> Result<ProfileChange, NotAllowed> {
        let metadata = match self.metadata {
            None => None,
            Some(None) => Some(MetadataChange::Replace(Map::new())),
            Some(Some(metadata)) => Some(metadata_change(metadata, self.merge)?),
        };
        Ok(ProfileChange {
            full_name: self.full_name.map(full_name).transpose()?,
            avatar_url: self.avatar_url.map(avatar_url).transpose()?,
            metadata,
        })
    }
}

fn metadata_change(metadata: Map<String, Value>, merge: bool) -> Result<MetadataChange, NotAllowed> {
    if has_zero(&metadata) {
        return Err(refuse("metadata", "invalid_field", "must not contain the character U+0000"));
    }
    if merge {
        // How large the outcome is, only the merge can say.
        return Ok(MetadataChange::Merge(metadata));
    }
    let bytes = serde_json::to_string(&metadata).map_or(usize::MAX, |text| text.len());
    if bytes > MAX_METADATA_BYTES { Err(metadata_too_large()) } else { Ok(MetadataChange::Replace(metadata)) }
}

/// Postgres cannot keep a zero character, in a name or in a text.
fn has_zero(object: &Map<String, Value>) -> bool {
    fn in_value(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(in_value),
            Value::Object(object) => has_zero(object),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
    object.iter().any(|(name, value)| name.contains('\0') || in_value(value))
}

pub(super) fn metadata_too_large() -> NotAllowed {
    refuse("metadata", "metadata_too_large", "must be at most 64 KiB of JSON")
}

pub(super) fn full_name(name: Option<String>) -> Result<Option<String>, NotAllowed> {
    line("full_name", name, FULL_NAME_CHARACTERS)
}

fn avatar_url(url: Option<String>) -> Result<Option<String>, NotAllowed> {
    let Some(text) = line("avatar_url", url, AVATAR_URL_BYTES)? else { return Ok(None) };
    let parsed = url::Url::parse(&text).ok();
    let is_web = parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if is_web && text.len() <= AVATAR_URL_BYTES {
        Ok(Some(text))
    } else {
        Err(refuse("avatar_url", "invalid_field", "must be an http or https URL of at most 2048 bytes"))
    }
}

/// Checks what the device list will show of a login. A name is the user's to choose; a `User-Agent` is cut to size.
pub(super) fn login_device(device: LoginDevice) -> Result<LoginDevice, NotAllowed> {
    let user_agent = device.user_agent.map(|agent| agent.chars().take(USER_AGENT_CHARACTERS).collect());
    let name = line("device_name", device.name, DEVICE_NAME_CHARACTERS)?;
    Ok(LoginDevice { name, user_agent, ip: device.ip })
}

/// One line of text for people. Only spaces is the same as nothing.
fn line(field: &'static str, text: Option<String>, most: usize) -> Result<Option<String>, NotAllowed> {
    let Some(text) = text else { return Ok(None) };
    let text = text.trim();
    if text.chars().count() > most {
        return Err(refuse(field, "invalid_field", &format!("must have at most {most} characters")));
    }
    if text.chars().any(char::is_control) {
        return Err(refuse(field, "invalid_field", "must not contain control characters"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn refuse(field: &'static str, code: &'static str, rule: &str) -> NotAllowed {
    NotAllowed { field, code, detail: format!("The field `{field}` {rule}.") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn password_code(text: &str) -> Option<&'static str> {
        let email = Email::parse("Zoe.Angstrom@example.test").unwrap();
        new_password("password", Password::new(text.into()), &email).err().map(|refused| refused.code)
    }

    #[test]
    fn an_address_has_one_at_and_nothing_odd() {
        assert_eq!(Email::parse(" zoë@example.test\n").unwrap().as_str(), "zoë@example.test");
        let long = format!("{}@example.test", "x".repeat(250));
        for odd in ["", "@", "a@", "@b", "a", "a@b@c", "a b@c", "a@b\u{7}c", "a\0@b", "a@b c", long.as_str()] {
            assert_eq!(Email::parse(odd).unwrap_err().code, "invalid_email", "{odd}");
        }
    }

    #[test]
    fn password_length_is_counted_in_characters() {
        assert_eq!(password_code("ÄÖÜäöüß"), Some("password_too_short"));
        assert_eq!(password_code("ÄÖÜäöüßẞ"), None);
        assert_eq!(password_code(&"ü".repeat(128)), None);
        assert_eq!(password_code(&"u".repeat(129)), Some("password_too_long"));
    }

    #[test]
    fn what_everybody_guesses_first_is_refused() {
        let of_address = ["zoe.angstrom", "Zoe.Angstrom@Example.test"];
        for common in ["password", "12345678", "PassWord123", "qwertyuiop", "iloveyou1"].iter().chain(&of_address) {
            assert_eq!(password_code(common), Some("password_too_common"), "{common}");
        }
        assert_eq!(password_code("correct horse battery staple"), None);
    }

    #[test]
    fn the_list_is_long_enough_and_holds_nothing_that_is_too_short_anyway() {
        assert!(COMMON.len() >= 3_000, "{}", COMMON.len());
        assert_eq!(COMMON.len(), COMMON_PASSWORDS.lines().count(), "nothing twice");
        assert!(COMMON.iter().all(|line| line.len() >= 8 && line.trim() == *line && line.to_lowercase() == *line));
    }

    #[test]
    fn pictures_live_on_the_web() {
        assert!(avatar_url(Some("https://example.test/a.png?b=c#d".into())).is_ok());
        assert_eq!(avatar_url(Some("  ".into())).unwrap(), None);
        for odd in ["javascript:alert(1)", "data:text/html,x", "no url", "//example.test/a", "https://", "file:///etc"]
        {
            assert!(avatar_url(Some(odd.into())).is_err(), "{odd}");
        }
    }

    #[test]
    fn names_are_one_line() {
        assert_eq!(full_name(Some(" Zoë 🦀 ".into())).unwrap().as_deref(), Some("Zoë 🦀"));
        assert_eq!(full_name(Some("🦀".repeat(200))).unwrap().map(|name| name.chars().count()), Some(200));
        assert!(full_name(Some("🦀".repeat(201))).is_err());
        assert!(full_name(Some("a\0b".into())).is_err());
    }

    fn change(metadata: Value, merge: bool) -> Result<MetadataChange, NotAllowed> {
        let Value::Object(metadata) = metadata else { panic!("an object") };
        metadata_change(metadata, merge)
    }

    #[test]
    fn metadata_is_bounded_where_it_is_replaced_and_storable_everywhere() {
        // `{"a":"…"}` is 8 bytes around the text.
        assert!(change(json!({"a": "x".repeat(MAX_METADATA_BYTES - 8)}), false).is_ok());
        assert_eq!(
            change(json!({"a": "x".repeat(MAX_METADATA_BYTES - 7)}), false).unwrap_err().code,
            "metadata_too_large"
        );
        assert!(change(json!({"a": "x".repeat(MAX_METADATA_BYTES)}), true).is_ok(), "the merge decides");
        assert!(change(json!({"a": [{"b\0": 1}]}), true).is_err());
        assert!(change(json!({"a": [["b\0"]]}), false).is_err());
    }
}
