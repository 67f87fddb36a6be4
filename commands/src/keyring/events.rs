//! The key that authenticates events, and from which event on it must have been used.

use proof::EventAuthenticator;
use sqlx::PgPool;

use super::KeyringError;

/// What the database says of the boundary: the last event without a code, and the code over that.
type Boundary = (i64, Option<Vec<u8>>);

/// Reads the boundary, and signs it where nobody has yet.
pub(super) async fn authenticator(
    pool: &PgPool,
    key: &[u8; 32],
) -> Result<EventAuthenticator, KeyringError> {
    let (last, mac) = read(pool).await?;
    let authenticator = EventAuthenticator::new(key, last);
    let mac = match mac {
        Some(mac) => Some(mac),
        None => {
            sign(pool, &authenticator).await?;
            // Another process may have been first.
            read(pool).await?.1
        }
    };
    if mac.is_some_and(|mac| authenticator.is_boundary_mac(&mac)) {
        Ok(authenticator)
    } else {
        Err(KeyringError::MovedBoundary)
    }
}

/// The same of a boundary that was signed; nothing where it was not.
pub(super) async fn read_authenticator(
    pool: &PgPool,
    key: &[u8; 32],
) -> Result<Option<EventAuthenticator>, KeyringError> {
    let (last, mac) = read(pool).await?;
    let authenticator = EventAuthenticator::new(key, last);
    match mac {
        None => Ok(None),
        Some(mac) if authenticator.is_boundary_mac(&mac) => Ok(Some(authenticator)),
        Some(_) => Err(KeyringError::MovedBoundary),
    }
}

async fn read(pool: &PgPool) -> Result<Boundary, KeyringError> {
    let row = sqlx::query_as("SELECT last_without_mac, mac FROM event_authentication")
        .fetch_optional(pool)
        .await;
    match row {
        Ok(row) => row.ok_or(KeyringError::MovedBoundary),
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code());
            let is_missing = code.is_some_and(|code| code == "42P01");
            Err(if is_missing { KeyringError::NotMigrated } else { error.into() })
        }
    }
}

/// Signs the boundary once in the life of a database. Where events carry codes already, it was signed
/// before, and who has taken the signature away wants another boundary to be believed.
async fn sign(pool: &PgPool, authenticator: &EventAuthenticator) -> Result<(), KeyringError> {
    let signed_before: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM events WHERE metadata ? 'mac')
            AND EXISTS (SELECT FROM event_authentication WHERE mac IS NULL)",
    )
    .fetch_one(pool)
    .await?;
    if signed_before {
        return Err(KeyringError::MovedBoundary);
    }
    sqlx::query("UPDATE event_authentication SET mac = $1 WHERE mac IS NULL")
        .bind(authenticator.boundary_mac())
        .execute(pool)
        .await?;
    Ok(())
}
