//! Compares the table of claimed identifiers with a fold of the accounts' events.

use std::collections::BTreeMap;

use domain::{Event, SealedIdentifier, UserEvent, UserId, stream};
use futures_util::TryStreamExt;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::rebuild::RebuildError;

/// How many differing keys are named.
const NAMED: usize = 10;

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
        "SELECT aggregate_id, event_type, event_version, payload::text AS payload FROM events
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
        let payload: String = row.try_get("payload")?;
        let event = Event::from_stored_text(
            stream::USER,
            &row.try_get::<String, _>("event_type")?,
            &row.try_get::<String, _>("event_version")?,
            &payload,
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
