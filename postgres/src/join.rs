//! Connecting to a private PostgreSQL that another process keeps.

use crate::cluster::APPLICATION;
use crate::connect::ConnectParts;
use crate::error::Error;
use crate::place::{PORT, recorded};
use std::path::Path;

/// How to reach the private PostgreSQL of `data_dir` while another process runs it: what a second process does after
/// [`Error::InUse`]. None while that process is still making the database for the first time.
///
/// # Errors
///
/// [`Error::RecordDamaged`], or [`Error::Io`] when the record may not be read: it is for the account that started Entrybook alone.
pub fn join(data_dir: &Path) -> Result<Option<ConnectParts>, Error> {
    let Some((record, home)) = recorded(data_dir)? else {
        return Ok(None);
    };
    if !record.initialised {
        return Ok(None);
    }
    Ok(Some(ConnectParts {
        socket_dir: record.short_socket_dir.unwrap_or_else(|| home.join("socket")),
        port: PORT,
        user: APPLICATION.to_owned(),
        password: record.password,
        database: APPLICATION.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_recorded_is_what_one_connects_with() {
        let dir = tempfile::tempdir().unwrap();
        assert!(join(dir.path()).unwrap().is_none());

        let record = dir.path().join("private-postgres.json");
        fs::write(&record, r#"{"initialised": false, "password": "p", "superuser_password": "s"}"#)
            .unwrap();
        assert!(join(dir.path()).unwrap().is_none());

        fs::write(&record, r#"{"initialised": true, "password": "p", "superuser_password": "s"}"#)
            .unwrap();
        let parts = join(dir.path()).unwrap().unwrap();
        assert_eq!(parts.password.expose(), "p");
        assert_eq!(parts.socket_dir, dir.path().canonicalize().unwrap().join("postgres/socket"));
    }
}
