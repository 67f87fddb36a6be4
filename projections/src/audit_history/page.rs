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
    let on_its_own_index = filter.user.is_some()
        || filter.visible_to.is_some()
        || filter.session.is_some()
        || filter.actor_user.is_some()
        || filter.actor_kind.is_some();
    let mut query = QueryBuilder::new("");
    if filter.event_types.is_empty() || on_its_own_index {
        query.push("SELECT h.* FROM ").push(name).push(" h WHERE true");
        if !filter.event_types.is_empty() {
            query.push(" AND h.event_type = ANY(").push_bind(&filter.event_types).push(")");
        }
        query.push(" AND h.position >= ").push_bind(first);
        query.push(" AND h.position <= ").push_bind(last);
        narrow(&mut query, filter);
    } else {
        // Types alone: a walk along each type's part of the index, merged. One condition over
        // several types could only be met by sorting them all, or by reading the book through in
        // search of a rare one. The pairs say "of this type, between these positions" in a way for
        // which no other index will do; with `event_type = …` the planner would take the order as
        // given by positions alone, and read through.
        let mut types = filter.event_types.clone();
        types.sort_unstable();
        types.dedup();
        query.push("SELECT h.* FROM unnest(").push_bind(types).push("::text[]) AS t (event_type)");
        query.push(" CROSS JOIN LATERAL (SELECT h.* FROM ").push(name);
        query.push(" h WHERE (h.event_type, h.position) >= (t.event_type, ").push_bind(first);
        query.push(") AND (h.event_type, h.position) <= (t.event_type, ").push_bind(last).push(")");
        narrow(&mut query, filter);
        query.push(" ORDER BY h.event_type").push(order.direction());
        query.push(", h.position").push(order.direction());
        query.push(" LIMIT ").push_bind(limit).push(") h");
    }
    query.push(" ORDER BY h.position").push(order.direction());
    query.push(" LIMIT ").push_bind(limit);
    query
}

fn narrow<'a>(query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter) {
    for user in [filter.user, filter.visible_to].into_iter().flatten() {
        query.push(" AND h.user_id = ").push_bind(user.0);
    }
    if let Some(actor) = filter.actor_user {
        query.push(" AND h.actor_user_id = ").push_bind(actor.0);
    }
    if let Some(kind) = filter.actor_kind {
        // As the index of actors without an account has it.
        query.push(" AND h.actor_user_id IS NULL AND split_part(h.actor, ':', 1) = ");
        query.push(match kind {
            ActorKind::Anonymous => "'anonymous'",
            ActorKind::System => "'system'",
            ActorKind::Cli => "'cli'",
        });
    }
    if let Some(session) = filter.session {
        query.push(" AND h.session_id = ").push_bind(session.0);
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
