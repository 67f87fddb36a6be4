//! Who has ever held which e-mail address or username: how a person is found by a former one.
//!
//! It holds keyed hashes alone. Those that an account holds now are in the view of the accounts as
//! well; signing in reads neither.

use domain::{Event, Index, SealedIdentifier, UserEvent, UserId, stream};
use sqlx::{PgPool, postgres::PgRow};

use crate::{
    copy::Fields,
    projection::{self, CannotApply, Generation, Line, Table},
    users::user_of_stream,
    view::{View, table},
};

/// The view.
#[derive(Debug, Clone, Copy)]
pub struct Claims;

/// All that one account has held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub user_id: UserId,
    /// In the order in which it took them. Nothing is left of them once the person is erased.
    pub claims: Vec<Claim>,
    /// The last line that was folded in.
    pub position: i64,
}

/// An identifier that an account has held for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub index: Index,
    /// The line by which it took it.
    pub from: i64,
    /// The line by which it gave it back; none while it holds it.
    pub to: Option<i64>,
}

impl Row {
    fn take(&mut self, identifier: &SealedIdentifier, at: i64) {
        self.claims.push(Claim { index: identifier.index.clone(), from: at, to: None });
    }

    /// A change of what is shown alone, as of a letter's case, is none of what is held.
    fn change(&mut self, from: &SealedIdentifier, to: &SealedIdentifier, at: i64) {
        if from.index == to.index {
            return;
        }
        let held = |claim: &&mut Claim| claim.index == from.index && claim.to.is_none();
        if let Some(claim) = self.claims.iter_mut().find(held) {
            claim.to = Some(at);
        }
        self.take(to, at);
    }
}

impl View for Claims {
    const NAME: &'static str = "claims";
    const VERSION: i32 = 1;
    const TABLES: &'static [Table] = &[Table {
        name: "claims",
        // Side by side: what was held, from which line, and to which; 0 while it is.
        columns: "user_id        uuid     NOT NULL,
                  indexes        text[]   NOT NULL,
                  from_positions bigint[] NOT NULL,
                  to_positions   bigint[] NOT NULL,
                  position       bigint   NOT NULL",
        key: "user_id",
        masked: &["indexes"],
        indexes: &[projection::Index { name: "indexes", on: "USING gin (indexes)" }],
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
        let at = line.recorded.position;
        let mut row = row.unwrap_or(Row {
            user_id: user_of_stream(line.recorded)?,
            claims: Vec::new(),
            position: 0,
        });
        match event {
            UserEvent::Registered { email, username, .. } => {
                row.take(email, at);
                row.take(username, at);
            }
            UserEvent::ProfileChanged { email, username, full_name: _ } => {
                for change in [email, username].into_iter().flatten() {
                    row.change(&change.from, &change.to, at);
                }
            }
            UserEvent::Erased {} => row.claims.clear(),
            UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::RoleGranted { .. }
            | UserEvent::RoleRevoked { .. }
            | UserEvent::SessionsEnded { .. }
            | UserEvent::Disabled {}
            | UserEvent::Enabled {} => {}
        }
        row.position = at;
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
        let claims = || row.claims.iter();
        fields.put(row.user_id.0);
        fields.put(claims().map(|claim| claim.index.0.as_str()).collect::<Vec<_>>());
        fields.put(claims().map(|claim| claim.from).collect::<Vec<_>>());
        fields.put(claims().map(|claim| claim.to.unwrap_or(0)).collect::<Vec<_>>());
        fields.put(row.position);
    }
}

fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    use sqlx::Row as _;
    let indexes: Vec<String> = row.try_get("indexes")?;
    let from: Vec<i64> = row.try_get("from_positions")?;
    let to: Vec<i64> = row.try_get("to_positions")?;
    let claims = indexes.into_iter().zip(from).zip(to).map(|((index, from), to)| Claim {
        index: Index(index),
        from,
        to: (to > 0).then_some(to),
    });
    Ok(Row {
        user_id: UserId(row.try_get("user_id")?),
        claims: claims.collect(),
        position: row.try_get("position")?,
    })
}

/// Who has ever held an identifier, in the order in which they took it, and for how long each time.
pub async fn holders(pool: &PgPool, index: &Index) -> Result<Vec<(UserId, Claim)>, sqlx::Error> {
    let rows = sqlx::query(&format!(
        "SELECT * FROM {} WHERE indexes @> ARRAY[$1::text]",
        table::<Claims>("claims", Generation::Live)
    ))
    .bind(&index.0)
    .fetch_all(pool)
    .await?;
    let mut held = Vec::new();
    for row in &rows {
        let row = read(row)?;
        let of_index = row.claims.into_iter().filter(|claim| claim.index == *index);
        held.extend(of_index.map(|claim| (row.user_id, claim)));
    }
    held.sort_unstable_by_key(|(_, claim)| claim.from);
    Ok(held)
}
