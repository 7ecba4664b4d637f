//! `portcullis webhook …`: what receivers did not take.

#![allow(missing_docs, reason = "a flattened field takes no comment")]

use serde_json::json;

use super::{Desk, Done, Output, moment, moment_or, print, table};

/// Webhooks that are not delivered.
#[derive(Debug, clap::Subcommand)]
pub enum WebhookCommand {
    /// List events that were given up
    List {
        /// Also those that are still tried
        #[arg(long)]
        waiting: bool,
        /// Only events with lower ids
        #[arg(long, value_name = "ID")]
        before: Option<u64>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Try what was given up again: one event, or all (a thousand at a time)
    Retry {
        /// The event
        id: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
}

impl Desk {
    pub(super) async fn webhook(&self, command: &WebhookCommand) -> Done {
        match command {
            WebhookCommand::List { waiting, before, limit, output } => {
                let events = self.operator.undelivered(&self.by, *before, *limit, !waiting).await?;
                print(*output, &json!({ "events": events }), || {
                    let rows = events.iter().map(|event| {
                        vec![
                            event.id.to_string(),
                            moment(event.at),
                            event.reason.clone(),
                            event.user_id.to_string(),
                            event.attempts.to_string(),
                            moment_or(event.given_up_at, "-"),
                            event.last_error.clone().unwrap_or_else(|| "-".into()),
                        ]
                    });
                    table(&["id", "at", "reason", "user", "attempts", "given up", "error"], rows.collect())
                })
            }
            WebhookCommand::Retry { id, output } => {
                let retried = self.operator.retry_webhooks(&self.by, *id).await?;
                print(*output, &json!({ "retried": retried }), || format!("{retried} events are due now\n"))
            }
        }
    }
}
