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

/// Writes down what came of a rebuild; `undecided` says what became of the rest. A check changes
/// nothing, so nothing is written of it.
pub(crate) async fn rebuilt(
    book: &Entrybook,
    chosen: &[&'static dyn Projection],
    decided: &[Rebuilt],
    undecided: &str,
    options: Options,
    origin: &Origin,
) {
    if options.dry_run {
        return;
    }
    let mut outcomes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for projection in chosen {
        let decided = decided.iter().find(|one| one.projection == projection.name());
        let outcome = match decided.map(|one| one.outcome) {
            Some(Outcome::Swapped) => "swapped",
            Some(Outcome::Differs) => "differs",
            Some(Outcome::Compared) => "compared",
            None => undecided,
        };
        outcomes.entry(outcome).or_default().push(projection.name().to_owned());
    }
    for (outcome, projections) in outcomes {
        let event = ServiceEvent::ProjectionsRebuilt {
            projections,
            outcome: outcome.to_owned(),
            repair: options.repair,
        };
        told(book, event, origin).await;
    }
}

/// Writes down which versions of projections were dropped.
pub(crate) async fn pruned(book: &Entrybook, pruned: &[Pruned], origin: &Origin) {
    let dropped: Vec<_> = pruned
        .iter()
        .filter(|one| one.dropped)
        .map(|one| format!("{} version {}", one.name, one.version))
        .collect();
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
