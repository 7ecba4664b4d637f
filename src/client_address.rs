//! The address of the client, through listed proxies only.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Finds the client's address: `peer`, unless `peer` is a trusted proxy; then the right-most address of
/// `X-Forwarded-For` that is not a trusted proxy itself. What anybody else writes into that header counts for nothing.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer.to_canonical();
    if !is_trusted(nearest, trusted) {
        return nearest;
    }
    // Several header lines are one list (RFC 9110 section 5.3); each proxy appends at its end.
    for line in headers.get_all(FORWARDED_FOR).iter().rev() {
        for hop in line.as_bytes().rsplit(|&byte| byte == b',') {
            // What cannot be read hides everything to its left: nobody we trust vouches for that.
            let Some(address) = read_hop(hop) else { return nearest };
            nearest = address;
            if !is_trusted(nearest, trusted) {
                return nearest;
            }
        }
    }
    nearest
}

/// Whether the client speaks TLS to a trusted proxy in front of us. We speak none ourselves.
#[must_use]
pub fn came_over_https(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> bool {
    let proto = headers.get_all(FORWARDED_PROTO).iter().next_back();
    let last = proto.and_then(|value| value.to_str().ok()).and_then(|list| list.rsplit(',').next());
    is_trusted(peer.to_canonical(), trusted) && last.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
}

/// Whom limits take for one: an IPv4 address, or the /64 that a customer of an IPv6 network has to send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u64);

impl Network {
    /// What stands above an IPv4 address: the /64 of a multicast group, which nobody sends from.
    const IPV4: u64 = 0xffff_ffff << 32;

    /// The network of an address as [`client_address`] finds it.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(address) => Self(Self::IPV4 | u64::from(address.to_bits())),
            IpAddr::V6(address) => Self((address.to_bits() >> 64) as u64),
        }
    }

    /// Its bytes, for a name.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// An address as proxies write it: bare, or with a port (some do that), IPv6 then in brackets.
fn read_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn nobody_is_believed_by_default() {
        assert_eq!(found("203.0.113.9", &["198.51.100.1"], &[]), "203.0.113.9");
        assert_eq!(found("203.0.113.9", &["198.51.100.1"], &["10.0.0.0/8"]), "203.0.113.9");
    }

    #[test]
    fn a_trusted_proxy_names_the_client() {
        assert_eq!(found("10.0.0.1", &["198.51.100.1"], &["10.0.0.0/8"]), "198.51.100.1");
        assert_eq!(found("10.0.0.1", &[], &["10.0.0.0/8"]), "10.0.0.1");
    }

    #[test]
    fn what_the_client_wrote_itself_counts_for_nothing() {
        let proxies = &["10.0.0.0/8"];
        assert_eq!(found("10.0.0.1", &["1.1.1.1, 198.51.100.1, 10.0.0.7"], proxies), "198.51.100.1");
        assert_eq!(found("10.0.0.1", &["1.1.1.1", "198.51.100.1"], proxies), "198.51.100.1");
        assert_eq!(found("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.7"], proxies), "10.0.0.7");
        assert_eq!(found("10.0.0.1", &[""], proxies), "10.0.0.1");
    }

    #[test]
    fn ports_and_ipv6_are_read() {
        let proxies = &["::1/128", "10.0.0.0/8"];
        assert_eq!(found("::1", &["198.51.100.1:4711"], proxies), "198.51.100.1");
        assert_eq!(found("::1", &["[2001:db8::5]:4711"], proxies), "2001:db8::5");
        assert_eq!(found("::1", &["[2001:db8::5]"], proxies), "2001:db8::5");
        assert_eq!(found("::1", &["2001:db8::5"], proxies), "2001:db8::5");
        // A dual-stack listener shows IPv4 peers as mapped addresses.
        assert_eq!(found("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], proxies), "198.51.100.1");
    }

    #[test]
    fn an_ipv6_customer_is_one_network() {
        let network = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("::1"), network("0.0.0.1"));
    }

    #[test]
    fn only_a_trusted_proxy_says_https() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(came_over_https("10.0.0.1".parse().unwrap(), &headers, &trusted));
        assert!(!came_over_https("203.0.113.9".parse().unwrap(), &headers, &trusted));
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https, http"));
        assert!(!came_over_https("10.0.0.1".parse().unwrap(), &headers, &trusted));
    }
}
