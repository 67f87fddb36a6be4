//! The pass over the book that `rebuild` and `verify` share: made ready, watched, and broken off by a
//! signal.

use super::super::{Exit, Out};
use super::progress::{Step, Telling};
use crate::bootstrap::{Services, Size};
use crate::service_events::Undecided;
use ::projections::{
    Build, BuildState, Options, Outcome, Projection, Projector, ProjectorError, RebuildError,
    Rebuilt, Unfinished, builds, rebuild,
};
use serde::Serialize;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// One writes and holds the right to build, one reads ahead, and the rest look after both.
pub(super) const SIZE: Size = Size { connections: 6, ..Size::ONE_VERB };
/// How often a first build is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What was decided, and how the work ended.
pub(super) struct Ended {
    pub(super) rebuilt: Vec<Rebuilt>,
    /// What became of the rest, if there is one.
    pub(super) undecided: Undecided,
    pub(super) how: How,
}

pub(super) enum How {
    Done,
    BrokenOff(Exit, BrokenOff),
    Failed(anyhow::Error),
}

/// What was left when the work was broken off.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "broken_off")]
pub(super) struct BrokenOff {
    pub(super) message: String,
    /// What was decided before that, by name.
    pub(super) decided: Vec<Decided>,
}

#[derive(Debug, Serialize)]
pub(super) struct Decided {
    projection: String,
    state: BuildState,
}

impl From<&Rebuilt> for Decided {
    fn from(rebuilt: &Rebuilt) -> Self {
        let state = match rebuilt.outcome {
            Outcome::Swapped => BuildState::Swapped,
            Outcome::Compared => BuildState::Compared,
            Outcome::Differs => BuildState::Differs,
        };
        Self { projection: rebuilt.projection.to_owned(), state }
    }
}

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code that the next one asks for.
    pub(super) async fn next(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::Interrupted,
            _ = self.terminate.recv() => Exit::Terminated,
        }
    }
}

/// An error, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{words}")]
struct Advised {
    words: String,
    source: anyhow::Error,
}

/// Folds the book beside the chosen projections. The first signal breaks it off in good order, the
/// second at once.
pub(super) async fn fold(
    services: &Services,
    signals: &mut Signals,
    chosen: &[&'static dyn Projection],
    options: Options,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<Ended> {
    let names: Vec<_> = chosen.iter().map(|projection| projection.name()).collect();
    let earlier = builds(&services.pool).await?;
    let cancel = CancellationToken::new();
    let mut asked = None;
    let mut at_once = false;
    // Whoever has begun holds the right to build these: what is decided of them is this run's.
    let begun = AtomicBool::new(false);
    let result = {
        let mut telling = Telling::new(&names, json, out);
        let work = async {
            make_ready(services, chosen, &cancel, &mut telling).await?;
            let mut tell = |progress: &_| {
                begun.store(true, Ordering::Relaxed);
                telling.tell(&Step::from(progress));
            };
            Ok(rebuild(&services.source(), chosen, options, &cancel, &mut tell).await?)
        };
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => break result,
                signal = signals.next() => match asked {
                    None => {
                        asked = Some(signal);
                        cancel.cancel();
                    }
                    Some(_) => {
                        at_once = true;
                        break Err(RebuildError::Cancelled.into());
                    }
                },
            }
        }
    };
    let error: anyhow::Error = match result {
        Ok(rebuilt) => {
            return Ok(Ended { rebuilt, undecided: Undecided::Failed, how: How::Done });
        }
        Err(error) => error,
    };
    let (error, rebuilt) = match error.downcast::<Unfinished>() {
        Ok(Unfinished { cause, decided }) => (cause.into(), decided),
        Err(error) => (error, Vec::new()),
    };
    let mut decided: Vec<_> = rebuilt.iter().map(Decided::from).collect();
    // Broken off at once, nothing was handed over; and where the database failed, the last may have
    // come to its end all the same.
    let unheard = at_once || matches!(error.downcast_ref(), Some(RebuildError::Database(_)));
    if unheard && begun.load(Ordering::Relaxed) {
        let written = decided_since(services, chosen, &earlier).await;
        let new: Vec<_> = written
            .into_iter()
            .filter(|one| decided.iter().all(|known| known.projection != one.projection))
            .collect();
        decided.extend(new);
    }
    let undecided = match (asked, error.downcast_ref()) {
        (Some(_), Some(RebuildError::Cancelled)) => Undecided::Interrupted,
        (None, Some(RebuildError::Cancelled)) => Undecided::Cancelled,
        (
            _,
            Some(
                RebuildError::UnderWay(_)
                | RebuildError::FirstBuild(_)
                | RebuildError::NotRegistered(_),
            ),
        ) => Undecided::Refused,
        _ => Undecided::Failed,
    };
    let how = match (asked, error.downcast_ref()) {
        (Some(exit), Some(RebuildError::Cancelled)) => {
            let message = cancelled(chosen, &decided, options);
            How::BrokenOff(exit, BrokenOff { message, decided })
        }
        (_, cause) => {
            let mut words = unfinished(&error, cause);
            if let Some(before) = told(&decided) {
                words = format!("{words} {before}");
            }
            How::Failed(Advised { words, source: error }.into())
        }
    };
    Ok(Ended { rebuilt, undecided, how })
}

/// Brings the journal and the live tables up to date: without a server nobody else does, and a
/// projection that was never complete can't be rebuilt.
async fn make_ready(
    services: &Services,
    chosen: &[&'static dyn Projection],
    cancel: &CancellationToken,
    telling: &mut Telling<'_>,
) -> anyhow::Result<()> {
    let catching_up = async {
        services.sequencer.drain().await?;
        for projection in chosen.iter().copied() {
            let head = services.sequencer.head();
            let projector = Projector::new(services.source(), vec![projection], head);
            match projector.catch_up().await {
                // Where it stands it can be compared; the rebuild meets the same line, and names it.
                Ok(()) | Err(ProjectorError::Stopped { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::Ok(())
    };
    tokio::pin!(catching_up);
    loop {
        tokio::select! {
            done = &mut catching_up => return done,
            () = cancel.cancelled() => return Err(RebuildError::Cancelled.into()),
            () = tokio::time::sleep(LOOK) => {
                let running = builds(&services.pool).await?;
                let of_chosen = |build: &&Build| {
                    build.state == BuildState::Running && chosen.iter().any(|one| is_of(build, *one))
                };
                for build in running.iter().filter(of_chosen) {
                    telling.tell(&Step::of_first(build));
                }
            }
        }
    }
}

fn is_of(build: &Build, projection: &dyn Projection) -> bool {
    build.name == projection.name() && build.version == projection.version()
}

/// What was decided since then, as the database has it; nothing, where it can't be asked.
async fn decided_since(
    services: &Services,
    chosen: &[&'static dyn Projection],
    earlier: &[Build],
) -> Vec<Decided> {
    let now = builds(&services.pool).await.unwrap_or_default();
    let is_new = |build: &Build| {
        let before =
            earlier.iter().find(|one| one.name == build.name && one.version == build.version);
        before.is_none_or(|before| before.started_at != build.started_at)
    };
    now.into_iter()
        .filter(|build| chosen.iter().any(|one| is_of(build, *one)) && is_new(build))
        .filter(|build| {
            matches!(build.state, BuildState::Swapped | BuildState::Compared | BuildState::Differs)
        })
        .map(|build| Decided { projection: build.name, state: build.state })
        .collect()
}

fn told(decided: &[Decided]) -> Option<String> {
    let each = decided.iter().map(|one| {
        let what = match one.state {
            BuildState::Swapped => "was swapped in",
            BuildState::Differs => "was found to differ",
            _ => "was found equal",
        };
        format!("{} {what}", one.projection)
    });
    let each = each.collect::<Vec<_>>().join(", ");
    (!each.is_empty()).then(|| format!("Before that {each}."))
}

fn cancelled(chosen: &[&'static dyn Projection], decided: &[Decided], options: Options) -> String {
    let left: Vec<_> = chosen
        .iter()
        .map(|one| one.name())
        .filter(|name| decided.iter().all(|decided| decided.projection != *name))
        .collect();
    let left = left.join(" ");
    let again = if options.dry_run {
        format!("entrybook projections verify {left}")
    } else {
        format!("entrybook projections rebuild {left}")
    };
    let mut words = format!(
        "Broken off. The live tables serve as before. What was built stays for a day, and the next run goes on where this one was: {again}"
    );
    if let Some(before) = told(decided) {
        words = format!("{words}\n{before}");
    }
    words
}

/// What to do after the database has failed.
fn after(failure: &sqlx::Error, goes_on: bool) -> &'static str {
    let code = failure.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        // insufficient_privilege
        Some("42501") => {
            "A right is missing, which waiting doesn't mend: see `entrybook doctor`, let `entrybook migrate` grant what is missing, and see who owns \
             the tables in schema ledger. The next run begins anew."
        }
        Some(code) if code.starts_with("XX") => {
            "The database reports damage of its own: see its log and its disks before anything else. The next run begins anew."
        }
        _ if goes_on => "Run it again when the database is well: it goes on where it was.",
        _ => {
            "Run again, it fails in the same way until that is mended: see `entrybook doctor` and the log of the database. The next run begins anew."
        }
    }
}

/// An error of the projections, and what to do.
pub(super) fn advised(error: RebuildError) -> anyhow::Error {
    let error = error.into();
    let words = unfinished(&error, error.downcast_ref());
    Advised { words, source: error }.into()
}

/// What happened, and what to do.
fn unfinished(error: &anyhow::Error, cause: Option<&RebuildError>) -> String {
    let cause = match cause {
        Some(cause) => cause,
        None => return super::super::exit::words(error),
    };
    let serve = "The live tables serve as before.";
    match cause {
        RebuildError::Database(failure) => {
            let next = after(failure, cause.leaves_good_tables());
            format!("It was not done, because {cause}. {serve} {next}")
        }
        RebuildError::Journal(_) => format!(
            "It was not done: {cause}. {serve} See what is wrong with the journal: entrybook projections verify journal"
        ),
        RebuildError::Event(_) => format!(
            "It was not done, because {cause}. {serve} Run the version of Entrybook that wrote that event, or a newer one."
        ),
        RebuildError::UnderWay(_) => {
            format!("Nothing was begun: {cause}. See how far it is: entrybook projections status")
        }
        RebuildError::FirstBuild(_) => format!("Nothing was begun: {cause}."),
        RebuildError::Displaced(_) => format!(
            "It was not done: {cause}. {serve} See how far that is: entrybook projections status"
        ),
        RebuildError::Cancelled => format!(
            "Somebody cancelled it, on the page or over the API. {serve} The next rebuild goes on where it was."
        ),
        RebuildError::NotRegistered(_)
        | RebuildError::Contradicted { .. }
        | RebuildError::Busy(_) => format!("It was not done: {cause}."),
    }
}
