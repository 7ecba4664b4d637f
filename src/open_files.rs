//! How many files this process may hold open: every socket is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the databases' connections, the log, the listener.
const OWN: usize = 64;

/// One file in so many is for HTTP.
const HTTP_SHARE: usize = 8;

/// HTTP connections at most, where nobody said another number.
const MOST_HTTP: usize = 10_000;

/// What connections may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// All that the process may open.
    pub limit: usize,
    /// For connections that speak HTTP.
    pub http: usize,
    /// For sockets.
    pub sockets: usize,
}

impl OpenFiles {
    /// Raises the limit as far as the system lets it (`ulimit -Hn`) and shares it out.
    #[must_use]
    pub fn raise(http: Option<usize>) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.or(limit.current);
        // Refused or not, what holds afterwards is read again.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: limit.maximum });
        let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
        Self::share(limit.unwrap_or(usize::MAX), http)
    }

    fn share(limit: usize, http: Option<usize>) -> Self {
        let http = http.unwrap_or_else(|| (limit / HTTP_SHARE).clamp(16, MOST_HTTP));
        Self { limit, http, sockets: limit.saturating_sub(OWN + http).max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_get_what_is_left() {
        assert_eq!(OpenFiles::share(20_000, None), OpenFiles { limit: 20_000, http: 2_500, sockets: 17_436 });
        assert_eq!(OpenFiles::share(1_000_000, None).http, MOST_HTTP);
        assert_eq!(OpenFiles::share(1_024, Some(100)).sockets, 860);
        assert_eq!(OpenFiles::share(usize::MAX, None).sockets, usize::MAX - OWN - MOST_HTTP);
        assert_eq!(OpenFiles::share(10, None).sockets, 1);
    }
}
