//! Claims what the usernames of accounts look like, for those that were made before this was claimed with the
//! name, or by an older binary since.
//!
//! It follows the journal from its beginning, one replica at a time. Looking at an account again changes nothing,
//! so a crash costs nothing but the way from where it was.

use std::time::Duration;

use domain::{UserId, stream};
use projections::{Follower, RecordedEvent};
use sqlx::{Connection, PgConnection};

use crate::{processes, state::App};

/// The name under which the process keeps its place in the journal.
const NAME: &str = "process:claim_lookalikes";
/// How often a replica asks whether it is its turn.
const TURN: Duration = Duration::from_secs(5);
/// How often a place that is idle finds out whether the lock is still held.
const HOLD: Duration = Duration::from_secs(30);

/// Why the process has to begin again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Command(commands::StorageError),
}

/// Runs until it is dropped.
pub(crate) async fn run(app: &App) {
    loop {
        match processes::turn(app.background(), NAME).await {
            Ok(Some(mut lock)) => {
                let _ = follow(app, &mut lock).await.inspect_err(warn);
                let _ = lock.close().await;
            }
            Ok(None) => {}
            Err(error) => warn(&error.into()),
        }
        tokio::time::sleep(TURN).await;
    }
}

fn warn(error: &Interrupted) {
    tracing::warn!("claiming what usernames look like was interrupted and begins again: {error}");
}

/// Follows the journal, as long as the lock is held.
async fn follow(app: &App, lock: &mut PgConnection) -> Result<(), Interrupted> {
    let position = processes::place(lock, NAME).await?;
    let mut follower = Follower::new(app.background().clone(), app.sequencer().head(), position);
    loop {
        tokio::select! {
            events = follower.next_batch() => {
                for event in &events {
                    after(app, event).await?;
                }
            }
            () = tokio::time::sleep(HOLD) => {}
        }
        processes::keep_place(lock, NAME, follower.position()).await?;
    }
}

/// What one line of the book asks for. Which events name an account is told by their names, so that an event of
/// a newer binary stops nothing.
async fn after(app: &App, recorded: &RecordedEvent) -> Result<(), Interrupted> {
    let names = ["UserRegistered", "UserProfileChanged", "UserErased"];
    let is_of_an_account =
        recorded.aggregate_type == stream::USER && names.contains(&recorded.event_type.as_str());
    let Some(user) =
        is_of_an_account.then(|| recorded.aggregate_id.parse::<UserId>().ok()).flatten()
    else {
        return Ok(());
    };
    match app.book().claim_lookalikes(user).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_temporary() => Err(Interrupted::Command(error)),
        // The account keeps its name; another one may look like it.
        Err(error) => {
            tracing::warn!(%user, "what the username of {user} looks like can't be claimed: {error}");
            Ok(())
        }
    }
}
