//! Logs and metrics of the process: structured logs by `tracing`, Prometheus text by `metrics`.

use std::io::IsTerminal as _;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::metrics;

/// Bounds of the histograms, in seconds: from a hit in memory to a wait for a slow database.
const BUCKETS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Libraries that print frames, headers or statements at debug and trace: secrets would ride along.
const WIRE_LEVEL_CRATES: &[&str] =
    &["tungstenite", "tokio_tungstenite", "hyper", "hyper_util", "h2", "sqlx", "redis", "rustls", "tower_http"];

/// How often histograms are folded; without it they grow.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Starts logging to standard error: human on a terminal, JSON otherwise, or as `format` says.
///
/// # Errors
/// When `filter` is no filter.
pub fn start_logging(filter: &str, format: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let filter = WIRE_LEVEL_CRATES.iter().try_fold(filter, |filter, name| {
        Ok::<_, anyhow::Error>(filter.add_directive(format!("{name}=info").parse()?))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let human = match format {
        "human" => true,
        "json" => false,
        _ => std::io::stderr().is_terminal(),
    };
    if human {
        builder.with_target(false).init();
    } else {
        builder.json().flatten_event(true).init();
    }
    Ok(())
}

/// The exporter of this process.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

impl Exporter {
    /// Installs the recorder. Must come before any metric handle is made.
    ///
    /// # Errors
    /// When one is installed already.
    pub fn install() -> anyhow::Result<Self> {
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS)?
            .install_recorder()?;
        metrics::describe();
        let process = metrics_process::Collector::default();
        process.describe();
        ::metrics::gauge!(metrics::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle, process })
    }

    /// The metrics as Prometheus text.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Folds histograms for ever.
    pub async fn keep_up(&self) {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            self.handle.run_upkeep();
        }
    }
}
