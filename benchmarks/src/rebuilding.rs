//! How long projections take to be built anew, and what memory that takes.
//!
//! Each rebuild runs in a process of its own (this program, with another first argument), so that its
//! peak memory is its own.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use projections::{Options, Outcome, Projection};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{cluster::Database, measure};

/// What one rebuild, of one projection or of all of them, took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rebuild {
    pub(crate) projections: Vec<String>,
    /// The lines of the book.
    pub(crate) events: u64,
    /// Those of them that concern these projections.
    pub(crate) concerning: u64,
    /// The whole of it, comparing and swapping included; the median of the runs.
    pub(crate) seconds: f64,
    pub(crate) runs: Vec<f64>,
    /// Of the median run.
    pub(crate) phases: Vec<(String, f64)>,
    /// The highest of the runs.
    pub(crate) peak_mib: f64,
}

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) seconds: f64,
    phases: Vec<(String, f64)>,
}

/// The projections that are named; all where none is.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<&'static dyn Projection>> {
    if names.is_empty() {
        return Ok(projections::all());
    }
    let named = |name: &String| {
        projections::named(name).with_context(|| format!("there is no projection {name}"))
    };
    names.iter().map(named).collect()
}

/// The child: rebuilds and says how long that took.
pub(crate) async fn child(url: &str, names: &[String]) -> Result<()> {
    let pool = commands::database::connect(url.parse()?, 8).await?;
    let projections = chosen(names)?;
    let source = crate::book::source(&pool).await?;
    let began = Instant::now();
    let cancel = CancellationToken::new();
    let rebuilt =
        projections::rebuild(&source, &projections, Options::default(), &cancel, &mut |_| {})
            .await?;
    let seconds = began.elapsed().as_secs_f64();
    let mut phases: Vec<(String, f64)> = Vec::new();
    for (index, one) in rebuilt.iter().enumerate() {
        if one.outcome != Outcome::Swapped {
            bail!("{} was not swapped: {:?}", one.projection, one.verified);
        }
        for (phase, spent) in &one.phases {
            // The pass that feeds them all is told with each of them.
            let shared = matches!(phase, projections::Phase::Folding | projections::Phase::Copying);
            match phases.iter_mut().find(|(name, _)| name == phase.as_str()) {
                Some((_, sum)) if !shared => *sum += spent,
                Some(_) => {}
                None if index == 0 || !shared => phases.push((phase.as_str().to_owned(), *spent)),
                None => {}
            }
        }
    }
    crate::print(&serde_json::to_string(&Told { seconds, phases })?)
}

/// Rebuilds so many times, each in a process of its own.
pub(crate) async fn measure(database: &Database, names: &[String], runs: usize) -> Result<Rebuild> {
    let mut told = Vec::new();
    let mut peak_mib: f64 = 0.0;
    for _ in 0..runs.max(1) {
        let (one, peak) = run(database, names).await?;
        peak_mib = peak_mib.max(peak);
        told.push(one);
    }
    let runs: Vec<f64> = told.iter().map(|one| one.seconds).collect();
    let seconds = measure::median(&runs);
    let phases = told.into_iter().find(|one| one.seconds == seconds);
    let projections = chosen(names)?;
    let events = database.count("SELECT position FROM sequencer").await?;
    let mut concerning = 0;
    for stream in ["User", "Session", "SignInGuard"] {
        if projections.iter().any(|one| one.concerns(stream)) {
            let sql = format!("SELECT count(*) FROM events WHERE aggregate_type = '{stream}'");
            concerning += database.count(&sql).await?;
        }
    }
    Ok(Rebuild {
        projections: projections.iter().map(|one| one.name().to_owned()).collect(),
        events: events.try_into()?,
        concerning: concerning.try_into()?,
        seconds,
        runs,
        phases: phases.map(|one| one.phases).unwrap_or_default(),
        peak_mib,
    })
}

/// One rebuild in a process of its own, and the peak of its memory in MiB.
pub(crate) async fn run(database: &Database, names: &[String]) -> Result<(Told, f64)> {
    // This very program, even if it was built anew since it was started.
    let same = Path::new("/proc/self/exe");
    let program = if same.exists() { same.to_owned() } else { std::env::current_exe()? };
    let child = tokio::process::Command::new(program)
        .arg("rebuild")
        .args(names)
        .env("DATABASE_URL", database.url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().context("the child has ended already")?;
    let ended = CancellationToken::new();
    let watching = tokio::spawn(watch_memory(pid, ended.clone()));
    let output = child.wait_with_output().await?;
    ended.cancel();
    let peak = watching.await?;
    if !output.status.success() {
        bail!("the rebuild ended with {}", output.status);
    }
    Ok((serde_json::from_slice(&output.stdout)?, peak))
}

/// The peak can be read as long as the process lives, so it is read again and again.
async fn watch_memory(pid: u32, ended: CancellationToken) -> f64 {
    let mut peak: f64 = 0.0;
    while !ended.is_cancelled() {
        peak = peak.max(measure::peak_memory(pid).unwrap_or(0.0));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    peak
}

/// What a first build does: nothing is there to compare with or to swap.
pub(crate) async fn first_build(pool: &PgPool, book: &crate::book::Book) -> Result<f64> {
    let (_, seconds) = measure::timed(book.projector.catch_up()).await?;
    let stopped: i64 =
        sqlx::query_scalar("SELECT count(*) FROM projections WHERE state = 'stopped'")
            .fetch_one(pool)
            .await?;
    if stopped > 0 {
        bail!("a projection is stopped");
    }
    Ok(seconds)
}
