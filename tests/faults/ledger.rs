//! What was promised when, and what was taken: the harness's own clock and book-keeping.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::common::{Answer, Login};

/// The bound of the first promise.
pub const BOUND: Duration = Duration::from_secs(1);

/// A session, with what its owner knows about its end.
pub struct Credential {
    login: Mutex<Login>,
    fate: Mutex<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Nobody has asked for its end.
    Good,
    /// Somebody has, and has not been answered: either is fair.
    Ending,
    /// The success was answered then.
    Ended(Instant),
}

/// How a credential was taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// It was good enough.
    Accepted,
    /// It was called bad: 401, 403, or a close with 35xx or 45xx.
    Refused(String),
    /// The gateway could not tell: 5xx, a temporary error, 4000.
    CannotTell(u16),
    /// Nothing came back.
    NoAnswer,
}

impl Taken {
    /// What an answer over HTTP says about the credential it was asked with.
    pub fn by(answer: Option<&Answer>) -> Self {
        match answer {
            None => Self::NoAnswer,
            Some(answer) => match answer.status {
                101 | 200..=299 => Self::Accepted,
                401 | 403 => Self::Refused(format!("{} {}", answer.status, answer["code"])),
                500.. => Self::CannotTell(answer.status),
                _ => panic!("no answer to a credential: {answer:#?}"),
            },
        }
    }
}

impl Credential {
    /// A session that was just made.
    pub fn new(login: Login) -> Self {
        Self { login: Mutex::new(login), fate: Mutex::new(Fate::Good) }
    }

    /// What its device holds.
    pub fn login(&self) -> Login {
        self.login.lock().expect("login").clone()
    }

    /// Its device got another access token.
    pub fn renew(&self, token: &str) {
        let mut login = self.login.lock().expect("login");
        *login = login.with_token(token);
    }

    /// Whether nobody has asked for its end.
    pub fn is_good(&self) -> bool {
        *self.fate() == Fate::Good
    }

    /// Before its end is asked for.
    pub fn ending(&self) {
        *self.fate() = Fate::Ending;
    }

    /// When the success was answered.
    pub fn ended(&self, answered: Instant) {
        *self.fate() = Fate::Ended(answered);
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().expect("fate")
    }
}

/// The book of one run.
#[derive(Default)]
pub struct Ledger {
    wrong: Mutex<Wrong>,
    accepted: AtomicU64,
    refused: AtomicU64,
    cannot_tell: AtomicU64,
    no_answer: AtomicU64,
    revocations: AtomicU64,
    pushes: AtomicU64,
    worst_delay: AtomicU64,
    longest_wait: AtomicU64,
}

#[derive(Default)]
struct Wrong {
    violations: Vec<String>,
    false_rejections: Vec<String>,
}

impl Ledger {
    /// A use of a credential whose first byte was sent at `sent`, and how it was taken, now.
    pub fn used(&self, credential: &Credential, what: &str, sent: Instant, taken: &Taken) {
        self.longest_wait.fetch_max(sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        match taken {
            Taken::Accepted => self.accepted(credential, what, sent),
            Taken::Refused(said) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                if *credential.fate() == Fate::Good {
                    self.falsely_refused(&format!("{what} of session {}: {said}", credential.login().sid));
                }
            }
            Taken::CannotTell(_) => drop(self.cannot_tell.fetch_add(1, Ordering::Relaxed)),
            Taken::NoAnswer => drop(self.no_answer.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A push to a credential, of an event that arose no earlier than `arose`.
    pub fn pushed(&self, credential: &Credential, what: &str, arose: Instant) {
        self.pushes.fetch_add(1, Ordering::Relaxed);
        self.accepted(credential, what, arose);
    }

    /// Something good was called bad.
    pub fn falsely_refused(&self, what: &str) {
        self.wrong().false_rejections.push(what.to_owned());
    }

    /// A revocation was answered.
    pub fn revoked(&self) {
        self.revocations.fetch_add(1, Ordering::Relaxed);
    }

    /// The sums.
    pub fn sums(&self) -> Sums {
        let wrong = self.wrong();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sums {
            violations: wrong.violations.clone(),
            false_rejections: wrong.false_rejections.clone(),
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            cannot_tell: read(&self.cannot_tell),
            no_answer: read(&self.no_answer),
            revocations: read(&self.revocations),
            pushes: read(&self.pushes),
            worst_delay: Duration::from_micros(read(&self.worst_delay)),
            longest_wait: Duration::from_micros(read(&self.longest_wait)),
        }
    }

    fn accepted(&self, credential: &Credential, what: &str, sent: Instant) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let Fate::Ended(answered) = *credential.fate() else { return };
        let delay = sent.saturating_duration_since(answered);
        self.worst_delay.fetch_max(delay.as_micros() as u64, Ordering::Relaxed);
        if delay > BOUND {
            let sid = credential.login().sid;
            self.wrong().violations.push(format!("{what} of session {sid} accepted {delay:?} after the answer"));
        }
    }

    fn wrong(&self) -> MutexGuard<'_, Wrong> {
        self.wrong.lock().expect("the book")
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Sums {
    /// Uses accepted later than the bound allows. None, ever.
    pub violations: Vec<String>,
    /// Good credentials called bad. None, ever.
    pub false_rejections: Vec<String>,
    /// Uses that were accepted.
    pub accepted: u64,
    /// Uses that were refused.
    pub refused: u64,
    /// Uses answered with 5xx, a temporary error or 4000.
    pub cannot_tell: u64,
    /// Uses that got no answer: the node was dead, or the client gave up.
    pub no_answer: u64,
    /// Revocations answered.
    pub revocations: u64,
    /// Pushes of changed profiles.
    pub pushes: u64,
    /// From the answer of a revocation to the sending of the last use that was accepted all the same.
    pub worst_delay: Duration,
    /// From the sending of a use to its answer, or to the client's losing patience.
    pub longest_wait: Duration,
}
