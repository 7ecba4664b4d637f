//! The keys that a node makes for itself, and their files in DATA_DIR: the one in use and the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::token::keys::{Algorithm, SigningKey, generate_pem, write_private};

/// This node's own keys, the one in use first.
pub(super) struct OwnKeys {
    pub(super) keys: Vec<OwnKey>,
    /// After how long the next one is taken; `None`: never by itself.
    pub(super) rotation: Option<Duration>,
    /// Made, but not yet told to the others.
    coming: Option<OwnKey>,
    algorithm: Algorithm,
    directory: PathBuf,
}

/// A private key with the text of its file.
pub(super) struct OwnKey {
    key: Arc<SigningKey>,
    pem: Zeroizing<String>,
}

impl OwnKey {
    pub(super) fn kid(&self) -> &str {
        self.key.kid()
    }

    fn make(algorithm: Algorithm) -> anyhow::Result<Self> {
        Self::read(algorithm, generate_pem(algorithm)?)
    }

    fn read(algorithm: Algorithm, pem: Zeroizing<String>) -> anyhow::Result<Self> {
        Ok(Self { key: Arc::new(SigningKey::from_pem(algorithm, &pem)?), pem })
    }
}

impl OwnKeys {
    /// Reads both keys, and makes those that are missing.
    pub(super) fn open(
        directory: &Path,
        algorithm: Algorithm,
        rotation: Option<Duration>,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
        let mut own = Self { keys: Vec::new(), rotation, coming: None, algorithm, directory: directory.to_owned() };
        for place in 0..2 {
            let path = own.path(place);
            let (key, made) = load_or_make(&path, algorithm)?;
            // A crash in the middle of a rotation may have left one key in both files.
            if own.keys.iter().all(|known| known.kid() != key.kid()) {
                own.keys.push(key);
            }
            if place == 0 {
                notes.push(format!("keys       {}{}", path.display(), if made { " (made just now)" } else { "" }));
            }
        }
        Ok(own)
    }

    /// All of them, to sign with.
    pub(super) fn signing_keys(&self) -> Vec<Arc<SigningKey>> {
        self.keys.iter().map(|own| own.key.clone()).collect()
    }

    /// A new key, which [`add`](Self::add) takes up once the others were told of it. Until then it is the same one.
    pub(super) fn make(&mut self) -> Option<Arc<SigningKey>> {
        if self.coming.is_none() {
            match OwnKey::make(self.algorithm) {
                Ok(key) => self.coming = Some(key),
                Err(error) => tracing::error!(%error, "failed to make a signing key"),
            }
        }
        self.coming.as_ref().map(|own| own.key.clone())
    }

    /// Takes up the key that was made last.
    pub(super) fn add(&mut self) {
        self.keys.extend(self.coming.take());
    }

    /// Writes them down, the next one first: a crash in between costs a key that nobody has signed with.
    pub(super) fn write(&self) {
        for (place, own) in self.keys.iter().enumerate().rev() {
            let path = self.path(place);
            if let Err(error) = replace(&path, own.pem.as_bytes()) {
                // It goes on with them; the next start makes others.
                tracing::error!(path = %path.display(), %error, "failed to write a signing key");
            }
        }
    }

    fn path(&self, place: usize) -> PathBuf {
        let next = if place == 0 { "" } else { ".next" };
        self.directory.join(format!("signing-key-{}{next}.pem", self.algorithm.as_str().to_lowercase()))
    }
}

/// Reads a key, or makes one there (mode 0600). True when it was made.
fn load_or_make(path: &Path, algorithm: Algorithm) -> anyhow::Result<(OwnKey, bool)> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(pem) => {
            let key = OwnKey::read(algorithm, pem).with_context(|| format!("in {}", path.display()))?;
            return Ok((key, false));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
    let key = OwnKey::make(algorithm)?;
    write_private(path, key.pem.as_bytes()).with_context(|| format!("failed to write {}", path.display()))?;
    Ok((key, true))
}

/// Puts a file in another's place in one step, readable by its owner alone.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("pem.new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_private(&beside, content)?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> OwnKeys {
        OwnKeys::open(directory, Algorithm::EdDsa, None, &mut Vec::new()).expect("reads or makes keys")
    }

    fn kids(own: &OwnKeys) -> Vec<String> {
        own.keys.iter().map(|key| key.kid().to_owned()).collect()
    }

    #[test]
    fn a_start_finds_the_keys_of_the_last_one_in_their_order() {
        let directory = tempfile::tempdir().expect("a folder");
        let mut own = open(directory.path());
        assert_eq!(kids(&own).len(), 2);
        assert_eq!(kids(&own), kids(&open(directory.path())));
        own.keys.remove(0);
        let made = own.make().expect("a key");
        assert_eq!(own.make().expect("a key").kid(), made.kid(), "the others are told of one key, not of many");
        own.add();
        own.write();
        assert_eq!(kids(&own)[1], made.kid());
        assert_eq!(kids(&own), kids(&open(directory.path())));
    }

    #[test]
    fn one_key_in_both_files_is_one_key() {
        let directory = tempfile::tempdir().expect("a folder");
        let own = open(directory.path());
        std::fs::copy(own.path(0), own.path(1)).expect("copies");
        assert_eq!(kids(&open(directory.path())), kids(&own)[..1]);
    }
}
