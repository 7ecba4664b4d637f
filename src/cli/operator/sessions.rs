//! `portcullis session …`, `portcullis token …`, `portcullis revoke --all`

#![allow(missing_docs, reason = "a flattened field takes no comment")]

use std::time::Duration;

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Desk, Done, Output, moment, moment_or, print, table};
use crate::ids::{Jti, Sid};
use crate::store::SessionSummary;

/// Sessions.
#[derive(Debug, clap::Subcommand)]
pub enum SessionCommand {
    /// List a user's sessions, live and ended
    List {
        /// The user's id or address
        #[arg(value_name = "ID|EMAIL", allow_hyphen_values = true)]
        user: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show one session
    Show {
        /// The session's public handle (`sid`)
        sid: Sid,
        #[command(flatten)]
        output: Output,
    },
    /// End sessions on every node (4502): those named, or all of a user
    Revoke {
        /// Public handles (`sid`)
        #[arg(required_unless_present = "user", conflicts_with = "user")]
        sids: Vec<Sid>,
        /// All of this user, by id or address
        #[arg(long, value_name = "ID|EMAIL", allow_hyphen_values = true)]
        user: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// Access tokens.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Revoke access tokens of one session by their ids; the session lives on (3014 for its socket)
    Revoke {
        /// The tokens' ids (`jti`)
        #[arg(required = true)]
        jtis: Vec<Jti>,
        /// The session of the tokens (`sid`)
        #[arg(long, value_name = "SID")]
        session: Sid,
        #[command(flatten)]
        output: Output,
    },
}

/// Everybody's sessions.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Yes, everybody's
    #[arg(long, required = true)]
    all: bool,
    /// Only sessions that began before this time of the database's clock: RFC 3339, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = before)]
    created_before: Before,
    #[command(flatten)]
    output: Output,
}

#[derive(Clone, Copy, Debug)]
enum Before {
    Now,
    At(OffsetDateTime),
    Ago(Duration),
}

fn before(text: &str) -> Result<Before, String> {
    if text == "now" {
        return Ok(Before::Now);
    }
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(Before::At(at));
    }
    let ago = humantime::parse_duration(text.trim_end_matches(" ago"));
    ago.map(Before::Ago).map_err(|_| "neither a time such as 2026-01-31T12:00:00Z nor a duration such as 2h".into())
}

/// How long one part of a long revocation takes before it says how far it is.
const PART: Duration = Duration::from_secs(20);

impl Desk {
    pub(super) async fn session(&self, command: &SessionCommand) -> Done {
        match command {
            SessionCommand::List { user, output } => {
                let sessions = self.operator.sessions(&self.by, self.whom(user).await?).await?;
                print(*output, &json!({ "sessions": sessions }), || {
                    let head = ["sid", "state", "device", "address", "last seen", "created"];
                    table(&head, sessions.iter().map(row).collect())
                })
            }
            SessionCommand::Show { sid, output } => {
                let session = self.operator.session(&self.by, *sid).await?;
                print(*output, &session, || {
                    format!(
                        "session     {}\nuser        {}\nstate       {}\ndevice      {}\naddress     {}\nlast seen   {}\n\
                         created     {}\nexpires     {}\nended       {}\n",
                        session.sid,
                        session.user_id,
                        super::printable(&session.state),
                        super::printable(&device(&session)),
                        session.ip.map_or_else(|| "-".into(), |ip| ip.to_string()),
                        moment(session.last_seen_at),
                        moment(session.created_at),
                        moment(session.expires_at),
                        moment_or(session.ended_at, "-"),
                    )
                })
            }
            SessionCommand::Revoke { sids, user: None, output } => self.end_sessions(sids, *output).await,
            SessionCommand::Revoke { user: Some(user), output, .. } => {
                let user_id = self.whom(user).await?;
                let ended = self.operator.end_user_sessions(&self.by, user_id).await?;
                print(*output, &json!({ "sessions_revoked": ended }), || format!("{ended} live sessions ended\n"))
            }
        }
    }

    async fn end_sessions(&self, sids: &[Sid], output: Output) -> Done {
        let mut ended = 0_u64;
        for &sid in sids {
            ended += u64::from(self.operator.end_session(&self.by, sid).await?);
        }
        print(output, &json!({ "sessions_revoked": ended }), || format!("{ended} live sessions ended\n"))
    }

    pub(super) async fn token(&self, command: &TokenCommand) -> Done {
        let TokenCommand::Revoke { jtis, session, output } = command;
        for &jti in jtis {
            self.operator.revoke_token(&self.by, jti, *session, None).await?;
        }
        print(*output, &json!({ "revoked": jtis }), || format!("{} tokens revoked\n", jtis.len()))
    }

    pub(super) async fn revoke(&self, arguments: &RevokeArgs) -> Done {
        let mut before = match arguments.created_before {
            Before::Now => None,
            Before::At(at) => Some(at),
            Before::Ago(ago) => Some(self.operator.database_now().await? - ago),
        };
        let mut ended = 0;
        let created_before = loop {
            let progress = self.operator.end_everybody(&self.by, before, PART).await?;
            ended += progress.sessions;
            if progress.complete {
                break progress.created_before;
            }
            eprintln!("{ended} live sessions ended so far");
            before = Some(progress.created_before);
        };
        let answer = json!({
            "sessions_revoked": ended,
            "complete": true,
            "created_before": created_before.format(&Rfc3339).unwrap_or_default(),
        });
        print(arguments.output, &answer, || {
            format!("{ended} live sessions ended: all that began before {}\n", moment(created_before))
        })
    }
}

fn row(session: &SessionSummary) -> Vec<String> {
    vec![
        session.sid.to_string(),
        session.state.clone(),
        device(session),
        session.ip.map_or_else(|| "-".into(), |ip| ip.to_string()),
        moment(session.last_seen_at),
        moment(session.created_at),
    ]
}

fn device(session: &SessionSummary) -> String {
    let name = session.device_name.as_ref().or(session.user_agent.as_ref());
    name.map_or_else(|| "-".into(), |name| name.chars().take(40).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        assert!(matches!(before("now"), Ok(Before::Now)));
        assert!(matches!(before("2h"), Ok(Before::Ago(ago)) if ago == Duration::from_secs(7200)));
        assert!(matches!(before("2026-01-31T12:00:00Z"), Ok(Before::At(at)) if at.unix_timestamp() == 1_769_860_800));
        assert!(before("yesterday").is_err());
    }
}
