//! The history: one row for each line of the book, to be searched.
//!
//! Payloads are not copied: a page shows what a row has, and the whole event is one look away
//! (`journal::read_one`). Pages are in the order of the book, so a cursor is a position.
//!
//! Times are not in that order, since clocks and transactions differ. So that a search by time can
//! start in the right place and hide nothing, a second table holds the first and the last position
//! of each span of ten minutes.

use std::{borrow::Cow, collections::BTreeMap};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use domain::{
    Actor, Event, Index, ReadingEvent, Sealed, ServiceEvent, SessionEvent, SessionId,
    SignInGuardEvent, UserEvent, UserId, stream,
};
use proof::EventAuthenticator;
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    copy::Fields,
    journal::RecordedEvent,
    projection::{self, CannotApply, Entry, Generation, Line, Table},
    sessions::{methods_name, session_of_stream},
    users::user_of_stream,
    view::{View, table},
};

mod between;
mod page;
mod passes;
mod walk;

pub use between::times_between;
pub use page::{
    ActorKind, Count, Filter, Found, Order, Sources, any_without_network, count, page, reached,
    times,
};
pub(crate) use page::{last_by, lines_of, lines_of_account, lines_of_sessions, time_of_line};
pub use passes::without_erased;

/// The view.
#[derive(Debug, Clone, Copy)]
pub struct AuditHistory;

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub position: i64,
    pub event_type: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    /// Whom it concerns.
    pub user_id: Option<UserId>,
    pub session_id: Option<SessionId>,
    /// Who did it, as the event has it (`domain::Actor` reads it).
    pub actor: String,
    pub actor_user_id: Option<UserId>,
    /// Why or how: the reason of an end or a failure, the method of a sign-in, the role.
    pub outcome: Option<String>,
    /// The address and user agent, sealed with the event.
    pub source: Option<Sealed>,
    /// The address under the key of its month.
    pub address: Option<Index>,
    /// The network around it, likewise; nothing where an older version wrote the line.
    pub network: Option<Index>,
    /// What was typed, where it is nobody's identifier, and what a reader of the history looked for;
    /// sealed with the event.
    pub identifier: Option<Sealed>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// When it was written down.
    pub recorded_at: DateTime<Utc>,
    pub request_id: String,
}

impl Row {
    /// Where the sealed identifier stands.
    #[must_use]
    pub fn identifier_place(&self) -> String {
        let field = if self.aggregate_type == stream::READING { "filter" } else { "identifier" };
        format!("{}/{}/{field}", self.aggregate_type, self.aggregate_id)
    }
}

/// The type of the rows of events that the service did not write; what they claim to be is the outcome.
pub const NOT_AUTHENTIC: &str = "EventNotAuthentic";
/// Of what such an event claims to be, so many characters are kept.
const CLAIMED: usize = 100;

/// The span of time of a row in the second table, in minutes.
const SPAN_MINUTES: i64 = 10;

impl View for AuditHistory {
    const NAME: &'static str = "audit_history";
    const VERSION: i32 = 3;
    const TABLES: &'static [Table] = &[
        Table {
            name: "audit_history",
            columns: "position       bigint      NOT NULL,
                      event_type     text        NOT NULL,
                      aggregate_type text        NOT NULL,
                      aggregate_id   text        NOT NULL,
                      sequence       bigint      NOT NULL,
                      user_id        uuid,
                      session_id     uuid,
                      actor          text        NOT NULL,
                      actor_user_id  uuid,
                      outcome        text,
                      source         text,
                      address        text,
                      network        text,
                      identifier     text,
                      at             timestamptz NOT NULL,
                      recorded_at    timestamptz NOT NULL,
                      request_id     text        NOT NULL",
            key: "position",
            masked: &["aggregate_id", "actor", "source", "address", "network", "identifier"],
            indexes: &[
                projection::Index { name: "user", on: "(user_id, position)" },
                // Of the account alone: whoever has a million sessions has changed it a few times.
                projection::Index {
                    name: "account",
                    on: "(user_id, position) WHERE aggregate_type = 'User'",
                },
                projection::Index { name: "actor", on: "(actor_user_id, position)" },
                projection::Index {
                    name: "actor_kind",
                    on: "(split_part(actor, ':', 1), position) WHERE actor_user_id IS NULL",
                },
                projection::Index { name: "session", on: "(session_id, position)" },
                projection::Index { name: "type", on: "(event_type, position)" },
                // What is long by its nature stands in an index by its beginning: enough to tell
                // hashes apart, a third of their size, and no text is too long for it.
                projection::Index {
                    name: "outcome",
                    on: "(left(outcome, 40), position) WHERE outcome IS NOT NULL",
                },
                projection::Index {
                    name: "address",
                    on: "(left(address, 12), position) WHERE address IS NOT NULL",
                },
                projection::Index {
                    name: "network",
                    on: "(left(network, 12), position) WHERE network IS NOT NULL",
                },
                projection::Index {
                    name: "without_network",
                    on: "(position) WHERE address IS NOT NULL AND network IS NULL",
                },
            ],
        },
        Table {
            name: "audit_history_times",
            columns: "span           timestamptz NOT NULL,
                      first_position bigint      NOT NULL,
                      last_position  bigint      NOT NULL",
            key: "span",
            masked: &[],
            indexes: &[],
        },
    ];

    type Key = i64;
    type Row = Row;

    fn concerns(_aggregate_type: &str) -> bool {
        true
    }

    fn key(line: &Line<'_>) -> Result<i64, CannotApply> {
        Ok(line.recorded.position)
    }

    fn begins(_line: &Line<'_>) -> bool {
        true
    }

    fn fold(_none: Option<Row>, line: &Line<'_>) -> Result<Row, CannotApply> {
        let Line { recorded, event, metadata } = line;
        let concern = concern(line, event)?;
        Ok(Row {
            position: recorded.position,
            event_type: recorded.event_type.clone(),
            aggregate_type: recorded.aggregate_type.clone(),
            aggregate_id: recorded.aggregate_id.clone(),
            sequence: recorded.sequence,
            user_id: concern.user,
            session_id: concern.session,
            actor: metadata.actor.to_string(),
            actor_user_id: match metadata.actor {
                Actor::User(id) => Some(id),
                Actor::Anonymous | Actor::System | Actor::Cli(_) => None,
            },
            outcome: concern.outcome.map(Cow::into_owned),
            source: metadata.source.as_ref().map(|source| source.sealed.clone()),
            address: metadata.source.as_ref().map(|source| source.address.clone()),
            network: metadata.source.as_ref().and_then(|source| source.network.clone()),
            identifier: concern.identifier,
            at: metadata.at,
            recorded_at: recorded.recorded_at,
            request_id: metadata.request_id.clone(),
        })
    }

    /// Whose stream it stands in is told, so that it is found there. Who did it nobody knows, and the time is
    /// the one at which the database took it.
    fn row_of_not_authentic(recorded: &RecordedEvent) -> Option<Row> {
        let of_stream = |kind: &str| recorded.aggregate_type == kind;
        let user_id = of_stream(stream::USER).then(|| recorded.aggregate_id.parse().ok());
        let session_id = of_stream(stream::SESSION).then(|| recorded.aggregate_id.parse().ok());
        Some(Row {
            position: recorded.position,
            event_type: NOT_AUTHENTIC.to_owned(),
            aggregate_type: recorded.aggregate_type.clone(),
            aggregate_id: recorded.aggregate_id.clone(),
            sequence: recorded.sequence,
            user_id: user_id.flatten(),
            session_id: session_id.flatten(),
            actor: Actor::Anonymous.to_string(),
            actor_user_id: None,
            outcome: Some(recorded.event_type.chars().take(CLAIMED).collect()),
            source: None,
            address: None,
            network: None,
            identifier: None,
            at: recorded.recorded_at,
            recorded_at: recorded.recorded_at,
            request_id: String::new(),
        })
    }

    fn key_of(row: &Row) -> i64 {
        row.position
    }

    fn position(row: &Row) -> i64 {
        row.position
    }

    fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
        page::read(row)
    }

    fn write(row: &Row, fields: &mut Fields) {
        fields.put(row.position);
        fields.put(row.event_type.as_str());
        fields.put(row.aggregate_type.as_str());
        fields.put(row.aggregate_id.as_str());
        fields.put(row.sequence);
        fields.put(row.user_id.map(|id| id.0));
        fields.put(row.session_id.map(|id| id.0));
        fields.put(row.actor.as_str());
        fields.put(row.actor_user_id.map(|id| id.0));
        fields.put(row.outcome.as_deref());
        fields.put(row.source.as_ref().map(|source| source.0.as_str()));
        fields.put(row.address.as_ref().map(|address| address.0.as_str()));
        fields.put(row.network.as_ref().map(|network| network.0.as_str()));
        fields.put(row.identifier.as_ref().map(|identifier| identifier.0.as_str()));
        fields.put(row.at);
        fields.put(row.recorded_at);
        fields.put(row.request_id.as_str());
    }

    fn also(row: &Row, fields: &mut Fields) {
        let (span, position) = time_of(row);
        fields.put(span);
        fields.put(position);
    }

    async fn also_write(
        conn: &mut PgConnection,
        generation: Generation,
        rows: &[&Row],
    ) -> Result<(), sqlx::Error> {
        write_times(conn, generation, rows).await
    }
}

/// What the history has of a line, folded from the line itself.
pub fn row_of(
    recorded: &RecordedEvent,
    authenticator: &EventAuthenticator,
) -> Result<Row, CannotApply> {
    let entry = Entry::new(recorded.clone(), authenticator);
    match entry.line()? {
        Some(line) => AuditHistory::fold(None, &line),
        None => AuditHistory::row_of_not_authentic(recorded)
            .ok_or_else(|| CannotApply::new(recorded, "it is not authentic")),
    }
}

/// Whom and what an event concerns.
#[derive(Default)]
struct Concern {
    user: Option<UserId>,
    session: Option<SessionId>,
    outcome: Option<Cow<'static, str>>,
    identifier: Option<Sealed>,
}

fn concern(line: &Line<'_>, event: &Event) -> Result<Concern, CannotApply> {
    Ok(match event {
        Event::User(event) => Concern {
            user: Some(user_of_stream(line.recorded)?),
            outcome: match event {
                UserEvent::RoleGranted { role } | UserEvent::RoleRevoked { role } => {
                    Some(role.as_str().into())
                }
                UserEvent::Registered { .. }
                | UserEvent::ProfileChanged { .. }
                | UserEvent::PasswordChanged { .. }
                | UserEvent::PasswordRehashed { .. }
                | UserEvent::SessionsEnded { .. }
                | UserEvent::Disabled {}
                | UserEvent::Enabled {}
                | UserEvent::Erased {} => None,
            },
            ..Concern::default()
        },
        Event::Session(event) => {
            let (user, outcome) = match event {
                SessionEvent::Started { user_id, methods, .. } => {
                    (user_id, Some(methods_name(methods).into()))
                }
                SessionEvent::Refreshed { user_id, in_grace, .. } => {
                    (user_id, in_grace.then_some("in_grace".into()))
                }
                SessionEvent::Ended { user_id, reason, .. } => {
                    (user_id, Some(reason.as_str().into()))
                }
            };
            Concern {
                user: Some(*user),
                session: Some(session_of_stream(line.recorded)?),
                outcome,
                identifier: None,
            }
        }
        Event::SignInGuard(event) => {
            let (outcome, identifier) = match event {
                SignInGuardEvent::Failed { reason, identifier, .. } => {
                    (Some(reason.as_str().into()), identifier.clone())
                }
                SignInGuardEvent::Throttled { .. }
                | SignInGuardEvent::AttemptsBlocked { .. }
                | SignInGuardEvent::RegistrationsThrottled { .. }
                | SignInGuardEvent::FailuresCleared { .. } => (None, None),
            };
            Concern { user: event.subject().user_id(), session: None, outcome, identifier }
        }
        Event::Service(event) => {
            Concern { outcome: service_outcome(event).map(Cow::Owned), ..Concern::default() }
        }
        Event::Reading(event) => Concern {
            outcome: match event {
                ReadingEvent::HistoryExported { format, .. } => Some(Cow::Owned(format.clone())),
                ReadingEvent::HistorySearched { .. }
                | ReadingEvent::HistoryReplayed { .. }
                | ReadingEvent::HistoryFollowed { .. } => None,
            },
            identifier: event.filter().cloned(),
            ..Concern::default()
        },
    })
}

/// What of an event of the service tells most, in a word.
fn service_outcome(event: &ServiceEvent) -> Option<String> {
    match event {
        ServiceEvent::ServerStarted { program, unstopped, .. } => {
            Some(if unstopped.is_empty() { program.clone() } else { "after_a_kill".to_owned() })
        }
        ServiceEvent::SettingsChanged { changed } => {
            Some(changed.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
        }
        ServiceEvent::SchemaMigrated { versions } => {
            Some(versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        ServiceEvent::SigningKeyAdded { algorithm, .. } => Some(algorithm.clone()),
        ServiceEvent::SigningKeyRetired { kid } => Some(kid.clone()),
        ServiceEvent::LogBegun { origin, .. }
        | ServiceEvent::LogKeyAdded { origin, .. }
        | ServiceEvent::LogKeyHandedOver { origin, .. }
        | ServiceEvent::LogResumed { origin, .. } => Some(origin.clone()),
        ServiceEvent::ProjectionsRebuildBegun { projections, .. }
        | ServiceEvent::ProjectionsRebuildCancelled { projections } => Some(projections.join(", ")),
        ServiceEvent::ProjectionsRebuilt { outcome, .. } => Some(outcome.clone()),
        ServiceEvent::ProjectionsPruneBegun { unused: versions }
        | ServiceEvent::ProjectionsPruned { dropped: versions } => Some(versions.join(", ")),
        ServiceEvent::MonthForgotten { month } => Some(month.clone()),
        ServiceEvent::ServerStopped { .. }
        | ServiceEvent::BookRestored { .. }
        | ServiceEvent::MasterKeyRotated { .. } => None,
    }
}

async fn write_times(
    conn: &mut PgConnection,
    generation: Generation,
    rows: &[&Row],
) -> Result<(), sqlx::Error> {
    let mut spans: BTreeMap<DateTime<Utc>, (i64, i64)> = BTreeMap::new();
    for (span, position) in rows.iter().map(|row| time_of(row)) {
        let (first, last) = spans.entry(span).or_insert((position, position));
        *first = position.min(*first);
        *last = position.max(*last);
    }
    let name = table::<AuditHistory>("audit_history_times", generation);
    sqlx::query(&format!(
        "INSERT INTO {name} AS t (span, first_position, last_position)
         SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[])
         ON CONFLICT (span) DO UPDATE SET
             first_position = least(t.first_position, excluded.first_position),
             last_position = greatest(t.last_position, excluded.last_position)",
    ))
    .bind(spans.keys().copied().collect::<Vec<_>>())
    .bind(spans.values().map(|(first, _)| *first).collect::<Vec<_>>())
    .bind(spans.values().map(|(_, last)| *last).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// What the second table has of a row: the span of time that it belongs to, and its position.
fn time_of(row: &Row) -> (DateTime<Utc>, i64) {
    (span_of(row.at), row.position)
}

/// The beginning of the span of time that a moment belongs to.
fn span_of(at: DateTime<Utc>) -> DateTime<Utc> {
    // It fails outside the years 1677 to 2262 alone; such a moment is its own span.
    at.duration_trunc(TimeDelta::minutes(SPAN_MINUTES)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_begin_at_tens_of_minutes() {
        let at: DateTime<Utc> = "2026-03-01T10:19:59.999999Z".parse().unwrap();
        assert_eq!(span_of(at), "2026-03-01T10:10:00Z".parse::<DateTime<Utc>>().unwrap());
    }
}
