//! What the tests share.

pub mod database;
pub mod http;
pub mod raw;
pub mod server;
pub mod shared;

/// A directory of the test's own that an unprivileged PostgreSQL may enter; it goes with the value.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("entrybook-test-").tempdir_in("/tmp").unwrap()
}
