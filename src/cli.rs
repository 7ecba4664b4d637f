//! The command line: subcommands, and every setting as a flag. Parses; runs nothing of the gateway itself.

pub mod doctor;
pub mod key;
pub mod keygen;
pub mod stats;

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::layers::Texts;
use crate::config::settings::{ALL, Fallback, Group, Setting};
use crate::config::{Config, ConfigError};
pub use key::KeyArgs;
pub use keygen::KeygenArgs;
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
    for level in [Some(&matches), matches.subcommand().map(|(_, matches)| matches)].into_iter().flatten() {
        for setting in ALL {
            if let Some(text) = level.get_one::<String>(setting.env) {
                flags.insert(setting.env.to_string(), text.clone());
            }
        }
    }
    let config = Config::load(&flags, environment, dotenv)?;
    Ok((command, config))
}

/// The whole command line. The settings are accepted before and after the subcommand.
fn command() -> clap::Command {
    ["serve", "migrate", "key", "stats", "doctor"]
        .into_iter()
        .fold(Cli::command(), |cli, name| cli.mut_subcommand(name, |sub| sub.args(ALL.iter().map(|s| flag(s)))))
        .args(ALL.iter().map(|setting| flag(setting)))
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
