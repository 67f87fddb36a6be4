//! A page of the history, and how many lines there are.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Index, Sealed, SessionId, UserId, stream};
use sqlx::{PgPool, QueryBuilder, Row as _, postgres::PgRow};

use super::{
    AuditHistory, Row, SPAN_MINUTES, span_of,
    walk::{Span, Walk, is_narrowed, lying, narrow, nth, select},
};
use crate::{
    projection::Generation,
    view::{View, table},
};

/// So many lines are counted at most.
const COUNTED: i64 = 10_000;
/// So many lines along an index are looked through for a page: two conditions that are both frequent and
/// have nothing in common would otherwise be looked for to the end of the book.
const LOOKED: i64 = 10_000;

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
    /// Where it came from.
    pub sources: Option<Sources>,
    /// The same as it was asked for, for those who write down what was looked for.
    pub place: Option<String>,
    /// Why or how: what a row has as its outcome.
    pub outcome: Option<String>,
    /// One of these types; none given means all.
    pub event_types: Vec<String>,
    /// When it happened: from then on …
    pub from: Option<DateTime<Utc>>,
    /// … and before then.
    pub to: Option<DateTime<Utc>>,
    /// No line after this one: what is read in several steps is read of one book.
    pub up_to: Option<i64>,
    /// Who is looking, unless it is an auditor: only what concerns this person.
    pub visible_to: Option<UserId>,
}

/// Addresses or networks, each as a keyed hash of one month; one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    Addresses(Vec<Index>),
    Networks(Vec<Index>),
}

/// What a page has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub rows: Vec<Row>,
    /// The line after which to go on; nothing where no more can pass.
    pub next: Option<i64>,
    /// Whether it stopped before it was full, because so many lines were looked through.
    pub broke_off: bool,
}

/// How many lines pass a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub lines: i64,
    /// Whether there are no more than that.
    pub exact: bool,
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
    pub(super) fn direction(self) -> &'static str {
        match self {
            Self::Newest => " DESC",
            Self::Oldest => " ASC",
        }
    }
}

/// The lines that pass a filter, in order, after the line at `cursor`: `limit` of them at most, and fewer
/// where many had to be looked through, or there are no more.
pub async fn page(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    cursor: Option<i64>,
    limit: i64,
) -> Result<Found, sqlx::Error> {
    let Some(Span { first, last }) = bounds(pool, filter).await? else {
        return Ok(Found { rows: Vec::new(), next: None, broke_off: false });
    };
    let span = match (order, cursor) {
        (_, None) => Span { first, last },
        (Order::Newest, Some(cursor)) => Span { first, last: last.min(cursor.saturating_sub(1)) },
        (Order::Oldest, Some(cursor)) => Span { first: first.max(cursor.saturating_add(1)), last },
    };
    let edge = edge(pool, filter, order, span).await?;
    let span = match (order, edge) {
        (_, None) => span,
        (Order::Newest, Some(edge)) => Span { first: edge, ..span },
        (Order::Oldest, Some(edge)) => Span { last: edge, ..span },
    };
    let mut query = QueryBuilder::new("");
    select(&mut query, filter, order, span, limit.saturating_add(1));
    let rows = query.build().fetch_all(pool).await?;
    let mut rows = rows.iter().map(read).collect::<Result<Vec<Row>, _>>()?;
    let limit = usize::try_from(limit).unwrap_or(0);
    if rows.len() > limit {
        rows.truncate(limit);
        let next = rows.last().map(|row| row.position);
        return Ok(Found { rows, next, broke_off: false });
    }
    Ok(Found { rows, broke_off: edge.is_some(), next: edge })
}

/// The last line that is looked at for a page, where there are conditions beside that of the index; nothing
/// where all that lie along it may be. It is asked for first: what comes meanwhile lies behind it.
async fn edge(
    pool: &PgPool,
    filter: &Filter,
    order: Order,
    span: Span,
) -> Result<Option<i64>, sqlx::Error> {
    if !is_narrowed(filter) {
        return Ok(None);
    }
    let mut query = QueryBuilder::new("");
    nth(&mut query, filter, order, span, LOOKED);
    Ok(query.build_query_scalar::<Option<i64>>().fetch_optional(pool).await?.flatten())
}

/// How many lines pass a filter: exactly, where no more lie along its index than are looked at.
pub async fn count(pool: &PgPool, filter: &Filter) -> Result<Count, sqlx::Error> {
    let Some(span) = bounds(pool, filter).await? else {
        return Ok(Count { lines: 0, exact: true });
    };
    // Those that lie there, and of these the ones that pass: what is rare among much would otherwise
    // be looked for to the end of the book.
    let mut query = QueryBuilder::new("SELECT count(*), count(*) FILTER (WHERE true");
    narrow(&mut query, filter, Walk::of(filter));
    query.push(") FROM (");
    lying(&mut query, filter, span, COUNTED + 1);
    query.push(") h");
    let (lying, lines): (i64, i64) = query.build_query_as().fetch_one(pool).await?;
    Ok(Count { lines, exact: lying <= COUNTED })
}

/// The first and the last time of the book, to within some minutes; nothing while it is empty.
pub async fn times(pool: &PgPool) -> Result<Option<(DateTime<Utc>, DateTime<Utc>)>, sqlx::Error> {
    let name = table::<AuditHistory>("audit_history_times", Generation::Live);
    let (first, last): (Option<DateTime<Utc>>, Option<DateTime<Utc>>) =
        sqlx::query_as(&format!("SELECT min(span), max(span) FROM {name}")).fetch_one(pool).await?;
    let end = |span: DateTime<Utc>| {
        span.checked_add_signed(TimeDelta::minutes(SPAN_MINUTES)).unwrap_or(span)
    };
    Ok(first.zip(last.map(end)))
}

/// Whether a search of this time by networks passes lines by that have an address and, as they are
/// old, no network.
pub async fn any_without_network(pool: &PgPool, filter: &Filter) -> Result<bool, sqlx::Error> {
    let Some(span) = bounds(pool, filter).await? else { return Ok(false) };
    let name = table::<AuditHistory>("audit_history", Generation::Live);
    sqlx::query_scalar(&format!(
        "SELECT EXISTS (SELECT FROM {name} WHERE position BETWEEN $1 AND $2
                           AND address IS NOT NULL AND network IS NULL)"
    ))
    .bind(span.first)
    .bind(span.last)
    .fetch_one(pool)
    .await
}

/// The last line that the history shows. Those up to it are all there.
pub async fn reached(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT position FROM projections WHERE name = $1 AND version = $2")
        .bind(AuditHistory::NAME)
        .bind(AuditHistory::VERSION)
        .fetch_one(pool)
        .await
}

/// The last line that can have happened by then; 0 where none did.
pub(crate) async fn last_by(pool: &PgPool, at: DateTime<Utc>) -> Result<i64, sqlx::Error> {
    let name = table::<AuditHistory>("audit_history_times", Generation::Live);
    let last: Option<i64> =
        sqlx::query_scalar(&format!("SELECT max(last_position) FROM {name} WHERE span <= $1"))
            .bind(at)
            .fetch_one(pool)
            .await?;
    Ok(last.unwrap_or(0))
}

/// When the event of a line happened, if there is such a line.
pub(crate) async fn time_of_line(
    pool: &PgPool,
    position: i64,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let name = table::<AuditHistory>("audit_history", Generation::Live);
    sqlx::query_scalar(&format!("SELECT at FROM {name} WHERE position = $1"))
        .bind(position)
        .fetch_optional(pool)
        .await
}

/// The lines of a person's account and sessions, after one and up to another, in order.
pub(crate) async fn lines_of(
    pool: &PgPool,
    user: UserId,
    between: (i64, i64),
    limit: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let streams =
        format!("(h.aggregate_type IN ('{}', '{}')) IS TRUE", stream::USER, stream::SESSION);
    lines_in(pool, user, &streams, between, limit).await
}

/// Those of the account alone, likewise.
pub(crate) async fn lines_of_account(
    pool: &PgPool,
    user: UserId,
    between: (i64, i64),
    limit: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let streams = format!("h.aggregate_type = '{}'", stream::USER);
    lines_in(pool, user, &streams, between, limit).await
}

async fn lines_in(
    pool: &PgPool,
    user: UserId,
    streams: &str,
    (after, last): (i64, i64),
    limit: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let name = table::<AuditHistory>("audit_history", Generation::Live);
    sqlx::query_scalar(&format!(
        "SELECT h.position FROM {name} h
          WHERE (h.user_id, h.position) > ($1, $2) AND (h.user_id, h.position) <= ($1, $3) AND {streams}
          ORDER BY h.user_id, h.position LIMIT $4"
    ))
    .bind(user.0)
    .bind(after)
    .bind(last)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Those of some sessions, likewise. Each is looked at for each page: give few.
pub(crate) async fn lines_of_sessions(
    pool: &PgPool,
    sessions: &[SessionId],
    (after, last): (i64, i64),
    limit: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let name = table::<AuditHistory>("audit_history", Generation::Live);
    sqlx::query_scalar(&format!(
        "SELECT of_session.position FROM unnest($1::uuid[]) AS t (id) CROSS JOIN LATERAL (
             SELECT h.position FROM {name} h
              WHERE (h.session_id, h.position) > (t.id, $2) AND (h.session_id, h.position) <= (t.id, $3)
              ORDER BY h.session_id, h.position LIMIT $4) of_session
          ORDER BY of_session.position LIMIT $4"
    ))
    .bind(sessions.iter().map(|session| session.0).collect::<Vec<_>>())
    .bind(after)
    .bind(last)
    .bind(limit)
    .fetch_all(pool)
    .await
}

/// Between which positions the lines of the filter's time stand; `None` when there are none.
async fn bounds(pool: &PgPool, filter: &Filter) -> Result<Option<Span>, sqlx::Error> {
    let up_to = filter.up_to.unwrap_or(i64::MAX);
    if filter.from.is_none() && filter.to.is_none() {
        return Ok(Some(Span { first: 1, last: up_to }));
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
    Ok(first.zip(last).map(|(first, last)| Span { first, last: last.min(up_to) }))
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
        network: row.try_get::<Option<_>, _>("network")?.map(Index),
        identifier: row.try_get::<Option<_>, _>("identifier")?.map(Sealed),
        at: row.try_get("at")?,
        recorded_at: row.try_get("recorded_at")?,
        request_id: row.try_get("request_id")?,
    })
}
