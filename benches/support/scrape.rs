//! A node's counters, read from its `/metrics`.

use std::collections::BTreeMap;

use crate::common::Node;

/// What every node asks the database for by itself, whether anybody is there or not.
const BACKGROUND: [&str; 6] = ["log_read", "beat", "live_nodes", "sweep", "register_key", "keys"];

/// All counters at one moment, by name and labels.
pub struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Reads them.
    pub async fn of(node: &Node) -> Self {
        let answer = node.get("/metrics").send().await.expect(200);
        let samples = answer.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self(samples.collect())
    }

    /// What has been counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(name, value)| (name.clone(), value - before.0.get(name).unwrap_or(&0.0)));
        Self(grown.collect())
    }

    /// One cache's look-ups in one tier with one result.
    pub fn cache(&self, cache: &str, tier: &str, result: &str) -> u64 {
        let labels = [format!("cache=\"{cache}\""), format!("tier=\"{tier}\""), format!("result=\"{result}\"")];
        self.sum("portcullis_cache_requests_total", |name| labels.iter().all(|label| name.contains(label)))
    }

    /// Statements sent to the database for requests, and those that every node sends anyway.
    pub fn queries(&self) -> Queries {
        let (mut asked, mut background) = (Vec::new(), Vec::new());
        for (name, count) in self.named("portcullis_database_queries_total").filter(|(_, count)| *count > 0.0) {
            let query = name.split("query=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or(name);
            let is_background = BACKGROUND.iter().any(|known| query.starts_with(known));
            if is_background { &mut background } else { &mut asked }.push((query.to_owned(), count as u64));
        }
        Queries { asked, background }
    }

    fn sum(&self, metric: &str, wanted: impl Fn(&str) -> bool) -> u64 {
        self.named(metric).filter(|(name, _)| wanted(name)).map(|(_, count)| count as u64).sum()
    }

    fn named<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let samples = self.0.iter().filter(move |(name, _)| name.split('{').next() == Some(metric));
        samples.map(|(name, value)| (name.as_str(), *value))
    }
}

/// Statements by name.
pub struct Queries {
    asked: Vec<(String, u64)>,
    background: Vec<(String, u64)>,
}

impl Queries {
    /// How many were sent for requests.
    pub fn asked(&self) -> u64 {
        self.asked.iter().map(|(_, count)| count).sum()
    }

    /// Both lists for people.
    pub fn describe(&self) -> String {
        let list = |queries: &[(String, u64)]| {
            let named: Vec<_> = queries.iter().map(|(query, count)| format!("{query} {count}")).collect();
            if named.is_empty() { "none".to_owned() } else { named.join(", ") }
        };
        format!("{} (apart: {})", list(&self.asked), list(&self.background))
    }
}
