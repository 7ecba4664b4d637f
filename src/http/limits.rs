//! Rate limits against guessing and floods: per address (IPv6 by /64), per account, and per pair of both.
//!
//! Counted in Redis for all nodes together, and in this node's memory too, so that a Redis that goes away forgets
//! nothing here. Only what fails counts for long: an attempt is charged before the password is hashed, so that parallel
//! guesses count too, and taken back unless the password was wrong.
//!
//! Nobody can be locked out by a stranger. The pair waits, for pauses that grow; an account guessed at from many
//! addresses is closed to strangers for a while, and open to whoever comes from where its owner has been before.

mod patience;
mod quota;
mod rate;
mod shared;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use patience::{Patience, Pauses};
pub(super) use quota::{FIELDS, Quotas};
use rate::{Limit, Rate};
pub use shared::SharedCounts;
use shared::TakeBack;

use crate::client_address::Network;
use crate::problem::Problem;
use crate::store::email_key;

const SIGNUPS: Rate = Rate { name: "signups", burst: 50, interval: Duration::from_millis(200) };
const LOGINS: Rate = Rate { name: "logins", burst: 50, interval: Duration::from_millis(100) };
/// A whole office comes back at once after an outage, and nobody guesses 122 bits.
const VALIDATIONS: Rate = Rate { name: "validations", burst: 500, interval: Duration::from_millis(10) };

/// About 25 in the first hour and 12 in each one after: an attacker at one address, or an owner who has forgotten.
const GUESSES: Pauses = Pauses {
    name: "guesses",
    free: 5,
    first: Duration::from_secs(1),
    longest: Duration::from_secs(5 * 60),
    memory: Duration::from_secs(60 * 60),
};

/// From all strangers together: 100 in the first hour (OWASP ASVS 4.0.3, 2.2.1), 60 in each one after.
const STRANGERS: Rate = Rate { name: "strangers", burst: 40, interval: Duration::from_secs(60) };

/// All limits of this node.
pub(super) struct Limits(Option<Counts>);

struct Counts {
    signups: Limit,
    logins: Limit,
    validations: Limit,
    guesses: Patience,
    strangers: Limit,
    shared: Option<SharedCounts>,
}

impl Limits {
    /// With `throttling` off, everything passes.
    pub fn new(throttling: bool, shared: Option<SharedCounts>) -> Self {
        Self(throttling.then(|| Counts {
            signups: Limit::new(SIGNUPS),
            logins: Limit::new(LOGINS),
            validations: Limit::new(VALIDATIONS),
            guesses: Patience::new(GUESSES),
            strangers: Limit::new(STRANGERS),
            shared,
        }))
    }

    /// May this address sign up once more, or ask whether an e-mail address is taken?
    pub async fn signup(&self, ip: IpAddr) -> Result<Quotas, Problem> {
        let Some(counts) = &self.0 else { return Ok(Quotas::default()) };
        counts.spend(&counts.signups, Network::of(ip), SIGNUPS.burst).await
    }

    /// May this address show one more session secret?
    ///
    /// Almost always answered from memory: the nodes compare notes only about an address that has used an eighth of its
    /// burst here.
    pub async fn validation(&self, ip: IpAddr) -> Result<Quotas, Problem> {
        let Some(counts) = &self.0 else { return Ok(Quotas::default()) };
        counts.spend(&counts.validations, Network::of(ip), VALIDATIONS.burst / 8 * 7).await
    }

    /// Charges one login of this address to this account.
    pub async fn login(&self, ip: IpAddr, email: &str) -> Result<Guess<'_>, Problem> {
        match &self.0 {
            Some(counts) => counts.guess(Network::of(ip), email, true).await,
            None => Ok(Guess::free()),
        }
    }

    /// Charges one guess at the current password of somebody who is logged in.
    pub async fn guess(&self, ip: IpAddr, email: &str) -> Result<Guess<'_>, Problem> {
        match &self.0 {
            Some(counts) => counts.guess(Network::of(ip), email, false).await,
            None => Ok(Guess::free()),
        }
    }
}

impl Counts {
    /// Takes one here, and with the other nodes once no more than `alone` are left here.
    async fn spend(&self, limit: &Limit, network: Network, alone: u32) -> Result<Quotas, Problem> {
        let mut verdict = limit.spend(&network, Instant::now());
        if let Some(shared) = self.shared.as_ref().filter(|_| verdict.allowed && verdict.remaining <= alone)
            && let Ok(of_all) = shared.spend(&limit.rate, &network.to_bytes()).await
        {
            verdict = verdict.and(of_all);
        }
        let mut quotas = Quotas::default();
        quotas.add(limit.rate.policy(), verdict);
        quotas.check()
    }

    async fn guess(&self, network: Network, email: &str, login: bool) -> Result<Guess<'_>, Problem> {
        let (now, pair) = (Instant::now(), Pair { network, account: email_key(email) });
        let mut address = login.then(|| self.logins.spend(&network, now));
        let mut guesses = match address {
            // Nobody will look, so nothing is charged.
            Some(refused) if !refused.allowed => GUESSES.allowed(0),
            _ => self.guesses.spend(&pair.key(), now),
        };
        let charged = guesses.allowed && address.is_none_or(|address| address.allowed);
        let mut strangers =
            if charged { self.strangers.spend(&pair.account, now) } else { STRANGERS.allowed(Duration::ZERO) };
        let charged_account = charged && strangers.allowed;
        let mut charged_in_redis = None;
        if let Some(shared) = self.shared.as_ref().filter(|_| charged) {
            let by_address = network.to_bytes();
            let by_address = login.then_some((&LOGINS, &by_address[..]));
            let of_all = shared.guess(by_address, (&GUESSES, &STRANGERS), &pair.bytes(), pair.account.as_bytes()).await;
            if let Ok(of_all) = of_all {
                charged_in_redis = of_all.pair.allowed.then_some(of_all.account.allowed);
                address = address.zip(of_all.address).map(|(here, of_all)| here.and(of_all));
                guesses = guesses.and(of_all.pair);
                strangers = if of_all.pair.allowed { strangers.and(of_all.account) } else { strangers };
            }
        }
        let mut quotas = Quotas::default();
        address.into_iter().for_each(|address| quotas.add(LOGINS.policy(), address));
        quotas.add(GUESSES.policy(), guesses);
        let guess = Guess {
            counts: charged.then_some(self),
            pair,
            quotas: quotas.clone(),
            charged_account,
            charged_in_redis,
            strangers_wait: (!strangers.allowed).then_some(strangers.after),
        };
        match quotas.check() {
            Ok(_) => Ok(guess),
            Err(refusal) => {
                guess.give_back();
                Err(refusal)
            }
        }
    }
}

/// Who guesses, and at what.
#[derive(Clone)]
struct Pair {
    network: Network,
    account: String,
}

impl Pair {
    fn key(&self) -> (Network, &str) {
        (self.network, &self.account)
    }

    fn bytes(&self) -> Vec<u8> {
        [&self.network.to_bytes()[..], self.account.as_bytes()].concat()
    }
}

/// A guess that was charged.
#[must_use = "a guess that was not wrong is taken back"]
pub(super) struct Guess<'a> {
    counts: Option<&'a Counts>,
    pair: Pair,
    quotas: Quotas,
    charged_account: bool,
    /// Charged there too, and whether the account was.
    charged_in_redis: Option<bool>,
    strangers_wait: Option<Duration>,
}

impl Guess<'_> {
    fn free() -> Self {
        Self {
            counts: None,
            pair: Pair { network: Network::of(Ipv4Addr::UNSPECIFIED.into()), account: String::new() },
            quotas: Quotas::default(),
            charged_account: false,
            charged_in_redis: None,
            strangers_wait: None,
        }
    }

    /// So many have guessed at this account that only those may try who come from where its owner has been before.
    pub fn strangers_must_wait(&self) -> bool {
        self.strangers_wait.is_some()
    }

    /// The answer to a stranger who must wait.
    pub fn refuse_stranger(self) -> Problem {
        let refusal = self.quotas.refusal(self.strangers_wait.unwrap_or_default());
        self.give_back();
        refusal
    }

    /// What is left, for the answer.
    pub fn quotas(&self) -> Quotas {
        self.quotas.clone()
    }

    /// The password was right: this guess counts for nothing, and the pair starts anew.
    pub fn was_right(self) {
        self.take_back(true);
    }

    /// Nobody looked: it counts for nothing.
    pub fn give_back(self) {
        self.take_back(false);
    }

    fn take_back(self, forget: bool) {
        let Some(counts) = self.counts else { return };
        if forget {
            counts.guesses.forget(&self.pair.key());
        } else {
            counts.guesses.give_back(&self.pair.key(), Instant::now());
        }
        if self.charged_account {
            counts.strangers.give_back(&self.pair.account);
        }
        if let Some((shared, account)) = counts.shared.clone().zip(self.charged_in_redis) {
            let (pair, what) = (self.pair, TakeBack { forget, account });
            // Nobody waits for it; it is over within the time limit of one command.
            tokio::spawn(async move {
                shared.take_back(what, &STRANGERS, &pair.bytes(), pair.account.as_bytes()).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "alice@example.test";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn limits() -> Limits {
        Limits::new(true, None)
    }

    #[tokio::test]
    async fn wrong_passwords_wait_after_five_and_only_there() {
        let (limits, attacker) = (limits(), ip("203.0.113.9"));
        for _ in 0..5 {
            assert!(limits.login(attacker, ALICE).await.is_ok());
        }
        let refused = limits.login(attacker, "ALICE@example.test").await.err().unwrap();
        assert_eq!(refused.status(), 429);
        assert!(limits.login(attacker, "bob@example.test").await.is_ok());
        assert!(limits.login(ip("198.51.100.1"), ALICE).await.is_ok(), "the owner gets in from elsewhere");
    }

    #[tokio::test]
    async fn right_passwords_cost_nothing() {
        let limits = limits();
        for _ in 0..200 {
            limits.guess(ip("203.0.113.9"), ALICE).await.unwrap().was_right();
        }
        for _ in 0..200 {
            limits.guess(ip("203.0.113.9"), ALICE).await.unwrap().give_back();
        }
    }

    #[tokio::test]
    async fn an_account_guessed_at_from_everywhere_is_closed_to_strangers_alone() {
        let limits = limits();
        for host in 0..40 {
            let guess = limits.login(ip(&format!("198.51.100.{host}")), ALICE).await.unwrap();
            assert!(!guess.strangers_must_wait());
        }
        let guess = limits.login(ip("203.0.113.9"), ALICE).await.unwrap();
        assert!(guess.strangers_must_wait());
        assert_eq!(guess.refuse_stranger().status(), 429);
        // It was not judged, so the pair has all its guesses left.
        for _ in 0..5 {
            let guess = limits.login(ip("203.0.113.9"), ALICE).await.unwrap();
            assert!(guess.strangers_must_wait());
        }
        assert!(!limits.login(ip("203.0.113.9"), "bob@example.test").await.unwrap().strangers_must_wait());
    }

    #[tokio::test]
    async fn whoever_must_wait_does_not_close_the_account_to_others() {
        let limits = limits();
        for _ in 0..45 {
            let _ = limits.login(ip("203.0.113.9"), ALICE).await;
        }
        assert!(!limits.login(ip("198.51.100.1"), ALICE).await.unwrap().strangers_must_wait());
    }

    #[tokio::test]
    async fn with_throttling_off_everything_passes() {
        let limits = Limits::new(false, None);
        for _ in 0..1_000 {
            assert!(limits.login(ip("203.0.113.9"), ALICE).await.is_ok() && limits.signup(ip("::1")).await.is_ok());
        }
    }
}
