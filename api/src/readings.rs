//! Reading the history is history: who reads what is not their own is written down before they see it.
//!
//! Each search, replay, export and live tail is an event; the same one again within
//! [`ONCE_IN`] is not. Its filter is sealed, and names people by their ids alone. What can't be written
//! down is not shown. The bounds hold for each replica.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use commands::{By, CLI_ACTOR, Entrybook, Origin, PastReading, StorageError, filter_place};
use domain::{Actor, Identifier, ReadingEvent, UserId};
use projections::audit_history::{ActorKind, Filter};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    identity::Identity,
    problem::{ApiError, ApiResult, Kind},
    state::App,
};

/// The same reading again within that time is the same reading.
const ONCE_IN: TimeDelta = TimeDelta::minutes(10);
/// So many readings of one reader are written down in an hour; more are refused.
const MOST: usize = 1_000;
const AN_HOUR: TimeDelta = TimeDelta::hours(1);
/// So many lines are no past to speak of.
const A_PAGE: i64 = 200;
/// Of so many readers it is remembered what they read.
const READERS: usize = 1_024;

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    Searched,
    Exported {
        format: String,
        /// The last line that it may hold.
        up_to: u64,
    },
    /// The state of a person or of all sessions, as of a time.
    Replayed,
    /// New lines, as they come.
    Followed,
}

impl Reading {
    fn of(event: &ReadingEvent) -> Self {
        match event {
            ReadingEvent::HistorySearched { filter: _ } => Self::Searched,
            ReadingEvent::HistoryExported { filter: _, format, up_to } => {
                Self::Exported { format: format.clone(), up_to: *up_to }
            }
            ReadingEvent::HistoryReplayed { filter: _ } => Self::Replayed,
            ReadingEvent::HistoryFollowed { filter: _ } => Self::Followed,
        }
    }
}

impl App {
    /// Writes down that somebody reads; answer nothing before it is done. Nothing is written where a page of
    /// another origin has opened it: who follows a link doesn't know what stands behind it. `filter` is what they look
    /// for, with ids in place of names.
    pub async fn reading(
        &self,
        identity: &Identity,
        origin: &Origin,
        reading: Reading,
        filter: Value,
    ) -> ApiResult<()> {
        if identity.from_elsewhere {
            return Err(ApiError::new(
                Kind::OpenedElsewhere,
                "A page of another site opened this. Who reads the history is written down, so open it from a page of \
                 this one, or send an access token in the Authorization header.",
            ));
        }
        let (reader, filter) = (identity.user_id, text_of(&filter));
        let key = key_of(&reading, filter.as_deref());
        if !self.readings().is_due(reader, &key, self.now())? {
            return Ok(());
        }
        let origin = origin.clone();
        self.command(move |book| async move {
            record(&book, reading, filter, &reader.to_string(), &origin).await
        })
        .await?
        .map_err(not_recorded)?;
        self.readings().is_done(reader, key, self.now());
        Ok(())
    }
}

/// Writes down that `reader` reads: the id of an account, or [`commands::CLI_READER`].
pub(crate) async fn record(
    book: &Entrybook,
    reading: Reading,
    filter: Option<String>,
    reader: &str,
    origin: &Origin,
) -> Result<(), StorageError> {
    let filter = match filter {
        Some(filter) => Some(book.seal_filter(reader, &filter).await?),
        None => None,
    };
    let event = match reading {
        Reading::Searched => ReadingEvent::HistorySearched { filter },
        Reading::Exported { format, up_to } => {
            ReadingEvent::HistoryExported { filter, format, up_to }
        }
        Reading::Replayed => ReadingEvent::HistoryReplayed { filter },
        Reading::Followed => ReadingEvent::HistoryFollowed { filter },
    };
    book.record_reading(event, reader, origin).await.map(drop)
}

/// Whether the same was written down within [`ONCE_IN`], of the same user of the operating system: for
/// the command line, which remembers nothing from one run to the next.
pub(crate) async fn is_known(
    book: &Entrybook,
    reading: &Reading,
    filter: Option<&str>,
    reader: &str,
    origin: &Origin,
) -> Result<bool, StorageError> {
    let By::Cli { os_user } = &origin.by else { return Ok(false) };
    let now = book.clock().now();
    for PastReading { event, metadata } in book.past_readings(reader).await? {
        if now - metadata.at >= ONCE_IN {
            break;
        }
        if *reading != Reading::of(&event) {
            continue;
        }
        let Actor::Cli(actor) = &metadata.actor else { continue };
        let asked = match event.filter() {
            // What can't be opened any more was another month's.
            Some(sealed) => match book.open_text(sealed, &filter_place(reader)).await? {
                Some(asked) => Some(asked),
                None => continue,
            },
            None => None,
        };
        let who = book.open_text(actor, CLI_ACTOR).await?;
        if asked.as_deref() == filter && who.as_ref() == Some(os_user) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn not_recorded(error: StorageError) -> ApiError {
    let detail = "Who reads the history is written down, and that could not be done, so nothing is \
                  shown. Try again in a moment.";
    ApiError {
        retry_after: Some(2),
        cause: Some(Arc::new(error)),
        ..ApiError::new(Kind::Unavailable, detail)
    }
}

/// That somebody asked who has held an identifier, as it is written down. The hash is another one than
/// that of accounts: who compared the two could tell whose name was erased.
pub(crate) fn holders_of(book: &Entrybook, identifier: &Identifier) -> Value {
    let index = book.keyring().reading_index(identifier.kind(), &identifier.folded());
    json!({ "holders_of": index })
}

/// A filter of the history as it is written down.
#[must_use]
pub fn asked(filter: &Filter) -> Value {
    // Field by field, so that a new one asks to be written down too. Who may see it, the reader, is
    // known anyway, as is how far the book went, and a place is told as such and not by its many hashes.
    let Filter {
        user,
        actor_user,
        actor_kind,
        session,
        place,
        sources: _,
        outcome,
        event_types,
        from,
        to,
        up_to: _,
        visible_to: _,
    } = filter;
    let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let kind = actor_kind.map(|kind| match kind {
        ActorKind::Anonymous => "anonymous",
        ActorKind::System => "system",
        ActorKind::Cli => "cli",
    });
    let actor = actor_user.map(|user| user.to_string()).or(kind.map(str::to_owned));
    let fields = [
        ("user", user.map(|user| json!(user))),
        ("actor", actor.map(Value::from)),
        ("session", session.map(|session| json!(session))),
        ("place", place.clone().map(Value::from)),
        ("outcome", outcome.clone().map(Value::from)),
        ("types", (!event_types.is_empty()).then(|| json!(event_types))),
        ("from", from.as_ref().map(|from| time(from).into())),
        ("to", to.as_ref().map(|to| time(to).into())),
    ];
    let asked = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(asked.collect::<Map<_, _>>())
}

/// What is asked for by who follows. Who begins further back than a page reads the past as well, and
/// from where on is told; who goes on where a stream was broken off does what they did before.
#[must_use]
pub fn followed(filter: &Filter, after: i64, head: i64) -> Value {
    let mut asked = asked(filter);
    if after < head.saturating_sub(A_PAGE)
        && let Some(fields) = asked.as_object_mut()
    {
        fields.insert("after".to_owned(), json!(after));
    }
    asked
}

/// Nothing where everything is asked for.
pub(crate) fn text_of(filter: &Value) -> Option<String> {
    let nothing = filter.is_null() || filter.as_object().is_some_and(Map::is_empty);
    (!nothing).then(|| filter.to_string())
}

/// What was asked for as people read it: `user 0198…, types SignInFailed or UserErased`. What somebody
/// typed freely is quoted, lest it look like more of the filter. What is no filter, because its key is
/// gone, say, is told as it is.
pub(crate) fn in_words(asked: &str) -> String {
    fn named(fields: &Map<String, Value>) -> String {
        let named = fields
            .iter()
            .map(|(name, value)| format!("{} {}", name.replace('_', " "), words(value)));
        named.collect::<Vec<_>>().join(", ")
    }
    fn words(value: &Value) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+".contains(c);
        match value {
            Value::String(text) if text.chars().all(is_plain) => text.clone(),
            Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(" or "),
            Value::Object(fields) => format!("({})", named(fields)),
            other => other.to_string(),
        }
    }
    let Ok(Value::Object(fields)) = serde_json::from_str(asked) else { return asked.to_owned() };
    named(&fields)
}

type Key = [u8; 32];

fn key_of(reading: &Reading, filter: Option<&str>) -> Key {
    Sha256::digest(format!("{reading:?} {filter:?}")).into()
}

/// What was read of late, by whom.
#[derive(Debug, Default)]
pub(crate) struct Readings(Mutex<HashMap<UserId, Reader>>);

#[derive(Debug)]
struct Reader {
    /// When the hour began in which is counted.
    began: DateTime<Utc>,
    count: usize,
    /// When each was written down.
    done: HashMap<Key, DateTime<Utc>>,
}

impl Readings {
    /// Whether a reading is to be written down, or was a moment ago. Counts it.
    fn is_due(&self, reader: UserId, key: &Key, now: DateTime<Utc>) -> ApiResult<bool> {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() >= READERS && !readers.contains_key(&reader) {
            let first = readers.iter().min_by_key(|(_, known)| known.began).map(|(id, _)| *id);
            if let Some(first) = first {
                readers.remove(&first);
            }
        }
        let known = readers.entry(reader).or_insert_with(|| Reader {
            began: now,
            count: 0,
            done: HashMap::new(),
        });
        if known.done.get(key).is_some_and(|at| now - *at < ONCE_IN) {
            return Ok(false);
        }
        if now - known.began >= AN_HOUR {
            (known.began, known.count) = (now, 0);
        }
        if known.count >= MOST {
            let wait = known.began + AN_HOUR - now;
            let detail = format!(
                "You have searched the history {MOST} times within an hour, and each of these is \
                 written down. Wait {} minutes, or export what you need at once.",
                wait.num_minutes() + 1
            );
            let refused = ApiError::throttled(wait.to_std().unwrap_or_default());
            return Err(ApiError { detail: detail.into(), ..refused });
        }
        known.count += 1;
        Ok(true)
    }

    fn is_done(&self, reader: UserId, key: Key, now: DateTime<Utc>) {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = readers.get_mut(&reader) {
            if known.done.len() >= MOST {
                known.done.retain(|_, at| now - *at < ONCE_IN);
            }
            known.done.insert(key, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::SessionId;
    use uuid::Uuid;

    use super::*;

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    fn key(filter: &str) -> Key {
        key_of(&Reading::Searched, Some(filter))
    }

    #[test]
    fn the_same_reading_is_due_once_in_ten_minutes() {
        let readings = Readings::default();
        let due = |reader, filter: &str, seconds| {
            readings.is_due(user(reader), &key(filter), at(seconds)).unwrap()
        };
        assert!(due(1, "a", 0));
        assert!(due(1, "a", 1), "it was not written down");
        readings.is_done(user(1), key("a"), at(1));
        assert!(!due(1, "a", 2) && !due(1, "a", 600));
        assert!(due(1, "b", 2) && due(2, "a", 2) && due(1, "a", 601));
        let exported = |up_to| Reading::Exported { format: "csv".into(), up_to };
        assert_ne!(key_of(&exported(1), None), key_of(&exported(2), None));
        assert_ne!(key_of(&Reading::Followed, None), key_of(&Reading::Replayed, None));
        assert_ne!(key_of(&Reading::Followed, None), key_of(&Reading::Followed, Some("None")));
    }

    #[test]
    fn readings_are_bounded_and_so_is_what_is_remembered() {
        let readings = Readings::default();
        for number in 0..MOST {
            let key = key(&number.to_string());
            assert!(readings.is_due(user(1), &key, at(0)).unwrap());
            readings.is_done(user(1), key, at(0));
        }
        let refused = readings.is_due(user(1), &key("more"), at(1)).unwrap_err();
        assert_eq!((refused.kind, refused.retry_after), (Kind::TooManyAttempts, Some(3_599)));
        assert!(!readings.is_due(user(1), &key("7"), at(1)).unwrap(), "what was read may be");
        assert!(readings.is_due(user(2), &key("more"), at(1)).unwrap());
        assert!(readings.is_due(user(1), &key("more"), at(3_600)).unwrap());
        for number in 0..2 * READERS as u128 {
            readings.is_due(user(number), &key("a"), at(4_000 + number as i64)).unwrap();
        }
        assert_eq!(readings.0.lock().unwrap().len(), READERS);
    }

    #[test]
    fn whoever_follows_from_far_back_is_told_with_where_they_begin() {
        let everything = Filter::default();
        assert_eq!(text_of(&followed(&everything, 1_000, 1_000)), None);
        assert_eq!(text_of(&followed(&everything, 800, 1_000)), None);
        assert_eq!(followed(&everything, 799, 1_000), json!({"after": 799}));
        assert_eq!(followed(&everything, 0, 1_000), json!({"after": 0}));
        // A replica may be ahead of what this one shows.
        assert_eq!(text_of(&followed(&everything, 1_001, 1_000)), None);
        let of_one = Filter { user: Some(user(1)), ..Filter::default() };
        assert_eq!(followed(&of_one, 0, 1_000), json!({"user": user(1), "after": 0}));
    }

    #[test]
    fn a_filter_is_told_by_ids_and_only_what_it_asks_for() {
        assert_eq!(text_of(&asked(&Filter::default())), None);
        assert_eq!(text_of(&Value::Null), None);
        let filter = Filter {
            user: Some(user(1)),
            actor_kind: Some(ActorKind::Cli),
            session: Some(SessionId(Uuid::from_u128(2))),
            event_types: vec!["SignInFailed".into()],
            from: Some(at(0)),
            visible_to: Some(user(3)),
            ..Filter::default()
        };
        assert_eq!(
            asked(&filter),
            json!({
                "user": user(1),
                "actor": "cli",
                "session": Uuid::from_u128(2),
                "types": ["SignInFailed"],
                "from": "2025-10-09T08:53:20Z",
            })
        );
    }

    #[test]
    fn what_was_asked_is_told_in_words() {
        let asked =
            json!({"types": ["SignInFailed", "UserErased"], "holders_of": "k1.x", "after": 7});
        let words = in_words(&asked.to_string());
        assert_eq!(words, "after 7, holders of k1.x, types SignInFailed or UserErased");
        assert_eq!((in_words("(erased)"), in_words("[1]")), ("(erased)".into(), "[1]".into()));
        let searched =
            json!({"searched": {"first_month": "2026-03", "older_left_out": false}}).to_string();
        assert_eq!(in_words(&searched), "searched (first month 2026-03, older left out false)");
        let forged =
            json!({"outcome": "expired, user \u{1b}me", "place": "192.0.2.0/24"}).to_string();
        assert_eq!(in_words(&forged), r#"outcome "expired, user \u001bme", place 192.0.2.0/24"#);
    }
}
