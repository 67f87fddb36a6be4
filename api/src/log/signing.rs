//! Who signs: one replica, the one that holds an advisory lock, whenever there are new lines.
//!
//! Before it signs, it looks whether what it signed last is still so: the tree must have the same root
//! at that size, the book no fewer lines, and the memory outside of the database must know of nothing
//! newer. What is new is stored in a transaction of its own before anybody is shown it. All of that is
//! done on the connection that holds the lock: who has lost the lock can't store anything.

use std::time::Duration;

use commands::log_keys::next_name;
use projections::transparency;
use proof::Checkpoint;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep};

use super::{
    Known, Log, LogError, Refusal, Refuser, Signed, anchors,
    footing::is_firm,
    memory::{Remembered, disagreement, other_lines},
    reading::{is_damage, newest, root_within},
    refusal::{self, Stopped},
};
use crate::{processes, state::App};

/// The name of the process in the registry, and of its lock.
pub(super) const NAME: &str = "process:sign_log";
/// How long it waits before it asks for the lock again, or begins again.
const TURN: Duration = Duration::from_secs(2);
/// How often a replica looks that has just got the lock, until it has signed for the first time. What is to be signed may still
/// be on its way into the tree, which another process built as well, and a whole interval would be lost.
const FIRST_LOOKS: Duration = Duration::from_millis(200);
/// What looks wrong is looked at once more after that: tables may just have been swapped.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// Signs, whenever it is this replica's turn. One that doesn't know enough leaves it to others.
pub async fn run(app: &App) {
    let mut told = Vec::new();
    loop {
        match is_firm(app, &mut told).await {
            Ok(true) => take_turn(app).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("what the transparency log has signed can't be known: {error}");
            }
        }
        app.lease_news().takeover_or(TURN).await;
    }
}

async fn take_turn(app: &App) {
    match processes::turn(app.background(), NAME).await {
        Ok(Some(mut lock)) => {
            anchors::ask(app).await;
            if let Err(error) = follow(app, &mut lock).await {
                tracing::warn!(
                    "the transparency log could not be signed, and is tried again: {error}"
                );
            }
            let _ = lock.close().await;
        }
        Ok(None) => {}
        Err(error) => tracing::warn!("nobody knows whose turn it is to sign the log: {error}"),
    }
}

/// Signs what is new, as long as the lock is held.
async fn follow(app: &App, lock: &mut PgConnection) -> Result<(), LogError> {
    let pause = app.settings().log_interval;
    let began = Instant::now();
    while began.elapsed() < pause && matches!(app.log().sign(lock).await?, Outcome::NothingNew) {
        sleep(FIRST_LOOKS.min(pause)).await;
    }
    let mut next = interval_at(Instant::now() + pause, pause);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        app.log().sign(lock).await?;
    }
}

/// Remembers what the others sign, and looks whether this replica knows better.
pub async fn remember(app: &App) {
    let mut next = interval(app.settings().log_interval);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        let done = match app.log().refresh().await {
            Ok(()) => app.log().remember().await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(
                "the checkpoints of the transparency log could not be looked at: {error}"
            );
            sleep(TURN).await;
        }
    }
}

/// What came of a look at the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Signed(Signed),
    /// Everything is signed, or not in the tree yet.
    NothingNew,
    Refused(Refusal),
}

/// What a look has shown.
enum Look {
    New { last: Option<Signed>, checkpoint: Checkpoint },
    NothingNew { size: u64 },
    Wrong(Refuser, String),
}

impl Log {
    /// Signs what is new, if nothing is wrong. `connection` must hold the lock.
    pub async fn sign(&self, connection: &mut PgConnection) -> Result<Outcome, LogError> {
        self.refresh().await?;
        let known = self.known()?;
        let stopped = Stopped::read(connection).await?;
        if let Some(refusal) = stopped.binding(known.origin()) {
            return Ok(Outcome::Refused(refusal));
        }
        let mut transaction = connection.begin().await?;
        sqlx::query("SET LOCAL synchronous_commit = on").execute(&mut *transaction).await?;
        let mut look = self.look_twice(&mut transaction, &known).await?;
        // The event of a hand-over is written before the first checkpoint of the new key, and it is looked again at
        // what is to be signed then.
        let mut signer = None;
        if let Look::New { .. } = look {
            let (key, handed_over) = self.next_signer(&mut transaction, &known).await?;
            signer = Some(key);
            if handed_over > 0 {
                look = self.look_twice(&mut transaction, &known).await?;
            }
        }
        match look {
            Look::Wrong(by, text) => {
                transaction.rollback().await?;
                let since = self.0.book.clock().now();
                let refusal = Refusal { origin: known.origin().to_owned(), by, text, since };
                refusal::write(connection, &refusal).await?;
                Ok(Outcome::Refused(refusal))
            }
            Look::NothingNew { size } => {
                transaction.rollback().await?;
                if stopped.is_there() {
                    tracing::info!("nothing keeps the transparency log from signing any more");
                    stopped.lift(connection, size).await?;
                }
                Ok(Outcome::NothingNew)
            }
            Look::New { last, checkpoint } => {
                let signer = signer.ok_or(LogError::NoKey)?;
                let note = checkpoint.sign(&[&signer])?;
                let permit = self.0.book.keyring().permit();
                let signed = store(&mut transaction, checkpoint, note, permit.as_slice()).await?;
                stopped.lift(&mut transaction, signed.size).await?;
                transaction.commit().await?;
                tracing::debug!(
                    size = signed.size,
                    "signed the checkpoint of {} lines, after that of {}",
                    signed.size,
                    last.map_or(0, |last| last.size)
                );
                self.0.memory.keep(&known, &signed).await;
                Ok(Outcome::Signed(signed))
            }
        }
    }

    /// What would keep it from signing, by a look from here; it changes nothing.
    pub async fn check(&self) -> Result<Option<(Refuser, String)>, LogError> {
        let known = self.known()?;
        let mut connection = self.0.background.acquire().await?;
        Ok(match self.look_twice(&mut connection, &known).await? {
            Look::Wrong(by, text) => Some((by, text)),
            Look::New { .. } | Look::NothingNew { .. } => None,
        })
    }

    /// Says what the database alone shows to be wrong, where this replica signs nothing that would show it.
    pub(super) async fn tell_damage(&self) -> Result<(), LogError> {
        match self.check().await? {
            Some((by @ Refuser::Tree, text)) => self.refuse(by, &text).await,
            Some((Refuser::Memory | Refuser::Witness, _)) | None => Ok(()),
        }
    }

    /// Looks again where something is wrong: tables may just have been swapped.
    async fn look_twice(
        &self,
        connection: &mut PgConnection,
        known: &Known,
    ) -> Result<Look, LogError> {
        match self.look(connection, known).await? {
            Look::Wrong(..) => {
                sleep(AGAIN).await;
                self.look(connection, known).await
            }
            look => Ok(look),
        }
    }

    async fn look(&self, connection: &mut PgConnection, known: &Known) -> Result<Look, LogError> {
        // The memory first: it is written after the table.
        let remembered = self.0.memory.read(known).await?;
        let last = match newest(connection, known).await {
            Err(error @ LogError::Unsigned { .. }) => {
                return Ok(Look::Wrong(Refuser::Tree, unsigned(known.origin(), &error)));
            }
            last => last?,
        };
        if let Some(text) = self.chain(connection).await?.1.wrong(known.origin()) {
            let text = format!("{text} {}", choices(known.origin()));
            return Ok(Look::Wrong(Refuser::Tree, text));
        }
        match examine(connection, known, &remembered, last).await {
            // A hash that should be there isn't, or the like.
            Err(LogError::Tree(error)) if is_damage(&error) => {
                let text = format!(
                    "The tree of the log {0} can't be read: {error}. `entrybook projections rebuild transparency --repair` builds it \
                     again from the book. {1}",
                    known.origin(),
                    choices(known.origin())
                );
                Ok(Look::Wrong(Refuser::Tree, text))
            }
            other => other,
        }
    }
}

/// Whether all that was signed still holds, and what is to be signed next.
async fn examine(
    connection: &mut PgConnection,
    known: &Known,
    remembered: &Remembered,
    last: Option<Signed>,
) -> Result<Look, LogError> {
    let origin = known.origin();
    if let Some(text) = disagreement(origin, remembered, last.as_ref()) {
        return Ok(Look::Wrong(Refuser::Memory, text));
    }
    let wrong =
        |text: String| Ok(Look::Wrong(Refuser::Tree, format!("{text} {}", choices(origin))));
    let size = transparency::size(connection).await?;
    if let Some(last) = &last {
        let lines: i64 = sqlx::query_scalar("SELECT coalesce(max(position), 0) FROM journal")
            .fetch_one(&mut *connection)
            .await?;
        if u64::try_from(lines).unwrap_or(0) < last.size {
            return wrong(format!(
                "The book has {lines} lines, and the log {origin} has signed {}: lines were deleted.",
                last.size
            ));
        }
        if size < last.size {
            // It is being built.
            return Ok(Look::NothingNew { size: last.size });
        }
        if transparency::root(connection, last.size).await? != last.root {
            return wrong(changed(origin, last.size));
        }
    }
    if let (Remembered::Checkpoint(before), Some(last)) = (remembered, &last)
        && before.size < last.size
    {
        match root_within(connection, last, before.size).await? {
            None => return wrong(changed(origin, last.size)),
            Some(root) if root != before.root => {
                let text = other_lines(origin, before, last.size);
                return Ok(Look::Wrong(Refuser::Memory, text));
            }
            Some(_) => {}
        }
    }
    let signed = last.as_ref().map_or(0, |last| last.size);
    if size <= signed {
        return Ok(Look::NothingNew { size: signed });
    }
    let root = transparency::root(connection, size).await?;
    if let Some(last) = &last {
        let path = transparency::prove_consistency(connection, size, last.size).await?;
        if !proof::is_consistent(path, size, root, last.size, last.root) {
            return wrong(changed(origin, last.size));
        }
    }
    let checkpoint = Checkpoint { origin: origin.to_owned(), size, root };
    Ok(Look::New { last, checkpoint })
}

/// The newest row of the table is not what the log has signed.
pub(super) fn unsigned(origin: &str, error: &LogError) -> String {
    let removed = match error {
        LogError::Unsigned { origin, size } => format!(" with: {}", removal(origin, *size)),
        _ => String::new(),
    };
    format!(
        "In the newest row of the table of checkpoints, {error}. Nothing of it is believed. A row that was never signed can be removed by \
         whoever owns the table, and it signs again{removed}. One that was signed and changed is restored from a backup. {}",
        choices(origin)
    )
}

/// What takes a row away from a table that nobody takes rows from.
fn removal(origin: &str, size: i64) -> String {
    let origin = origin.replace('\'', "''");
    format!(
        "BEGIN; ALTER TABLE checkpoints DISABLE TRIGGER append_only; DELETE FROM checkpoints WHERE origin = '{origin}' AND size = {size}; \
         ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER append_only; COMMIT"
    )
}

fn changed(origin: &str, size: u64) -> String {
    format!(
        "The tree of the log {origin} is not the one of which {size} lines were signed: rows of it were changed, or lines of \
         the book were. `entrybook audit verify` says which; if it is the tree alone, `entrybook projections rebuild transparency --repair` \
         makes it again from the book."
    )
}

/// What may be done when nothing is signed any more.
pub(super) fn choices(origin: &str) -> String {
    format!(
        "Nothing is signed any more, and signing in goes on. Choose: restore the backup that has all of it; or, if it is lost, \
         begin a new log with `entrybook log begin --origin {}` and tell those who verify the old one.",
        next_name(origin)
    )
}

async fn store(
    connection: &mut PgConnection,
    checkpoint: Checkpoint,
    note: Vec<u8>,
    permit: &[u8],
) -> Result<Signed, sqlx::Error> {
    let Checkpoint { origin, size, root } = checkpoint;
    let signed_at = sqlx::query_scalar(
        "INSERT INTO checkpoints (origin, size, root, note, permit) VALUES ($1, $2, $3, $4, $5)
         RETURNING signed_at",
    )
    .bind(&origin)
    .bind(i64::try_from(size).map_err(|error| sqlx::Error::Encode(error.into()))?)
    .bind(root.0.as_slice())
    .bind(&note)
    .bind(permit)
    .fetch_one(connection)
    .await?;
    Ok(Signed { origin, size, root, note, signed_at, cosignatures: Vec::new() })
}
