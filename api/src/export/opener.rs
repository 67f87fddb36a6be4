//! Lines of the history in the clear, for files that people and other programs read.

use chrono::{DateTime, Utc};
use commands::{CLI_ACTOR, Entrybook, Source};
use domain::{Actor, SessionId, UserId};
use projections::audit_history::Row;

use super::ExportError;
use crate::names::Names;

/// What stands where a key was destroyed.
const ERASED: &str = "(erased)";

/// A line in the clear.
pub(super) struct Opened {
    pub(super) position: i64,
    pub(super) at: DateTime<Utc>,
    pub(super) recorded_at: DateTime<Utc>,
    pub(super) event_type: String,
    pub(super) outcome: Option<String>,
    /// Whom it concerns.
    pub(super) person: Option<Person>,
    /// `user`, `anonymous`, `system` or `cli`.
    pub(super) actor_kind: &'static str,
    pub(super) actor: Option<Person>,
    pub(super) session: Option<SessionId>,
    pub(super) address: Option<String>,
    pub(super) user_agent: Option<String>,
    /// What was typed to sign in, where it is nobody's.
    pub(super) identifier: Option<String>,
    pub(super) stream: String,
    pub(super) sequence: i64,
    pub(super) request_id: String,
}

#[derive(Clone)]
pub(super) struct Person {
    /// Nothing for a user of the operating system.
    pub(super) id: Option<UserId>,
    pub(super) name: String,
}

/// Opens lines.
#[derive(Default)]
pub(super) struct Opener {
    names: Names,
}

impl Opener {
    pub(super) async fn open(
        &mut self,
        book: &Entrybook,
        rows: Vec<Row>,
    ) -> Result<Vec<Opened>, ExportError> {
        let people = rows.iter().flat_map(|row| [row.user_id, row.actor_user_id]).flatten();
        self.names.look_up(book, people.collect()).await?;
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            opened.push(self.open_one(book, row).await?);
        }
        Ok(opened)
    }

    async fn person(&self, book: &Entrybook, id: UserId) -> Result<Person, ExportError> {
        let name = self.names.of(book, id).await?.filter(|name| !name.is_empty());
        Ok(Person { id: Some(id), name: name.unwrap_or_else(|| ERASED.to_owned()) })
    }

    async fn open_one(&self, book: &Entrybook, row: Row) -> Result<Opened, ExportError> {
        let actor: Actor = row.actor.parse().map_err(|cause: domain::MalformedMetadata| {
            ExportError::Row { position: row.position, cause: cause.to_string() }
        })?;
        let (actor_kind, actor) = match actor {
            Actor::User(id) => ("user", Some(self.person(book, id).await?)),
            Actor::Anonymous => ("anonymous", None),
            Actor::System => ("system", None),
            Actor::Cli(sealed) => {
                let name = book.open_text(&sealed, CLI_ACTOR).await?;
                let name = name.unwrap_or_else(|| ERASED.to_owned());
                ("cli", Some(Person { id: None, name }))
            }
        };
        let erased = || Some(ERASED.to_owned());
        let (address, user_agent) = match &row.source {
            Some(sealed) => {
                match book.open_source(sealed, &row.aggregate_type, &row.aggregate_id).await? {
                    Some(Source { address, user_agent, .. }) => (address, user_agent),
                    None => (erased(), erased()),
                }
            }
            None => (None, None),
        };
        let identifier = match &row.identifier {
            Some(sealed) => {
                let place = row.identifier_place();
                book.open_text(sealed, &place).await?.or_else(erased)
            }
            None => None,
        };
        let person = match row.user_id {
            Some(id) => Some(self.person(book, id).await?),
            None => None,
        };
        Ok(Opened {
            position: row.position,
            at: row.at,
            recorded_at: row.recorded_at,
            event_type: row.event_type,
            outcome: row.outcome,
            person,
            actor_kind,
            actor,
            session: row.session_id,
            address,
            user_agent,
            identifier,
            stream: format!("{}/{}", row.aggregate_type, row.aggregate_id),
            sequence: row.sequence,
            request_id: row.request_id,
        })
    }
}
