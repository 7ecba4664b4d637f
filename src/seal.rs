//! Authenticated encryption for what leaves the process: records in Redis, messages between nodes, tickets.
//!
//! One key per purpose is derived from the deployment's record key (HKDF-SHA256, RFC 5869). A sealed value is bound to
//! its name as associated data, so that entries cannot be swapped for each other.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::secret::RecordKey;

const KEY_ID_LEN: usize = 4;

/// What a sealed value is for. Values sealed for one purpose do not open for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Records in Redis.
    Record,
    /// Messages between nodes.
    Bus,
    /// Socket tickets.
    Ticket,
}

/// The keys of one deployment.
pub struct Sealer {
    record: Key,
    bus: Key,
    ticket: Key,
    names: hmac::Key,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    aead: RandomizedNonceKey,
}

impl Sealer {
    /// Derives the keys.
    ///
    /// # Errors
    /// When the cryptographic library refuses, which it does for no 32-byte key.
    pub fn new(record_key: &RecordKey) -> anyhow::Result<Self> {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis").extract(&record_key.0);
        Ok(Self {
            record: Key::derive(&root, b"record")?,
            bus: Key::derive(&root, b"bus")?,
            ticket: Key::derive(&root, b"ticket")?,
            names: hmac::Key::new(hmac::HMAC_SHA256, &derive(&root, b"names")?),
        })
    }

    /// Seals `plain`: key id, nonce, ciphertext, tag.
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn seal(
        &self,
        purpose: Purpose,
        name: &[u8],
        plain: Vec<u8>,
    ) -> Result<Vec<u8>, aws_lc_rs::error::Unspecified> {
        let key = self.key(purpose);
        let mut body = plain;
        let nonce = key.aead.seal_in_place_append_tag(Aad::from(name), &mut body)?;
        let mut sealed = Vec::with_capacity(KEY_ID_LEN + NONCE_LEN + body.len());
        sealed.extend_from_slice(&key.id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Opens what [`seal`](Self::seal) made for the same purpose and name. `None` for anything else.
    #[must_use]
    pub fn open(&self, purpose: Purpose, name: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let key = self.key(purpose);
        let body = sealed.strip_prefix(&key.id)?;
        let (nonce, body) = body.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let plain_len = key.aead.open_in_place(nonce, Aad::from(name), &mut body).ok()?.len();
        body.truncate(plain_len);
        Some(body)
    }

    /// A keyed hash of an id, so that names in Redis tell nothing: 22 characters.
    #[must_use]
    pub fn name(&self, kind: &str, id: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.names);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(id);
        URL_SAFE_NO_PAD.encode(&context.sign().as_ref()[..16])
    }

    fn key(&self, purpose: Purpose) -> &Key {
        match purpose {
            Purpose::Record => &self.record,
            Purpose::Bus => &self.bus,
            Purpose::Ticket => &self.ticket,
        }
    }
}

impl Key {
    fn derive(root: &hkdf::Prk, label: &'static [u8]) -> anyhow::Result<Self> {
        let bytes = derive(root, label)?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&digest.as_ref()[..KEY_ID_LEN]);
        let aead =
            RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| anyhow::anyhow!("failed to make a key"))?;
        Ok(Self { id, aead })
    }
}

fn derive(root: &hkdf::Prk, label: &'static [u8]) -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    root.expand(&[label], hkdf::HKDF_SHA256)
        .and_then(|material| material.fill(&mut bytes))
        .map_err(|_| anyhow::anyhow!("failed to derive a key"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(&RecordKey([byte; 32])).expect("32 bytes are a key")
    }

    #[test]
    fn a_sealed_value_opens_only_for_its_purpose_name_and_key() {
        let ours = sealer(1);
        let sealed = ours.seal(Purpose::Record, b"name", b"plain".to_vec()).expect("seals");
        assert_eq!(ours.open(Purpose::Record, b"name", &sealed).as_deref(), Some(&b"plain"[..]));
        assert!(ours.open(Purpose::Record, b"other", &sealed).is_none());
        assert!(ours.open(Purpose::Bus, b"name", &sealed).is_none());
        assert!(sealer(2).open(Purpose::Record, b"name", &sealed).is_none());
        for length in 0..sealed.len() {
            assert!(ours.open(Purpose::Record, b"name", &sealed[..length]).is_none());
        }
    }

    #[test]
    fn names_are_keyed_and_kinds_do_not_mix() {
        assert_ne!(sealer(1).name("s", b"x"), sealer(2).name("s", b"x"));
        assert_ne!(sealer(1).name("s", b"x"), sealer(1).name("u", b"x"));
    }
}
