//! Logs, on standard error: standard output is for what a verb answers.
//!
//! Personal data and secrets do not reach the log: their types do not print themselves, statements are logged without their values, and
//! requests by their route and id.

use crate::config::{Config, LogFormat};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Begins to log. `usual` is the filter where none is set.
pub fn start(config: &Config, usual: &str) {
    let terminal = stderr().is_terminal();
    let format =
        config.log_format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let filter = config.log.as_deref().unwrap_or(usual);
    // Checked when the settings were read.
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(usual));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(stderr);
    // A second start, as in tests, changes nothing.
    let _ = match format {
        LogFormat::Pretty => {
            let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
            logs.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}
