//! What the tests share.

pub mod browser;
pub mod database;
pub mod held;
pub mod http;
pub mod next_build;
pub mod raw;
pub mod reading;
pub mod ready_proxy;
pub mod replica;
pub mod server;
pub mod shared;
pub mod tools;

/// A directory of the test's own that an unprivileged PostgreSQL may enter; it goes with the value.
pub fn scratch() -> tempfile::TempDir {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().prefix("entrybook-test-").permissions(open).tempdir_in("/tmp").unwrap()
}
