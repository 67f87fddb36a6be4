//! What the history is told of the service: servers, their settings, keys, and what is done to the read
//! tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use commands::{Entrybook, Origin, PROJECTIONS, StorageError};
use domain::{ServerSettings, ServerStart, ServiceEvent};
use projections::{Options, Outcome, Projection, Pruned, Rebuilt};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::state::App;

const PROGRAM: &str = concat!("entrybook ", env!("CARGO_PKG_VERSION"));
/// How often the connection is looked at by which others see that a server lives.
const LOOK: Duration = Duration::from_secs(5);

/// An act of Entrybook itself.
fn system(book: &Entrybook) -> Origin {
    Origin::system(book.ids().uuid_v7().to_string())
}

/// Writes down that this server starts, with what came to be since the last one did. Answers the
/// connection by which others see that it lives.
pub(crate) async fn started(
    app: &App,
    settings: ServerSettings,
) -> Result<PgConnection, StorageError> {
    let book = app.book();
    let origin = system(book);
    // First, so that nobody finds it written down and not alive.
    let presence = book.presence(app.replica()).await?;
    let facts = ServerStart {
        replica: app.replica(),
        program: PROGRAM.to_owned(),
        settings,
        alive: BTreeSet::new(),
    };
    let told = async {
        book.record_migrations(&origin).await?;
        book.record_signing_keys(&origin).await?;
        book.record_start(facts, &origin).await
    };
    match told.await {
        // Who goes back to an older version still lets people sign in.
        Err(cause @ StorageError::Newer { .. }) => {
            tracing::error!("the start of this server could not be written down: {cause}");
        }
        told => told?,
    }
    Ok(presence)
}

/// Keeps up the connection by which others see that this server lives.
pub(crate) async fn stay(app: &App, presence: PgConnection) {
    let mut presence = Some(presence);
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(connection) = &mut presence
            && connection.ping().await.is_err()
        {
            presence = None;
        }
        if presence.is_none() {
            presence = app.book().presence(app.replica()).await.ok();
        }
    }
}

/// Writes down that a server stops. Nothing waits for it: a stop that is missing is told of at the
/// next start.
pub(crate) async fn stopped(book: &Entrybook, replica: Uuid) {
    if let Err(cause) = book.record_stop(replica, &system(book)).await {
        tracing::warn!("the stop of this server could not be written down: {cause}");
    }
}

/// Writes down the signing keys that were made meanwhile, by whichever replica.
pub(crate) async fn signing_keys(book: &Entrybook) {
    if let Err(cause) = book.record_signing_keys(&system(book)).await {
        tracing::warn!("the signing keys could not be written down, and are tried again: {cause}");
    }
}

/// Why what was to be rebuilt was not decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undecided {
    /// Nothing was begun.
    Refused,
    /// Somebody has cancelled it: [`rebuild_cancelled`] has told who.
    Cancelled,
    /// The process that did it was told to stop.
    Interrupted,
    Failed,
}

impl Undecided {
    fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
        }
    }
}

/// Writes down that somebody asks for a rebuild. It is not begun where that can't be done: so one that
/// is killed in the middle stands in the history as well. A check changes nothing, so nothing is
/// written of it, here and below.
pub(crate) async fn rebuild_begins(
    book: &Entrybook,
    chosen: &[&'static dyn Projection],
    options: Options,
    origin: &Origin,
) -> Result<(), StorageError> {
    if options.dry_run {
        return Ok(());
    }
    let projections = chosen.iter().map(|projection| projection.name().to_owned()).collect();
    let event = ServiceEvent::ProjectionsRebuildBegun { projections, repair: options.repair };
    book.record(PROJECTIONS, event, origin).await.map(drop)
}

/// Writes down that somebody asks whoever rebuilds a projection to stop, before they are asked.
pub(crate) async fn rebuild_cancelled(
    book: &Entrybook,
    projection: &dyn Projection,
    origin: &Origin,
) -> Result<(), StorageError> {
    let projections = vec![projection.name().to_owned()];
    let event = ServiceEvent::ProjectionsRebuildCancelled { projections };
    book.record(PROJECTIONS, event, origin).await.map(drop)
}

/// Writes down what came of a rebuild; `undecided` says what became of the rest.
pub(crate) async fn rebuilt(
    book: &Entrybook,
    chosen: &[&'static dyn Projection],
    decided: &[Rebuilt],
    undecided: Undecided,
    options: Options,
    origin: &Origin,
) {
    if options.dry_run {
        return;
    }
    let ours = system(book);
    let mut outcomes: BTreeMap<&str, (&Origin, Vec<String>)> = BTreeMap::new();
    for projection in chosen {
        let decided = decided.iter().find(|one| one.projection == projection.name());
        let (outcome, by) = match (decided.map(|one| one.outcome), undecided) {
            (Some(Outcome::Swapped), _) => ("swapped", origin),
            (Some(Outcome::Differs), _) => ("differs", origin),
            (Some(Outcome::Compared), _) => ("compared", origin),
            // Whoever asked for it need not be who ended it.
            (None, Undecided::Cancelled | Undecided::Interrupted) => (undecided.as_str(), &ours),
            (None, Undecided::Refused | Undecided::Failed) => (undecided.as_str(), origin),
        };
        let told = outcomes.entry(outcome).or_insert((by, Vec::new()));
        told.1.push(projection.name().to_owned());
    }
    for (outcome, (by, projections)) in outcomes {
        let event = ServiceEvent::ProjectionsRebuilt {
            projections,
            outcome: outcome.to_owned(),
            repair: options.repair,
        };
        told(book, event, by).await;
    }
}

/// Writes down that somebody asks for what nobody uses to be dropped, before anything is. `found` is
/// what would be.
pub(crate) async fn prune_begins(
    book: &Entrybook,
    found: &[Pruned],
    origin: &Origin,
) -> Result<(), StorageError> {
    let unused = versions(found.iter().filter(|one| one.kept_because.is_none()));
    if unused.is_empty() {
        return Ok(());
    }
    let event = ServiceEvent::ProjectionsPruneBegun { unused };
    book.record(PROJECTIONS, event, origin).await.map(drop)
}

fn versions<'a>(of: impl Iterator<Item = &'a Pruned>) -> Vec<String> {
    of.map(|one| format!("{} version {}", one.name, one.version)).collect()
}

/// Writes down which versions of projections were dropped.
pub(crate) async fn pruned(book: &Entrybook, pruned: &[Pruned], origin: &Origin) {
    let dropped = versions(pruned.iter().filter(|one| one.dropped));
    if !dropped.is_empty() {
        told(book, ServiceEvent::ProjectionsPruned { dropped }, origin).await;
    }
}

/// It is done already, so a failure is no reason to fail.
async fn told(book: &Entrybook, event: ServiceEvent, origin: &Origin) {
    let name = event.name();
    if let Err(cause) = book.record(PROJECTIONS, event, origin).await {
        tracing::error!("{name} could not be written down: {cause}");
    }
}
