//! entrybook-postgres
