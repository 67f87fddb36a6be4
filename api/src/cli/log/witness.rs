//! `entrybook log witness`: cosigns the checkpoints of other machines' logs.

use super::super::{Out, Refused, serve::Stop, serve::bind, usage};
use crate::witness::{self, Witness, WitnessError};
use anyhow::Context;
use commands::clock::{SystemClock, SystemEntropy};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A verifier key of a log to watch, as `entrybook log key` prints it there. Give each key of each log
    #[arg(long = "log-key", value_name = "KEY", required_unless_present = "show_key")]
    log_keys: Vec<String>,
    /// Where it listens. The server of the log must reach it
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// The directory of its key and of what it remembers. Made when missing
    #[arg(long, value_name = "DIR", default_value = "witness")]
    state: PathBuf,
    /// What it is called in its cosignatures, at its first start. Default: the name of this machine
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print its own verifier key, which is made if it is new, and end
    #[arg(long)]
    show_key: bool,
}

pub(super) async fn run(arguments: &Arguments, out: &mut Out) -> anyhow::Result<()> {
    if arguments.show_key
        && let Some(verifier) = Witness::known(&arguments.state).map_err(told)?
    {
        // Also while it runs.
        return Ok(out.line(verifier)?);
    }
    let stop = Stop::listen()?;
    // First, so that a port in use is found before anything is made.
    let listener = if arguments.show_key { None } else { Some(bind(arguments.listen).await?) };
    let witness = Witness::open(
        &arguments.state,
        arguments.name.as_deref(),
        &arguments.log_keys,
        Arc::new(SystemClock),
        &SystemEntropy,
    )
    .map_err(told)?;
    let Some(listener) = listener else {
        return Ok(out.line(witness.verifier())?);
    };
    out.line(format!("Witness {}", witness.verifier()))?;
    for (origin, keys, size) in witness.logs() {
        let keys = if keys == 1 { "1 key".to_owned() } else { format!("{keys} keys") };
        out.line(format!("watches {origin} ({keys}), cosigned up to line {size}"))?;
    }
    let address = listener.local_addr()?;
    out.line(format!("It listens on {address}"))?;
    tracing::info!(%address, "the witness {} listens on {address}", witness.verifier().name());
    let stopped = stop.asked.clone().cancelled_owned();
    tokio::select! {
        served = witness::serve(listener, Arc::new(witness), stopped) => served.context("The witness failed"),
        () = stop.at_once.cancelled() => Ok(()),
    }
}

/// What the operator can do something about.
fn told(error: WitnessError) -> anyhow::Error {
    match error {
        WitnessError::LogKey(_) | WitnessError::Name(_) | WitnessError::OtherName { .. } => {
            usage(format!("{error}."))
        }
        WitnessError::InUse(_) | WitnessError::Key(_) | WitnessError::Memory { .. } => {
            Refused(format!("Not started: {error}.")).into()
        }
        WitnessError::Io { .. } => error.into(),
    }
}
