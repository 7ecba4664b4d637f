//! This node's signing keys: read or made at the start, told to the other nodes, replaced when it is time, when one was
//! revoked, and when the operator says so (SIGHUP). Called by `app`.
//!
//! A key is signed with only when every node can know it: its registration has committed and was passed on. A node that
//! makes its own keys has two, the one in use and the next one, which stands in the JWKS long before it is used. So a
//! revocation finds a published key at hand, and a rotation surprises nobody who keeps a copy of the JWKS.

mod files;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Mutex;

use crate::bus::Bus;
use crate::clock::DatabaseClock;
use crate::config::Config;
use crate::entry::LogEntry;
use crate::registry::Registry;
use crate::seal::Sealer;
use crate::secret::RecordKey;
use crate::store::{RegisteredKey, Store, StoreResult};
use crate::token::key_set::KeySet;
use crate::token::keys::{Algorithm, SigningKey};
use crate::token::signer::Signer;
use files::OwnKeys;

/// How often a node looks whether its keys are good and their time has not come.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A key that nobody has spoken of for longer is registered again, lest it be swept.
const REGISTER_EVERY: time::Duration = time::Duration::minutes(1);

/// A planned rotation leaves the next key this long for all to hear of it. Each needs one read of the log.
const HEARD_OF_AFTER: time::Duration = time::Duration::seconds(2);

/// How long a registration waits for Redis. Nodes that it does not reach read the log.
const PASS_ON_WITHIN: Duration = Duration::from_millis(200);

/// What a [`Keyring`] is made of.
pub struct KeyringParts {
    /// Where public halves are registered.
    pub store: Store,
    /// How nodes that are cut from the database hear of a key.
    pub bus: Option<Arc<Bus>>,
    /// What this node verifies with.
    pub known: Arc<KeySet>,
    /// Database time.
    pub clock: Arc<DatabaseClock>,
    /// Its keys are replaced together with the signing keys.
    pub sealer: Arc<Sealer>,
    /// The record key that the first node made.
    pub record_key_in_database: RecordKey,
    /// The sockets that a shared secret let in, should it go.
    pub registry: Registry,
}

/// The keeper of this node's keys.
pub struct Keyring {
    parts: KeyringParts,
    signer: Arc<Signer>,
    /// Held during a look or a reload, so that there is one at a time.
    source: Mutex<Source>,
}

/// Where the keys come from.
enum Source {
    /// The settings; the operator replaces them.
    Settings,
    /// This node made them.
    Own(OwnKeys),
}

impl Keyring {
    /// Reads the keys that the settings name, or this node's own, which are made when there are none. `notes` says to
    /// people which.
    ///
    /// # Errors
    /// When a key cannot be read or written.
    pub fn open(config: &Config, parts: KeyringParts, notes: &mut Vec<String>) -> anyhow::Result<Self> {
        let (source, keys) = read(config, notes)?;
        keys.iter().for_each(|key| parts.known.add(key.verifying()));
        let signer = Arc::new(Signer::new(parts.known.clone(), keys));
        Ok(Self { parts, signer, source: Mutex::new(source) })
    }

    /// The keys to sign with.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// Tells the other nodes of the keys. Before the first token is signed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn publish(&self) -> StoreResult<()> {
        self.register(&self.signer.keys()).await
    }

    /// Looks after the keys for ever: at once when one was removed, else now and then.
    pub async fn keep(&self) {
        loop {
            tokio::select! {
                () = self.parts.known.key_removed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "failed to look after the signing keys");
            }
        }
    }

    /// Lets go of keys that have been swept, replaces own keys that were revoked or whose time has come, and registers
    /// what the database does not know (any more).
    ///
    /// # Errors
    /// When the database cannot say or cannot be written.
    pub async fn look(&self) -> StoreResult<()> {
        let mut source = self.source.lock().await;
        // Whoever is known now and absent from a later read has been swept.
        let known = self.parts.known.registered();
        let registered = self.parts.store.keys().await?;
        let mine = self.signer.keys();
        let gone =
            |kid: &str| registered.iter().all(|key| key.key.kid != kid) && mine.iter().all(|key| key.kid() != kid);
        known.iter().filter(|kid| gone(kid)).for_each(|kid| self.parts.known.retire(kid));
        match &mut *source {
            Source::Own(own) => self.renew(own, &registered).await?,
            Source::Settings if self.signer.current().is_none() => {
                tracing::error!("every signing key in the settings was revoked; put in a new one and send SIGHUP");
            }
            Source::Settings => {}
        }
        let forgotten: Vec<_> =
            self.signer.keys().iter().filter(|key| self.is_forgotten(key, &registered)).cloned().collect();
        self.register(&forgotten).await?;
        // One that was swept while this node was paused is unknown to itself, too.
        forgotten.iter().for_each(|key| self.parts.known.add(key.verifying()));
        Ok(())
    }

    /// Takes the keys that these settings name: signing keys and record keys. What comes first is used from here on.
    ///
    /// # Errors
    /// When a key cannot be read, or the database cannot be told of it; then the signing keys stay as they are.
    pub async fn reload(&self, config: &Config) -> anyhow::Result<()> {
        self.parts.sealer.replace(&config.record_keys(&self.parts.record_key_in_database))?;
        let mut source = self.source.lock().await;
        let (new_source, keys) = read(config, &mut Vec::new())?;
        keys.iter().for_each(|key| self.parts.known.add(key.verifying()));
        self.register(&keys).await.context("failed to register the signing keys")?;
        let before = self.signer.keys();
        *source = new_source;
        let kid = keys.first().map(|key| key.kid().to_owned());
        self.signer.replace(keys.clone());
        let unlisted: Vec<_> = before
            .iter()
            .filter(|old| old.public().is_none() && keys.iter().all(|new| new.kid() != old.kid()))
            .collect();
        unlisted.iter().for_each(|old| self.parts.known.unlist(old.kid()));
        if !unlisted.is_empty() {
            self.parts.registry.rejudge_all();
        }
        tracing::info!(kid, keys = keys.len(), "read the keys again");
        Ok(())
    }

    /// Drops revoked keys, goes over to the next one when it is time, and makes what is missing.
    async fn renew(&self, own: &mut OwnKeys, registered: &[RegisteredKey]) -> StoreResult<()> {
        let find = |kid: &str| registered.iter().find(|key| key.key.kid == kid);
        let count = own.keys.len();
        own.keys
            .retain(|key| !self.parts.known.is_revoked(key.kid()) && !find(key.kid()).is_some_and(|key| key.revoked));
        let revoked = own.keys.len() < count;
        let is_due = match own.keys.as_slice() {
            [current, next] => self.is_due(own, find(current.kid())) && self.is_heard_of(find(next.kid())),
            _ => false,
        };
        if is_due {
            // Its tokens stay good: the public half is swept when nobody can hold one any more.
            own.keys.remove(0);
        }
        if own.keys.len() == 2 {
            return Ok(());
        }
        self.signer.replace(own.signing_keys());
        while own.keys.len() < 2 {
            let Some(key) = own.make() else { return Ok(()) };
            self.parts.known.add(key.verifying());
            self.register(std::slice::from_ref(&key)).await?;
            own.add();
            self.signer.replace(own.signing_keys());
        }
        own.write();
        let kid = self.signer.current().map(|(key, _)| key.kid().to_owned());
        tracing::info!(kid, revoked, "signing with the next key");
        Ok(())
    }

    fn is_due(&self, own: &OwnKeys, current: Option<&RegisteredKey>) -> bool {
        let old = |used_at| own.rotation.is_some_and(|rotation| self.parts.clock.now() - used_at > rotation);
        current.is_some_and(|key| key.outdated || key.used_at.is_some_and(old))
    }

    fn is_heard_of(&self, next: Option<&RegisteredKey>) -> bool {
        next.is_some_and(|key| self.parts.clock.now() - key.created_at > HEARD_OF_AFTER)
    }

    fn is_forgotten(&self, key: &SigningKey, registered: &[RegisteredKey]) -> bool {
        let now = self.parts.clock.now();
        !self.parts.known.is_revoked(key.kid())
            && registered
                .iter()
                .find(|known| known.key.kid == key.kid())
                .is_none_or(|known| now - known.last_seen_at > REGISTER_EVERY)
    }

    /// Shared secrets are never registered: whoever may verify with one could sign.
    async fn register(&self, keys: &[Arc<SigningKey>]) -> StoreResult<()> {
        for public in keys.iter().filter_map(|key| key.public()) {
            let entries = self.parts.store.register_key(&public).await?;
            self.pass_on(&entries).await;
        }
        Ok(())
    }

    /// A node that is cut from the database, and goes by its lease, hears of the key no other way.
    async fn pass_on(&self, entries: &[LogEntry]) {
        if let Some(bus) = &self.parts.bus {
            let _ = tokio::time::timeout(PASS_ON_WITHIN, bus.pass_on(entries)).await;
        }
    }
}

fn read(config: &Config, notes: &mut Vec<String>) -> anyhow::Result<(Source, Vec<Arc<SigningKey>>)> {
    let algorithm = Algorithm::parse(&config.signing_algorithm)
        .with_context(|| format!("unknown signing algorithm {}", config.signing_algorithm))?;
    let configured = config.signing_keys();
    if configured.is_empty() {
        let own = OwnKeys::open(&config.data_dir, algorithm, config.signing_key_rotation, notes)?;
        let keys = own.signing_keys();
        return Ok((Source::Own(own), keys));
    }
    notes.push(format!("keys       {} from the settings, shared by all nodes", algorithm.as_str()));
    let read = |text: &&str| match algorithm {
        Algorithm::Hs256 => SigningKey::from_secret(text.as_bytes()),
        _ => SigningKey::from_pem(algorithm, text),
    };
    let keys = configured.iter().map(|text| read(text).map(Arc::new)).collect::<anyhow::Result<_>>()?;
    Ok((Source::Settings, keys))
}
