//! The service's own keys, and whether the master key that was given opens what there is.

use sqlx::{PgConnection, PgPool};

use super::{
    KeyringError, MasterKeys, NewKey, data_key, primitives,
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
    for id in SERVICE_KEYS {
        let secret = primitives::random_key(entropy);
        let row = wrap(master, entropy, id.to_owned(), secret.as_slice());
        sqlx::query("INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ($1, $2, $3)")
            .bind(&row.id)
            .bind(&row.wrapped)
            .bind(&row.master_key)
            .execute(&mut *transaction)
            .await?;
    }
    let service = read_service_keys(&mut transaction, master).await?.ok_or_else(missing)?;
    transaction.commit().await?;
    tracing::info!("made the service keys, wrapped by master key {}", master.id());
    Ok(service)
}
