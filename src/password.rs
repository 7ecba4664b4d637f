//! Password hashes: Argon2id on a bounded pool of blocking threads, so that logins never starve sockets.
//!
//! A full queue is an answer ([`HashError::Busy`]) and not a wait. Knows nothing of accounts.

mod stored;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::secret::Password;

/// OWASP's floor for Argon2id: 19 MiB, two passes, one lane. About 23 ms.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// Whoever waits longer has gone away, or will soon.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Why there is no hash. None says anything about a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Too many wait already.
    #[error("too many password hashes are waiting")]
    Busy,
    /// The hash could not be computed, or the stored one cannot be read.
    #[error("the password hash could not be computed")]
    Broken,
}

/// What came of the check of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is not the one, or there is none.
    Wrong,
    /// It is.
    Right {
        /// The hash to keep from now on, when the stored one is not as we make them today.
        better: Option<String>,
    },
}

/// Hashes and verifies passwords.
#[derive(Clone)]
pub struct Passwords {
    hasher: Argon2<'static>,
    /// One permit for each hash computed at the same time.
    threads: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    queue: usize,
    /// Verified when there is no account, so that an unknown address takes as long as a wrong password.
    nobody: Arc<str>,
}

impl Passwords {
    /// A pool that computes `threads` hashes at once and lets `queue` more wait.
    ///
    /// # Errors
    /// [`HashError::Broken`] when the system gives no random bytes.
    pub fn new(threads: usize, queue: usize) -> Result<Self, HashError> {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|_| HashError::Broken)?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = compute(&hasher, &Password::new("nobody".into()))?.into();
        let threads = Arc::new(Semaphore::new(threads.max(1)));
        Ok(Self { hasher, threads, waiting: Arc::default(), queue, nobody })
    }

    /// Hashes a password with a salt of its own; the PHC string.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn hash(&self, password: Password) -> Result<String, HashError> {
        let hasher = self.hasher.clone();
        self.run(move || compute(&hasher, &password)).await?
    }

    /// Whether `password` is the one behind `hash`. Without a hash the answer is no, after the same work.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn check(&self, password: Password, hash: Option<String>) -> Result<Checked, HashError> {
        let hasher = self.hasher.clone();
        let nobody = self.nobody.clone();
        self.run(move || {
            let Some(hash) = hash else { return stored::check(&hasher, &password, &nobody).map(|_| Checked::Wrong) };
            if !stored::check(&hasher, &password, &hash)? {
                return Ok(Checked::Wrong);
            }
            let outdated = stored::is_outdated(&hasher, &hash);
            let better = outdated.then(|| compute(&hasher, &password)).transpose()?;
            Ok(Checked::Right { better })
        })
        .await?
    }

    /// The same for somebody whose hash stays what it is.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn verify(&self, password: Password, hash: String) -> Result<bool, HashError> {
        let hasher = self.hasher.clone();
        self.run(move || stored::check(&hasher, &password, &hash)).await?
    }

    /// Runs `work` on a blocking thread when its turn comes. Dropped before that, it never runs: a client that went
    /// away costs nothing.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let permit = match self.threads.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&self.waiting, self.queue).ok_or(HashError::Busy)?;
                let turn = tokio::time::timeout(LONGEST_WAIT, self.threads.clone().acquire_owned()).await;
                turn.map_err(|_| HashError::Busy)?.map_err(|_| HashError::Broken)?
            }
        };
        let running = tokio::task::spawn_blocking(move || {
            // Held by the thread: a request that is dropped now must not let another hash in beside this one.
            let _permit = permit;
            work()
        });
        running.await.map_err(|_| HashError::Broken)
    }
}

/// A place in the queue, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |now: usize| (now < most).then_some(now + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok().map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn compute(hasher: &Argon2<'_>, password: &Password) -> Result<String, HashError> {
    let hash: PasswordHash = hasher.hash_password(password.expose().as_bytes()).map_err(|_| HashError::Broken)?;
    Ok(hash.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text.into())
    }

    #[tokio::test]
    async fn a_hash_fits_its_password_alone() {
        let passwords = Passwords::new(2, 2).unwrap();
        let hash = passwords.hash(password("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(passwords.verify(password("correct horse"), hash.clone()).await, Ok(true));
        assert_eq!(passwords.verify(password("correct horsf"), hash.clone()).await, Ok(false));
        let right = passwords.check(password("correct horse"), Some(hash.clone())).await;
        assert_eq!(right, Ok(Checked::Right { better: None }), "as good as a hash can be");
        assert_ne!(passwords.hash(password("correct horse")).await.unwrap(), hash, "each hash has its own salt");
    }

    #[tokio::test]
    async fn nobody_has_a_password() {
        let passwords = Passwords::new(1, 1).unwrap();
        assert_eq!(passwords.check(password("nobody"), None).await, Ok(Checked::Wrong));
    }

    #[tokio::test]
    async fn a_hash_of_another_system_is_replaced_when_its_password_comes_along() {
        let passwords = Passwords::new(1, 1).unwrap();
        let imported = bcrypt::non_truncating_hash("correct horse", 4).unwrap();
        assert_eq!(passwords.check(password("wrong"), Some(imported.clone())).await, Ok(Checked::Wrong));
        let Ok(Checked::Right { better: Some(better) }) =
            passwords.check(password("correct horse"), Some(imported)).await
        else {
            panic!("the password is right, and bcrypt is not what we keep")
        };
        assert!(better.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{better}");
        assert_eq!(passwords.verify(password("correct horse"), better).await, Ok(true));
    }

    #[tokio::test]
    async fn a_stored_hash_that_cannot_be_read_is_no_wrong_password() {
        let passwords = Passwords::new(1, 1).unwrap();
        assert_eq!(passwords.verify(password("x"), "nonsense".into()).await, Err(HashError::Broken));
    }

    #[tokio::test]
    async fn a_full_queue_is_an_answer_and_whoever_leaves_frees_a_place() {
        let passwords = Passwords::new(1, 1).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let running = tokio::spawn({
            let passwords = passwords.clone();
            async move { passwords.run(move || wait.recv().is_ok()).await }
        });
        while passwords.threads.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut queued = Box::pin(passwords.run(|| panic!("it was dropped before its turn")));
        assert!(futures_util::poll!(queued.as_mut()).is_pending());
        assert_eq!(passwords.run(|| ()).await, Err(HashError::Busy));
        drop(queued);
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
        let mut next = Box::pin(passwords.run(|| 7));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        go.send(()).unwrap();
        assert_eq!(running.await.unwrap(), Ok(true));
        assert_eq!(next.await, Ok(7));
    }
}
