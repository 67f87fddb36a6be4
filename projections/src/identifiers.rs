//! Compares the table of claimed identifiers with a fold of the accounts' events.
//!
//! Neither is held in memory: what is folded goes to a temporary table, both are read in the order of
//! their keys, and merged.

use std::collections::BTreeMap;

use domain::{Event, SealedIdentifier, UnreadableEvent, UserEvent, UserId, stream};
use futures_util::{TryStreamExt, stream::BoxStream};
use proof::{EventAuthenticator, EventFields};
use sqlx::{Connection, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    book_source::BookSource,
    copy::copy_in,
    projection::{CannotApply, StopKind},
    rebuild::{RebuildError, connect},
};

/// How many differing keys are named.
const NAMED: usize = 10;
/// So many claims are written at once, in a transaction of their own: an open one that has written
/// holds back the order of the book.
const AT_ONCE: usize = 5_000;

/// How the claimed identifiers differ from a fold of the accounts' events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentifierDifferences {
    /// How many identifiers are claimed by events.
    pub claims: usize,
    /// Claimed by events, and not in the table, or there for somebody else.
    pub missing: usize,
    /// In the table, and claimed by no events, or by somebody else's.
    pub surplus: usize,
    /// Claimed by two accounts at once: what must never be.
    pub doubled: usize,
    /// The first of all these, as `kind index`.
    pub first_keys: Vec<String>,
}

impl IdentifierDifferences {
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.missing == 0 && self.surplus == 0 && self.doubled == 0
    }
}

/// An identifier, and who has it.
struct Claim {
    key: (String, String),
    user: UserId,
}

impl Claim {
    fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let key = (row.try_get("kind")?, row.try_get("index")?);
        Ok(Self { key, user: UserId(row.try_get::<Uuid, _>("user_id")?) })
    }
}

/// Compares the table of claimed identifiers with a fold of all accounts' events, both as of now.
pub async fn verify_identifiers(pool: &BookSource) -> Result<IdentifierDifferences, RebuildError> {
    // It ends with its connection.
    let mut folded = connect(pool).await?;
    sqlx::query(
        "CREATE TABLE pg_temp.claims
             (kind text NOT NULL, index text NOT NULL, user_id uuid NOT NULL)",
    )
    .execute(&mut folded)
    .await?;
    let mut reading = connect(pool).await?;
    let mut snapshot = reading.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *snapshot)
        .await?;
    // It is idle while what was folded is sorted. It has written nothing, so it holds up nobody.
    sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0")
        .execute(&mut *snapshot)
        .await?;
    fold_claims(&mut snapshot, &mut folded, pool.authenticator()).await?;
    // In the order of bytes, as they are merged.
    let claims = sqlx::query(
        r#"SELECT kind, index, user_id FROM pg_temp.claims
            ORDER BY kind COLLATE "C", index COLLATE "C""#,
    )
    .fetch(&mut folded);
    let rows = sqlx::query(
        r#"SELECT kind, index, user_id FROM identifiers
            ORDER BY kind COLLATE "C", index COLLATE "C""#,
    )
    .fetch(&mut *snapshot);
    let found = merge(claims, rows).await?;
    snapshot.rollback().await?;
    let _ = reading.close().await;
    let _ = folded.close().await;
    Ok(found)
}

/// Why the claimed identifiers could not be made again.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error(transparent)]
    Fold(#[from] RebuildError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// What must never be, and what nobody but a person can decide.
    #[error(
        "{0} identifiers are claimed by the events of two accounts each, so nothing was changed"
    )]
    Doubled(i64),
}

/// Makes the table of claimed identifiers anew from the accounts' events, where it differs. `owner` is a connection that
/// may change it. Nobody can register or take another name meanwhile, and signing in goes on. Answers how many rows
/// were taken away, and how many put there.
pub async fn repair_identifiers(
    pool: &BookSource,
    owner: &mut PgConnection,
) -> Result<(u64, u64), RepairError> {
    let mut transaction = owner.begin().await?;
    // Claims are written with their events: with this lock all events that claim are there to be read.
    sqlx::query("LOCK TABLE identifiers IN SHARE ROW EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 0")
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "CREATE TABLE pg_temp.claims
             (kind text NOT NULL, index text NOT NULL, user_id uuid NOT NULL)",
    )
    .execute(&mut *transaction)
    .await?;
    let mut reading = connect(pool).await?;
    let folded = fold_claims(&mut reading, &mut transaction, pool.authenticator()).await;
    let _ = reading.close().await;
    folded?;
    let doubled: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT FROM pg_temp.claims GROUP BY kind, index HAVING count(*) > 1) AS doubled",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if doubled > 0 {
        transaction.rollback().await?;
        return Err(RepairError::Doubled(doubled));
    }
    let taken = sqlx::query(
        "DELETE FROM identifiers AS i
          WHERE NOT EXISTS (SELECT FROM pg_temp.claims AS c
                             WHERE (c.kind, c.index, c.user_id) = (i.kind, i.index, i.user_id))",
    )
    .execute(&mut *transaction)
    .await?;
    let put = sqlx::query(
        "INSERT INTO identifiers (kind, index, user_id)
         SELECT c.kind, c.index, c.user_id FROM pg_temp.claims AS c
          WHERE NOT EXISTS (SELECT FROM identifiers AS i WHERE (i.kind, i.index) = (c.kind, c.index))",
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query("DROP TABLE pg_temp.claims").execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok((taken.rows_affected(), put.rows_affected()))
}

type Rows<'a> = BoxStream<'a, Result<PgRow, sqlx::Error>>;

/// Holds claims and rows against each other, both in the order of their keys.
async fn merge(
    mut claims: Rows<'_>,
    mut rows: Rows<'_>,
) -> Result<IdentifierDifferences, sqlx::Error> {
    let mut found = IdentifierDifferences::default();
    let mut claim = next(&mut claims).await?;
    let mut row = next(&mut rows).await?;
    while let Some(key) = [&claim, &row].into_iter().flatten().map(|one| one.key.clone()).min() {
        let mut holder = None;
        if let Some(of_key) = row.take_if(|row| row.key == key) {
            holder = Some(of_key.user);
            row = next(&mut rows).await?;
        }
        let (mut claimed, mut held) = (0, false);
        while let Some(of_key) = claim.take_if(|claim| claim.key == key) {
            claimed += 1;
            held |= holder == Some(of_key.user);
            claim = next(&mut claims).await?;
        }
        found.claims += usize::from(claimed > 0);
        found.missing += claimed - usize::from(held);
        found.surplus += usize::from(holder.is_some() && !held);
        found.doubled += usize::from(claimed > 1);
        if (claimed != 1 || !held) && found.first_keys.len() < NAMED {
            let (kind, index) = key;
            found.first_keys.push(format!("{kind} {index}"));
        }
    }
    Ok(found)
}

async fn next(rows: &mut Rows<'_>) -> Result<Option<Claim>, sqlx::Error> {
    rows.try_next().await?.as_ref().map(Claim::read).transpose()
}

const EMAIL: &str = "email";
const USERNAME: &str = "username";

/// Folds each account's claims, and writes them into the temporary table. All events of accounts are
/// read: which of them claim is for the fold to say, and one that it doesn't know may be one that does.
async fn fold_claims(
    conn: &mut PgConnection,
    folded: &mut PgConnection,
    authenticator: &EventAuthenticator,
) -> Result<(), RebuildError> {
    let mut unwritten: Vec<(UserId, &'static str, String)> = Vec::new();
    let mut of_account: BTreeMap<&'static str, String> = BTreeMap::new();
    let mut account: Option<UserId> = None;
    let mut rows = sqlx::query(
        "SELECT id, aggregate_id, sequence, event_type, event_version, payload::text AS payload,
                metadata::text AS metadata
           FROM events WHERE aggregate_type = $1 ORDER BY aggregate_id, sequence",
    )
    .bind(stream::USER)
    .fetch(conn);
    while let Some(row) = rows.try_next().await? {
        let id: String = row.try_get("aggregate_id")?;
        let payload: String = row.try_get("payload")?;
        let (event_type, version): (String, String) =
            (row.try_get("event_type")?, row.try_get("event_version")?);
        let fields = EventFields {
            stream_type: stream::USER,
            stream_id: &id,
            sequence: row.try_get("sequence")?,
            event_type: &event_type,
            event_version: &version,
            payload: &payload,
        };
        if !authenticator.is_authentic(row.try_get("id")?, &fields, row.try_get("metadata")?) {
            continue;
        }
        let user = id.parse().map(Some).map_err(|cause: uuid::Error| {
            sqlx::Error::ColumnDecode { index: "aggregate_id".to_owned(), source: cause.into() }
        })?;
        if user != account {
            post(&mut unwritten, account, &mut of_account);
            account = user;
            if unwritten.len() >= AT_ONCE {
                write(folded, &mut unwritten).await?;
            }
        }
        match Event::from_stored_text(stream::USER, &event_type, &version, &payload) {
            Ok(Event::User(event)) => claim(&mut of_account, event),
            Ok(
                Event::Session(_) | Event::SignInGuard(_) | Event::Service(_) | Event::Reading(_),
            ) => {}
            Err(cause) => return Err(cannot_fold(folded, &row, &cause).await?.into()),
        }
    }
    post(&mut unwritten, account, &mut of_account);
    write(folded, &mut unwritten).await?;
    Ok(())
}

/// The refusal to fold an event, at its line of the book; at the next one, if it has none yet.
async fn cannot_fold(
    conn: &mut PgConnection,
    row: &PgRow,
    cause: &UnreadableEvent,
) -> Result<CannotApply, sqlx::Error> {
    let position = sqlx::query_scalar(
        "SELECT coalesce((SELECT position FROM journal WHERE event_id = $1),
                         (SELECT position + 1 FROM sequencer))",
    )
    .bind(row.try_get::<i64, _>("id")?)
    .fetch_one(conn)
    .await?;
    let (id, sequence): (String, i64) = (row.try_get("aggregate_id")?, row.try_get("sequence")?);
    let newer = cause.is_newer();
    Ok(CannotApply {
        position,
        stream: format!("{} {id} number {sequence}", stream::USER),
        event_type: row.try_get("event_type")?,
        event_version: row.try_get("event_version")?,
        kind: if newer { StopKind::NewerVersion } else { StopKind::DamagedPayload },
        cause: cause.to_string(),
    })
}

fn post(
    unwritten: &mut Vec<(UserId, &'static str, String)>,
    account: Option<UserId>,
    of_account: &mut BTreeMap<&'static str, String>,
) {
    let claims = std::mem::take(of_account);
    if let Some(account) = account {
        unwritten.extend(claims.into_iter().map(|(kind, index)| (account, kind, index)));
    }
}

async fn write(
    folded: &mut PgConnection,
    unwritten: &mut Vec<(UserId, &'static str, String)>,
) -> Result<(), sqlx::Error> {
    copy_in(folded, "pg_temp.claims", unwritten.drain(..), |(user, kind, index), fields| {
        fields.put(*kind);
        fields.put(index.as_str());
        fields.put(user.0);
    })
    .await
}

/// What an account holds after an event: of each kind, the last it took, and nothing once it is
/// erased.
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
        UserEvent::Erased {} => of_account.clear(),
        UserEvent::PasswordChanged { .. }
        | UserEvent::PasswordRehashed { .. }
        | UserEvent::RoleGranted { .. }
        | UserEvent::RoleRevoked { .. }
        | UserEvent::SessionsEnded { .. }
        | UserEvent::Disabled {}
        | UserEvent::Enabled {} => {}
    }
}
