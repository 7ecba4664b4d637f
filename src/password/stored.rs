//! Hashes as they stand in the database: ours, and those that came along from another system.
//!
//! Known are Argon2 (id, i and d, both versions, any parameters) as a PHC string and bcrypt (`$2a$`, `$2b$`, `$2y$`).
//! Whatever is not exactly ours is replaced at the next login, so that in the end every login costs the same and its
//! time tells nothing.

use std::borrow::Cow;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error, PasswordVerifier as _};
use argon2::{Argon2, Params};
use bcrypt::BcryptError;

use super::HashError;
use crate::secret::Password;

/// A hash that wants more is somebody's mistake, and would take the memory or the time of everybody else.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 32;
const MOST_LANES: u32 = 16;
/// About four seconds.
const MOST_BCRYPT_COST: u32 = 16;

/// Whether the password is the one behind the hash. The parameters are the stored hash's own.
pub(super) fn check(hasher: &Argon2<'_>, password: &Password, hash: &str) -> Result<bool, HashError> {
    if hash.starts_with("$2") {
        return check_bcrypt(password, hash);
    }
    let hash = PasswordHash::new(&with_version(hash)).map_err(|_| HashError::Broken)?;
    let params = Params::try_from(&hash).map_err(|_| HashError::Broken)?;
    if params.m_cost() > MOST_MEMORY_KIB || params.t_cost() > MOST_PASSES || params.p_cost() > MOST_LANES {
        return Err(HashError::Broken);
    }
    match hasher.verify_password(password.expose().as_bytes(), &hash) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(_) => Err(HashError::Broken),
    }
}

/// Whether the hash is not as this hasher would make it.
pub(super) fn is_outdated(hasher: &Argon2<'_>, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return true };
    let ours = hasher.params();
    let same = Params::try_from(&hash)
        .is_ok_and(|its| (its.m_cost(), its.t_cost(), its.p_cost()) == (ours.m_cost(), ours.t_cost(), ours.p_cost()));
    let length = hash.hash.as_ref().map_or(0, |output| output.len());
    !same || hash.algorithm.as_str() != "argon2id" || hash.version != Some(19) || length < Params::DEFAULT_OUTPUT_LEN
}

/// Before Argon2 had a second version its hashes named none.
fn with_version(hash: &str) -> Cow<'_, str> {
    match hash.split_once("$m=") {
        Some((algorithm, rest)) if !algorithm.contains("$v=") => format!("{algorithm}$v=16$m={rest}").into(),
        _ => hash.into(),
    }
}

/// bcrypt looks at 72 bytes, the zero at the end included. What does not fit is not cut to size but wrong: of two
/// passwords that differ beyond, bcrypt cannot tell which one was meant.
fn check_bcrypt(password: &Password, hash: &str) -> Result<bool, HashError> {
    let cost = hash.get(4..6).and_then(|cost| cost.parse::<u32>().ok());
    if cost.is_none_or(|cost| cost > MOST_BCRYPT_COST) {
        return Err(HashError::Broken);
    }
    match bcrypt::non_truncating_verify(password.expose(), hash) {
        Ok(right) => Ok(right),
        Err(BcryptError::Truncation(_)) => {
            tracing::info!(
                "a password of more than 71 bytes was refused: the account's hash is bcrypt, which would cut it"
            );
            // The same work, so that the time does not tell.
            bcrypt::verify("", hash).map(|_| false).map_err(|_| HashError::Broken)
        }
        Err(_) => Err(HashError::Broken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the reference implementations (argon2-cffi 25.1 and bcrypt 5.0 for Python).
    const IMPORTED: &[&str] = &[
        "$argon2id$v=19$m=8192,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$7Z7g7UrcFKxmTSHYfYx8lpsKhhb39w1bQqYoB+CM7W4",
        "$argon2id$v=16$m=1024,t=1,p=1$c29tZXNhbHQ$0z4vmjdq1qnuaw09mtC5ZFDPbXDy7QeLsH3hbdqy31Y",
        "$argon2id$v=19$m=256,t=4,p=2$c29tZXNhbHRzb21lc2FsdA$48zvTExzhBNnJAWMSwuGyw",
        "$argon2i$v=19$m=8192,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$ok84uamGooQLOB6gDXU4aqb5x7R/J+ukSWoWFqTyRVQ",
        "$argon2i$v=16$m=1024,t=1,p=1$c29tZXNhbHQ$XNS64UZ7gune9pDUubZyiKmL7aUm8Ml3cu+2yhDRvao",
        "$argon2i$v=19$m=256,t=4,p=2$c29tZXNhbHRzb21lc2FsdA$g2d6mC1CzliNPPNsK8Ybsg",
        "$argon2d$v=19$m=8192,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$ZTUbaBjlZuRMw3vA3RIRwfuWcjNF/aIbb8ZSmOtDeDQ",
        "$argon2d$v=16$m=1024,t=1,p=1$c29tZXNhbHQ$c8ZSIs5LwBWc5pivFu1f4rmapqvG0jPxRz8UBoCxy00",
        "$argon2d$v=19$m=256,t=4,p=2$c29tZXNhbHRzb21lc2FsdA$mkzFivdUHh6zjA5YMYOx6g",
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$TkJQaKKi5btHmBedhJ6ITw",
        "$argon2i$m=1024,t=1,p=1$c29tZXNhbHQ$XNS64UZ7gune9pDUubZyiKmL7aUm8Ml3cu+2yhDRvao",
        "$2a$05$WoiTmM5HRoA/ULo8fZX86eY5rwGA12Sqs/G7cL7yaSmPMfuKYNwZm",
        "$2b$05$09MzU.pKtQPmJZ8w5CoJcOH1AB8SiJOI2bkI/66Qo23z0B5RyhZeS",
        "$2y$05$p6BsIE/lUZsPybANQxr9MevJSCcZ.Qn/7FAlEY81hVr2iJK7tiPyG",
    ];

    fn password(text: &str) -> Password {
        Password::new(text.into())
    }

    #[test]
    fn hashes_of_other_systems_are_understood_and_outdated() {
        let hasher = Argon2::default();
        for hash in IMPORTED {
            assert_eq!(check(&hasher, &password("correct horse"), hash), Ok(true), "{hash}");
            assert_eq!(check(&hasher, &password("correct horsf"), hash), Ok(false), "{hash}");
            assert!(is_outdated(&hasher, hash), "{hash}");
        }
    }

    #[test]
    fn bcrypt_cuts_nothing_off() {
        let (hasher, long) = (Argon2::default(), "x".repeat(71));
        let hash = bcrypt::non_truncating_hash(&long, 4).unwrap();
        assert_eq!(check(&hasher, &password(&long), &hash), Ok(true));
        let cut = bcrypt::hash("x".repeat(72), 4).unwrap();
        for beyond in ["x".repeat(72), "x".repeat(73), "x".repeat(128)] {
            assert_eq!(check(&hasher, &password(&beyond), &cut), Ok(false), "{}", beyond.len());
        }
    }

    #[test]
    fn a_hash_that_would_take_everything_is_not_computed() {
        let hasher = Argon2::default();
        let output = "c2FsdHNhbHQ$Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ";
        for greedy in [
            format!("$argon2id$v=19$m=4194304,t=2,p=1${output}"),
            format!("$argon2id$v=19$m=19456,t=4000000,p=1${output}"),
            "$2b$31$UWtXS8Zc1oK.WlZ7eXhzU.9n2n3XbCk5d9m1m2u4p0mZl5cB1tK1e".to_owned(),
            "$2b$1x$UWtXS8Zc1oK.WlZ7eXhzU.9n2n3XbCk5d9m1m2u4p0mZl5cB1tK1e".to_owned(),
            "$2".to_owned(),
            "$2é$10".to_owned(),
            "$pbkdf2-sha256$i=1000$c2FsdHNhbHQ$aGFzaA".to_owned(),
            String::new(),
        ] {
            assert_eq!(check(&hasher, &password("x"), &greedy), Err(HashError::Broken), "{greedy}");
        }
    }
}
