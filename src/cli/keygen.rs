//! `portcullis keygen`: makes keys for operators who give all nodes the same ones.
//!
//! The key goes to stdout or into a new file that only its owner may read; what it is goes to stderr.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::ValueEnum;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey};
use zeroize::Zeroizing;

use crate::token::keys;

/// Arguments of `portcullis keygen`.
#[derive(Debug, clap::Args)]
pub struct KeygenArgs {
    /// What the signing key is for
    #[arg(long, value_enum, default_value_t = KeyKind::EdDsa)]
    pub algorithm: KeyKind,
    /// Make the key that encrypts records in Redis instead of a signing key
    #[arg(long, conflicts_with = "algorithm")]
    pub record_key: bool,
    /// Write the key to this new file (mode 0600) instead of stdout
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Kinds of signing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Ed25519
    #[value(name = "EdDSA", alias = "eddsa")]
    EdDsa,
    /// ECDSA on P-256
    #[value(name = "ES256", alias = "es256")]
    Es256,
    /// RSA with 3072 bits
    #[value(name = "RS256", alias = "rs256")]
    Rs256,
    /// A shared secret
    #[value(name = "HS256", alias = "hs256")]
    Hs256,
}

/// A key as text, and what to say about it.
struct Made {
    key: Zeroizing<String>,
    note: String,
}

/// Makes the key and puts it where it was asked for.
pub fn run(args: &KeygenArgs) -> anyhow::Result<ExitCode> {
    let made = if args.record_key { record_key()? } else { signing_key(args.algorithm)? };
    match &args.out {
        Some(path) => {
            keys::write_private(path, made.key.as_bytes())
                .with_context(|| format!("failed to write {}", path.display()))?;
            eprintln!("Wrote {}.", path.display());
        }
        None => std::io::stdout().write_all(made.key.as_bytes()).context("failed to write to stdout")?,
    }
    eprintln!("{}", made.note);
    Ok(ExitCode::SUCCESS)
}

fn record_key() -> anyhow::Result<Made> {
    let key = Zeroizing::new(STANDARD.encode(random()?) + "\n");
    let note = "Record key. Give it to every node as PORTCULLIS_RECORD_KEY_FILE (or PORTCULLIS_RECORD_KEY).";
    Ok(Made { key, note: note.into() })
}

fn signing_key(kind: KeyKind) -> anyhow::Result<Made> {
    let (key, name) = match kind {
        KeyKind::EdDsa => (keys::generate_pem(keys::Algorithm::EdDsa)?, "EdDSA"),
        KeyKind::Es256 => (keys::generate_pem(keys::Algorithm::Es256)?, "ES256"),
        KeyKind::Rs256 => (keys::generate_pem(keys::Algorithm::Rs256)?, "RS256"),
        // The text itself is the secret, so that other libraries take it as it stands.
        KeyKind::Hs256 => (Zeroizing::new(URL_SAFE_NO_PAD.encode(random()?) + "\n"), "HS256"),
    };
    let mut note = format!(
        "Signing key for {name}. Give it to every node as PORTCULLIS_SIGNING_KEY_FILE (or PORTCULLIS_SIGNING_KEY), \
         with PORTCULLIS_SIGNING_ALGORITHM={name}."
    );
    if let Some(kid) = kid(kind, &key)? {
        note.push_str(&format!("\nkid: {kid}"));
    }
    Ok(Made { key, note })
}

/// The public half's thumbprint (RFC 7638). A secret has no public half and its hash is nobody's business.
fn kid(kind: KeyKind, pem: &str) -> anyhow::Result<Option<String>> {
    let (key, algorithm) = match kind {
        KeyKind::EdDsa => (EncodingKey::from_ed_pem(pem.as_bytes())?, Algorithm::EdDSA),
        KeyKind::Es256 => (EncodingKey::from_ec_pem(pem.as_bytes())?, Algorithm::ES256),
        KeyKind::Rs256 => (EncodingKey::from_rsa_pem(pem.as_bytes())?, Algorithm::RS256),
        KeyKind::Hs256 => return Ok(None),
    };
    Ok(Some(Jwk::from_encoding_key(&key, algorithm)?.thumbprint(ThumbprintHash::SHA256)?))
}

fn random() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    rand::fill(bytes.as_mut()).context("the system gives no random bytes")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::values;

    #[test]
    fn each_signing_key_suits_its_setting_and_has_a_kid() {
        for (kind, name) in
            [(KeyKind::EdDsa, "EdDSA"), (KeyKind::Es256, "ES256"), (KeyKind::Rs256, "RS256"), (KeyKind::Hs256, "HS256")]
        {
            let made = signing_key(kind).unwrap();
            assert_eq!(values::signing_key(made.key.trim(), name), Ok(()), "{name}");
            assert_eq!(made.note.contains("kid: "), kind != KeyKind::Hs256, "{name}");
        }
    }

    #[test]
    fn a_record_key_suits_its_setting() {
        assert!(values::record_key(&record_key().unwrap().key).is_ok());
    }

    #[test]
    fn a_key_file_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("key");
        let args = KeygenArgs { algorithm: KeyKind::EdDsa, record_key: false, out: Some(out.clone()) };
        run(&args).unwrap();
        let first = std::fs::read_to_string(&out).unwrap();
        assert_eq!(std::fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(run(&args).is_err());
        assert_eq!(std::fs::read_to_string(&out).unwrap(), first);
    }
}
