//! `portcullis audit` and `portcullis counts`

use std::fmt::Write as _;

use serde_json::json;

use super::{Desk, Done, Output, moment, plain, print, table};
use crate::store::{AuditEntry, AuditQuery};

/// Which part of the trail.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    /// Of this user alone, by id or address
    #[arg(long, value_name = "ID|EMAIL")]
    user: Option<String>,
    /// Of this kind alone, such as login_failed or operator.user_disable
    #[arg(long)]
    event: Option<String>,
    /// Only entries with lower ids
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

/// Over which time.
#[derive(Debug, clap::Args)]
pub struct CountsArgs {
    /// Over the last days; by the hour for up to two
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=90))]
    days: u32,
    #[command(flatten)]
    output: Output,
}

impl Desk {
    pub(super) async fn audit(&self, arguments: &AuditArgs) -> Done {
        let user_id = match &arguments.user {
            Some(user) => Some(self.whom(user).await?),
            None => None,
        };
        let AuditArgs { event, before, limit, .. } = arguments;
        let query = AuditQuery { user_id, event: event.clone(), before: *before, limit: *limit, own: false };
        let entries = self.operator.audit(&self.by, query).await?;
        print(arguments.output, &json!({ "entries": entries }), || {
            let head = ["id", "at", "event", "by", "user", "session", "address", "details"];
            table(&head, entries.iter().map(row).collect())
        })
    }

    pub(super) async fn counts(&self, arguments: &CountsArgs) -> Done {
        let counts = self.operator.statistics(&self.by, arguments.days).await?;
        print(arguments.output, &counts, || {
            let users = counts.users;
            let mut text = format!(
                "users    {} ({} disabled), active within a day {}, within a week {}\n",
                users.total, users.disabled, users.active_day, users.active_week
            );
            let devices: Vec<_> = counts.live_sessions.iter().map(|(family, n)| format!("{family} {n}")).collect();
            let _ = writeln!(text, "sessions {}\n", if devices.is_empty() { "-".into() } else { devices.join(", ") });
            let rows = counts.events.iter().map(|event| {
                let reason = event.reason.clone().unwrap_or_else(|| "-".into());
                vec![moment(event.from), event.event.clone(), reason, event.count.to_string()]
            });
            text + &table(&["from", "event", "reason", "count"], rows.collect())
        })
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mut details: Vec<String> = entry.reason.iter().cloned().collect();
    if entry.count > 1 {
        details.push(format!("{} times", entry.count));
    }
    if let Some(more) = entry.details.as_ref().and_then(serde_json::Value::as_object) {
        details.extend(more.iter().map(|(name, value)| format!("{name}={}", plain(value))));
    }
    vec![
        entry.id.to_string(),
        moment(entry.at),
        entry.event.clone(),
        entry.actor.clone(),
        or_dash(entry.user_id.map(|id| id.to_string())),
        or_dash(entry.sid.map(|sid| sid.to_string())),
        or_dash(entry.ip.map(|ip| ip.to_string())),
        details.join(", "),
    ]
}
