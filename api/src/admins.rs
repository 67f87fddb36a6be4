//! That somebody remains who can manage accounts: whatever takes an admin away asks here first, by
//! whichever way it comes.

use std::time::Duration;

use commands::{By, CommandError, Entrybook, Origin, Receipt, StorageError};
use domain::{Role, UserId, stream};
use projections::users;
use sqlx::{Postgres, Transaction};

use crate::problem::{ApiError, Kind};

/// Of so many admins one is looked for who may still sign in.
const CANDIDATES: i64 = 100;
/// Others who take an admin away are waited for: so long, with a look every so often.
const WAIT: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

/// Where the other admins are looked for. Who is one is told by their own stream either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// In the list of accounts, which may be behind.
    List,
    /// In the book itself, where the list can't be relied upon: all events of accounts are read.
    Book,
}

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
/// Two admins who take each other's away at once must not both find the other there: one at a time. Who
/// is no admin may become one while they are taken away, and must not be found there meanwhile: that is
/// done side by side, but not beside an admin's.
pub async fn take_away(
    book: &Entrybook,
    id: UserId,
    origin: &Origin,
    lookup: Lookup,
    act: impl Future<Output = Result<Option<Receipt>, CommandError>>,
) -> Result<Option<Receipt>, TakeAwayError> {
    let alone = is_admin(book, id).await?;
    let turn = turn(book, alone).await?;
    // Only now nobody's being an admin is taken away but by us.
    if is_admin(book, id).await? {
        if !alone {
            return Err(TakeAwayError::Busy);
        }
        if !another_remains(book, id, origin, lookup).await? {
            return Err(TakeAwayError::LastAdmin);
        }
    }
    let done = act.await?;
    turn.commit().await?;
    Ok(done)
}

/// A turn, held by a transaction that writes nothing, on a connection that waits for nobody.
async fn turn(
    book: &Entrybook,
    alone: bool,
) -> Result<Transaction<'static, Postgres>, TakeAwayError> {
    let statement = if alone {
        "SELECT pg_try_advisory_xact_lock(hashtextextended('entrybook/admins', 0))"
    } else {
        "SELECT pg_try_advisory_xact_lock_shared(hashtextextended('entrybook/admins', 0))"
    };
    let mut waited = Duration::ZERO;
    loop {
        let mut turn = book.pool().begin().await?;
        if sqlx::query_scalar::<_, bool>(statement).fetch_one(&mut *turn).await? {
            // The act may take its time; the lock must not be gone before it is done.
            sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0")
                .execute(&mut *turn)
                .await?;
            return Ok(turn);
        }
        turn.rollback().await?;
        if waited >= WAIT {
            return Err(TakeAwayError::Busy);
        }
        tokio::time::sleep(LOOK).await;
        waited += LOOK;
    }
}

/// Whether anybody else is an admin who can sign in: who acts, most of the time. Else it is looked up who
/// may be; their own streams tell who is.
async fn another_remains(
    book: &Entrybook,
    besides: UserId,
    origin: &Origin,
    lookup: Lookup,
) -> Result<bool, TakeAwayError> {
    if let By::User(actor) = origin.by
        && actor != besides
        && is_admin(book, actor).await?
    {
        return Ok(true);
    }
    let candidates = match lookup {
        Lookup::List => users::admins(book.pool(), CANDIDATES).await?,
        Lookup::Book => ever_admins(book).await?,
    };
    for id in candidates {
        if id != besides && is_admin(book, id).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Who was ever made an admin, by what the book says.
async fn ever_admins(book: &Entrybook) -> Result<Vec<UserId>, sqlx::Error> {
    let ids: Vec<String> = sqlx::query_scalar(
        r#"SELECT DISTINCT aggregate_id FROM events
            WHERE aggregate_type = $1
              AND (payload @> '{"UserRoleGranted": {"role": "admin"}}'
                   OR payload @> '{"UserRegistered": {"roles": ["admin"]}}')"#,
    )
    .bind(stream::USER)
    .fetch_all(book.pool())
    .await?;
    Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
}

async fn is_admin(book: &Entrybook, id: UserId) -> Result<bool, StorageError> {
    let user = book.user(id).await?;
    Ok(user.roles.contains(&Role::Admin) && !user.disabled && !user.erased)
}
