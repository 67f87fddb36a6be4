//! Why a batch was not applied, and what is said of a projection that is stopped.

use crate::{
    journal::JournalError,
    projection::{CannotApply, Entry, StopKind},
    status::Stopped,
};

#[derive(Debug)]
pub(super) enum BatchError {
    Unregistered,
    Database(sqlx::Error),
    /// The database can't take the rows of these events; the first is named.
    Refused {
        event: Stopped,
        cause: sqlx::Error,
    },
}

impl From<sqlx::Error> for BatchError {
    fn from(cause: sqlx::Error) -> Self {
        Self::Database(cause)
    }
}

/// Tells rows that the database can't take from a database that is in trouble.
pub(super) fn refused(entries: &[Entry], cause: sqlx::Error) -> BatchError {
    match entries.first() {
        Some(entry) if about_rows(&cause) => {
            let event = Stopped::from(&CannotApply::new(&entry.recorded, String::new()));
            BatchError::Refused { event, cause }
        }
        _ => BatchError::Database(cause),
    }
}

pub(crate) fn about_rows(cause: &sqlx::Error) -> bool {
    match cause {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) | sqlx::Error::Decode(_) => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Cardinality, data, integrity, and what does not exist (SQLSTATE classes, PostgreSQL
            // documentation, appendix A).
            ["21", "22", "23", "42"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// Whether a statement was ended by its time limit (57014).
pub(super) fn took_too_long(cause: &sqlx::Error) -> bool {
    let code = cause.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("57014")
}

/// The line after `position` can't even be read.
pub(super) fn unreadable(position: i64, cause: &JournalError) -> Stopped {
    Stopped {
        position: cause.position().unwrap_or(position + 1),
        stream: None,
        event_type: None,
        event_version: None,
        kind: StopKind::UnreadableLine,
        cause: cause.to_string(),
    }
}

/// What is said of a projection that is stopped.
pub(super) fn explain(stopped: &Stopped) -> String {
    format!(
        "{stopped}. Nothing was skipped, and sign-in goes on. Run a version of Entrybook that can \
         apply this event (or mend the table): the projection then goes on by itself"
    )
}
