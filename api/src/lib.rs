//! entrybook
