//! Rebuilds and checks of read tables that an admin asks for over HTTP.
//!
//! The replica that is asked does it, on a thread of its own, for folding is work, and on connections of
//! its own: signing in never waits for one. How far it is stands in the database, so every replica can tell, and any can cancel
//! it. Ending the server breaks it off; the next rebuild goes on where it was.

use std::time::Duration;

use commands::Origin;
use projections::{
    BookSource, Build, BuildState, Options, Progress, Projection, RebuildError, Rebuilt, Unfinished,
};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    problem::{ApiError, ApiResult, Kind},
    service_events::{self, Undecided},
    state::App,
};

/// One writes and holds the right to build, one reads ahead, and the rest look after both.
const CONNECTIONS: u32 = 6;
/// How long whoever asks waits to hear that it has begun.
const BEGIN: Duration = Duration::from_secs(10);

/// The rebuilds of this replica.
#[derive(Default)]
pub struct Rebuilds {
    running: TaskTracker,
    stop: CancellationToken,
}

impl Rebuilds {
    /// Waits for the end of the server, and then for its rebuilds to be broken off.
    pub async fn run(&self, cancel: CancellationToken) {
        cancel.cancelled().await;
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

/// Begins to rebuild; returns when it is under way, or refuses.
pub async fn start(
    app: &App,
    chosen: Vec<&'static dyn Projection>,
    options: Options,
    origin: Origin,
) -> ApiResult<()> {
    if app.rebuilds().stop.is_cancelled() {
        return Err(ApiError::overloaded());
    }
    let (told, begun) = oneshot::channel();
    let (runtime, working) = (Handle::current(), app.clone());
    app.rebuilds().running.spawn_blocking(move || {
        runtime.block_on(run(working, chosen, options, origin, told));
    });
    match timeout(BEGIN, begun).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(_)) => Err(ApiError::internal("a rebuild ended without a word")),
        // It waits for its turn at the database. How it goes on is told with the projections.
        Err(_) => Ok(()),
    }
}

async fn run(
    app: App,
    chosen: Vec<&'static dyn Projection>,
    options: Options,
    origin: Origin,
    told: oneshot::Sender<ApiResult<()>>,
) {
    let names: Vec<_> = chosen.iter().map(|projection| projection.name()).collect();
    let names = names.join(", ");
    let mut told = Some(told);
    let mut begun = |how| told.take().map(|told| told.send(how));
    if let Err(error) = service_events::rebuild_begins(app.book(), &chosen, options, &origin).await
    {
        begun(Err(error.into()));
        return;
    }
    let (decided, ended) = attempt(&app, &chosen, options, &mut |_| drop(begun(Ok(())))).await;
    let undecided = undecided(&ended, app.rebuilds().stop.is_cancelled());
    service_events::rebuilt(app.book(), &chosen, &decided, undecided, options, &origin).await;
    match ended {
        Ok(()) => drop(begun(Ok(()))),
        Err(Failed::Unavailable(error)) => drop(begun(Err(error))),
        Err(Failed::Rebuild(error)) => {
            if !matches!(error, RebuildError::Cancelled) {
                tracing::warn!(%names, "rebuilding {names} did not come to its end: {error}");
            }
            drop(begun(refusal(error)));
        }
    }
}

enum Failed {
    Unavailable(ApiError),
    Rebuild(RebuildError),
}

async fn attempt(
    app: &App,
    chosen: &[&'static dyn Projection],
    options: Options,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> (Vec<Rebuilt>, Result<(), Failed>) {
    let login = app.background().connect_options().as_ref().clone();
    let pool = match commands::database::connect(login, CONNECTIONS).await {
        Ok(pool) => pool,
        Err(error) => return (Vec::new(), Err(Failed::Unavailable(error.into()))),
    };
    let source = BookSource::new(pool, app.book().keyring().events().clone());
    let rebuilt = projections::rebuild(&source, chosen, options, &app.rebuilds().stop, tell).await;
    source.pool().close().await;
    let (decided, ended) = match rebuilt {
        Ok(decided) => (decided, Ok(())),
        Err(Unfinished { cause, decided }) => (decided, Err(Failed::Rebuild(cause))),
    };
    for one in &decided {
        let (name, outcome) = (one.projection, one.outcome);
        tracing::info!(
            projection = name,
            events = one.events,
            seconds = one.seconds,
            "{name} was built anew from {} events in {:.1} s: {outcome:?}",
            one.events,
            one.seconds
        );
    }
    (decided, ended)
}

/// What became of those that were not decided.
fn undecided(ended: &Result<(), Failed>, server_stops: bool) -> Undecided {
    match ended {
        Err(
            Failed::Unavailable(_)
            | Failed::Rebuild(
                RebuildError::UnderWay(_)
                | RebuildError::FirstBuild(_)
                | RebuildError::NotRegistered(_),
            ),
        ) => Undecided::Refused,
        Err(Failed::Rebuild(RebuildError::Cancelled)) if server_stops => Undecided::Interrupted,
        Err(Failed::Rebuild(RebuildError::Cancelled)) => Undecided::Cancelled,
        Ok(()) | Err(Failed::Rebuild(_)) => Undecided::Failed,
    }
}

/// What an error means to whoever asked. One that comes after it has begun is told as how it ended.
fn refusal(error: RebuildError) -> ApiResult<()> {
    match error {
        RebuildError::UnderWay(name) | RebuildError::Displaced(name) => Err(under_way(
            name,
            "is being rebuilt or checked already; wait for its end, or cancel it",
        )),
        RebuildError::FirstBuild(name) => {
            Err(under_way(name, "is being built for the first time; wait until it is complete"))
        }
        RebuildError::NotRegistered(_) => Err(ApiError::unavailable(error)),
        RebuildError::Database(error) => Err(error.into()),
        RebuildError::Journal(_)
        | RebuildError::Event(_)
        | RebuildError::Contradicted { .. }
        | RebuildError::Busy(_)
        | RebuildError::Cancelled => Ok(()),
    }
}

fn under_way(name: &str, what: &str) -> ApiError {
    ApiError::new(Kind::BuildUnderWay, format!("The projection {name} {what}."))
}

/// The build of this projection, at the version of this binary: the one under way, or the last.
pub async fn of(app: &App, projection: &dyn Projection) -> ApiResult<Option<Build>> {
    let builds = projections::builds(app.background()).await?;
    let is_it =
        |build: &Build| build.name == projection.name() && build.version == projection.version();
    Ok(builds.into_iter().find(is_it))
}

/// Asks whoever rebuilds a projection, this replica or another, to stop. Who asks stands in the book
/// before they are heard.
pub async fn cancel(app: &App, projection: &dyn Projection, origin: &Origin) -> ApiResult<()> {
    // One whose process is gone is under way no more, though nobody has written that down.
    let running = of(app, projection).await?.filter(|build| build.state == BuildState::Running);
    if let Some(build) = running {
        if !build.dry_run {
            service_events::rebuild_cancelled(app.book(), projection, origin).await?;
        }
        if projections::cancel_build(app.background(), projection).await? {
            return Ok(());
        }
    }
    let name = projection.name();
    Err(ApiError::new(
        Kind::NoBuild,
        format!(
            "The projection {name} is not being rebuilt or checked, so there is nothing to cancel."
        ),
    ))
}
