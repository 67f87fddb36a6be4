//! That somebody remains who can manage accounts: whatever takes an admin away asks here first, by
//! whichever way it comes.

use commands::{By, CommandError, Entrybook, Origin, Receipt, StorageError};
use domain::{Role, UserId};
use projections::users;

use crate::problem::{ApiError, Kind};

/// Of so many admins one is looked for who may still sign in.
const CANDIDATES: i64 = 100;

/// Why an admin was not taken away.
#[derive(Debug, thiserror::Error)]
pub enum TakeAwayError {
    #[error("nobody else is an admin who can sign in")]
    LastAdmin,
    #[error("somebody else is taking an admin away at this moment")]
    Busy,
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl From<StorageError> for TakeAwayError {
    fn from(error: StorageError) -> Self {
        Self::Command(error.into())
    }
}

impl From<sqlx::Error> for TakeAwayError {
    fn from(error: sqlx::Error) -> Self {
        StorageError::from(error).into()
    }
}

impl From<TakeAwayError> for ApiError {
    fn from(error: TakeAwayError) -> Self {
        match error {
            TakeAwayError::LastAdmin => Self::new(
                Kind::LastAdmin,
                "Nobody else is an admin who can sign in. Make somebody else an admin first.",
            ),
            TakeAwayError::Busy => Self::new(
                Kind::Contended,
                "Somebody else is changing who is an admin at this moment. Try again.",
            ),
            TakeAwayError::Command(error) => error.into(),
        }
    }
}

/// Does what ends somebody's being an admin, if another one remains; of somebody who is none, just does it.
///
/// Two admins who take each other's away at once must not both find the other there: one at a time.
pub async fn take_away(
    book: &Entrybook,
    id: UserId,
    origin: &Origin,
    act: impl Future<Output = Result<Option<Receipt>, CommandError>>,
) -> Result<Option<Receipt>, TakeAwayError> {
    if !is_admin(book, id).await? {
        return Ok(act.await?);
    }
    // It is held by a transaction that writes nothing, and nobody waits for it.
    let mut turn = book.pool().begin().await?;
    let ours: bool = sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtextextended('entrybook/admins', 0))",
    )
    .fetch_one(&mut *turn)
    .await?;
    if !ours {
        return Err(TakeAwayError::Busy);
    }
    if !another_remains(book, id, origin).await? {
        return Err(TakeAwayError::LastAdmin);
    }
    let done = act.await?;
    turn.commit().await?;
    Ok(done)
}

/// Whether anybody else is an admin who can sign in: who acts, most of the time. Else the list tells who
/// may be, and may be behind; their own streams tell who is.
async fn another_remains(
    book: &Entrybook,
    besides: UserId,
    origin: &Origin,
) -> Result<bool, TakeAwayError> {
    if let By::User(actor) = origin.by
        && actor != besides
        && is_admin(book, actor).await?
    {
        return Ok(true);
    }
    for id in users::admins(book.pool(), CANDIDATES).await? {
        if id != besides && is_admin(book, id).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn is_admin(book: &Entrybook, id: UserId) -> Result<bool, StorageError> {
    let user = book.user(id).await?;
    Ok(user.roles.contains(&Role::Admin) && !user.disabled && !user.erased)
}
