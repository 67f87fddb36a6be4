//! Keys that come to their end: the months whose retention is over are forgotten by one replica, on
//! schedule, and what any replica has destroyed is forgotten by each at once.

use std::time::Duration;

use chrono::TimeDelta;
use commands::{Entrybook, Origin, StorageError, keyring::Month};
use projections::Destroyed;
use sqlx::Connection;
use tokio::sync::broadcast::error::RecvError;

use crate::{processes::turn, state::App};

/// What the lock of the one replica is called.
const NAME: &str = "process:retention";
/// How often it is looked whether a month is over. At the turn of one it may wait so long.
const EVERY: Duration = Duration::from_secs(3_600);
/// After a failure it is looked again sooner.
const AGAIN: Duration = Duration::from_secs(60);

/// How often it is looked whether something can go on.
const LOOK: Duration = Duration::from_millis(50);

/// Forgets the months whose retention is over, for as long as this process runs.
pub async fn forget_months(app: &App) {
    loop {
        let pause = match forget_due(app).await {
            Ok(()) => EVERY,
            Err(error) => {
                tracing::warn!(
                    "a month whose retention is over could not be forgotten; it is tried again: \
                     {error}"
                );
                AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// One month after the other, the oldest first. Whatever breaks it off, the next one goes on.
async fn forget_due(app: &App) -> Result<(), StorageError> {
    let Some(retention) = app.settings().retention else { return Ok(()) };
    let Some(lock) = turn(app.background(), NAME).await? else { return Ok(()) };
    let done = forget_all_due(app.book(), retention).await;
    let _ = lock.close().await;
    done
}

async fn forget_all_due(book: &Entrybook, retention: TimeDelta) -> Result<(), StorageError> {
    loop {
        let origin = Origin::system(book.ids().uuid_v7().to_string());
        match book.forget_next_month(retention, &origin).await? {
            Some(month) => tracing::info!(
                %month,
                "the retention of {month} is over: its addresses and user agents are forgotten"
            ),
            None => return Ok(()),
        }
    }
}

/// Forgets the keys that the book says are destroyed, whoever destroyed them.
pub async fn forget_keys(app: &App) {
    let mut destroyed = app.revocations().destroyed();
    let keyring = app.book().keyring();
    // A signing key that was retired after the keys were read at the start, and before the feed began to tell of
    // such events, is found by reading them again now that it tells of all that follows.
    while !app.revocations().is_ready() {
        tokio::time::sleep(LOOK).await;
    }
    refresh_signing_keys(app).await;
    loop {
        match destroyed.recv().await {
            Ok(Destroyed::Person(user)) => keyring.forget(user),
            Ok(Destroyed::Month(month)) => {
                if let Ok(month) = month.parse::<Month>() {
                    keyring.forget_month(month);
                }
            }
            Ok(Destroyed::SigningKey(kid)) => app.book().tokens().retire(&kid).await,
            // What was missed may be any of them.
            Err(RecvError::Lagged(_)) => {
                keyring.forget_all();
                refresh_signing_keys(app).await;
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn refresh_signing_keys(app: &App) {
    while let Err(error) = app.book().tokens().refresh_keys().await {
        tracing::warn!("the signing keys could not be read, and are read again: {error}");
        tokio::time::sleep(LOOK).await;
    }
}
