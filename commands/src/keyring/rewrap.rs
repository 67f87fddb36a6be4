//! Changing the master key while servers run: each key is opened with the one that wrapped it, and
//! wrapped by the one that wraps now. The keys themselves stay, so no value is sealed anew.
//!
//! It works on a connection of the login that owns the tables: the application may not change a key,
//! because who can may destroy one and leave no trace.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{Keyring, KeyringError, NewKey};
use crate::{log_keys, tokens};

/// Keys of one batch: a transaction of some milliseconds.
const BATCH: i64 = 500;

/// What was wrapped anew: the id of the row, as it was wrapped, and as it is.
const SEALING: &str = "
UPDATE sealing_keys AS k SET wrapped = n.wrapped, master_key = $4
  FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (id, was, wrapped)
 WHERE k.id = n.id AND k.wrapped = n.was";
const SIGNING: &str = "
UPDATE signing_keys AS k SET wrapped = n.wrapped, master_key = $4
  FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (id, was, wrapped)
 WHERE k.kid = n.id AND k.wrapped = n.was";
const LOG: &str = "
UPDATE log_keys AS k SET wrapped = n.wrapped, master_key = $4
  FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS n (id, was, wrapped)
 WHERE k.id = n.id AND k.wrapped = n.was";

const SIGNING_ROWS: &str = "
SELECT kid, algorithm, wrapped, master_key FROM signing_keys WHERE master_key <> $1 FOR UPDATE";
const LOG_ROWS: &str = "
SELECT id, origin, wrapped, master_key FROM log_keys WHERE master_key <> $1 FOR UPDATE";

/// What the wrapping of a key that signs authenticates: more than the id of its row.
type BoundTo = fn(&str, &str) -> String;

/// One change of the master key, under way.
pub struct Rewrap<'a> {
    keyring: &'a Keyring,
    connection: PgConnection,
    /// The id of the last key that was looked at.
    after: String,
}

/// The keys that tokens and checkpoints are signed with, wrapped anew and not committed yet.
pub struct LastBatch<'a> {
    transaction: Transaction<'a, Postgres>,
    keys: u64,
}

impl Keyring {
    /// How many keys each master key wraps, by the ids of master keys.
    pub async fn wrapped_by(&self) -> Result<BTreeMap<String, u64>, KeyringError> {
        let counts: Vec<(String, i64)> = sqlx::query_as(
            "SELECT master_key, count(*) FROM (
                 SELECT master_key FROM sealing_keys
                 UNION ALL SELECT master_key FROM signing_keys
                 UNION ALL SELECT master_key FROM log_keys
             ) AS keys GROUP BY master_key",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(counts.into_iter().map(|(id, keys)| (id, u64::try_from(keys).unwrap_or(0))).collect())
    }

    /// The id of the master key that wraps.
    #[must_use]
    pub fn master_key_id(&self) -> &str {
        self.master.id()
    }

    /// Begins to wrap all keys by the present master key. `connection` is one of the tables' owner.
    #[must_use]
    pub fn rewrap(&self, connection: PgConnection) -> Rewrap<'_> {
        Rewrap { keyring: self, connection, after: String::new() }
    }
}

impl Rewrap<'_> {
    /// Wraps some more keys that seal; how many, or nothing if none are left. What is done is done:
    /// who begins again goes on.
    pub async fn some(&mut self) -> Result<Option<u64>, KeyringError> {
        let rows: Vec<(String, Vec<u8>, String)> = sqlx::query_as(
            "SELECT id, wrapped, master_key FROM sealing_keys
              WHERE id > $1 AND master_key <> $2 ORDER BY id LIMIT $3",
        )
        .bind(&self.after)
        .bind(self.keyring.master.id())
        .bind(BATCH)
        .fetch_all(&mut self.connection)
        .await?;
        let Some((last, ..)) = rows.last() else { return Ok(None) };
        self.after.clone_from(last);
        let mut anew = Vec::with_capacity(rows.len());
        for row in rows {
            let row = NewKey::from(row);
            anew.push(Anew::of(self.keyring, row.id.clone(), row)?);
        }
        Ok(Some(write(&mut self.connection, SEALING, anew, self.keyring.master.id()).await?))
    }

    /// Wraps the keys that sign, all at once. They come last, so that the event that tells of the whole
    /// can be written before they are committed: a change that was broken off is told when it ends.
    pub async fn last(&mut self) -> Result<LastBatch<'_>, KeyringError> {
        let (keyring, master) = (self.keyring, self.keyring.master.id());
        let mut transaction = self.connection.begin().await?;
        let mut keys = 0;
        let tables: [(&str, &str, BoundTo); 2] =
            [(SIGNING_ROWS, SIGNING, tokens::wrapping_id), (LOG_ROWS, LOG, log_keys::wrapping_id)];
        for (rows, statement, bound_to) in tables {
            let rows: Vec<(String, String, Vec<u8>, String)> =
                sqlx::query_as(rows).bind(master).fetch_all(&mut *transaction).await?;
            let mut anew = Vec::with_capacity(rows.len());
            for (id, of, wrapped, master_key) in rows {
                let row = NewKey { id: bound_to(&of, &id), wrapped, master_key };
                anew.push(Anew::of(keyring, id, row)?);
            }
            keys += write(&mut transaction, statement, anew, master).await?;
        }
        Ok(LastBatch { transaction, keys })
    }

    /// Ends the connection.
    pub async fn close(self) -> Result<(), KeyringError> {
        Ok(self.connection.close().await?)
    }
}

impl LastBatch<'_> {
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    pub async fn commit(self) -> Result<(), KeyringError> {
        Ok(self.transaction.commit().await?)
    }
}

/// A key that was opened and wrapped again.
struct Anew {
    /// The id of its row.
    id: String,
    was: Vec<u8>,
    wrapped: Vec<u8>,
}

impl Anew {
    fn of(keyring: &Keyring, id: String, row: NewKey) -> Result<Self, KeyringError> {
        let secret = keyring.unwrap_row(&row)?;
        let wrapped = keyring.wrap(row.id, &secret).wrapped;
        Ok(Self { id, was: row.wrapped, wrapped })
    }
}

/// Writes them in one statement. A key that was destroyed meanwhile, or wrapped by somebody else, is
/// left as it is.
async fn write(
    connection: &mut PgConnection,
    statement: &str,
    anew: Vec<Anew>,
    master: &str,
) -> Result<u64, KeyringError> {
    let (mut ids, mut was, mut wrapped) = (Vec::new(), Vec::new(), Vec::new());
    for key in anew {
        ids.push(key.id);
        was.push(key.was);
        wrapped.push(key.wrapped);
    }
    let written = sqlx::query(statement)
        .bind(ids)
        .bind(was)
        .bind(wrapped)
        .bind(master)
        .execute(connection)
        .await?;
    Ok(written.rows_affected())
}
