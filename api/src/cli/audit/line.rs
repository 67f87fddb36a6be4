//! A line of the history in the clear.

use crate::bootstrap::Services;
use crate::names::Names;
use crate::whole_line::{ERASED, open_payload};
use chrono::{DateTime, SecondsFormat, Utc};
use commands::CLI_ACTOR;
use domain::{Actor, Metadata, Sealed, UserId};
use projections::audit_history::{NOT_AUTHENTIC, Row};
use projections::journal::RecordedEvent;
use serde::Serialize;
use serde_json::Value;

/// One line, as programs get it: what the API answers, and where it stands in its stream.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) position: i64,
    pub(super) at: String,
    pub(super) recorded_at: String,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    pub(super) stream: String,
    pub(super) sequence: i64,
    pub(super) outcome: Option<String>,
    /// Whom it concerns.
    pub(super) person: Option<Person>,
    pub(super) actor: Who,
    pub(super) session: Option<String>,
    pub(super) address: Option<String>,
    pub(super) user_agent: Option<String>,
    /// What was typed, where it is nobody's.
    pub(super) identifier: Option<String>,
    pub(super) request_id: String,
}

/// One event with its payload.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    pub(super) position: i64,
    pub(super) at: String,
    pub(super) recorded_at: String,
    #[serde(rename = "type")]
    pub(super) event_type: String,
    pub(super) version: String,
    pub(super) stream: String,
    pub(super) sequence: i64,
    pub(super) actor: Who,
    pub(super) address: Option<String>,
    pub(super) user_agent: Option<String>,
    pub(super) request_id: String,
    /// With personal data opened.
    pub(super) payload: Value,
}

/// An account; its username, unless it was erased.
#[derive(Debug, Serialize)]
pub(super) struct Person {
    id: String,
    pub(super) label: Option<String>,
}

/// Who did it.
#[derive(Debug, Serialize)]
pub(super) struct Who {
    /// `user`, `anonymous`, `system` or `cli`.
    pub(super) kind: &'static str,
    pub(super) id: Option<String>,
    /// The username, or the user of the operating system.
    pub(super) label: Option<String>,
}

/// Opens what is sealed.
pub(super) struct Opener<'a> {
    services: &'a Services,
    names: Names,
}

impl<'a> Opener<'a> {
    pub(super) fn new(services: &'a Services) -> Self {
        Self { services, names: Names::default() }
    }

    pub(super) async fn open(&mut self, row: Row) -> anyhow::Result<Line> {
        if let (Some(erased), "UserErased") = (row.user_id, row.event_type.as_str()) {
            // Nothing else tells this process, and who follows the history must not go on naming them.
            self.services.book.keyring().forget(erased);
        }
        let actor = self.who(&row.actor.parse()?).await?;
        let person = match row.user_id {
            Some(id) => Some(Person { id: id.to_string(), label: self.name(id).await? }),
            None => None,
        };
        let (address, user_agent) =
            self.source(row.source.as_ref(), &row.aggregate_type, &row.aggregate_id).await?;
        let identifier = match &row.identifier {
            Some(sealed) => Some(self.text(sealed, &row.identifier_place()).await?),
            None => None,
        };
        Ok(Line {
            position: row.position,
            at: moment(row.at),
            recorded_at: moment(row.recorded_at),
            event_type: row.event_type,
            stream: format!("{}/{}", row.aggregate_type, row.aggregate_id),
            sequence: row.sequence,
            outcome: row.outcome,
            person,
            actor,
            session: row.session_id.map(|id| id.to_string()),
            address,
            user_agent,
            identifier,
            request_id: row.request_id,
        })
    }

    pub(super) async fn open_whole(&mut self, recorded: RecordedEvent) -> anyhow::Result<Whole> {
        // Nothing is told of what somebody else has added but what stands there.
        let authentic = recorded.is_authentic(self.services.book.keyring().events());
        let metadata = if authentic {
            recorded.metadata()?
        } else {
            Metadata {
                actor: Actor::Anonymous,
                source: None,
                request_id: String::new(),
                at: recorded.recorded_at,
            }
        };
        let actor = self.who(&metadata.actor).await?;
        let sealed = metadata.source.as_ref().map(|source| &source.sealed);
        let (address, user_agent) =
            self.source(sealed, &recorded.aggregate_type, &recorded.aggregate_id).await?;
        let stream = format!("{}/{}", recorded.aggregate_type, recorded.aggregate_id);
        let mut payload = serde_json::from_str(&recorded.payload)?;
        if authentic {
            open_payload(&self.services.book, &mut payload, &stream).await?;
        }
        Ok(Whole {
            position: recorded.position,
            at: moment(metadata.at),
            recorded_at: moment(recorded.recorded_at),
            event_type: if authentic {
                recorded.event_type
            } else {
                format!("{NOT_AUTHENTIC}: {}", recorded.event_type)
            },
            version: recorded.event_version,
            stream,
            sequence: recorded.sequence,
            actor,
            address,
            user_agent,
            request_id: metadata.request_id,
            payload,
        })
    }

    async fn who(&mut self, actor: &Actor) -> anyhow::Result<Who> {
        Ok(match actor {
            Actor::User(id) => {
                Who { kind: "user", id: Some(id.to_string()), label: self.name(*id).await? }
            }
            Actor::Anonymous => Who { kind: "anonymous", id: None, label: None },
            Actor::System => Who { kind: "system", id: None, label: None },
            Actor::Cli(sealed) => {
                Who { kind: "cli", id: None, label: Some(self.text(sealed, CLI_ACTOR).await?) }
            }
        })
    }

    async fn name(&mut self, id: UserId) -> anyhow::Result<Option<String>> {
        let book = &self.services.book;
        self.names.look_up(book, vec![id]).await?;
        Ok(self.names.of(book, id).await?.filter(|name| !name.is_empty()))
    }

    async fn text(&self, sealed: &Sealed, place: &str) -> anyhow::Result<String> {
        let text = self.services.book.open_text(sealed, place).await?;
        Ok(text.unwrap_or_else(|| ERASED.to_owned()))
    }

    async fn source(
        &self,
        sealed: Option<&Sealed>,
        aggregate_type: &str,
        aggregate_id: &str,
    ) -> anyhow::Result<(Option<String>, Option<String>)> {
        let Some(sealed) = sealed else { return Ok((None, None)) };
        let source = self.services.book.open_source(sealed, aggregate_type, aggregate_id).await?;
        Ok(match source {
            Some(source) => (source.address, source.user_agent),
            None => (Some(ERASED.to_owned()), Some(ERASED.to_owned())),
        })
    }
}

fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For people.
pub(super) mod shown {
    use super::{ERASED, Line, Who, Whole};
    use crate::cli::tame::{self, line as safe};
    use crate::readings::in_words;

    pub(in crate::cli::audit) const HEAD: &str = "POSITION  TIME                      EVENT                    BY                ABOUT             FROM             DETAIL";

    pub(in crate::cli::audit) fn line(line: &Line) -> String {
        let by = match (line.actor.kind, line.actor.label.as_deref()) {
            ("user", label) => label.unwrap_or(ERASED).to_owned(),
            ("cli", label) => format!("cli:{}", label.unwrap_or_default()),
            (other, _) => other.to_owned(),
        };
        // What was typed is whom it is about; what a reader asked for says more of what they did.
        let is_reading = ui::READING_TYPES.contains(&line.event_type.as_str());
        let (asked, typed) = match line.identifier.as_deref() {
            Some(text) if is_reading => (Some(in_words(text)), None),
            typed => (None, typed),
        };
        let about = match &line.person {
            Some(person) => person.label.as_deref().unwrap_or(ERASED),
            None => typed.unwrap_or("-"),
        };
        let detail = [line.outcome.as_deref(), asked.as_deref()];
        let detail = detail.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let text = format!(
            "{:>8}  {}  {:<23}  {:<16}  {:<16}  {:<15}  {}",
            line.position,
            line.at,
            line.event_type,
            safe(&by),
            safe(about),
            safe(line.address.as_deref().unwrap_or("-")),
            safe(&detail)
        );
        text.trim_end().to_owned()
    }

    pub(in crate::cli::audit) fn whole(whole: &Whole) -> serde_json::Result<Vec<String>> {
        let Who { kind, id, label } = &whole.actor;
        let by = [Some(*kind), label.as_deref(), id.as_deref()];
        let by = by.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let field = |name: &str, value: &str| format!("{name:<12}{}", safe(value));
        let mut lines = vec![
            field("position", &whole.position.to_string()),
            field("event", &format!("{}, version {}", whole.event_type, whole.version)),
            field("stream", &format!("{}, sequence {}", whole.stream, whole.sequence)),
            field("happened", &whole.at),
            field("recorded", &whole.recorded_at),
            field("by", &by),
            field("from", whole.address.as_deref().unwrap_or("-")),
            field("with", whole.user_agent.as_deref().unwrap_or("-")),
            field("request", &whole.request_id),
        ];
        lines.push(tame::json(&serde_json::to_string_pretty(&whole.payload)?).into_owned());
        Ok(lines)
    }
}
