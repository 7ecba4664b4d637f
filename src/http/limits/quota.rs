//! What a limit says of one more, and how an answer tells the client (draft-ietf-httpapi-ratelimit-headers-11).

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::problem::Problem;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The two fields, for pages of other origins.
pub(in crate::http) const FIELDS: [HeaderName; 2] = [RATE_LIMIT, RATE_LIMIT_POLICY];

/// What is allowed, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    /// Its name in the fields.
    pub name: &'static str,
    /// How many at once (`q`).
    pub quota: u32,
    /// In how long a spent quota is whole again (`w`).
    pub window: Duration,
}

/// One limit's word about one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Of how many more there is none to wait for.
    pub remaining: u32,
    /// When the next one may come (refused), or when the quota will be whole again.
    pub after: Duration,
    /// There is one.
    pub allowed: bool,
}

impl Verdict {
    /// The stricter of two: what two counters say of the same.
    pub fn and(self, other: Self) -> Self {
        match (self.allowed, other.allowed) {
            (true, false) => other,
            (false, true) => self,
            _ => Self {
                remaining: self.remaining.min(other.remaining),
                after: self.after.max(other.after),
                allowed: self.allowed,
            },
        }
    }
}

/// The verdicts that concern one request.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Quotas(Vec<(Policy, Verdict)>);

impl Quotas {
    pub(super) fn add(&mut self, policy: Policy, verdict: Verdict) {
        self.0.push((policy, verdict));
    }

    /// 429 as soon as one of them refuses.
    pub(super) fn check(self) -> Result<Self, Problem> {
        match self.0.iter().find(|(_, verdict)| !verdict.allowed) {
            Some((_, refused)) => Err(self.refusal(refused.after)),
            None => Ok(self),
        }
    }

    /// 429 that says after how long it is worth another try (RFC 6585 section 4).
    pub(super) fn refusal(&self, wait: Duration) -> Problem {
        let problem = Problem::too_many_requests("Too many attempts. Try again later.", whole_seconds(wait));
        self.fields().into_iter().flatten().fold(problem, |problem, (name, value)| problem.with_header(name, value))
    }

    /// Tells in the answer how much is left.
    pub fn mark(&self, mut response: Response) -> Response {
        for (name, value) in self.fields().into_iter().flatten() {
            response.headers_mut().insert(name, value);
        }
        response
    }

    fn fields(&self) -> Option<[(HeaderName, HeaderValue); 2]> {
        if self.0.is_empty() {
            return None;
        }
        let (mut policies, mut state) = (String::new(), String::new());
        for (policy, verdict) in &self.0 {
            let comma = if policies.is_empty() { "" } else { ", " };
            let (quota, window) = (policy.quota, whole_seconds(policy.window));
            // Writing to a String cannot fail.
            let _ = write!(policies, "{comma}\"{}\";q={quota};w={window}", policy.name);
            let (remaining, after) = (verdict.remaining, whole_seconds(verdict.after));
            let _ = write!(state, "{comma}\"{}\";r={remaining};t={after}", policy.name);
        }
        let value = |text: String| HeaderValue::from_str(&text).ok();
        Some([(RATE_LIMIT_POLICY, value(policies)?), (RATE_LIMIT, value(state)?)])
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn quotas(allowed: bool) -> Quotas {
        let mut quotas = Quotas::default();
        quotas.add(
            Policy { name: "logins", quota: 50, window: 5 * SECOND },
            Verdict { remaining: 49, after: SECOND / 10, allowed: true },
        );
        quotas.add(
            Policy { name: "guesses", quota: 5, window: 3600 * SECOND },
            Verdict { remaining: 0, after: 4 * SECOND, allowed },
        );
        quotas
    }

    #[test]
    fn an_answer_tells_what_is_left() {
        let response = quotas(true).check().unwrap().mark(().into_response());
        assert_eq!(response.headers()["ratelimit-policy"], "\"logins\";q=50;w=5, \"guesses\";q=5;w=3600");
        assert_eq!(response.headers()["ratelimit"], "\"logins\";r=49;t=1, \"guesses\";r=0;t=4");
    }

    #[test]
    fn a_refusal_tells_when_to_come_back() {
        let response = quotas(false).check().unwrap_err().into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "4");
        assert!(response.headers()["ratelimit"].to_str().unwrap().contains("\"guesses\";r=0;t=4"));
    }

    #[test]
    fn without_limits_there_is_nothing_to_tell() {
        let response = Quotas::default().check().unwrap().mark(().into_response());
        assert!(!response.headers().contains_key("ratelimit"));
    }

    #[test]
    fn of_two_counters_the_stricter_one_counts() {
        let verdict = |remaining, allowed| Verdict { remaining, after: SECOND, allowed };
        assert!(!verdict(3, true).and(verdict(0, false)).allowed);
        assert!(!verdict(0, false).and(verdict(3, true)).allowed);
        assert_eq!(verdict(3, true).and(verdict(1, true)).remaining, 1);
    }
}
