//! One line of the book with all that its event holds, opened.
//!
//! It is read in the book itself, so it is there whether or not the history shows it yet.

use chrono::{DateTime, Utc};
use commands::{Entrybook, Origin, keyring::KeyringError};
use domain::Sealed;
use projections::{audit_history, journal};
use serde_json::{Map, Value, json};

use crate::{
    history::{self, Line},
    identity::Identity,
    problem::{ApiError, ApiResult},
    readings::Reading,
    state::App,
};

/// In place of what belongs to a person or a month that was erased.
pub(crate) const ERASED: &str = "(erased)";
/// In place of what is opened for nobody, such as the hash of a password.
const SEALED: &str = "(sealed)";

/// One line of the book, and what its event says.
#[derive(Debug, Clone)]
pub struct Whole {
    pub line: Line,
    pub recorded_at: DateTime<Utc>,
    pub version: String,
    pub stream: String,
    /// Its number in the stream.
    pub sequence: i64,
    /// What it says, personal data opened.
    pub payload: Value,
}

/// Reads a line for an auditor, which is written down first; none where the book has no such line.
pub async fn read(
    app: &App,
    auditor: &Identity,
    origin: &Origin,
    position: i64,
) -> ApiResult<Option<Whole>> {
    let recorded = journal::read_one(app.pool(), position).await.map_err(of_the_journal)?;
    let Some(recorded) = recorded else { return Ok(None) };
    app.reading(auditor, origin, Reading::Searched, json!({ "position": position })).await?;
    let row = audit_history::row_of(&recorded, app.book().keyring().events())
        .map_err(ApiError::internal)?;
    let line = history::describe(app, auditor, vec![row]).await?.pop();
    let Some(line) = line else { return Ok(None) };
    let stream = format!("{}/{}", recorded.aggregate_type, recorded.aggregate_id);
    let payload = serde_json::from_str(&recorded.payload).map_err(ApiError::internal)?;
    let mut payload = without_name(payload, &recorded.event_type);
    // What somebody else has added is shown as it stands there.
    if recorded.is_authentic(app.book().keyring().events()) {
        open_payload(app.book(), &mut payload, &stream).await?;
    }
    Ok(Some(Whole {
        line,
        recorded_at: recorded.recorded_at,
        version: recorded.event_version,
        stream,
        sequence: recorded.sequence,
        payload,
    }))
}

fn of_the_journal(error: journal::JournalError) -> ApiError {
    match error {
        journal::JournalError::Database(cause) => cause.into(),
        damage => {
            let detail = format!(
                "The database was changed past Entrybook: {damage}. `entrybook audit verify` names all that is wrong."
            );
            ApiError { detail: detail.into(), ..ApiError::internal(damage) }
        }
    }
}

/// What stands under the name of the event, which is stored around it.
fn without_name(payload: Value, name: &str) -> Value {
    match payload {
        Value::Object(mut fields) if fields.len() == 1 => {
            fields.remove(name).unwrap_or(Value::Object(fields))
        }
        other => other,
    }
}

/// Opens the personal fields of a payload; whatever else is sealed stays so, password hashes before all.
pub(crate) async fn open_payload(
    book: &Entrybook,
    payload: &mut Value,
    stream: &str,
) -> Result<(), KeyringError> {
    // Depth first, with the name of the field that each value stands in.
    let mut waiting: Vec<(&mut Value, Option<&'static str>)> = vec![(payload, None)];
    while let Some((value, field)) = waiting.pop() {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields.iter_mut() {
                    waiting.push((inner, personal(name).or(field)));
                }
            }
            Value::String(text) if text.starts_with("s1.") => {
                *text = match field {
                    Some(field) => {
                        let place = format!("{stream}/{field}");
                        let opened = book.open_text(&Sealed(text.clone()), &place).await?;
                        opened.unwrap_or_else(|| ERASED.to_owned())
                    }
                    None => SEALED.to_owned(),
                };
            }
            Value::Array(items) => {
                waiting.extend(items.iter_mut().map(|inner| (inner, field)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    Ok(())
}

fn personal(name: &str) -> Option<&'static str> {
    ["email", "username", "full_name", "identifier", "filter"]
        .into_iter()
        .find(|known| *known == name)
}

/// A payload in words: what it changed, and what else it says, each under the names that lead to it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Name, before, and after.
    pub(crate) changes: Vec<(String, Option<String>, Option<String>)>,
    pub(crate) fields: Vec<(String, String)>,
}

impl Told {
    pub(crate) fn of(payload: &Value) -> Self {
        let mut told = Self::default();
        told.tell(String::new(), payload);
        told
    }

    fn tell(&mut self, name: String, value: &Value) {
        let within = |inner: &str| match name.as_str() {
            "" => inner.to_owned(),
            name => format!("{name}.{inner}"),
        };
        match value {
            Value::Object(fields) => match change(fields) {
                Some((from, to)) => self.changes.push((name, words(from), words(to))),
                // A sealed identifier: what finds it is of use to nobody who reads.
                None if fields.contains_key("sealed") && fields.contains_key("index") => {
                    self.fields.extend(words(value).map(|text| (name, text)));
                }
                None => {
                    for (inner, value) in fields {
                        self.tell(within(inner), value);
                    }
                }
            },
            value => self.fields.extend(words(value).map(|text| (name, text))),
        }
    }
}

/// The value before and after, where that is what an object says.
fn change(fields: &Map<String, Value>) -> Option<(&Value, &Value)> {
    let sides = fields.get("from").zip(fields.get("to"));
    sides.filter(|_| fields.len() == 2)
}

/// A value in words; none for nothing.
fn words(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => Some(items.iter().filter_map(words).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => match fields.get("sealed") {
            Some(Value::String(text)) => Some(text.clone()),
            _ => Some(value.to_string()),
        },
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_told_by_what_it_changed_and_what_else_it_says() {
        let payload = json!({
            "email": {"from": {"sealed": "a@a.a", "index": "i1"}, "to": {"sealed": "b@b.b", "index": "i2"}},
            "full_name": {"from": null, "to": "Ada"},
            "username": {"sealed": "ada", "index": "i3"},
            "subject": {"user": "7"},
            "roles": ["user", "admin"],
            "remember_me": false,
            "kept_session": null,
        });
        let text = |text: &str| Some(text.to_owned());
        let Told { changes, fields } = Told::of(&payload);
        assert_eq!(
            changes,
            [
                ("email".to_owned(), text("a@a.a"), text("b@b.b")),
                ("full_name".to_owned(), None, text("Ada")),
            ]
        );
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            fields,
            ["remember_me=false", "roles=user, admin", "subject.user=7", "username=ada"]
        );
        assert_eq!(Told::of(&json!({})), Told::default());
    }
}
