//! Storage failures. Refusals of the domain are other types: they are answers, these are faults.

use crate::{budgets::OverBudget, hashing::HashError, keyring::KeyringError};

/// The database didn't do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It could not be reached, or the connection broke. If that happened during a write, whether
    /// the write counts is not known, so it must never be repeated blindly.
    #[error("the database is not available: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Others wrote to the same stream again and again.
    #[error("others keep writing to the same stream; try again in a moment")]
    Contended,
    /// An event or a snapshot that this binary can't read.
    #[error("stream {stream} can't be read: {cause}")]
    Unreadable { stream: String, cause: String },
    /// An event that only a newer binary can read. Nothing is wrong with it; what is needed is to
    /// upgrade this one.
    #[error("stream {stream} can't be read: {cause}")]
    Newer { stream: String, cause: String },
    /// An event that could never be a line of the transparency log. Nothing was written.
    #[error(
        "an event of stream {stream} can't be a line of the book, so it was not written: {cause}"
    )]
    Unprovable { stream: String, cause: String },
    #[error("the database can't be brought up to date: {0}")]
    Migration(String),
    /// The book takes no more from whoever asks for a while. Nothing was written.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    #[error("the key ring failed: {0}")]
    Keyring(#[from] KeyringError),
    #[error("an access token could not be signed: {0}")]
    Tokens(#[from] crate::tokens::TokensError),
    #[error("a password could not be hashed: {0}")]
    Hashing(HashError),
    #[error("the database refused a statement: {0}")]
    Database(#[source] sqlx::Error),
}

impl StorageError {
    /// Whether trying again later may help, and nothing is wrong with the request or with us.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended => true,
            Self::Keyring(KeyringError::Database(error)) => is_temporary(error),
            Self::Tokens(error) => error.is_temporary(),
            Self::Keyring(_)
            | Self::OverBudget(_)
            | Self::Hashing(_)
            | Self::Unreadable { .. }
            | Self::Newer { .. }
            | Self::Unprovable { .. }
            | Self::Migration(_)
            | Self::Database(_) => false,
        }
    }
}

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        if is_temporary(&error) { Self::Unavailable(error) } else { Self::Database(error) }
    }
}

/// Whether the error tells of a server that is away, starting, stopping, full or standing by
/// (PostgreSQL, appendix A: classes 08, 53 and 57, and 25006 of a standby).
#[must_use]
pub fn is_temporary(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57"].iter().any(|class| code.starts_with(class))
                || matches!(code.as_ref(), "25006" | "40001" | "40P01")
        }),
        _ => false,
    }
}

/// A full queue is an answer to the caller, `overloaded`; whatever else fails in hashing is a fault.
pub(crate) fn hashing<E: From<StorageError>>(overloaded: E) -> impl FnOnce(HashError) -> E {
    |error| match error {
        HashError::Full { .. } => overloaded,
        fault @ (HashError::Unreadable | HashError::Failed) => StorageError::Hashing(fault).into(),
    }
}
