//! The keys that sign the checkpoints of the transparency log: made, wrapped, read, and in what order
//! they sign.
//!
//! A log has a name, its *origin*, which is fixed when it begins and never changes. Its keys form one
//! row in time, as those of tokens do: of those that have begun the last one signs. None of them is
//! ever forgotten, because what an older one has signed is to be checked for as long as the log is
//! kept. `retired_at` is for people: a key with one signs no more from then on.
//!
//! There is one present log, that of the key that was made last. A new one is begun where the old one
//! can't go on: where the database was restored from an older backup, and what was signed since is
//! lost. Its name is another, so that nobody takes it for the old one.
//!
//! What the wrapping authenticates beside the seed is the name of the log and the key's id, so nobody
//! who can write to the table makes a key sign for another log.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use zeroize::Zeroizing;

use crate::{
    Entrybook,
    clock::Entropy,
    keyring::{Keyring, KeyringError, NewKey, primitives},
};

/// The longest name of a log, in bytes. It stands in every checkpoint.
pub const MAX_ORIGIN: usize = 255;

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum LogKeysError {
    #[error(
        "{0:?} can't be the name of a log: write 1 to {MAX_ORIGIN} printable characters without \
         spaces and without a plus, such as login.example.org/log"
    )]
    InvalidOrigin(String),
    #[error("there was a log of the name {taken} already; take another one, such as {free}")]
    Taken { taken: String, free: String },
    #[error("the transparency log has not begun yet; it does when `entrybook serve` is started")]
    NotBegun,
    #[error("the key {id} was made already and signs from {signs_from} on; wait until then")]
    Pending { id: String, signs_from: DateTime<Utc> },
    #[error(
        "the key {id} of the transparency log was changed in the database; restore its row of \
         log_keys from a backup"
    )]
    Damaged { id: String },
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error("the keys of the transparency log could not be read: {0}")]
    Database(#[from] sqlx::Error),
}

/// A key of a log at its place in time.
#[derive(Clone)]
pub struct LogKey {
    /// The id of the key as signed notes have it: eight hexadecimal digits.
    pub id: String,
    pub origin: String,
    pub created_at: DateTime<Utc>,
    pub signs_from: DateTime<Utc>,
    pub retired_at: Option<DateTime<Utc>>,
    seed: Zeroizing<[u8; 32]>,
}

impl LogKey {
    /// The secret: the seed of an Ed25519 key (RFC 8032).
    #[must_use]
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    #[must_use]
    pub fn is_retired(&self, now: DateTime<Utc>) -> bool {
        self.retired_at.is_some_and(|at| at <= now)
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({} of {}, …)", self.id, self.origin)
    }
}

/// The keys of the present log, those that begin first in front. There is at least one.
#[derive(Debug, Clone)]
pub struct LogKeys {
    keys: Vec<LogKey>,
    origin: String,
    /// The id of the key that the log began with, which tells it from any other log of its name.
    first: String,
}

impl LogKeys {
    /// The keys of the present log, or nothing if none has begun.
    pub async fn read(
        connection: &mut PgConnection,
        keyring: &Keyring,
    ) -> Result<Option<Self>, LogKeysError> {
        let mut keys = open(
            connection,
            keyring,
            "WHERE origin = (SELECT origin FROM log_keys ORDER BY created_at DESC, id LIMIT 1)",
        )
        .await?;
        let Some(LogKey { origin, id, .. }) = keys.first() else { return Ok(None) };
        let (origin, first) = (origin.clone(), id.clone());
        keys.sort_by(|a, b| (a.signs_from, &a.id).cmp(&(b.signs_from, &b.id)));
        Ok(Some(Self { keys, origin, first }))
    }

    /// The keys of all logs that this book ever had, the oldest first: what the earlier ones have signed is
    /// still to be checked.
    pub async fn of_all_logs(
        connection: &mut PgConnection,
        keyring: &Keyring,
    ) -> Result<Vec<LogKey>, LogKeysError> {
        open(connection, keyring, "").await
    }

    /// The same as [`read`](Self::read), and begins the log where none has begun. However many processes do so at once, one
    /// log begins. Tells whether it was this one.
    pub async fn read_or_begin(
        book: &Entrybook,
        origin: &str,
    ) -> Result<(Self, bool), LogKeysError> {
        let mut connection = book.pool().acquire().await?;
        if let Some(keys) = Self::read(&mut connection, book.keyring()).await? {
            return Ok((keys, false));
        }
        drop(connection);
        check_origin(origin)?;
        let mut transaction = book.pool().begin().await?;
        lock(&mut transaction).await?;
        if let Some(keys) = Self::read(&mut transaction, book.keyring()).await? {
            return Ok((keys, false));
        }
        add(&mut transaction, book, origin, book.clock().now()).await?;
        let keys = Self::read(&mut transaction, book.keyring()).await?;
        transaction.commit().await?;
        Ok((keys.ok_or(LogKeysError::NotBegun)?, true))
    }

    /// Begins a new log, which signs from now on. The old one signs nothing more.
    pub async fn begin(book: &Entrybook, origin: &str) -> Result<Self, LogKeysError> {
        check_origin(origin)?;
        let mut transaction = book.pool().begin().await?;
        lock(&mut transaction).await?;
        let is_taken = async |name: &str, connection: &mut PgConnection| {
            let asked = sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM log_keys WHERE origin = $1)
                     OR EXISTS (SELECT FROM checkpoints WHERE origin = $1)",
            );
            asked.bind(name.to_owned()).fetch_one(connection).await
        };
        if is_taken(origin, &mut transaction).await? {
            let mut free = next_name(origin);
            while is_taken(&free, &mut transaction).await? {
                free = next_name(&free);
            }
            return Err(LogKeysError::Taken { taken: origin.to_owned(), free });
        }
        add(&mut transaction, book, origin, book.clock().now()).await?;
        let keys = Self::read(&mut transaction, book.keyring()).await?;
        transaction.commit().await?;
        keys.ok_or(LogKeysError::NotBegun)
    }

    /// Makes a new key of the present log, which signs after that time.
    pub async fn rotate(book: &Entrybook, after: TimeDelta) -> Result<Self, LogKeysError> {
        let mut transaction = book.pool().begin().await?;
        lock(&mut transaction).await?;
        let now = book.clock().now();
        let keys = Self::read(&mut transaction, book.keyring()).await?;
        let keys = keys.ok_or(LogKeysError::NotBegun)?;
        if let Some(pending) = keys.keys.iter().find(|key| key.signs_from > now) {
            return Err(LogKeysError::Pending {
                id: pending.id.clone(),
                signs_from: pending.signs_from,
            });
        }
        add(&mut transaction, book, &keys.origin, now + after).await?;
        let keys = Self::read(&mut transaction, book.keyring()).await?;
        transaction.commit().await?;
        keys.ok_or(LogKeysError::NotBegun)
    }

    /// The name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The id of the key that the log began with.
    #[must_use]
    pub fn first_id(&self) -> &str {
        &self.first
    }

    /// When the newest of them was made: later, if more were read.
    #[must_use]
    pub fn made_at(&self) -> Option<DateTime<Utc>> {
        self.keys.iter().map(|key| key.created_at).max()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &LogKey> {
        self.keys.iter()
    }

    /// The key that signs: of those that have begun the last. If none has, the first to begin: it is
    /// better than none where a clock is behind.
    #[must_use]
    pub fn signer(&self, now: DateTime<Utc>) -> Option<&LogKey> {
        let mut usable = self.keys.iter().filter(|key| !key.is_retired(now));
        let first = usable.clone().next();
        usable.rfind(|key| key.signs_from <= now).or(first)
    }
}

/// Whether a text can be the name of a log: it stands as a line in checkpoints, and as the name in
/// signatures and verifier keys (C2SP signed-note).
pub fn check_origin(origin: &str) -> Result<(), LogKeysError> {
    let fits = (1..=MAX_ORIGIN).contains(&origin.len())
        && !origin.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+');
    if fits { Ok(()) } else { Err(LogKeysError::InvalidOrigin(origin.to_owned())) }
}

/// A name for the log after this one: `example.org/log`, `example.org/log2`, `example.org/log3`.
#[must_use]
pub fn next_name(origin: &str) -> String {
    let name = origin.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = origin.strip_prefix(name).and_then(|digits| digits.parse::<u32>().ok());
    match number.and_then(|number| number.checked_add(1)) {
        // Digits behind anything else are a port, or of an address.
        Some(next) if name.ends_with(char::is_alphabetic) => format!("{name}{next}"),
        Some(_) | None => format!("{origin}2"),
    }
}

/// What the wrapping of a key authenticates beside its seed.
pub(crate) fn wrapping_id(origin: &str, id: &str) -> String {
    format!("l:{origin}:{id}")
}

async fn open(
    connection: &mut PgConnection,
    keyring: &Keyring,
    which: &'static str,
) -> Result<Vec<LogKey>, LogKeysError> {
    let rows: Vec<Row> = sqlx::query_as(&format!(
        "SELECT id, origin, wrapped, master_key, created_at, signs_from, retired_at
           FROM log_keys {which} ORDER BY created_at, id"
    ))
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| row.open(keyring)).collect()
}

/// One process at a time makes keys.
async fn lock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('entrybook/log_keys', 0))")
        .execute(connection)
        .await?;
    Ok(())
}

async fn add(
    connection: &mut PgConnection,
    book: &Entrybook,
    origin: &str,
    signs_from: DateTime<Utc>,
) -> Result<(), LogKeysError> {
    let entropy: &dyn Entropy = book.entropy();
    let seed = primitives::random_key(entropy);
    let id = key_id(origin, &seed).ok_or_else(|| LogKeysError::Damaged { id: "new".to_owned() })?;
    let row = book.keyring().wrap(wrapping_id(origin, &id), seed.as_slice());
    sqlx::query(
        "INSERT INTO log_keys (id, origin, wrapped, master_key, signs_from, permit)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&id)
    .bind(origin)
    .bind(&row.wrapped)
    .bind(&row.master_key)
    .bind(signs_from)
    .bind(book.keyring().permit().as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

/// The id of an Ed25519 key in signed notes: four bytes of a hash of its name and its public half.
fn key_id(origin: &str, seed: &[u8; 32]) -> Option<String> {
    const ED25519: u8 = 1;
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
    let digest = Sha256::new()
        .chain_update(origin)
        .chain_update([b'\n', ED25519])
        .chain_update(pair.public_key())
        .finalize();
    Some(primitives::hex(digest.first_chunk::<4>()?))
}

/// A row of `log_keys`.
#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    origin: String,
    wrapped: Vec<u8>,
    master_key: String,
    created_at: DateTime<Utc>,
    signs_from: DateTime<Utc>,
    retired_at: Option<DateTime<Utc>>,
}

impl Row {
    fn open(self, keyring: &Keyring) -> Result<LogKey, LogKeysError> {
        let damaged = || LogKeysError::Damaged { id: self.id.clone() };
        let secret = keyring.unwrap_row(&NewKey {
            id: wrapping_id(&self.origin, &self.id),
            wrapped: self.wrapped.clone(),
            master_key: self.master_key.clone(),
        })?;
        let seed: [u8; 32] = secret.as_slice().try_into().map_err(|_| damaged())?;
        let seed = Zeroizing::new(seed);
        if key_id(&self.origin, &seed).as_deref() != Some(self.id.as_str()) {
            return Err(damaged());
        }
        Ok(LogKey {
            id: self.id,
            origin: self.origin,
            created_at: self.created_at,
            signs_from: self.signs_from,
            retired_at: self.retired_at,
            seed,
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn key(id: &str, signs_from: i64, retired_at: Option<i64>) -> LogKey {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        LogKey {
            id: id.to_owned(),
            origin: "example.org/log".to_owned(),
            created_at: at(0),
            signs_from: at(signs_from),
            retired_at: retired_at.map(at),
            seed: Zeroizing::new([7; 32]),
        }
    }

    /// The example in the documentation of Go's golang.org/x/mod/sumdb/note.
    #[test]
    fn a_key_has_the_id_that_go_gives_it() {
        let secret = STANDARD.decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz").unwrap();
        let seed: [u8; 32] = secret[1..].try_into().unwrap();
        assert_eq!(key_id("PeterNeumann", &seed).unwrap(), "c74f20a3");
        assert_ne!(key_id("another", &seed).unwrap(), "c74f20a3");
    }

    #[test]
    fn the_last_key_that_has_begun_signs() {
        let keys = |keys: &[LogKey]| LogKeys {
            keys: keys.to_vec(),
            origin: "example.org/log".to_owned(),
            first: keys[0].id.clone(),
        };
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        let signer = |of: &LogKeys, now| of.signer(at(now)).map(|key| key.id.clone());
        let two = keys(&[key("a", 10, None), key("b", 20, None)]);
        assert_eq!(signer(&two, 5), Some("a".into()));
        assert_eq!(signer(&two, 19), Some("a".into()));
        assert_eq!(signer(&two, 20), Some("b".into()));
        let retired = keys(&[key("a", 10, Some(15)), key("b", 20, None)]);
        assert_eq!(signer(&retired, 14), Some("a".into()));
        assert_eq!(signer(&retired, 16), Some("b".into()));
        assert_eq!(signer(&keys(&[key("a", 10, Some(15))]), 16), None);
    }

    #[test]
    fn a_name_fits_into_a_line_and_a_signature() {
        for name in ["login.example.org/log", "localhost:8080/log", "ä", &"x".repeat(MAX_ORIGIN)] {
            assert!(check_origin(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a+b", "a\nb", "a\u{7f}", "a\u{a0}b", &"x".repeat(MAX_ORIGIN + 1)] {
            assert!(check_origin(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_next_log_is_numbered() {
        for (name, next) in [
            ("example.org/log", "example.org/log2"),
            ("example.org/log2", "example.org/log3"),
            ("example.org/log19", "example.org/log20"),
            ("localhost:8080", "localhost:80802"),
            ("log4294967295", "log42949672952"),
            ("7", "72"),
        ] {
            assert_eq!(next_name(name), next);
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", key("a", 1, None)), "LogKey(a of example.org/log, …)");
    }
}
