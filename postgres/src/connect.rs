//! How to reach the private PostgreSQL.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Everything a client needs, apart from each other so that no secret has to travel in a URL.
#[derive(Clone, Debug)]
pub struct ConnectParts {
    /// The directory of the Unix socket, as `PgConnectOptions::socket` takes it.
    pub socket_dir: PathBuf,
    /// Part of the socket's name; nothing listens on TCP.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Password,
    /// The database.
    pub database: String,
}

impl ConnectParts {
    /// The same as a URL that sqlx and libpq read. It contains the password: keep it out of logs.
    pub fn url(&self) -> String {
        format!(
            "postgres://{}:{}@localhost:{}/{}?host={}&sslmode=disable",
            percent(self.user.as_bytes()),
            percent(self.password.expose().as_bytes()),
            self.port,
            percent(self.database.as_bytes()),
            percent(self.socket_dir.as_os_str().as_encoded_bytes()),
        )
    }
}

/// A password that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(String);

impl Password {
    /// `secret` must be of letters and digits: it is also written into SQL.
    pub(crate) fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The password itself, to hand to a client.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

fn percent(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_in_the_url_and_not_in_debug() {
        let parts = ConnectParts {
            socket_dir: PathBuf::from("/srv/my data/sö?&"),
            port: 5432,
            user: "entrybook".into(),
            password: Password::new("hunter2".into()),
            database: "entrybook".into(),
        };
        assert!(!format!("{parts:?}").contains("hunter2"));
        assert_eq!(
            parts.url(),
            "postgres://entrybook:hunter2@localhost:5432/entrybook?host=%2Fsrv%2Fmy%20data%2Fs%C3%B6%3F%26&sslmode=disable"
        );
    }
}
