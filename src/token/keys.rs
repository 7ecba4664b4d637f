//! Signing keys, their private and their public halves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{DecodingKey, EncodingKey};
use zeroize::Zeroizing;

use crate::entry::PublicKey;
use crate::secret::SecretHash;

/// The algorithms a token may be signed with (RFC 7518, RFC 8037). There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256.
    Es256,
    /// RSA PKCS#1 v1.5. Keys made here have 3072 bits.
    Rs256,
    /// HMAC with a secret that all nodes share.
    Hs256,
}

impl Algorithm {
    /// Reads the name used in JWS headers.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::EdDsa, Self::Es256, Self::Rs256, Self::Hs256].into_iter().find(|a| a.as_str() == name)
    }

    /// The name used in JWS headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
            Self::Hs256 => "HS256",
        }
    }

    fn library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// The private half of a signing key.
pub struct SigningKey {
    kid: Arc<str>,
    algorithm: Algorithm,
    encoding: EncodingKey,
    verifying: VerifyingKey,
}

impl SigningKey {
    /// Makes a key.
    ///
    /// # Errors
    /// For [`Algorithm::Hs256`], whose secret must be given, and when the system's generator fails.
    pub fn generate(algorithm: Algorithm) -> anyhow::Result<Self> {
        Self::from_pem(algorithm, &generate_pem(algorithm)?)
    }

    /// Reads a PKCS#8 PEM.
    ///
    /// # Errors
    /// When it is no such key.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> anyhow::Result<Self> {
        let encoding = match algorithm {
            Algorithm::EdDsa => EncodingKey::from_ed_pem(pem.as_bytes()),
            Algorithm::Es256 => EncodingKey::from_ec_pem(pem.as_bytes()),
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::Hs256 => anyhow::bail!("HS256 takes a secret, not a PEM"),
        }
        .with_context(|| format!("failed to read the signing key as a PKCS#8 PEM for {}", algorithm.as_str()))?;
        let jwk = Jwk::from_encoding_key(&encoding, algorithm.library()).context("failed to derive the public key")?;
        let kid: Arc<str> = jwk.thumbprint(ThumbprintHash::SHA256)?.into();
        let public = public_key(&kid, algorithm, &jwk)?;
        Ok(Self { kid, algorithm, encoding, verifying: VerifyingKey::from_public(&public)? })
    }

    /// Takes a secret shared by all nodes, for HS256.
    ///
    /// # Errors
    /// When it is shorter than 32 bytes (RFC 8725 section 3.5).
    pub fn from_secret(secret: &[u8]) -> anyhow::Result<Self> {
        anyhow::ensure!(secret.len() >= 32, "an HS256 secret needs 32 bytes or more");
        let kid: Arc<str> = format!("hs256-{}", &URL_SAFE_NO_PAD.encode(SecretHash::of(secret).0)[..16]).into();
        let verifying = VerifyingKey {
            kid: kid.clone(),
            algorithm: Algorithm::Hs256,
            decoding: DecodingKey::from_secret(secret),
            public: None,
            removed: AtomicBool::new(false),
        };
        Ok(Self { kid, algorithm: Algorithm::Hs256, encoding: EncodingKey::from_secret(secret), verifying })
    }

    /// The key's id.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its public half for the database and the JWKS; `None` for a shared secret.
    #[must_use]
    pub fn public(&self) -> Option<PublicKey> {
        self.verifying.public.clone()
    }

    /// The half that verifies.
    #[must_use]
    pub fn verifying(&self) -> VerifyingKey {
        self.verifying.anew()
    }

    pub(super) fn encoding(&self) -> &EncodingKey {
        &self.encoding
    }

    pub(super) fn algorithm(&self) -> jsonwebtoken::Algorithm {
        self.algorithm.library()
    }

    pub(super) fn algorithm_name(&self) -> &'static str {
        self.algorithm.as_str()
    }
}

/// The half of a key that verifies.
pub struct VerifyingKey {
    kid: Arc<str>,
    algorithm: Algorithm,
    decoding: DecodingKey,
    public: Option<PublicKey>,
    removed: AtomicBool,
}

impl VerifyingKey {
    /// Reads a registered public key.
    ///
    /// # Errors
    /// When it is no key of a supported algorithm.
    pub fn from_public(public: &PublicKey) -> anyhow::Result<Self> {
        let algorithm = Algorithm::parse(&public.algorithm)
            .filter(|&algorithm| algorithm != Algorithm::Hs256)
            .with_context(|| format!("key {} has an unsupported algorithm", public.kid))?;
        let jwk: Jwk = serde_json::from_value(public.jwk.clone()).context("failed to read a JWK")?;
        Ok(Self {
            kid: public.kid.as_str().into(),
            algorithm,
            decoding: DecodingKey::from_jwk(&jwk).context("failed to read a JWK")?,
            public: Some(public.clone()),
            removed: AtomicBool::new(false),
        })
    }

    /// Whether the key was revoked since. Asked at every use of a token that it once verified.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    pub(super) fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
    }

    /// A secret shared by configuration has no public half, and is in no database.
    pub(super) fn public(&self) -> Option<&PublicKey> {
        self.public.as_ref()
    }

    /// The same key as if it had never been removed.
    fn anew(&self) -> Self {
        Self {
            kid: self.kid.clone(),
            algorithm: self.algorithm,
            decoding: self.decoding.clone(),
            public: self.public.clone(),
            removed: AtomicBool::new(false),
        }
    }

    /// The key's id.
    #[must_use]
    pub fn kid(&self) -> &Arc<str> {
        &self.kid
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    pub(super) fn algorithm(&self) -> jsonwebtoken::Algorithm {
        self.algorithm.library()
    }

    pub(super) fn algorithm_name(&self) -> &'static str {
        self.algorithm.as_str()
    }
}

fn public_key(kid: &str, algorithm: Algorithm, jwk: &Jwk) -> anyhow::Result<PublicKey> {
    let mut value = serde_json::to_value(jwk)?;
    value["kid"] = kid.into();
    value["alg"] = algorithm.as_str().into();
    value["use"] = "sig".into();
    Ok(PublicKey { kid: kid.into(), algorithm: algorithm.as_str().into(), jwk: value })
}

/// A fresh private key as PKCS#8 PEM.
///
/// # Errors
/// For [`Algorithm::Hs256`], and when the system's generator fails.
pub fn generate_pem(algorithm: Algorithm) -> anyhow::Result<Zeroizing<String>> {
    let failed = |_| anyhow::anyhow!("failed to generate a key");
    let der = match algorithm {
        Algorithm::EdDsa => {
            Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1()).map_err(failed)?.as_ref().to_vec()
        }
        Algorithm::Es256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|key| key.to_pkcs8v1())
            .map_err(failed)?
            .as_ref()
            .to_vec(),
        Algorithm::Rs256 => {
            let key = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa3072).map_err(failed)?;
            AsDer::<Pkcs8V1Der>::as_der(&key).map_err(failed)?.as_ref().to_vec()
        }
        Algorithm::Hs256 => anyhow::bail!("HS256 takes a secret shared by all nodes, not a key of its own"),
    };
    Ok(pem("PRIVATE KEY", &der))
}

/// PEM after RFC 7468: base64 in lines of 64.
fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// Writes a new file that only its owner can read; an existing one is never overwritten.
///
/// # Errors
/// Those of the file system, `AlreadyExists` among them.
pub fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
