//! Access tokens: JWTs after RFC 9068, checked as RFC 8725 asks. Signature and claims only; no I/O, no clock.
//!
//! The header is read strictly by ourselves, because a general JWT library accepts what we must refuse (an unknown
//! `crit`, another `typ`). Keys come from [`key_set::KeySet`] alone: `jwk`, `jku` and `x5u` of a header are never looked at.

pub mod key_set;
pub mod keys;
pub mod signer;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto;
use serde::{Deserialize, Serialize};

use crate::ids::{Jti, Sid, UserId};
use crate::secret::AccessToken;
use key_set::KeySet;
use keys::{SigningKey, VerifyingKey};

/// Longest token that is looked at, in bytes. Ours have about 600.
const MAX_TOKEN_BYTES: usize = 4096;

/// `typ` of an access token (RFC 9068 section 2.1).
const TYPE: &str = "at+jwt";

/// `typ` of a security event token (RFC 8417 section 2.3).
const EVENT_TYPE: &str = "secevent+jwt";

/// The claims of a token whose signature is good (RFC 9068 section 2.2).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenClaims {
    /// `sub`.
    pub user_id: UserId,
    /// `sid`.
    pub sid: Sid,
    /// `jti`.
    pub jti: Jti,
    /// `kid` of the header.
    pub kid: Arc<str>,
    /// `exp`, Unix seconds.
    pub expires_at: i64,
    /// `nbf`, Unix seconds.
    pub not_before: i64,
}

/// Who issues tokens and for whom.
#[derive(Clone, Debug)]
pub struct TokenFormat {
    /// `iss`, compared exactly.
    pub issuer: String,
    /// `aud`, compared exactly.
    pub audience: String,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Damaged, forged, of another type, issuer or audience.
    Forged,
    /// Well-formed, but no key of this id is known here: perhaps it was registered a moment ago.
    UnknownKey,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
    #[serde(default, skip_serializing)]
    crit: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: Audience<'a>,
    sub: UserId,
    sid: Sid,
    jti: Jti,
    iat: i64,
    nbf: i64,
    exp: i64,
}

/// One audience, or several (RFC 7519 section 4.1.3).
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience<'a> {
    #[serde(borrow)]
    One(&'a str),
    Many(Vec<String>),
}

impl Audience<'_> {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => *one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
        }
    }
}

/// Signs a token.
///
/// # Errors
/// When the cryptographic library refuses the key.
pub fn sign(
    format: &TokenFormat,
    key: &SigningKey,
    claims: &TokenClaims,
    issued_at: i64,
) -> anyhow::Result<AccessToken> {
    let header = Header { alg: key.algorithm_name(), typ: TYPE, kid: key.kid(), crit: None };
    let body = Claims {
        iss: &format.issuer,
        aud: Audience::One(&format.audience),
        sub: claims.user_id,
        sid: claims.sid,
        jti: claims.jti,
        iat: issued_at,
        nbf: claims.not_before,
        exp: claims.expires_at,
    };
    let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&body)?, &mut token);
    let signature = crypto::sign(token.as_bytes(), key.encoding(), key.algorithm())?;
    token.push('.');
    token.push_str(&signature);
    Ok(AccessToken::new(token))
}

/// Signs a security event token (RFC 8417). Its `typ` keeps it from ever being taken for an access token.
///
/// # Errors
/// When the cryptographic library refuses the key.
pub fn sign_event(key: &SigningKey, claims: &serde_json::Value) -> anyhow::Result<String> {
    let header = Header { alg: key.algorithm_name(), typ: EVENT_TYPE, kid: key.kid(), crit: None };
    let mut token = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut token);
    let signature = crypto::sign(token.as_bytes(), key.encoding(), key.algorithm())?;
    token.push('.');
    token.push_str(&signature);
    Ok(token)
}

/// Checks form, type, algorithm, signature, issuer and audience. Times are for the caller to judge, at every use.
///
/// # Errors
/// [`TokenError`]; nothing more is said, since it would help only a forger.
pub fn verify(
    format: &TokenFormat,
    keys: &KeySet,
    token: &AccessToken,
) -> Result<(TokenClaims, Arc<VerifyingKey>), TokenError> {
    let text = token.expose();
    if text.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::Forged);
    }
    let (message, signature) = text.rsplit_once('.').ok_or(TokenError::Forged)?;
    let (header, body) = message.split_once('.').ok_or(TokenError::Forged)?;
    let header_bytes = decode(header)?;
    let header: Header = serde_json::from_slice(&header_bytes).map_err(|_| TokenError::Forged)?;
    if header.crit.is_some() || !is_access_token_type(header.typ) {
        return Err(TokenError::Forged);
    }
    let key = keys.find(header.kid).ok_or(TokenError::UnknownKey)?;
    // The key decides the algorithm; the header may only agree (RFC 8725 section 3.1).
    if key.algorithm_name() != header.alg {
        return Err(TokenError::Forged);
    }
    if !matches!(crypto::verify(signature, message.as_bytes(), key.decoding(), key.algorithm()), Ok(true)) {
        return Err(TokenError::Forged);
    }
    let body_bytes = decode(body)?;
    let body: Claims = serde_json::from_slice(&body_bytes).map_err(|_| TokenError::Forged)?;
    if body.iss != format.issuer || !body.aud.contains(&format.audience) {
        return Err(TokenError::Forged);
    }
    let claims = TokenClaims {
        user_id: body.sub,
        sid: body.sid,
        jti: body.jti,
        kid: key.kid().clone(),
        expires_at: body.exp,
        not_before: body.nbf,
    };
    Ok((claims, key))
}

/// Media types compare without regard to case, and `application/` may be left out (RFC 7515 section 4.1.9).
fn is_access_token_type(typ: &str) -> bool {
    let typ = match typ.split_at_checked(12) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => typ,
    };
    typ.eq_ignore_ascii_case(TYPE)
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Forged)
}

#[cfg(test)]
mod tests {
    use super::keys::Algorithm;
    use super::*;

    fn format() -> TokenFormat {
        TokenFormat { issuer: "portcullis".into(), audience: "portcullis".into() }
    }

    fn claims(kid: &str) -> TokenClaims {
        TokenClaims {
            user_id: UserId::random(),
            sid: Sid::random(),
            jti: Jti::random(),
            kid: kid.into(),
            expires_at: 2_000_000_000,
            not_before: 1_000_000_000,
        }
    }

    fn forge(key: &SigningKey, header: serde_json::Value, body: &serde_json::Value) -> AccessToken {
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(body.to_string()));
        let signature = crypto::sign(message.as_bytes(), key.encoding(), key.algorithm()).expect("signs");
        AccessToken::new(format!("{message}.{signature}"))
    }

    fn body() -> serde_json::Value {
        serde_json::json!({
            "iss": "portcullis", "aud": "portcullis", "sub": UserId::random(), "sid": Sid::random(),
            "jti": Jti::random(), "iat": 1, "nbf": 1, "exp": 2_000_000_000,
        })
    }

    #[test]
    fn every_algorithm_signs_what_it_verifies() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256] {
            let key = SigningKey::generate(algorithm).expect("makes a key");
            let keys = KeySet::default();
            keys.add(VerifyingKey::from_public(&key.public().expect("has a public half")).expect("reads it"));
            let claims = claims(key.kid());
            let token = sign(&format(), &key, &claims, 1).expect("signs");
            assert_eq!(verify(&format(), &keys, &token).expect("verifies").0, claims);
        }
    }

    #[test]
    fn a_shared_secret_signs_what_it_verifies() {
        let key = SigningKey::from_secret(b"0123456789abcdef0123456789abcdef").expect("32 bytes are enough");
        assert!(key.public().is_none(), "a shared secret has no public half");
        let keys = KeySet::default();
        keys.add(key.verifying());
        let token = sign(&format(), &key, &claims(key.kid()), 1).expect("signs");
        assert!(verify(&format(), &keys, &token).is_ok());
    }

    #[test]
    fn forged_tokens_are_refused() {
        let key = SigningKey::generate(Algorithm::EdDsa).expect("makes a key");
        let keys = KeySet::default();
        keys.add(key.verifying());
        let good = serde_json::json!({"alg": "EdDSA", "typ": "at+jwt", "kid": key.kid()});
        let with = |name: &str, value: serde_json::Value| {
            let mut header = good.clone();
            header[name] = value;
            forge(&key, header, &body())
        };
        assert!(verify(&format(), &keys, &forge(&key, good.clone(), &body())).is_ok());
        for (name, token) in [
            ("another alg", with("alg", "HS256".into())),
            ("none", with("alg", "none".into())),
            ("crit", with("crit", serde_json::json!(["exp"]))),
            ("typ", with("typ", "JWT".into())),
        ] {
            assert_eq!(verify(&format(), &keys, &token).err(), Some(TokenError::Forged), "{name}");
        }
        assert_eq!(verify(&format(), &keys, &with("kid", "x".into())).err(), Some(TokenError::UnknownKey));
        for (name, value) in [("iss", "evil"), ("aud", "evil"), ("sub", "not-a-uuid")] {
            let mut body = body();
            body[name] = value.into();
            assert_eq!(verify(&format(), &keys, &forge(&key, good.clone(), &body)).err(), Some(TokenError::Forged));
        }
        let text = forge(&key, good, &body());
        for damaged in ["", ".", "..", "a.b.c", &text.expose()[1..], &text.expose()[..text.expose().len() - 2]] {
            assert_eq!(verify(&format(), &keys, &AccessToken::new(damaged)).err(), Some(TokenError::Forged));
        }
    }

    #[test]
    fn a_public_key_is_no_hmac_secret() {
        let key = SigningKey::generate(Algorithm::Rs256).expect("makes a key");
        let keys = KeySet::default();
        keys.add(key.verifying());
        let public = key.public().expect("has a public half").jwk.to_string();
        let confused = SigningKey::from_secret(public.as_bytes()).expect("long enough");
        let header = serde_json::json!({"alg": "HS256", "typ": "at+jwt", "kid": key.kid()});
        assert_eq!(verify(&format(), &keys, &forge(&confused, header, &body())).err(), Some(TokenError::Forged));
    }

    #[test]
    fn a_removed_key_verifies_nothing() {
        let key = SigningKey::generate(Algorithm::EdDsa).expect("makes a key");
        let keys = KeySet::default();
        keys.add(key.verifying());
        let token = sign(&format(), &key, &claims(key.kid()), 1).expect("signs");
        let (_, verified_with) = verify(&format(), &keys, &token).expect("verifies");
        keys.remove(key.kid());
        assert!(verified_with.is_removed(), "what was verified and cached must notice");
        assert_eq!(verify(&format(), &keys, &token).err(), Some(TokenError::UnknownKey));
    }
}
