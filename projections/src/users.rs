//! The accounts, as admins list them.
//!
//! Nothing is in plain text: a row holds the sealed values and the keyed hashes of the events. Signing
//! in never reads it.

use chrono::{DateTime, Utc};
use domain::{Event, Index, Role, Roles, Sealed, SealedIdentifier, UserEvent, UserId, stream};
use sqlx::{PgPool, postgres::PgRow};

use crate::{
    copy::Fields,
    journal::RecordedEvent,
    projection::{self, CannotApply, Generation, Line, Page, Table},
    stored,
    view::{View, table},
};

/// The view.
#[derive(Debug, Clone, Copy)]
pub struct Users;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub user_id: UserId,
    /// Nothing once the person is erased, and so are the username and the name.
    pub email: Option<SealedIdentifier>,
    pub username: Option<SealedIdentifier>,
    pub full_name: Option<Sealed>,
    pub roles: Roles,
    pub disabled: bool,
    /// The person's key is destroyed. The row stays, and says so.
    pub erased: bool,
    pub registered_at: DateTime<Utc>,
    /// When the last event happened.
    pub updated_at: DateTime<Utc>,
    /// How many events the account has.
    pub version: u64,
    /// The last line that was folded in.
    pub position: i64,
}

/// The place of a row in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    pub registered_at: DateTime<Utc>,
    pub user_id: UserId,
}

impl Row {
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { registered_at: self.registered_at, user_id: self.user_id }
    }
}

impl View for Users {
    const NAME: &'static str = "users";
    const VERSION: i32 = 2;
    const TABLES: &'static [Table] = &[Table {
        name: "users",
        columns: "user_id         uuid        NOT NULL,
                  email_sealed    text,
                  email_index     text,
                  username_sealed text,
                  username_index  text,
                  full_name       text,
                  roles           text[]      NOT NULL,
                  disabled        boolean     NOT NULL,
                  erased          boolean     NOT NULL,
                  registered_at   timestamptz NOT NULL,
                  updated_at      timestamptz NOT NULL,
                  version         bigint      NOT NULL,
                  position        bigint      NOT NULL",
        key: "user_id",
        masked: &["email_sealed", "email_index", "username_sealed", "username_index", "full_name"],
        indexes: &[
            projection::Index { name: "email", on: "(email_index)" },
            projection::Index { name: "username", on: "(username_index)" },
            projection::Index { name: "registered", on: "(registered_at, user_id)" },
            projection::Index { name: "updated", on: "(updated_at)" },
        ],
    }];

    type Key = UserId;
    type Row = Row;

    fn concerns(aggregate_type: &str) -> bool {
        aggregate_type == stream::USER
    }

    fn key(line: &Line<'_>) -> Result<UserId, CannotApply> {
        user_of_stream(line.recorded)
    }

    fn begins(line: &Line<'_>) -> bool {
        matches!(line.event, Event::User(UserEvent::Registered { .. }))
    }

    fn fold(row: Option<Row>, line: &Line<'_>) -> Result<Row, CannotApply> {
        let Event::User(event) = &line.event else {
            return Err(line.cannot_apply("this is not an event of an account"));
        };
        let at = line.metadata.at;
        let mut row = match (row, event) {
            (Some(row), _) => row,
            (None, UserEvent::Registered { email, username, full_name, roles, .. }) => Row {
                user_id: user_of_stream(line.recorded)?,
                email: Some(email.clone()),
                username: Some(username.clone()),
                full_name: full_name.clone(),
                roles: roles.clone(),
                disabled: false,
                erased: false,
                registered_at: at,
                updated_at: at,
                version: 0,
                position: 0,
            },
            (None, _) => return Err(line.cannot_apply("the account was never registered")),
        };
        row.version += 1;
        if i64::try_from(row.version) != Ok(line.recorded.number()) {
            return Err(line
                .cannot_apply(format!("number {} of this stream should come next", row.version)));
        }
        match event {
            UserEvent::Registered { .. }
            | UserEvent::PasswordChanged { .. }
            | UserEvent::SessionsEnded { .. }
            | UserEvent::PasswordRehashed { .. } => {}
            UserEvent::ProfileChanged { email, username, full_name } => {
                if let Some(change) = email {
                    row.email = Some(change.to.clone());
                }
                if let Some(change) = username {
                    row.username = Some(change.to.clone());
                }
                if let Some(change) = full_name {
                    row.full_name = change.to.clone();
                }
            }
            UserEvent::RoleGranted { role } => {
                row.roles.insert(*role);
            }
            UserEvent::RoleRevoked { role } => {
                row.roles.remove(role);
            }
            UserEvent::Disabled {} => row.disabled = true,
            UserEvent::Enabled {} => row.disabled = false,
            UserEvent::Erased {} => {
                row.email = None;
                row.username = None;
                row.full_name = None;
                row.roles.clear();
                row.erased = true;
            }
        }
        row.updated_at = at;
        row.position = line.recorded.position;
        Ok(row)
    }

    fn key_of(row: &Row) -> UserId {
        row.user_id
    }

    fn position(row: &Row) -> i64 {
        row.position
    }

    fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
        read(row)
    }

    fn write(row: &Row, fields: &mut Fields) {
        fields.put(row.user_id.0);
        for identifier in [&row.email, &row.username] {
            fields.put(identifier.as_ref().map(|identifier| identifier.sealed.0.as_str()));
            fields.put(identifier.as_ref().map(|identifier| identifier.index.0.as_str()));
        }
        fields.put(row.full_name.as_ref().map(|name| name.0.as_str()));
        fields.put(row.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>());
        fields.put(row.disabled);
        fields.put(row.erased);
        fields.put(row.registered_at);
        fields.put(row.updated_at);
        fields.put(stored::bigint(row.version));
        fields.put(row.position);
    }
}

/// The account of a `User` stream.
pub(crate) fn user_of_stream(recorded: &RecordedEvent) -> Result<UserId, CannotApply> {
    recorded
        .aggregate_id
        .parse()
        .map_err(|_| CannotApply::new(recorded, "the stream's id is not the id of an account"))
}

fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    use sqlx::Row as _;
    let identifier = |sealed: &str, index: &str| -> Result<_, sqlx::Error> {
        let sealed: Option<String> = row.try_get(sealed)?;
        let index: Option<String> = row.try_get(index)?;
        Ok(sealed.zip(index).map(|(sealed, index)| SealedIdentifier {
            sealed: Sealed(sealed),
            index: Index(index),
        }))
    };
    let roles: Vec<String> = row.try_get("roles")?;
    Ok(Row {
        user_id: UserId(row.try_get("user_id")?),
        email: identifier("email_sealed", "email_index")?,
        username: identifier("username_sealed", "username_index")?,
        full_name: row.try_get::<Option<String>, _>("full_name")?.map(Sealed),
        roles: roles
            .iter()
            .map(|role| role.parse::<Role>())
            .collect::<Result<Roles, _>>()
            .map_err(|cause| stored::unreadable("roles", cause))?,
        disabled: row.try_get("disabled")?,
        erased: row.try_get("erased")?,
        registered_at: row.try_get("registered_at")?,
        updated_at: row.try_get("updated_at")?,
        version: stored::count(row, "version")?,
        position: row.try_get("position")?,
    })
}

fn live() -> String {
    table::<Users>("users", Generation::Live)
}

pub async fn get(pool: &PgPool, user: UserId) -> Result<Option<Row>, sqlx::Error> {
    let row = sqlx::query(&format!("SELECT * FROM {} WHERE user_id = $1", live()))
        .bind(user.0)
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The account with exactly this e-mail address or username.
pub async fn by_index(pool: &PgPool, index: &Index) -> Result<Option<Row>, sqlx::Error> {
    // Two branches, so that each walks its own index.
    let row = sqlx::query(&format!(
        "SELECT * FROM {live} WHERE email_index = $1
         UNION ALL SELECT * FROM {live} WHERE username_index = $1 LIMIT 1",
        live = live()
    ))
    .bind(&index.0)
    .fetch_optional(pool)
    .await?;
    row.as_ref().map(read).transpose()
}

/// Accounts, newest first, after a place in the list.
pub async fn page(
    pool: &PgPool,
    after: Option<Cursor>,
    limit: i64,
) -> Result<Page<Row>, sqlx::Error> {
    let below = if after.is_some() { "WHERE (registered_at, user_id) < ($2, $3)" } else { "" };
    let sql = format!(
        "SELECT * FROM {} {below} ORDER BY registered_at DESC, user_id DESC LIMIT $1",
        live()
    );
    let mut query = sqlx::query(&sql).bind(limit.saturating_add(1));
    if let Some(after) = after {
        query = query.bind(after.registered_at).bind(after.user_id.0);
    }
    let rows = query.fetch_all(pool).await?;
    Ok(Page::of(rows.iter().map(read).collect::<Result<_, _>>()?, limit))
}

/// Some of the accounts that are admins and may sign in, the oldest first.
pub async fn admins(pool: &PgPool, limit: i64) -> Result<Vec<UserId>, sqlx::Error> {
    let ids: Vec<uuid::Uuid> = sqlx::query_scalar(&format!(
        "SELECT user_id FROM {} WHERE roles @> ARRAY['admin'] AND NOT disabled AND NOT erased
          ORDER BY registered_at, user_id LIMIT $1",
        live()
    ))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(UserId).collect())
}

/// How many accounts there are, exactly.
pub async fn count(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(&format!("SELECT count(*) FROM {}", live())).fetch_one(pool).await
}

/// The accounts to which something happened since, registrations aside.
pub(crate) fn changed_since_sql() -> String {
    format!("SELECT user_id FROM {} WHERE updated_at > $1 AND version > 1", live())
}
