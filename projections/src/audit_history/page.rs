//! A page of the history: every filter stays on an index, in the order of the book.

use chrono::{DateTime, Utc};
use domain::{Index, Sealed, SessionId, UserId};
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _, postgres::PgRow};

use super::{AuditHistory, Row, span_of};
use crate::{
    projection::{Generation, Page},
    view::table,
};

/// What a page shows; all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Whom it concerns.
    pub user: Option<UserId>,
    /// Who did it.
    pub actor_user: Option<UserId>,
    /// Who did it, where that is no account.
    pub actor_kind: Option<ActorKind>,
    pub session: Option<SessionId>,
    /// One of these types; none given means all.
    pub event_types: Vec<String>,
    /// When it happened: from then on …
    pub from: Option<DateTime<Utc>>,
    /// … and before then.
    pub to: Option<DateTime<Utc>>,
    /// Who is looking, unless it is an auditor: only what concerns this person.
    pub visible_to: Option<UserId>,
}

/// Those who act without an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    Anonymous,
    System,
    Cli,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    Newest,
    Oldest,
}

impl Order {
    fn direction(self) -> &'static str {
        match self {
            Self::Newest => " DESC",
            Self::Oldest => " ASC",
        }
    }
}

/// The lines that pass a filter, in order, after the line at `cursor`.
pub async fn page(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    cursor: Option<i64>,
    limit: i64,
) -> Result<Page<Row>, sqlx::Error> {
    let Some((first, last)) = bounds(pool, filter).await? else {
        return Ok(Page { rows: Vec::new(), more: false });
    };
    let (first, last) = match (order, cursor) {
        (_, None) => (first, last),
        (Order::Newest, Some(cursor)) => (first, last.min(cursor.saturating_sub(1))),
        (Order::Oldest, Some(cursor)) => (first.max(cursor.saturating_add(1)), last),
    };
    let rows =
        select(filter, order, first, last, limit.saturating_add(1)).build().fetch_all(pool).await?;
    Ok(Page::of(rows.iter().map(read).collect::<Result<_, _>>()?, limit))
}

/// Between which positions the lines of the filter's time stand; `None` when there are none.
async fn bounds(pool: &PgPool, filter: &Filter) -> Result<Option<(i64, i64)>, sqlx::Error> {
    if filter.from.is_none() && filter.to.is_none() {
        return Ok(Some((1, i64::MAX)));
    }
    let mut query = QueryBuilder::new("SELECT min(first_position), max(last_position) FROM ");
    query.push(table::<AuditHistory>("audit_history_times", Generation::Live)).push(" WHERE true");
    if let Some(from) = filter.from {
        query.push(" AND span >= ").push_bind(span_of(from));
    }
    if let Some(to) = filter.to {
        query.push(" AND span < ").push_bind(to);
    }
    let (first, last): (Option<i64>, Option<i64>) = query.build_query_as().fetch_one(pool).await?;
    Ok(first.zip(last))
}

fn select<'a>(
    filter: &'a Filter,
    order: Order,
    first: i64,
    last: i64,
    limit: i64,
) -> QueryBuilder<'a, Postgres> {
    let name = table::<AuditHistory>("audit_history", Generation::Live);
    let walk = Walk::of(filter);
    let mut query = QueryBuilder::new("");
    // Each walk says "of this one, between these positions" in pairs, for which no other index will
    // do. With `user_id = …` the planner takes the order as given by positions alone, and may read
    // the book through in search of somebody who is rarely seen.
    if walk == Walk::Types {
        // One condition over several types could only be met by sorting them all.
        let mut types = filter.event_types.clone();
        types.sort_unstable();
        types.dedup();
        query.push("SELECT h.* FROM unnest(").push_bind(types).push("::text[]) AS t (event_type)");
        query.push(" CROSS JOIN LATERAL (SELECT h.* FROM ").push(name);
        query.push(" h WHERE (h.event_type, h.position) >= (t.event_type, ").push_bind(first);
        query.push(") AND (h.event_type, h.position) <= (t.event_type, ").push_bind(last).push(")");
        narrow(&mut query, filter, walk);
        query.push(" ORDER BY h.event_type").push(order.direction());
        query.push(", h.position").push(order.direction());
        query.push(" LIMIT ").push_bind(limit).push(") h");
        query.push(" ORDER BY h.position").push(order.direction());
    } else {
        query.push("SELECT h.* FROM ").push(name).push(" h WHERE (");
        walk.push_column(&mut query);
        query.push("h.position) >= (");
        walk.push_value(&mut query);
        query.push_bind(first).push(") AND (");
        walk.push_column(&mut query);
        query.push("h.position) <= (");
        walk.push_value(&mut query);
        query.push_bind(last).push(")");
        if !filter.event_types.is_empty() {
            query.push(" AND (h.event_type = ANY(").push_bind(&filter.event_types);
            query.push(")) IS TRUE");
        }
        narrow(&mut query, filter, walk);
        query.push(" ORDER BY ");
        if walk.push_key(&mut query) {
            query.push(order.direction()).push(", ");
        }
        query.push("h.position").push(order.direction());
    }
    query.push(" LIMIT ").push_bind(limit);
    query
}

/// The index along which a page is read: that of what is rarest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    Session(SessionId),
    User(UserId),
    Actor(UserId),
    ActorKind(ActorKind),
    Types,
    All,
}

impl Walk {
    fn of(filter: &Filter) -> Self {
        let user = filter.user.or(filter.visible_to);
        match (filter.session, user, filter.actor_user, filter.actor_kind) {
            (Some(session), ..) => Self::Session(session),
            (None, Some(user), ..) => Self::User(user),
            (None, None, Some(actor), _) => Self::Actor(actor),
            (None, None, None, Some(kind)) => Self::ActorKind(kind),
            (None, None, None, None) if filter.event_types.is_empty() => Self::All,
            (None, None, None, None) => Self::Types,
        }
    }

    /// The first column of the index; `false` where that is the position.
    fn push_key(self, query: &mut QueryBuilder<'_, Postgres>) -> bool {
        query.push(match self {
            Self::Session(_) => "h.session_id",
            Self::User(_) => "h.user_id",
            Self::Actor(_) => "h.actor_user_id",
            // As the index of actors without an account has it.
            Self::ActorKind(_) => "split_part(h.actor, ':', 1)",
            Self::Types | Self::All => return false,
        });
        true
    }

    fn push_column(self, query: &mut QueryBuilder<'_, Postgres>) {
        if self.push_key(query) {
            query.push(", ");
        }
    }

    fn push_value(self, query: &mut QueryBuilder<'_, Postgres>) {
        match self {
            Self::Session(session) => query.push_bind(session.0).push(", "),
            Self::User(user) | Self::Actor(user) => query.push_bind(user.0).push(", "),
            Self::ActorKind(kind) => query.push(kind.stored()).push(", "),
            Self::Types | Self::All => query,
        };
    }
}

impl ActorKind {
    fn stored(self) -> &'static str {
        match self {
            Self::Anonymous => "'anonymous'",
            Self::System => "'system'",
            Self::Cli => "'cli'",
        }
    }
}

/// What must hold beside what the walk says. `IS TRUE` keeps it from another index, whose rows would
/// have to be sorted.
fn narrow<'a>(query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter, walk: Walk) {
    for user in [filter.user, filter.visible_to].into_iter().flatten() {
        match walk {
            Walk::User(walked) if walked == user => {}
            // Of somebody else as well: nothing is.
            Walk::User(_) => drop(query.push(" AND false")),
            _ => drop(query.push(" AND (h.user_id = ").push_bind(user.0).push(") IS TRUE")),
        }
    }
    if let Some(actor) = filter.actor_user
        && walk != Walk::Actor(actor)
    {
        query.push(" AND (h.actor_user_id = ").push_bind(actor.0).push(") IS TRUE");
    }
    if let Some(kind) = filter.actor_kind {
        query.push(" AND h.actor_user_id IS NULL");
        if walk != Walk::ActorKind(kind) {
            query.push(" AND (split_part(h.actor, ':', 1) = ").push(kind.stored());
            query.push(") IS TRUE");
        }
    }
    if let Some(from) = filter.from {
        query.push(" AND h.at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        query.push(" AND h.at < ").push_bind(to);
    }
}

pub(super) fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    Ok(Row {
        position: row.try_get("position")?,
        event_type: row.try_get("event_type")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        sequence: row.try_get("sequence")?,
        user_id: row.try_get::<Option<_>, _>("user_id")?.map(UserId),
        session_id: row.try_get::<Option<_>, _>("session_id")?.map(SessionId),
        actor: row.try_get("actor")?,
        actor_user_id: row.try_get::<Option<_>, _>("actor_user_id")?.map(UserId),
        outcome: row.try_get("outcome")?,
        source: row.try_get::<Option<_>, _>("source")?.map(Sealed),
        address: row.try_get::<Option<_>, _>("address")?.map(Index),
        identifier: row.try_get::<Option<_>, _>("identifier")?.map(Sealed),
        at: row.try_get("at")?,
        recorded_at: row.try_get("recorded_at")?,
        request_id: row.try_get("request_id")?,
    })
}
