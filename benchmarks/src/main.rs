//! The benchmark of Entrybook: how fast projections are rebuilt, how fast the book grows, and what a
//! long history costs. `./bench` builds and runs it.
//!
//! Everything is measured in one run, on one made-up history (`entrybook dev history`), on a private
//! PostgreSQL of its own; what is compared is compared on the same rows with the same settings. It
//! writes `results.json` and `BENCHMARKS.md` into `target/bench`; of the proof alone `proof.json` and `BENCHMARKS-PROOF.md`.

mod appending;
mod baseline;
mod book;
mod cluster;
mod disk;
mod growth;
mod lag;
mod limit;
mod machine;
mod measure;
mod plans;
mod proving;
mod rebuilding;
mod report;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use commands::history::Written;
use tracing_subscriber::{Layer as _, filter::Targets, prelude::*};

use crate::{
    book::Book,
    cluster::{Cluster, Database},
    lag::While,
    plans::Notices,
    report::{History, Report, Sequencing, Size},
};

#[derive(Debug, Parser)]
#[command(name = "bench", about = "Measures Entrybook, and writes BENCHMARKS.md")]
struct Arguments {
    /// Events of the longest history; the others have a tenth and a hundredth
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    events: u64,
    /// A hundred thousand at most, and coarsely, to see that it works
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Goes on with a run that was broken off: the history is made again, and what results.json has of it is not
    /// measured again
    #[arg(long = "continue")]
    go_on: bool,
    /// The proof alone, with replay and searches, and neither rebuilds nor appends: its page is BENCHMARKS-PROOF.md
    #[arg(long, value_name = "PART", default_value = "everything")]
    only: Part,
    /// Where everything is written
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    child: Option<Child>,
}

#[derive(Debug, clap::Subcommand)]
enum Child {
    /// Rebuilds projections of the book at DATABASE_URL; the benchmark runs this
    #[command(hide = true)]
    Rebuild { names: Vec<String> },
    /// Writes BENCHMARKS.md anew from results.json, after benchmarks/notes.md was edited
    Page,
}

/// What of it is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    #[default]
    Everything,
    Proof,
}

impl Part {
    fn page(self) -> &'static str {
        match self {
            Self::Everything => "BENCHMARKS.md",
            Self::Proof => "BENCHMARKS-PROOF.md",
        }
    }

    fn results(self) -> &'static str {
        match self {
            Self::Everything => "results.json",
            Self::Proof => "proof.json",
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Scale {
    events: u64,
    only: Part,
    quick: bool,
    seed: u64,
    /// Lines that are replayed by QueryReplay.
    baseline: u64,
    append_seconds: u64,
    append_rounds: usize,
    lag_seconds: u64,
    growth_rounds: usize,
    /// Refreshes of a long session where the history has none.
    long_session: u64,
}

impl Scale {
    fn of(arguments: &Arguments) -> Self {
        let (events, only, seed) = (arguments.events, arguments.only, arguments.seed);
        if arguments.quick {
            Self {
                events: events.min(100_000),
                only,
                quick: true,
                seed,
                baseline: events.min(10_000),
                append_seconds: 1,
                append_rounds: 1,
                lag_seconds: 2,
                growth_rounds: 1,
                long_session: 100,
            }
        } else {
            Self {
                events,
                only,
                quick: false,
                seed,
                baseline: events.min(100_000),
                append_seconds: 10,
                append_rounds: 3,
                lag_seconds: 30,
                growth_rounds: 8,
                long_session: 10_000,
            }
        }
    }

    fn sizes(self) -> [u64; 3] {
        [self.events / 100, self.events / 10, self.events].map(|size| size.max(500))
    }

    /// Long ones are rebuilt once.
    fn runs(self, events: u64) -> usize {
        if self.quick || events > 2_000_000 { 1 } else { 3 }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let notices = Notices::default();
    let to_notices = Targets::new().with_target("sqlx::postgres::notice", tracing::Level::INFO);
    let to_people = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("sqlx", tracing::level_filters::LevelFilter::OFF);
    let people = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(people.with_filter(to_people))
        .with(notices.clone().with_filter(to_notices))
        .init();
    let arguments = Arguments::parse();
    let out = std::path::absolute(&arguments.out)?;
    match &arguments.child {
        Some(Child::Rebuild { names }) => {
            let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
            return rebuilding::child(&url, names).await;
        }
        Some(Child::Page) => return write(&kept(&out, arguments.only)?, &out, arguments.only),
        None => {}
    }
    let scale = Scale::of(&arguments);
    std::fs::create_dir_all(&out)?;
    let data = out.join("postgres");
    if data.exists() {
        // What a run that was broken off has left.
        std::fs::remove_dir_all(&data)?;
    }
    let cluster = Cluster::start(&data).await?;
    let mut report = Report::new(machine::Machine::of(&cluster), scale.seed);
    if arguments.go_on {
        report.go_on_from(kept(&out, scale.only)?, scale.events)?;
    }
    let measured = tokio::select! {
        measured = measure_all(&cluster, scale, &out, &notices, &mut report) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    cluster.stop().await?;
    let _ = std::fs::remove_dir_all(&data);
    // What was measured before something failed took hours, too.
    keep(&report, &out, scale)?;
    write(&report, &out, scale.only)?;
    measured?;
    for missed in report.missed() {
        say(format!("missed: {missed}"));
    }
    // The other targets depend on the machine; this one doesn't.
    let whole: Vec<String> = report.read_whole();
    if !whole.is_empty() {
        bail!(
            "tables that grow are read from end to end, by: {}. Give the statement an index that it can use",
            whole.join("; ")
        );
    }
    Ok(())
}

/// The figures that there are by now.
fn keep(report: &Report, out: &Path, scale: Scale) -> Result<()> {
    Ok(std::fs::write(out.join(scale.only.results()), serde_json::to_string_pretty(report)?)?)
}

fn kept(out: &Path, part: Part) -> Result<Report> {
    let results = out.join(part.results());
    let results = std::fs::read(&results)
        .with_context(|| format!("reading {}; run ./bench first", results.display()))?;
    Ok(serde_json::from_slice(&results)?)
}

/// The page, into a file and for who waits.
fn write(report: &Report, out: &Path, part: Part) -> Result<()> {
    let markdown = match part {
        Part::Everything => report.markdown(),
        Part::Proof => report.proof_alone(),
    };
    std::fs::write(out.join(part.page()), &markdown)?;
    print(&markdown)
}

async fn measure_all(
    cluster: &Cluster,
    scale: Scale,
    out: &Path,
    notices: &Notices,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    // What is missing is told now, and not in an hour.
    cluster.pgbench()?;
    disk::check(&cluster.data_directory().await?, scale)?;
    let mut books: Vec<(Database, Written)> = Vec::new();
    for (nth, events) in scale.sizes().into_iter().enumerate() {
        let database = cluster.create(&format!("bench_{nth}")).await?;
        let written = fill(&database, scale, events, report).await?;
        if nth > 0
            && scale.only == Part::Everything
            && !report.sizes.iter().any(|size| size.events == events)
        {
            rebuild(&database, scale, events, report).await?;
        }
        keep(report, out, scale)?;
        books.push((database, written));
    }
    let (Some((shortest, _)), Some((longest, written))) = (books.first(), books.last()) else {
        bail!("there is no history");
    };
    if scale.only == Part::Proof {
        for (database, written) in books.iter().skip(1) {
            report.proving.push(proving::measure(database, written, out).await?);
            keep(report, out, scale)?;
        }
        report.minutes += began.elapsed().as_secs_f64() / 60.0;
        return Ok(());
    }
    if report.copies.is_empty() {
        say("the limit: a bare scan, and COPY");
        limits(longest, out, report).await?;
        keep(report, out, scale)?;
    }
    if report.baseline.is_empty() {
        say("QueryReplay");
        report.baseline = baseline::measure(longest, scale.baseline).await?;
        keep(report, out, scale)?;
    }
    longest.settle().await?;
    // From here on no step needs another one, so none is lost to one that fails.
    let mut failed = Failed::default();
    for (database, written) in books.iter().skip(1) {
        report.proving.extend(failed.unless(proving::measure(database, written, out).await));
    }
    say("plans");
    let plans = plans::read(longest, notices, book::after(written)).await;
    report.plans = failed.unless(plans).unwrap_or_default();
    let steadily = While::Seconds(scale.lag_seconds);
    let measured = appends(cluster, shortest, scale, report, steadily).await;
    failed.unless(measured);
    keep(report, out, scale)?;
    say("what the history costs");
    report.costs = failed.unless(costs(&books, scale).await).unwrap_or_default();
    keep(report, out, scale)?;
    // Last, as no sound history is left; the other books make room for the rebuild.
    let longest = longest.clone();
    for (database, _) in books.drain(..).take(2) {
        cluster.drop(database).await?;
    }
    say("lag, on the longest history");
    let lags = lag::measure(&longest, "the longest history", steadily).await;
    report.lags.extend(failed.unless(lags));
    say("lag, while all projections are rebuilt");
    let on = "the longest history, while all projections are rebuilt";
    report.lags.extend(failed.unless(lag::measure(&longest, on, While::Rebuilding).await));
    report.minutes += began.elapsed().as_secs_f64() / 60.0;
    failed.or_ok()
}

/// What went wrong, to be told in the end.
#[derive(Default)]
struct Failed(Vec<String>);

impl Failed {
    fn unless<T>(&mut self, measured: Result<T>) -> Option<T> {
        measured
            .inspect_err(|error| {
                say(format!("that failed: {error:#}"));
                self.0.push(format!("{error:#}"));
            })
            .ok()
    }

    fn or_ok(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { bail!("not measured: {}", self.0.join("; ")) }
    }
}

/// Appends by themselves, and their lag.
async fn appends(
    cluster: &Cluster,
    shortest: &Database,
    scale: Scale,
    report: &mut Report,
    steadily: While,
) -> Result<()> {
    // On a copy: what is appended here makes no sound history.
    let copy = cluster.copy(shortest, "bench_appends").await?;
    say("appends against pgbench");
    let (seconds, rounds) = (scale.append_seconds, scale.append_rounds);
    report.appends = appending::measure(cluster, &copy, seconds, rounds).await?;
    say("lag, on a short history");
    report.lags.push(lag::measure(&copy, "a short history", steadily).await?);
    cluster.drop(copy).await
}

/// A book with a history, its journal and its read tables, each timed.
async fn fill(
    database: &Database,
    scale: Scale,
    events: u64,
    report: &mut Report,
) -> Result<Written> {
    say(format!("a history of {events} events"));
    let book = Book::open(database, 8, chrono::DateTime::UNIX_EPOCH).await?;
    let written = book.write_history(events, scale.seed).await?;
    report.histories.push(History {
        events: written.events,
        accounts: written.accounts,
        sessions: written.sessions,
        longest_session: written.display.as_ref().map(|display| display.refreshes),
        seconds: written.elapsed.as_secs_f64(),
        peak_mib: measure::peak_memory(std::process::id()),
    });
    database.settle().await?;
    say("its order");
    let (_, seconds) = measure::timed(book.sequencer.drain()).await?;
    report.sequencing.push(Sequencing { events: written.events, seconds });
    database.settle().await?;
    say("its read tables, for the first time");
    let seconds = rebuilding::first_build(&book.pool, &book).await?;
    report.first_builds.push(Sequencing { events: written.events, seconds });
    book.pool.close().await;
    database.settle().await?;
    // Of the longest in the end.
    report.stored = disk::stored(database).await?;
    Ok(written)
}

/// Each projection by itself, the two that QueryReplay has to show too, and all of them.
async fn rebuild(
    database: &Database,
    scale: Scale,
    events: u64,
    report: &mut Report,
) -> Result<()> {
    let mut rebuilds = Vec::new();
    let mut choices: Vec<Vec<String>> =
        projections::all().iter().map(|one| vec![one.name().to_owned()]).collect();
    choices.push(vec!["users".to_owned(), "sessions".to_owned()]);
    choices.push(Vec::new());
    for names in choices {
        say(format!(
            "rebuilding {}",
            if names.is_empty() { "all".into() } else { names.join(", ") }
        ));
        rebuilds.push(rebuilding::measure(database, &names, scale.runs(events)).await?);
        database.settle().await?;
    }
    report.sizes.push(Size { events, rebuilds });
    Ok(())
}

async fn limits(database: &Database, out: &Path, report: &mut Report) -> Result<()> {
    report.scans.push(limit::scan(database, &[]).await?);
    for stream in ["User", "Session"] {
        report.scans.push(limit::scan(database, &[stream]).await?);
    }
    for projection in projections::all() {
        report.copies.push(limit::copy(database, projection, out).await?);
    }
    Ok(())
}

async fn costs(books: &[(Database, Written)], scale: Scale) -> Result<Vec<growth::Costs>> {
    let mut subjects = Vec::new();
    for (database, written) in books {
        database.settle().await?;
        subjects.push(growth::Subject::open(database, written, scale).await?);
    }
    for _ in 0..scale.growth_rounds {
        for subject in &mut subjects {
            subject.round(50).await?;
        }
    }
    let mut costs = Vec::new();
    for subject in subjects {
        costs.push(subject.close().await);
    }
    Ok(costs)
}

/// Tells whoever waits what is going on.
fn say(text: impl std::fmt::Display) {
    // Nobody need be there to read it.
    let _ = writeln!(std::io::stderr(), "bench: {text}");
}

fn print(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
