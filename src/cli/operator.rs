//! What operators do at a prompt: the same as the admin API, on the database itself. A running gateway is not asked: what is
//! written here reaches the nodes through the log, within a quarter of a second.
//!
//! Exit codes: 0 done (also when it was so already), 1 could not be done, 2 bad arguments, 3 there is no such thing.

mod accounts;
mod keys;
mod sessions;
mod trail;
mod webhooks;

use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::app::store_config;
use crate::config::Config;
use crate::ids::UserId;
use crate::operator::{By, Operator, OperatorError};
use crate::store::{Store, StoreError};
pub use accounts::UserCommand;
pub use keys::AdminKeyCommand;
pub use sessions::{RevokeArgs, SessionCommand, TokenCommand};
pub use trail::{AuditArgs, CountsArgs};
pub use webhooks::WebhookCommand;

/// There is no such user, session, key.
const NOT_FOUND: u8 = 3;

/// How the answer is printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Output {
    /// Print the answer as JSON, in the shape of the admin API
    #[arg(long)]
    pub json: bool,
}

/// A subcommand of the operator's.
#[derive(Debug)]
pub enum OperatorCommand<'a> {
    /// `portcullis user …`
    User(&'a UserCommand),
    /// `portcullis session …`
    Session(&'a SessionCommand),
    /// `portcullis token …`
    Token(&'a TokenCommand),
    /// `portcullis revoke --all …`
    Revoke(&'a RevokeArgs),
    /// `portcullis audit`
    Audit(&'a AuditArgs),
    /// `portcullis counts`
    Counts(&'a CountsArgs),
    /// `portcullis admin-key …`
    AdminKey(&'a AdminKeyCommand),
    /// `portcullis webhook …`
    Webhook(&'a WebhookCommand),
}

/// Runs one.
///
/// # Errors
/// When the database cannot be reached or refuses, or the answer cannot be printed.
pub async fn run(command: OperatorCommand<'_>, config: &Config) -> anyhow::Result<ExitCode> {
    let desk = Desk::open(config).await?;
    let done = match command {
        OperatorCommand::User(command) => desk.user(command).await,
        OperatorCommand::Session(command) => desk.session(command).await,
        OperatorCommand::Token(command) => desk.token(command).await,
        OperatorCommand::Revoke(arguments) => desk.revoke(arguments).await,
        OperatorCommand::Audit(arguments) => desk.audit(arguments).await,
        OperatorCommand::Counts(arguments) => desk.counts(arguments).await,
        OperatorCommand::AdminKey(command) => desk.admin_key(command).await,
        OperatorCommand::Webhook(command) => desk.webhook(command).await,
    };
    desk.store.close().await;
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("portcullis: {}", explained(&error));
            Ok(exit_code(&error))
        }
    }
}

/// The operator's service on the database, and who sits at it.
struct Desk {
    operator: Operator,
    store: Store,
    by: By,
}

type Done = Result<(), OperatorError>;

impl Desk {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let file = config.data_dir.join("portcullis.db");
        anyhow::ensure!(
            config.database_url.is_some() || file.exists(),
            "there is no database at {}; set DATABASE_URL or DATA_DIR as the gateway has them",
            file.display()
        );
        let store = Store::open(&store_config(config)).await?;
        let operator = Operator::on_database(store.clone(), config.access_token_ttl);
        let person = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let name = format!("command line ({})", person.as_deref().unwrap_or("unknown"));
        Ok(Self { operator, store, by: By { key: None, name, ip: None } })
    }

    /// The user whom somebody has typed.
    async fn whom(&self, id_or_email: &str) -> Result<UserId, OperatorError> {
        self.operator.resolve(id_or_email).await
    }
}

fn exit_code(error: &OperatorError) -> ExitCode {
    match error {
        OperatorError::NoSuchUser | OperatorError::NoSuchSession | OperatorError::NoSuchKey => {
            ExitCode::from(NOT_FOUND)
        }
        OperatorError::NotAllowed { .. } | OperatorError::MoreThanOwn(_) => ExitCode::from(2),
        OperatorError::CannotTell | OperatorError::Store(_) => ExitCode::FAILURE,
    }
}

fn explained(error: &OperatorError) -> String {
    match error {
        OperatorError::Store(StoreError::Corrupt(text))
            if text.contains("no such table") || text.contains("no such column") || text.contains("does not exist") =>
        {
            "the database has not this version's schema; start the gateway or run `portcullis migrate` first".into()
        }
        other => other.to_string(),
    }
}

/// Prints an answer: as JSON, or as people read it.
fn print<T: Serialize>(output: Output, answer: &T, readable: impl FnOnce() -> String) -> Done {
    use std::io::Write as _;
    let text = if output.json {
        let json = serde_json::to_string_pretty(answer).map_err(|error| StoreError::Corrupt(error.to_string()))?;
        json + "\n"
    } else {
        readable()
    };
    // A reader that has seen enough, such as `head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// To the second, in UTC.
fn moment(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

fn moment_or(at: Option<OffsetDateTime>, otherwise: &str) -> String {
    at.map_or_else(|| otherwise.to_owned(), moment)
}

/// Lines of columns, as wide as what stands in them. What came from outside cannot steer the terminal.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut head.iter().copied());
    for row in &rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_hold_no_control_characters() {
        let rows = vec![vec!["ab".into(), "\u{1b}[31m".into()], vec!["abcdef".into(), "x".into()]];
        assert_eq!(table(&["a", "name"], rows), "a       name\nab      \u{fffd}[31m\nabcdef  x\n");
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        assert_eq!(exit_code(&OperatorError::NoSuchUser), ExitCode::from(3));
        assert_eq!(exit_code(&StoreError::Unavailable("away".into()).into()), ExitCode::FAILURE);
        let missing = StoreError::Corrupt("no such table: audit".into()).into();
        assert!(explained(&missing).contains("portcullis migrate"));
    }
}
