//! Where a session is used from, coarse: the browser's family and the network. Enough to notice a secret that turns up
//! elsewhere, too little to follow anybody around.

use std::net::IpAddr;

use ipnet::IpNet;

use super::LoginDevice;
use crate::store::Fingerprint;

/// In the order in which they are looked for: most browsers name others, too.
const BROWSERS: &[(&str, &str)] = &[
    ("Edg", "edge"),
    ("OPR/", "opera"),
    ("Opera", "opera"),
    ("SamsungBrowser", "samsung"),
    ("Firefox/", "firefox"),
    ("FxiOS", "firefox"),
    ("Chrome/", "chrome"),
    ("CriOS", "chrome"),
    ("Chromium", "chrome"),
    ("Safari/", "safari"),
];

const PROGRAM_CHARACTERS: usize = 32;

impl LoginDevice {
    /// Its fingerprint.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            browser: self.user_agent.as_deref().and_then(browser),
            network: self.ip.and_then(network).map(|network| network.to_string()),
        }
    }
}

/// Whether somebody who was there is here now. What is not known of either is no difference.
pub(super) fn differs(there: &Fingerprint, here: &Fingerprint) -> bool {
    let differ = |there: &Option<String>, here: &Option<String>| there.is_some() && here.is_some() && there != here;
    differ(&there.browser, &here.browser) || differ(&there.network, &here.network)
}

/// The family of a browser, or the name of a program such as `curl`.
fn browser(user_agent: &str) -> Option<String> {
    if let Some((_, family)) = BROWSERS.iter().find(|(mark, _)| user_agent.contains(mark)) {
        return Some((*family).to_owned());
    }
    let plain = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let program: String = user_agent.chars().take_while(plain).take(PROGRAM_CHARACTERS).collect();
    (!program.is_empty()).then(|| program.to_ascii_lowercase())
}

/// The /24 or /64 around an address.
fn network(ip: IpAddr) -> Option<IpNet> {
    let ip = ip.to_canonical();
    IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).ok().map(|network| network.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str, user_agent: &str) -> Fingerprint {
        LoginDevice { name: None, ip: ip.parse().ok(), user_agent: Some(user_agent.into()) }.fingerprint()
    }

    #[test]
    fn browsers_are_told_apart_by_family_and_not_by_version() {
        let mozilla = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)";
        for (user_agent, family) in [
            (format!("{mozilla} Chrome/126.0.0.0 Safari/537.36"), "chrome"),
            (format!("{mozilla} Chrome/99.0.0.0 Safari/537.36"), "chrome"),
            (format!("{mozilla} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0"), "edge"),
            (format!("{mozilla} Version/17.5 Safari/605.1.15"), "safari"),
            ("Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0".into(), "firefox"),
            ("curl/8.5.0".into(), "curl"),
            ("Python-urllib/3.12".into(), "python-urllib"),
        ] {
            assert_eq!(browser(&user_agent).as_deref(), Some(family), "{user_agent}");
        }
        assert_eq!(browser(""), None);
    }

    #[test]
    fn networks_are_coarse() {
        let at = |ip: &str| of(ip, "curl/8").network.expect("a network");
        assert_eq!(at("203.0.113.9"), "203.0.113.0/24");
        assert_eq!(at("::ffff:203.0.113.200"), "203.0.113.0/24");
        assert_eq!(at("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn only_what_is_known_on_both_sides_can_differ() {
        let home = of("203.0.113.9", "curl/8");
        assert!(!differs(&home, &of("203.0.113.77", "curl/9")));
        assert!(differs(&home, &of("203.0.114.9", "curl/8")));
        assert!(differs(&home, &of("203.0.113.9", "wget/1")));
        assert!(!differs(&Fingerprint::default(), &home));
        assert!(!differs(&home, &Fingerprint { browser: None, ..home.clone() }));
    }
}
