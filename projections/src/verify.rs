//! Compares read tables with a fold of the whole book, and claimed identifiers with their events.
//!
//! The comparison is at one equal position and holds up nobody: the projection waits only while the
//! copy comes level with it, and rows are then compared in a snapshot.

use std::collections::BTreeMap;

use domain::{Event, SealedIdentifier, UserEvent, UserId, stream};
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::{
    projection::{Generation, Projection, Table},
    rebuild::{Builder, RebuildError, checkpoint},
};

/// How many differing keys are named.
const NAMED: usize = 10;

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub projection: &'static str,
    /// The line at which both were compared.
    pub position: i64,
    pub tables: Vec<TableDifference>,
}

impl Verified {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.missing == 0 && table.surplus == 0)
    }
}

/// How one table differs from the fold. A row that is there with other values counts on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableDifference {
    pub table: &'static str,
    pub rows: i64,
    /// Rows of the fold that the table lacks.
    pub missing: i64,
    /// Rows of the table that the fold lacks.
    pub surplus: i64,
    /// The keys of the first of them.
    pub first_keys: Vec<String>,
}

/// Folds the whole book beside a projection and compares.
pub async fn verify(
    pool: &PgPool,
    projection: &'static dyn Projection,
) -> Result<Verified, RebuildError> {
    let mut builder = Builder::start(pool, projection, Generation::Check).await?;
    let live: i64 =
        sqlx::query_scalar("SELECT position FROM projections WHERE name = $1 AND version = $2")
            .bind(projection.name())
            .bind(projection.version())
            .fetch_optional(pool)
            .await?
            .ok_or(RebuildError::NotRegistered(projection.name()))?;
    builder.fold_until(live).await?;

    // The fence is held while the copy takes the last steps and the snapshot is taken; under it
    // both stand still.
    let mut fence = pool.begin().await?;
    let live = checkpoint(&mut fence, projection).await?;
    builder.fold_until(live).await?;
    let mut snapshot = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *snapshot)
        .await?;
    sqlx::query("SELECT position FROM sequencer").execute(&mut *snapshot).await?;
    fence.rollback().await?;

    let mut tables = Vec::with_capacity(projection.tables().len());
    for table in projection.tables() {
        tables.push(compare(&mut snapshot, table, projection.version()).await?);
    }
    snapshot.rollback().await?;
    builder.discard().await?;
    Ok(Verified { projection: projection.name(), position: live, tables })
}

async fn compare(
    conn: &mut PgConnection,
    table: &Table,
    version: i32,
) -> Result<TableDifference, RebuildError> {
    let live = table.relation(version, Generation::Live);
    let check = table.relation(version, Generation::Check);
    let key = table.key;
    let difference = |one: &str, other: &str| {
        format!("SELECT * FROM ledger.{one} EXCEPT ALL SELECT * FROM ledger.{other}")
    };
    let row = sqlx::query(&format!(
        "WITH missing AS ({missing}), surplus AS ({surplus})
         SELECT (SELECT count(*) FROM ledger.{live}) AS rows,
                (SELECT count(*) FROM missing) AS missing,
                (SELECT count(*) FROM surplus) AS surplus,
                ARRAY(SELECT key FROM (SELECT concat_ws(' ', {key}) AS key FROM missing
                                 UNION SELECT concat_ws(' ', {key}) FROM surplus) AS keys
                       ORDER BY key LIMIT $1) AS first_keys",
        missing = difference(&check, &live),
        surplus = difference(&live, &check),
    ))
    .bind(i64::try_from(NAMED).unwrap_or(i64::MAX))
    .fetch_one(conn)
    .await?;
    Ok(TableDifference {
        table: table.name,
        rows: row.try_get("rows")?,
        missing: row.try_get("missing")?,
        surplus: row.try_get("surplus")?,
        first_keys: row.try_get("first_keys")?,
    })
}

/// How the claimed identifiers differ from a fold of the accounts' events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentifierDifferences {
    pub claims: usize,
    /// Claimed by events, and not in the table, or there for somebody else.
    pub missing: usize,
    /// In the table, and claimed by no events, or by somebody else's.
    pub surplus: usize,
    /// The first of them, as `kind index`.
    pub first_keys: Vec<String>,
    /// Claimed by two accounts at once: what must never be.
    pub doubled: Vec<String>,
}

impl IdentifierDifferences {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.missing == 0 && self.surplus == 0 && self.doubled.is_empty()
    }
}

type Claims = BTreeMap<(&'static str, String), UserId>;

/// Compares the table of claimed identifiers with a fold of all accounts' events, both as of now.
pub async fn verify_identifiers(pool: &PgPool) -> Result<IdentifierDifferences, RebuildError> {
    let mut snapshot = pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *snapshot)
        .await?;
    let mut found = IdentifierDifferences::default();
    let claims = fold_claims(&mut snapshot, &mut found.doubled).await?;
    found.claims = claims.len();
    let mut unseen = claims.clone();
    let mut differing: Vec<String> = Vec::new();
    {
        let mut rows =
            sqlx::query("SELECT kind, index, user_id FROM identifiers ORDER BY kind, index")
                .fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await? {
            let kind: String = row.try_get("kind")?;
            let index: String = row.try_get("index")?;
            let user = UserId(row.try_get::<Uuid, _>("user_id")?);
            let name = format!("{kind} {index}");
            let kind = if kind == EMAIL { EMAIL } else { USERNAME };
            if claims.get(&(kind, index.clone())) == Some(&user) {
                unseen.remove(&(kind, index));
            } else {
                found.surplus += 1;
                differing.push(name);
            }
        }
    }
    found.missing = unseen.len();
    differing.extend(unseen.into_keys().map(|(kind, index)| format!("{kind} {index}")));
    differing.sort_unstable();
    differing.dedup();
    differing.truncate(NAMED);
    found.first_keys = differing;
    snapshot.rollback().await?;
    Ok(found)
}

const EMAIL: &str = "email";
const USERNAME: &str = "username";

/// Folds each account's claims, then lays them side by side.
async fn fold_claims(
    conn: &mut PgConnection,
    doubled: &mut Vec<String>,
) -> Result<Claims, RebuildError> {
    let mut claims = Claims::new();
    let mut of_account: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut account: Option<UserId> = None;
    let mut rows = sqlx::query(
        "SELECT aggregate_id, event_type, event_version, payload FROM events
          WHERE aggregate_type = $1 AND event_type IN ('UserRegistered', 'UserProfileChanged')
          ORDER BY aggregate_id, sequence",
    )
    .bind(stream::USER)
    .fetch(conn);
    while let Some(row) = rows.try_next().await? {
        let id: String = row.try_get("aggregate_id")?;
        let user = id.parse().map(Some).map_err(|cause: uuid::Error| {
            sqlx::Error::ColumnDecode { index: "aggregate_id".to_owned(), source: cause.into() }
        })?;
        if user != account {
            post(&mut claims, account, std::mem::take(&mut of_account), doubled);
            account = user;
        }
        let payload: Value = row.try_get("payload")?;
        let event = Event::from_stored(
            stream::USER,
            &row.try_get::<String, _>("event_type")?,
            &row.try_get::<String, _>("event_version")?,
            payload,
        )
        .map_err(|cause| sqlx::Error::Decode(cause.into()))?;
        if let Event::User(event) = event {
            claim(&mut of_account, event);
        }
    }
    post(&mut claims, account, of_account, doubled);
    Ok(claims)
}

/// What an account holds after an event: of each kind, the last it took.
fn claim(of_account: &mut BTreeMap<&'static str, String>, event: UserEvent) {
    let mut take = |kind, identifier: SealedIdentifier| {
        of_account.insert(kind, identifier.index.0);
    };
    match event {
        UserEvent::Registered { email, username, .. } => {
            take(EMAIL, email);
            take(USERNAME, username);
        }
        UserEvent::ProfileChanged { email, username, full_name: _ } => {
            if let Some(change) = email {
                take(EMAIL, change.to);
            }
            if let Some(change) = username {
                take(USERNAME, change.to);
            }
        }
        UserEvent::PasswordChanged { .. }
        | UserEvent::PasswordRehashed { .. }
        | UserEvent::RoleGranted { .. }
        | UserEvent::RoleRevoked { .. }
        | UserEvent::SessionsEnded { .. }
        | UserEvent::Disabled {}
        | UserEvent::Enabled {} => {}
    }
}

fn post(
    claims: &mut Claims,
    account: Option<UserId>,
    of_account: BTreeMap<&'static str, String>,
    doubled: &mut Vec<String>,
) {
    let Some(account) = account else { return };
    for (kind, index) in of_account {
        let name = format!("{kind} {index}");
        if claims.insert((kind, index), account).is_some() {
            doubled.push(name);
        }
    }
}
