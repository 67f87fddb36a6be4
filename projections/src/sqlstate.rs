//! What PostgreSQL's codes of errors say (PostgreSQL, appendix A).

/// SQLSTATE class XX: internal error, data corrupted, index corrupted.
pub(crate) fn is_corrupt(cause: &sqlx::Error) -> bool {
    let code = cause.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("XX"))
}

/// Whether a lock was not to be had in time, or only by breaking off another transaction.
pub(crate) fn lock_timed_out(cause: &sqlx::Error) -> bool {
    // lock_not_available, deadlock_detected
    cause
        .as_database_error()
        .and_then(|error| error.code())
        .is_some_and(|code| code == "55P03" || code == "40P01")
}
