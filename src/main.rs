//! The `portcullis` binary: reads the command line and runs until told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use portcullis::app::{self, App};
use portcullis::cli::{self, Command};
use portcullis::config::Config;
use portcullis::keyring::Keyring;
use portcullis::store::Store;
use portcullis::telemetry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let (command, config) = match cli::parse() {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    match run(command, config) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portcullis: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(command: Command, config: Config) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve => serve(config).await,
        Command::Migrate => migrate(config).await,
        Command::Keygen(arguments) => cli::keygen::run(&arguments),
        Command::Key(arguments) => cli::key::run(&arguments, &config).await,
        Command::Stats(arguments) => cli::stats::run(&arguments, &config).await,
        Command::Doctor(arguments) => cli::doctor::run(&arguments, config).await,
        other => match other.of_operator() {
            Some(command) => cli::operator::run(command, &config).await,
            None => anyhow::bail!("this subcommand has nothing behind it"),
        },
    }
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    telemetry::start_logging(&config.log, &config.log_format)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !config.throttling {
        tracing::warn!("PORTCULLIS_THROTTLING is off: nothing limits guesses and floods");
    }
    // Before the start, so that a signal during it is not lost.
    let (stop, hangup) = (stop_on_signals()?, signal(SignalKind::hangup())?);
    let app = App::start(config).await?;
    tokio::spawn(read_keys_again(app.keyring().clone(), hangup));
    let (listener, address) = app.listen().await?;
    tracing::info!(%address, "listening");
    eprintln!("Portcullis {} is open: http://{address}/", env!("CARGO_PKG_VERSION"));
    app.notes().iter().for_each(|note| eprintln!("  {note}"));
    app.serve(listener, stop).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn migrate(config: Config) -> anyhow::Result<ExitCode> {
    let store = Store::open(&app::store_config(&config)).await?;
    let applied = store.migrate().await?;
    println!("{}: {applied} migrations applied", store.kind());
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// SIGHUP: keys are read again from where the settings say, files included. All other settings stay as they are.
async fn read_keys_again(keyring: Arc<Keyring>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let outcome = match cli::parse() {
            Ok((_, config)) => keyring.reload(&config).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = outcome {
            let error = format!("{error:#}");
            tracing::error!(error, "failed to read the keys again; mend it and send SIGHUP once more");
        }
    }
}

/// The first SIGTERM or SIGINT drains, the second cuts.
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !first {
                eprintln!("portcullis: cut by a second signal");
                std::process::exit(130);
            }
            stopping.cancel();
        }
    });
    Ok(stop)
}
