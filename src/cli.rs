//! The command line: subcommands, and every setting as a flag. Parses; runs nothing of the gateway itself.

pub mod doctor;
pub mod key;
pub mod keygen;
pub mod operator;
pub mod stats;

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::layers::Texts;
use crate::config::settings::{ALL, Fallback, Group, Setting};
use crate::config::{Config, ConfigError};
pub use key::KeyArgs;
pub use keygen::KeygenArgs;
use operator::{
    AdminKeyCommand, AuditArgs, CountsArgs, OperatorCommand, RevokeArgs, SessionCommand, TokenCommand, UserCommand,
    WebhookCommand,
};
pub use stats::StatsArgs;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway (what happens without a subcommand, too)
    Serve,
    /// Bring the database to this version's schema, and stop
    Migrate,
    /// Make a signing key or a record key (reads no settings)
    Keygen(KeygenArgs),
    /// List, revoke or replace the signing keys
    Key(KeyArgs),
    /// Show the cache statistics of a running gateway
    Stats(StatsArgs),
    /// Check Redis, the database, the clock and the keys, one line each
    Doctor(DoctorArgs),
    /// Find, show, disable and enable accounts
    #[command(subcommand)]
    User(UserCommand),
    /// List, show and end sessions
    #[command(subcommand)]
    Session(SessionCommand),
    /// Revoke access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// End everybody's sessions
    Revoke(RevokeArgs),
    /// Read the audit trail
    Audit(AuditArgs),
    /// Count users, sessions, logins and revocations, without names
    Counts(CountsArgs),
    /// Make, list, rotate and revoke keys of the admin API
    #[command(subcommand)]
    AdminKey(AdminKeyCommand),
    /// See and retry webhooks that were not taken
    #[command(subcommand)]
    Webhook(WebhookCommand),
}

impl Command {
    /// What operators do on the database itself.
    #[must_use]
    pub fn of_operator(&self) -> Option<OperatorCommand<'_>> {
        Some(match self {
            Self::User(command) => OperatorCommand::User(command),
            Self::Session(command) => OperatorCommand::Session(command),
            Self::Token(command) => OperatorCommand::Token(command),
            Self::Revoke(arguments) => OperatorCommand::Revoke(arguments),
            Self::Audit(arguments) => OperatorCommand::Audit(arguments),
            Self::Counts(arguments) => OperatorCommand::Counts(arguments),
            Self::AdminKey(command) => OperatorCommand::AdminKey(command),
            Self::Webhook(command) => OperatorCommand::Webhook(command),
            _ => return None,
        })
    }
}

/// Arguments of `portcullis doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print the results as JSON
    #[arg(long)]
    pub json: bool,
}

/// WebSocket-first realtime gateway with cached auth: log in, open sockets, log out everywhere.
#[derive(Parser)]
#[command(
    name = "portcullis",
    version,
    after_help = "`portcullis --help` lists every setting. Each is also an environment variable and a key of the TOML \
                  file; a flag hides the environment, which hides .env, which hides the file."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Bad arguments; or no failure at all but a call for `--help` or `--version`.
    #[error(transparent)]
    Usage(#[from] clap::Error),
    /// A bad setting.
    #[error(transparent)]
    Setting(#[from] ConfigError),
}

impl CliError {
    /// Says it and ends the process: 0 after `--help` and `--version`, else 2.
    pub fn exit(&self) -> ! {
        match self {
            Self::Usage(usage) => usage.exit(),
            Self::Setting(error) => {
                eprintln!("portcullis: cannot start: {error}");
                std::process::exit(2)
            }
        }
    }
}

/// Reads the process's arguments, its environment, and `.env` in the working directory.
pub fn parse() -> Result<(Command, Config), CliError> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    parse_from(std::env::args_os(), &environment, Some(Path::new(".env")))
}

/// The same with everything given, the program's name first in `arguments`.
pub fn parse_from<A>(
    arguments: impl IntoIterator<Item = A>,
    environment: &Texts,
    dotenv: Option<&Path>,
) -> Result<(Command, Config), CliError>
where
    A: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    let command = Cli::from_arg_matches(&matches)?.command.unwrap_or(Command::Serve);
    if matches!(command, Command::Keygen(_)) {
        // It makes the keys whose absence may be what is wrong with the settings.
        return Ok((command, Config::load(&Texts::new(), &Texts::new(), None)?));
    }
    let mut flags = Texts::new();
    let mut level = Some(&matches);
    while let Some(matches) = level {
        for setting in ALL {
            if let Ok(Some(text)) = matches.try_get_one::<String>(setting.env) {
                flags.insert(setting.env.to_string(), text.clone());
            }
        }
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    let config = Config::load(&flags, environment, dotenv)?;
    Ok((command, config))
}

/// The whole command line. The settings are accepted before and after the subcommand; `keygen` reads none.
fn command() -> clap::Command {
    let with_settings = |command: clap::Command| command.args(ALL.iter().map(|setting| flag(setting)));
    let nested = |sub: clap::Command| match sub.get_name() {
        "keygen" => sub,
        _ => with_settings(sub.mut_subcommands(with_settings)),
    };
    with_settings(Cli::command().mut_subcommands(nested))
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Fallback::Value(text) => format!("[default: {text}]"),
        Fallback::Unset(text) => format!("[default: {text}]"),
    };
    Arg::new(setting.env)
        .long(setting.flag())
        .value_name(setting.value_name)
        .help(format!("{} [env: {}] {default}", setting.help, setting.env))
        .long_help(format!("{}\n[env: {}] {default}", setting.help, setting.env))
        .help_heading(setting.group.title())
        .hide_short_help(setting.group != Group::Essentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Command, Config), CliError> {
        let environment = [("PORT".to_string(), "7000".to_string())].into();
        parse_from([&["portcullis"], arguments].concat(), &environment, None)
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn serve_is_the_default() {
        let (command, config) = parse(&[]).unwrap();
        assert!(matches!(command, Command::Serve));
        assert_eq!(config.port, 7000);
    }

    #[test]
    fn a_setting_may_stand_before_and_after_the_subcommand() {
        assert_eq!(parse(&["--port", "9000"]).unwrap().1.port, 9000);
        assert_eq!(parse(&["--port", "9000", "serve"]).unwrap().1.port, 9000);
        let (command, config) = parse(&["--port", "9000", "stats", "--json", "--port=9001"]).unwrap();
        assert!(matches!(command, Command::Stats(StatsArgs { json: true, .. })));
        assert_eq!(config.port, 9001);
    }

    #[test]
    fn a_setting_may_stand_behind_a_subcommand_of_a_subcommand() {
        let (command, config) = parse(&["user", "--port", "9000", "show", "a@example.org", "--data-dir", "x"]).unwrap();
        assert!(command.of_operator().is_some());
        assert_eq!((config.port, config.data_dir.to_str()), (9000, Some("x")));
        assert!(matches!(parse(&["revoke"]), Err(CliError::Usage(_))), "everybody must be asked for");
        assert!(matches!(parse(&["session", "revoke"]), Err(CliError::Usage(_))), "some must be named");
    }

    #[test]
    fn what_begins_with_a_hyphen_may_be_an_id() {
        for kid in ["-vMtiz3XC1Q", "-hMtiz3XC1Q", "--MtiXC1Q"] {
            let (command, config) = parse(&["key", "revoke", kid, "--port", "9000"]).unwrap();
            assert!(format!("{command:?}").contains(&format!("{kid:?}")), "{command:?}");
            assert_eq!(config.port, 9000);
        }
        parse(&["user", "show", "-hans@example.org", "--json"]).unwrap();
        assert!(parse(&["key", "revoke", "--help"]).unwrap_err().to_string().contains("Usage"));
    }

    #[test]
    fn keygen_works_while_the_settings_do_not() {
        let broken = [("PORTCULLIS_SIGNING_ALGORITHM".to_string(), "HS256".to_string())].into();
        assert!(parse_from(["portcullis"], &broken, None).is_err());
        assert!(parse_from(["portcullis", "keygen", "--record-key"], &broken, None).is_ok());
    }

    #[test]
    fn help_lists_every_setting_with_its_default() {
        let help = command().render_long_help().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for setting in ALL {
            assert!(help.contains(&format!("--{} <", setting.flag())), "{}", setting.env);
            assert!(help.contains(&format!("[env: {}]", setting.env)), "{}", setting.env);
        }
        assert!(help.contains("[default: 15m]"));
        assert!(!command().render_help().to_string().contains("--grace-time"), "the short help is short");
    }

    #[test]
    fn version_and_mistakes() {
        let version = parse(&["--version"]).unwrap_err().to_string();
        assert_eq!(version.trim(), concat!("portcullis ", env!("CARGO_PKG_VERSION")));
        assert!(matches!(parse(&["--nonsense"]), Err(CliError::Usage(_))));
        assert!(matches!(parse(&["--port", "x"]), Err(CliError::Setting(_))));
    }
}
