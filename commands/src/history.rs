//! A made-up history, for trying and measuring: a book such as months of real use would leave.
//!
//! It is written by what writes a real one: the domain decides every event, personal data is sealed
//! by the keyring, and the stored forms, the identifiers, the keys and the snapshots are those of the
//! store. Two things differ. Time is simulated ([`simulation`]), and thousands of appends share one
//! transaction ([`writer`]), because a million commits would take the day.
//!
//! One seed makes one history: the same people, ids and times. What is random by its nature (keys,
//! nonces, refresh tokens) is drawn anew.

mod chance;
mod desk;
mod person;
mod simulation;
mod writer;

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::Password;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use self::simulation::Simulation;
use crate::{Entrybook, StorageError, tokens::RefreshToken};

/// The simulated time at which a history begins: a Thursday.
const BEGINNING: i64 = 1_767_225_600;
/// About how much time a history covers, whatever its size: more events are more people.
const SPAN: TimeDelta = TimeDelta::days(90);
/// As many events as one person makes in that time, on average.
const EVENTS_PER_PERSON: u64 = 200;
/// From so many events on there is a wall display, whose one session is refreshed every ten minutes,
/// day and night, so that one stream grows long. In a smaller history it would be most of it.
const DISPLAY_FROM: u64 = 100_000;

/// What history to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub events: u64,
    pub seed: u64,
    /// The people, beside one admin and the display. Not all of them need come in a short history.
    pub people: u32,
}

impl Plan {
    /// A plan with as many people as fit so many events.
    #[must_use]
    pub fn new(events: u64, seed: u64) -> Self {
        let people = (events / EVENTS_PER_PERSON).clamp(5, 5_000_000);
        Self { events, seed, people: u32::try_from(people).unwrap_or(u32::MAX) }
    }
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub events: u64,
    pub of: u64,
    /// The simulated time that is reached.
    pub at: DateTime<Utc>,
    pub elapsed: Duration,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    pub events: u64,
    /// Accounts, the admin and the display included.
    pub accounts: u64,
    pub sessions: u64,
    pub began: DateTime<Utc>,
    pub ended: DateTime<Utc>,
    pub elapsed: Duration,
    /// The session of the wall display, where there is one.
    pub display: Option<Display>,
}

/// The longest session.
#[derive(Debug)]
pub struct Display {
    /// Its refresh token, good at [`Written::ended`] for a month.
    pub token: RefreshToken,
    pub refreshes: u64,
}

/// Who signs in everywhere: the admin, and one of the people.
pub const ADMIN: &str = "admin";

/// The username of one of the people, from 1: the lower the number, the more they do.
#[must_use]
pub fn username(number: u32) -> String {
    format!("person-{number}")
}

/// Why no history was written, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(
        "the book has events already, and nothing is made up in a book that is in use; name an \
         empty database"
    )]
    NotEmpty,
    #[error("another made-up history is being written to this book")]
    Running,
    #[error("a made-up value is not sound: {0}")]
    Value(#[from] domain::InvalidValue),
    #[error("a made-up stream refused an event: {0}")]
    Refused(String),
    #[error("the password could not be hashed: {0}")]
    Hash(#[from] crate::hashing::HashError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<sqlx::Error> for HistoryError {
    fn from(error: sqlx::Error) -> Self {
        Self::Storage(error.into())
    }
}

impl From<crate::keyring::KeyringError> for HistoryError {
    fn from(error: crate::keyring::KeyringError) -> Self {
        Self::Storage(error.into())
    }
}

/// Writes the history that `plan` says into an empty book. All accounts get `password`.
///
/// The journal and the read tables are left to the caller.
pub async fn write(
    book: &Entrybook,
    plan: Plan,
    password: Password,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<Written, HistoryError> {
    let began = Instant::now();
    let only_one = only_one(book).await?;
    // The same hash for everybody, sealed for each.
    let hash = book.hasher().hash(password).await?;
    let (chunks, received) = mpsc::channel(2);
    let simulation = Simulation::new(book.clone(), plan, hash).await?;
    let simulating = tokio::task::spawn_blocking(move || simulation.run(&chunks));
    let writing = writer::write(book, received, |events, at| {
        progress(Progress { events, of: plan.events, at, elapsed: began.elapsed() });
    })
    .await;
    // When writing fails, the channel is closed, and the simulation ends at its next chunk.
    let simulated = simulating.await.map_err(|cause| HistoryError::Refused(cause.to_string()))?;
    only_one.close().await?;
    writing?;
    let mut written = simulated?;
    written.elapsed = began.elapsed();
    Ok(written)
}

/// Makes sure that the book is empty and that nobody else makes one up in it; as long as the
/// connection lives.
async fn only_one(book: &Entrybook) -> Result<PgConnection, HistoryError> {
    let mut connection = book.pool().acquire().await?.detach();
    let locked: bool =
        sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('entrybook dev history'))")
            .fetch_one(&mut connection)
            .await?;
    if !locked {
        return Err(HistoryError::Running);
    }
    let used: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM events) OR EXISTS (SELECT FROM identifiers)",
    )
    .fetch_one(&mut connection)
    .await?;
    if used { Err(HistoryError::NotEmpty) } else { Ok(connection) }
}

fn beginning() -> DateTime<Utc> {
    DateTime::from_timestamp(BEGINNING, 0).unwrap_or_default()
}
