//! The sessions: what a person sees as "my devices", what the sweeper must end, and what revocation
//! starts from.

use chrono::{DateTime, Utc};
use domain::{Event, Sealed, SessionEvent, SessionId, SignInMethod, UserId, stream};
use sqlx::{PgPool, postgres::PgRow};
use uuid::Uuid;

use crate::{
    copy::Fields,
    journal::RecordedEvent,
    projection::{CannotApply, Generation, Index, Line, Table},
    stored,
    view::{View, table},
};

/// The view.
#[derive(Debug, Clone, Copy)]
pub struct Sessions;

/// A session, from its start; it stays when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub session_id: SessionId,
    pub user_id: UserId,
    /// The version of the account it was opened from.
    pub user_version: u64,
    /// As stored in the event: `password`, `registration`.
    pub method: String,
    pub remember_me: bool,
    pub started_at: DateTime<Utc>,
    /// The start or the last refresh.
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub refreshes: i64,
    /// Where it was started from, sealed with the event.
    pub started_source: Option<Sealed>,
    /// Where it was last refreshed from, sealed with that event.
    pub last_source: Option<Sealed>,
    pub ended_at: Option<DateTime<Utc>>,
    /// `EndReason::as_str`.
    pub end_reason: Option<String>,
    /// The last line that was folded in.
    pub position: i64,
}

impl View for Sessions {
    const NAME: &'static str = "sessions";
    const VERSION: i32 = 2;
    const TABLES: &'static [Table] = &[Table {
        name: "sessions",
        columns: "session_id     uuid        NOT NULL,
                  user_id        uuid        NOT NULL,
                  user_version   bigint      NOT NULL,
                  method         text        NOT NULL,
                  remember_me    boolean     NOT NULL,
                  started_at     timestamptz NOT NULL,
                  last_seen_at   timestamptz NOT NULL,
                  expires_at     timestamptz NOT NULL,
                  refreshes      bigint      NOT NULL,
                  started_source text,
                  last_source    text,
                  ended_at       timestamptz,
                  end_reason     text,
                  position       bigint      NOT NULL",
        key: "session_id",
        masked: &["started_source", "last_source"],
        indexes: &[
            Index {
                name: "open_of_user",
                on: "(user_id, started_at, session_id) WHERE ended_at IS NULL",
            },
            Index { name: "ended", on: "(ended_at) WHERE ended_at IS NOT NULL" },
            Index { name: "open_until", on: "(expires_at) WHERE ended_at IS NULL" },
            // Clocks differ: one may have ended by an earlier time than it was last seen, or began.
            Index {
                name: "lasted",
                on: "USING gist (tstzrange(started_at, greatest(started_at, last_seen_at, ended_at)))
                     WHERE ended_at IS NOT NULL",
            },
        ],
    }];

    type Key = SessionId;
    type Row = Row;

    fn concerns(aggregate_type: &str) -> bool {
        aggregate_type == stream::SESSION
    }

    fn key(line: &Line<'_>) -> Result<SessionId, CannotApply> {
        session_of_stream(line.recorded)
    }

    fn begins(line: &Line<'_>) -> bool {
        matches!(line.event, Event::Session(SessionEvent::Started { .. }))
    }

    fn fold(row: Option<Row>, line: &Line<'_>) -> Result<Row, CannotApply> {
        let Event::Session(event) = &line.event else {
            return Err(line.cannot_apply("this is not an event of a session"));
        };
        let source = line.metadata.source.as_ref().map(|source| source.sealed.clone());
        let mut row = match (row, event) {
            (
                None,
                SessionEvent::Started {
                    user_id,
                    user_version,
                    methods,
                    refresh: _,
                    remember_me,
                    at,
                    expires_at,
                },
            ) => Row {
                session_id: session_of_stream(line.recorded)?,
                user_id: *user_id,
                user_version: *user_version,
                method: methods_name(methods),
                remember_me: *remember_me,
                started_at: *at,
                last_seen_at: *at,
                expires_at: *expires_at,
                refreshes: 0,
                started_source: source.clone(),
                last_source: source,
                ended_at: None,
                end_reason: None,
                position: 0,
            },
            (
                Some(row),
                SessionEvent::Refreshed { user_id: _, refresh: _, in_grace: _, at, expires_at },
            ) => Row {
                refreshes: row.refreshes + 1,
                last_seen_at: *at,
                expires_at: *expires_at,
                last_source: source.or(row.last_source),
                ..row
            },
            (Some(row), SessionEvent::Ended { user_id: _, reason, at }) => {
                Row { ended_at: Some(*at), end_reason: Some(reason.as_str().to_owned()), ..row }
            }
            (Some(_), SessionEvent::Started { .. }) => {
                return Err(line.cannot_apply("the session was started already"));
            }
            (None, SessionEvent::Refreshed { .. } | SessionEvent::Ended { .. }) => {
                return Err(line.cannot_apply("the session was never started"));
            }
        };
        row.position = line.recorded.position;
        Ok(row)
    }

    fn key_of(row: &Row) -> SessionId {
        row.session_id
    }

    fn position(row: &Row) -> i64 {
        row.position
    }

    fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
        read(row)
    }

    fn write(row: &Row, fields: &mut Fields) {
        fields.put(row.session_id.0);
        fields.put(row.user_id.0);
        fields.put(stored::bigint(row.user_version));
        fields.put(row.method.as_str());
        fields.put(row.remember_me);
        fields.put(row.started_at);
        fields.put(row.last_seen_at);
        fields.put(row.expires_at);
        fields.put(row.refreshes);
        fields.put(row.started_source.as_ref().map(|source| source.0.as_str()));
        fields.put(row.last_source.as_ref().map(|source| source.0.as_str()));
        fields.put(row.ended_at);
        fields.put(row.end_reason.as_deref());
        fields.put(row.position);
    }
}

/// The session of a `Session` stream.
pub(crate) fn session_of_stream(recorded: &RecordedEvent) -> Result<SessionId, CannotApply> {
    recorded
        .aggregate_id
        .parse()
        .map_err(|_| CannotApply::new(recorded, "the stream's id is not the id of a session"))
}

/// The name under which the ways of a sign-in are stored, in the order they were proved.
pub(crate) fn methods_name(methods: &[SignInMethod]) -> String {
    let name = |method: &SignInMethod| match method {
        SignInMethod::Password => "password",
        SignInMethod::Registration => "registration",
    };
    methods.iter().map(name).collect::<Vec<_>>().join("+")
}

fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
    use sqlx::Row as _;
    Ok(Row {
        session_id: SessionId(row.try_get("session_id")?),
        user_id: UserId(row.try_get("user_id")?),
        user_version: stored::count(row, "user_version")?,
        method: row.try_get("method")?,
        remember_me: row.try_get("remember_me")?,
        started_at: row.try_get("started_at")?,
        last_seen_at: row.try_get("last_seen_at")?,
        expires_at: row.try_get("expires_at")?,
        refreshes: row.try_get("refreshes")?,
        started_source: row.try_get::<Option<String>, _>("started_source")?.map(Sealed),
        last_source: row.try_get::<Option<String>, _>("last_source")?.map(Sealed),
        ended_at: row.try_get("ended_at")?,
        end_reason: row.try_get("end_reason")?,
        position: row.try_get("position")?,
    })
}

fn live() -> String {
    table::<Sessions>("sessions", Generation::Live)
}

pub async fn get(pool: &PgPool, session: SessionId) -> Result<Option<Row>, sqlx::Error> {
    let row = sqlx::query(&format!("SELECT * FROM {} WHERE session_id = $1", live()))
        .bind(session.0)
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The sessions of a person that have neither ended nor expired, newest first.
pub async fn live_of_user(
    pool: &PgPool,
    user: UserId,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query(&format!(
        "SELECT * FROM {} WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2
          ORDER BY started_at DESC, session_id DESC LIMIT $3",
        live()
    ))
    .bind(user.0)
    .bind(now)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(read).collect()
}

/// So many events that the view does not show yet are looked through; where there are more, nothing is certain.
const LOOKED_THROUGH: i64 = 1_000;

/// Whether a person has surely no session but one, of those that were opened from `version` of the account or later.
/// It is certain where the view shows none that has not ended, whether or not it has expired, and none is opened by
/// what the view does not show: lines behind it, and events that have no line yet. One statement, so all of it is as
/// of one moment.
pub async fn has_surely_no_other(
    pool: &PgPool,
    user: UserId,
    session: SessionId,
    version: u64,
) -> Result<bool, sqlx::Error> {
    let certain: Option<bool> = sqlx::query_scalar(&format!(
        "SELECT p.built AND p.state = 'live'
            AND NOT EXISTS (SELECT FROM {} WHERE user_id = $1 AND ended_at IS NULL
                               AND session_id <> $2 AND user_version >= $3)
            AND (SELECT count(*) <= $4 AND NOT coalesce(bool_or(event_type = 'SessionStarted'
                            AND aggregate_id <> $2::text
                            AND payload -> 'SessionStarted' ->> 'user_id' = $1::text), false)
                   FROM (SELECT e.aggregate_id, e.event_type, e.payload
                           FROM (SELECT tx, event_id FROM journal WHERE position > p.position
                                  ORDER BY position LIMIT $4 + 1) AS behind
                           JOIN events AS e ON e.tx = behind.tx AND e.id = behind.event_id
                         UNION ALL
                         (SELECT aggregate_id, event_type, payload FROM events
                           WHERE (tx, id) > (s.tx, s.event_id)
                             AND tx < pg_snapshot_xmax(pg_current_snapshot())
                             AND id > s.settled_event_id
                           LIMIT $4 + 1)) AS unseen)
           FROM sequencer AS s JOIN projections AS p ON p.name = $5 AND p.version = $6",
        live()
    ))
    .bind(user.0)
    .bind(session.0)
    .bind(stored::bigint(version))
    .bind(LOOKED_THROUGH)
    .bind(Sessions::NAME)
    .bind(Sessions::VERSION)
    .fetch_optional(pool)
    .await?;
    Ok(certain == Some(true))
}

/// Sessions that have expired and that nobody has ended yet, the oldest first.
pub async fn expired(
    pool: &PgPool,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(SessionId, UserId)>, sqlx::Error> {
    let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(&format!(
        "SELECT session_id, user_id FROM {} WHERE ended_at IS NULL AND expires_at <= $1
          ORDER BY expires_at LIMIT $2",
        live()
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(session, user)| (SessionId(session), UserId(user))).collect())
}

/// The sessions of a person that nobody has ended, opened from a version of the account before
/// `version`: what a change of that version ends, but for the one it keeps.
pub async fn opened_before(
    pool: &PgPool,
    user: UserId,
    version: u64,
    limit: i64,
) -> Result<Vec<SessionId>, sqlx::Error> {
    let rows: Vec<Uuid> = sqlx::query_scalar(&format!(
        "SELECT session_id FROM {} WHERE user_id = $1 AND ended_at IS NULL AND user_version < $2
          ORDER BY started_at DESC, session_id DESC LIMIT $3",
        live()
    ))
    .bind(user.0)
    .bind(stored::bigint(version))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(SessionId).collect())
}

/// The sessions that may have been good at a time, of each person who had any, by their ids, after one of them.
///
/// A session keeps its row when it has ended. One that was refreshed afterwards had not expired; where none
/// was, the expiry is that of then.
pub(crate) async fn may_have_been_good(
    pool: &PgPool,
    at: DateTime<Utc>,
    after: Option<UserId>,
    limit: i64,
) -> Result<Vec<(UserId, Vec<SessionId>)>, sqlx::Error> {
    let name = live();
    // Two branches, so that each walks its own index.
    let rows: Vec<(Uuid, Vec<Uuid>)> = sqlx::query_as(&format!(
        "SELECT user_id, array_agg(session_id) FROM (
             SELECT user_id, session_id FROM {name}
              WHERE ended_at IS NULL AND expires_at > $1 AND started_at <= $1
             UNION ALL
             SELECT user_id, session_id FROM {name}
              WHERE ended_at IS NOT NULL
                AND tstzrange(started_at, greatest(started_at, last_seen_at, ended_at)) @> $1
                AND (last_seen_at > $1 OR expires_at > $1)
         ) AS may_have_been
          WHERE $2::uuid IS NULL OR user_id > $2
          GROUP BY user_id ORDER BY user_id LIMIT $3"
    ))
    .bind(at)
    .bind(after.map(|user| user.0))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let of_person = |(user, sessions): (Uuid, Vec<Uuid>)| {
        (UserId(user), sessions.into_iter().map(SessionId).collect())
    };
    Ok(rows.into_iter().map(of_person).collect())
}

/// The sessions that have ended since.
pub async fn ended_since(
    pool: &PgPool,
    since: DateTime<Utc>,
) -> Result<Vec<(SessionId, DateTime<Utc>)>, sqlx::Error> {
    let rows: Vec<(Uuid, DateTime<Utc>)> =
        sqlx::query_as(&ended_since_sql()).bind(since).fetch_all(pool).await?;
    Ok(rows.into_iter().map(|(session, at)| (SessionId(session), at)).collect())
}

pub(crate) fn ended_since_sql() -> String {
    format!("SELECT session_id, ended_at FROM {} WHERE ended_at > $1", live())
}
