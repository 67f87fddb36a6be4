//! Lines of the history in the clear, for files that people and other programs read.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use commands::{CLI_ACTOR, Entrybook, Source};
use domain::{Actor, SessionId, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};
use projections::audit_history::Row;

use super::ExportError;

/// What stands where a key was destroyed.
const ERASED: &str = "(erased)";
/// People that are looked up side by side.
const LOOKUPS: usize = 4;
/// So many names are remembered.
const NAMES: usize = 10_000;

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

/// Opens lines. Names are looked up once.
#[derive(Default)]
pub(super) struct Opener {
    names: HashMap<UserId, String>,
}

impl Opener {
    pub(super) async fn open(
        &mut self,
        book: &Entrybook,
        rows: Vec<Row>,
    ) -> Result<Vec<Opened>, ExportError> {
        self.look_up(book, &rows).await?;
        let mut opened = Vec::with_capacity(rows.len());
        for row in rows {
            opened.push(self.open_one(book, row).await?);
        }
        Ok(opened)
    }

    async fn look_up(&mut self, book: &Entrybook, rows: &[Row]) -> Result<(), ExportError> {
        if self.names.len() > NAMES {
            self.names.clear();
        }
        let people = rows.iter().flat_map(|row| [row.user_id, row.actor_user_id]).flatten();
        let mut unknown: Vec<UserId> =
            people.filter(|person| !self.names.contains_key(person)).collect();
        unknown.sort_unstable();
        unknown.dedup();
        let found: Vec<(UserId, String)> = stream::iter(unknown)
            .map(|id| async move {
                let account = book.account(id).await?;
                let name = account.map(|account| account.username).filter(|name| !name.is_empty());
                Ok::<_, ExportError>((id, name.unwrap_or_else(|| ERASED.to_owned())))
            })
            .buffer_unordered(LOOKUPS)
            .try_collect()
            .await?;
        self.names.extend(found);
        Ok(())
    }

    fn person(&self, id: UserId) -> Person {
        let name = self.names.get(&id).cloned().unwrap_or_else(|| ERASED.to_owned());
        Person { id: Some(id), name }
    }

    async fn open_one(&self, book: &Entrybook, row: Row) -> Result<Opened, ExportError> {
        let actor: Actor = row.actor.parse().map_err(|cause: domain::MalformedMetadata| {
            ExportError::Row { position: row.position, cause: cause.to_string() }
        })?;
        let (actor_kind, actor) = match actor {
            Actor::User(id) => ("user", Some(self.person(id))),
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
        Ok(Opened {
            position: row.position,
            at: row.at,
            recorded_at: row.recorded_at,
            event_type: row.event_type,
            outcome: row.outcome,
            person: row.user_id.map(|id| self.person(id)),
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
