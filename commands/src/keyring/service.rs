//! The service's own keys, and whether the master key that was given opens what there is.

use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{
    KeyringError, MasterKeys, NewKey, data_key,
    primitives::{self, KeyBytes},
    sealing::{KeyRef, SealingKey},
    wrap,
};
use crate::clock::Entropy;

/// The service's own keys. They are made together, at the first start, and never again: what is
/// needed later is derived from `s:service`.
const SERVICE_KEYS: [&str; 3] = ["s:index", "s:operators", "s:service"];

pub(super) struct ServiceKeys {
    pub(super) index: SealingKey,
    pub(super) operators: SealingKey,
    pub(super) service: SealingKey,
}

impl ServiceKeys {
    /// A secret for one purpose.
    pub(super) fn secret(&self, purpose: &str) -> KeyBytes {
        self.service.derive(&["entrybook/service/v1\0", purpose])
    }

    pub(super) fn permit(&self) -> KeyBytes {
        self.secret("write permit")
    }

    /// What of the permit stands in the database.
    pub(super) fn permit_hash(&self) -> Vec<u8> {
        Sha256::digest(self.permit().as_slice()).to_vec()
    }
}

/// Whether our permit is the one of this database; it becomes so where there is none.
pub(super) async fn admit_permit<'a>(
    executor: impl PgExecutor<'a>,
    service: &ServiceKeys,
) -> Result<bool, KeyringError> {
    let admitted = sqlx::query_scalar("SELECT admit_write_permit($1)")
        .bind(service.permit_hash())
        .fetch_one(executor)
        .await?;
    Ok(admitted)
}

/// The service's keys, or nothing if the database has none of them.
pub(super) async fn read_service_keys(
    connection: &mut PgConnection,
    master: &MasterKeys,
) -> Result<Option<ServiceKeys>, KeyringError> {
    let rows: Vec<(String, Vec<u8>, String)> =
        sqlx::query_as("SELECT id, wrapped, master_key FROM sealing_keys WHERE id = ANY($1)")
            .bind(SERVICE_KEYS.as_slice())
            .fetch_all(connection)
            .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let rows: Vec<NewKey> = rows.into_iter().map(NewKey::from).collect();
    let key = |id: &str| {
        let row = rows
            .iter()
            .find(|row| row.id == id)
            .ok_or_else(|| KeyringError::MissingServiceKeys { ids: id.to_owned() })?;
        let name = id.trim_start_matches("s:").to_owned();
        Ok::<_, KeyringError>(SealingKey::new(KeyRef::Service(name), data_key(master, row)?))
    };
    let [index, operators, service] = SERVICE_KEYS;
    Ok(Some(ServiceKeys { index: key(index)?, operators: key(operators)?, service: key(service)? }))
}

/// A key that another master key wraps: of a person, a month, or one that signs. Three looks into an
/// index, however many keys there are.
const WRAPPED_BY_ANOTHER: &str = r#"
SELECT master_key FROM (
    (SELECT master_key FROM sealing_keys WHERE master_key COLLATE "C" < $1
      ORDER BY master_key COLLATE "C" LIMIT 1)
    UNION ALL
    (SELECT master_key FROM sealing_keys WHERE master_key COLLATE "C" > $1 AND master_key COLLATE "C" < $2
      ORDER BY master_key COLLATE "C" LIMIT 1)
    UNION ALL
    (SELECT master_key FROM sealing_keys WHERE master_key COLLATE "C" > $2
      ORDER BY master_key COLLATE "C" LIMIT 1)
    UNION ALL SELECT master_key FROM signing_keys WHERE master_key NOT IN ($1, $2)
    UNION ALL SELECT master_key FROM log_keys WHERE master_key NOT IN ($1, $2)
) AS others LIMIT 1"#;

/// A change of the master key that was broken off leaves keys of both. Who starts with one of them alone
/// would fail later, for some people and not for others.
pub(super) async fn refuse_others(pool: &PgPool, master: &MasterKeys) -> Result<(), KeyringError> {
    let (first, last) = master.in_order();
    let other: Option<String> =
        sqlx::query_scalar(WRAPPED_BY_ANOTHER).bind(first).bind(last).fetch_optional(pool).await?;
    match other {
        Some(expected) => Err(KeyringError::WrongMasterKey { expected, given: master.ids() }),
        None => Ok(()),
    }
}

/// Makes the service's keys under a lock, so that of two processes that start together the second
/// finds the keys of the first.
pub(super) async fn make_service_keys(
    pool: &PgPool,
    master: &MasterKeys,
    entropy: &dyn Entropy,
) -> Result<ServiceKeys, KeyringError> {
    let mut transaction = pool.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('entrybook/sealing_keys', 0))")
        .execute(&mut *transaction)
        .await?;
    if let Some(service) = read_service_keys(&mut transaction, master).await? {
        return Ok(service);
    }
    let missing = || KeyringError::MissingServiceKeys { ids: SERVICE_KEYS.join(", ") };
    // A new index key in a book that has begun would make every account unfindable.
    let begun: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM sealing_keys) OR EXISTS (SELECT FROM events)",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if begun {
        return Err(missing());
    }
    let [index, operators, service] = SERVICE_KEYS.map(|id| {
        let name = id.trim_start_matches("s:").to_owned();
        SealingKey::new(KeyRef::Service(name), primitives::random_key(entropy))
    });
    let service = ServiceKeys { index, operators, service };
    if !admit_permit(&mut *transaction, &service).await? {
        return Err(KeyringError::ForeignPermit);
    }
    for key in [&service.index, &service.operators, &service.service] {
        let row = wrap(master, entropy, key.id(), key.secret());
        sqlx::query(
            "INSERT INTO sealing_keys (id, wrapped, master_key, permit) VALUES ($1, $2, $3, $4)",
        )
        .bind(&row.id)
        .bind(&row.wrapped)
        .bind(&row.master_key)
        .bind(service.permit().as_slice())
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    tracing::info!("made the service keys, wrapped by master key {}", master.id());
    Ok(service)
}
