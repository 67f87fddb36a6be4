//! Erasing a person, from the API, a page or the command line, and the receipt for it.
//!
//! What is erased, and how, is `commands`' business. Here is what can be shown to somebody else
//! afterwards: the line of the book that says it, signed, with the proof that it is in the transparency
//! log (`proof::ErasureReceipt`).

use chrono::{DateTime, Utc};
use commands::{Account, DAMAGED, Entrybook, Origin, Receipt, StorageError};
use domain::{UserId, stream};
use projections::{
    BookSource,
    journal::{self, JournalError, RecordedEvent},
    transparency,
};
use proof::{ErasureReceipt, LeafError};
use sqlx::PgPool;

use crate::{
    admins::{Lookup, TakeAwayError, take_away},
    log::{Log, LogError},
    problem::ApiError,
};

/// Why there is no receipt, where there should be one.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("line {0} of the book should tell of the erasure, and doesn't")]
    OtherEvent(i64),
    #[error("line {position} of the book can't be proved: {cause}")]
    Leaf { position: i64, cause: LeafError },
    #[error(
        "line {0} of the book is not the one that was signed, so no receipt is signed of it: run `entrybook audit verify`"
    )]
    NotAsSigned(i64),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<ReceiptError> for ApiError {
    fn from(error: ReceiptError) -> Self {
        match error {
            ReceiptError::Log(error) => error.into(),
            ReceiptError::Storage(error) => error.into(),
            ReceiptError::Journal(JournalError::Database(error)) => error.into(),
            error => Self::internal(error),
        }
    }
}

/// An erasure that stands in the book.
#[derive(Debug, Clone)]
pub struct Erasure {
    /// The line that says it, and when it was written; nothing until the book is put in order.
    pub line: Option<(i64, DateTime<Utc>)>,
    /// Nothing until the log has signed a checkpoint over that line.
    pub receipt: Option<ErasureReceipt>,
}

/// Erases a person, unless no admin would remain. Nothing, where they were erased before.
pub async fn erase(
    book: &Entrybook,
    id: UserId,
    origin: &Origin,
    lookup: Lookup,
) -> Result<Option<Receipt>, TakeAwayError> {
    take_away(book, id, origin, lookup, book.erase(id, origin)).await
}

/// What is typed to confirm that an account is meant: its username, or where nobody can read that any
/// more, its id.
#[must_use]
pub fn name_to_type(account: &Account) -> String {
    match account.username.as_str() {
        "" | DAMAGED => account.id.to_string(),
        username => username.to_owned(),
    }
}

/// How the erasure of a person stands; nothing if they are not erased.
pub async fn of(
    book: &Entrybook,
    log: &Log,
    pool: &PgPool,
    id: UserId,
) -> Result<Option<Erasure>, ReceiptError> {
    if !book.user(id).await?.erased {
        return Ok(None);
    }
    let waiting = Erasure { line: None, receipt: None };
    // Nothing happens to an account after it, so it is the last line of its stream.
    let source = BookSource::new(pool.clone(), book.keyring().events().clone());
    let Some(position) = journal::last_line_of(&source, stream::USER, &id.to_string()).await?
    else {
        return Ok(Some(waiting));
    };
    let Some(event) = journal::read_one(pool, position).await? else {
        return Ok(Some(waiting));
    };
    if event.event_type != "UserErased"
        || event.aggregate_type != stream::USER
        || event.aggregate_id != id.to_string()
    {
        return Err(ReceiptError::OtherEvent(position));
    }
    let line = Some((event.position, event.recorded_at));
    Ok(Some(Erasure { line, receipt: receipt(log, id, &event).await? }))
}

async fn receipt(
    log: &Log,
    id: UserId,
    event: &RecordedEvent,
) -> Result<Option<ErasureReceipt>, ReceiptError> {
    if log.verifier_keys().is_empty() {
        // It has not begun.
        return Ok(None);
    }
    let position = u64::try_from(event.position).unwrap_or(0);
    let Some(proof) = log.proof(position).await? else { return Ok(None) };
    let leaf = transparency::leaf(event).to_bytes();
    let leaf = leaf.map_err(|cause| ReceiptError::Leaf { position: event.position, cause })?;
    let (origin, hash) = (log.origin()?, proof::hash_of(&leaf));
    // The line may have been changed since: nothing else is signed than what was.
    proof
        .verify(hash, &origin, &log.verifier_keys())
        .map_err(|_| ReceiptError::NotAsSigned(event.position))?;
    let erasure = proof::Erasure {
        origin,
        user: id.to_string(),
        position,
        recorded_at: event.recorded_at,
        leaf: hash,
    };
    let note = erasure.sign(&log.signer().await?).map_err(LogError::from)?;
    Ok(Some(ErasureReceipt {
        note,
        event: String::from_utf8_lossy(&leaf).into_owned(),
        proof: proof.to_text(),
    }))
}
