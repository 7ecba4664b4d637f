//! Authenticated encryption for what leaves the process: records in Redis, messages between nodes, tickets.
//!
//! One key per purpose is derived from each record key (HKDF-SHA256, RFC 5869). The first record key seals, all of them
//! open, and a sealed value begins with the id of its key: that is how record keys are replaced. A value is bound to its
//! name as associated data, so that entries cannot be swapped for each other.

use std::sync::{Arc, PoisonError, RwLock};

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
    keys: RwLock<Arc<[Keys]>>,
    names: hmac::Key,
}

/// What is derived from one record key.
struct Keys {
    record: Key,
    bus: Key,
    ticket: Key,
}

struct Key {
    id: [u8; KEY_ID_LEN],
    aead: RandomizedNonceKey,
}

/// What was sealed, and whether the key that sealed it is on its way out: then the value should be sealed anew.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The value.
    pub plain: Vec<u8>,
    /// Sealed by another key than the first.
    pub outdated: bool,
}

impl Sealer {
    /// Derives the keys. Names come from `names` alone, which is never replaced: a record keeps its name when its key
    /// changes.
    ///
    /// # Errors
    /// When there is no key, or the cryptographic library refuses one, which it does for none of 32 bytes.
    pub fn new(names: &RecordKey, record_keys: &[RecordKey]) -> anyhow::Result<Self> {
        let names = hmac::Key::new(hmac::HMAC_SHA256, &derive(&root(names), b"names")?);
        Ok(Self { keys: RwLock::new(derive_all(record_keys)?), names })
    }

    /// Takes other record keys, in the same order of meaning.
    ///
    /// # Errors
    /// As [`new`](Self::new); then the keys stay as they are.
    pub fn replace(&self, record_keys: &[RecordKey]) -> anyhow::Result<()> {
        let keys = derive_all(record_keys)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
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
        let keys = self.keys();
        let key = keys.first().ok_or(aws_lc_rs::error::Unspecified)?.of(purpose);
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
    pub fn open(&self, purpose: Purpose, name: &[u8], sealed: &[u8]) -> Option<Opened> {
        let keys = self.keys();
        let (place, key) =
            keys.iter().map(|keys| keys.of(purpose)).enumerate().find(|(_, key)| sealed.starts_with(&key.id))?;
        let body = sealed.strip_prefix(&key.id)?;
        let (nonce, body) = body.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let plain_len = key.aead.open_in_place(nonce, Aad::from(name), &mut body).ok()?.len();
        body.truncate(plain_len);
        Some(Opened { plain: body, outdated: place > 0 })
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

    fn keys(&self) -> Arc<[Keys]> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Keys {
    fn derive(record_key: &RecordKey) -> anyhow::Result<Self> {
        let root = root(record_key);
        let derive = |label| Key::derive(&root, label);
        Ok(Self { record: derive(b"record")?, bus: derive(b"bus")?, ticket: derive(b"ticket")? })
    }

    fn of(&self, purpose: Purpose) -> &Key {
        match purpose {
            Purpose::Record => &self.record,
            Purpose::Bus => &self.bus,
            Purpose::Ticket => &self.ticket,
        }
    }
}

fn derive_all(record_keys: &[RecordKey]) -> anyhow::Result<Arc<[Keys]>> {
    anyhow::ensure!(!record_keys.is_empty(), "there is no record key");
    record_keys.iter().map(Keys::derive).collect()
}

fn root(record_key: &RecordKey) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"portcullis").extract(&record_key.0)
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
        let key = RecordKey([byte; 32]);
        Sealer::new(&key, std::slice::from_ref(&key)).expect("32 bytes are a key")
    }

    fn plain(opened: Option<Opened>) -> Option<Vec<u8>> {
        opened.map(|opened| opened.plain)
    }

    #[test]
    fn a_sealed_value_opens_only_for_its_purpose_name_and_key() {
        let ours = sealer(1);
        let sealed = ours.seal(Purpose::Record, b"name", b"plain".to_vec()).expect("seals");
        assert_eq!(plain(ours.open(Purpose::Record, b"name", &sealed)).as_deref(), Some(&b"plain"[..]));
        assert!(ours.open(Purpose::Record, b"other", &sealed).is_none());
        assert!(ours.open(Purpose::Bus, b"name", &sealed).is_none());
        assert!(sealer(2).open(Purpose::Record, b"name", &sealed).is_none());
        for length in 0..sealed.len() {
            assert!(ours.open(Purpose::Record, b"name", &sealed[..length]).is_none());
        }
    }

    #[test]
    fn a_key_is_replaced_in_two_steps_and_its_values_open_until_it_is_gone() {
        let (old, new) = (RecordKey([1; 32]), RecordKey([2; 32]));
        let (here, there) = (sealer(1), sealer(1));
        let name = here.name("s", b"x");
        let of_old = here.seal(Purpose::Ticket, b"name", b"plain".to_vec()).expect("seals");
        // First every node learns to open with the new key, then each seals with it.
        here.replace(&[old.clone(), new.clone()]).expect("two keys");
        there.replace(&[old.clone(), new.clone()]).expect("two keys");
        here.replace(&[new.clone(), old]).expect("two keys");
        let of_new = here.seal(Purpose::Ticket, b"name", b"plain".to_vec()).expect("seals");
        for (sealer, sealed, outdated) in
            [(&here, &of_old, true), (&here, &of_new, false), (&there, &of_old, false), (&there, &of_new, true)]
        {
            let opened = sealer.open(Purpose::Ticket, b"name", sealed).expect("opens");
            assert_eq!(opened, Opened { plain: b"plain".to_vec(), outdated });
        }
        here.replace(&[new]).expect("one key");
        assert!(here.open(Purpose::Ticket, b"name", &of_old).is_none(), "the old key is gone");
        assert_eq!(here.name("s", b"x"), name, "a record keeps its name");
        assert!(here.replace(&[]).is_err());
    }

    #[test]
    fn names_are_keyed_and_kinds_do_not_mix() {
        assert_ne!(sealer(1).name("s", b"x"), sealer(2).name("s", b"x"));
        assert_ne!(sealer(1).name("s", b"x"), sealer(1).name("u", b"x"));
    }
}
