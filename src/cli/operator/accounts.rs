//! `portcullis user …`

use serde_json::json;

use super::{Desk, Done, Output, moment, moment_or, print, table};
use crate::store::{Account, UserFilter, UserQuery};

/// People.
#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// List accounts in the order of their addresses
    Find(FindArgs),
    /// Show one account
    Show(WhomArgs),
    /// Disable an account: everything of it ends on every node (4503), and it can log in no more
    Disable(WhomArgs),
    /// Enable an account; nothing that has ended comes back
    Enable(WhomArgs),
}

/// Which accounts.
#[derive(Debug, clap::Args)]
pub struct FindArgs {
    /// The one with this address
    #[arg(long, conflicts_with = "prefix")]
    email: Option<String>,
    /// Those whose address begins like this
    #[arg(long)]
    prefix: Option<String>,
    /// Go on after this address
    #[arg(long, value_name = "EMAIL")]
    after: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

/// One account.
#[derive(Debug, clap::Args)]
pub struct WhomArgs {
    /// The user's id or address
    #[arg(value_name = "ID|EMAIL", allow_hyphen_values = true)]
    user: String,
    #[command(flatten)]
    output: Output,
}

impl Desk {
    pub(super) async fn user(&self, command: &UserCommand) -> Done {
        match command {
            UserCommand::Find(arguments) => self.find(arguments).await,
            UserCommand::Show(arguments) => self.show(arguments).await,
            UserCommand::Disable(arguments) => self.set_disabled(arguments, true).await,
            UserCommand::Enable(arguments) => self.set_disabled(arguments, false).await,
        }
    }

    async fn find(&self, arguments: &FindArgs) -> Done {
        let filter = match (&arguments.email, &arguments.prefix) {
            (Some(email), _) => UserFilter::Email(email.clone()),
            (None, Some(prefix)) => UserFilter::Prefix(prefix.clone()),
            (None, None) => UserFilter::All,
        };
        let query = UserQuery { filter, after: arguments.after.clone(), limit: arguments.limit };
        let users = self.operator.find_users(&self.by, query).await?;
        print(arguments.output, &json!({ "users": users }), || {
            table(&["id", "email", "sessions", "last seen", "state"], users.iter().map(row).collect())
        })
    }

    async fn show(&self, arguments: &WhomArgs) -> Done {
        let user = self.operator.user(&self.by, self.whom(&arguments.user).await?).await?;
        print(arguments.output, &user, || {
            let rows = [
                ("id", user.user.id.to_string()),
                ("email", user.user.email.clone()),
                ("full name", user.user.full_name.clone().unwrap_or_else(|| "-".into())),
                ("state", state(&user)),
                ("live sessions", user.live_sessions.to_string()),
                ("last seen", moment_or(user.last_seen_at, "-")),
                ("created", moment(user.user.created_at)),
                ("changed", moment(user.user.updated_at)),
            ];
            table(&["", ""], rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect())
                .trim_start()
                .to_owned()
        })
    }

    async fn set_disabled(&self, arguments: &WhomArgs, disabled: bool) -> Done {
        let user_id = self.whom(&arguments.user).await?;
        let sessions = self.operator.set_disabled(&self.by, user_id, disabled).await?;
        let answer = json!({ "id": user_id, "disabled": disabled, "sessions_revoked": sessions });
        print(arguments.output, &answer, || match disabled {
            true => format!("{user_id} is disabled; {sessions} live sessions ended\n"),
            false => format!("{user_id} is enabled\n"),
        })
    }
}

fn row(account: &Account) -> Vec<String> {
    vec![
        account.user.id.to_string(),
        account.user.email.clone(),
        account.live_sessions.to_string(),
        moment_or(account.last_seen_at, "-"),
        state(account),
    ]
}

fn state(account: &Account) -> String {
    account.disabled_at.map_or_else(|| "enabled".into(), |at| format!("disabled {}", moment(at)))
}
