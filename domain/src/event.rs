//! Any event of the book, read back from its stored form.

use std::borrow::Cow;

use cqrs_es::{
    DomainEvent,
    persist::{EventUpcaster, SerializedEvent},
};
use serde_json::Value;

use crate::{ReadingEvent, ServiceEvent, SessionEvent, SignInGuardEvent, UserEvent, session};

/// The types of streams, as stored in `aggregate_type`. They never change.
pub mod stream {
    pub const USER: &str = "User";
    pub const SESSION: &str = "Session";
    pub const SIGN_IN_GUARD: &str = "SignInGuard";
    pub const SERVICE: &str = "Service";
    pub const READING: &str = "Reading";

    const SIGNING_KEY: &str = "signing_key:";

    /// The service stream of a key that signs access tokens.
    pub fn of_signing_key(kid: &str) -> String {
        format!("{SIGNING_KEY}{kid}")
    }

    /// The key that a service stream is about; nothing for another stream.
    pub fn signing_key_of(stream_id: &str) -> Option<&str> {
        stream_id.strip_prefix(SIGNING_KEY)
    }
}

/// An event of any stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    User(UserEvent),
    Session(SessionEvent),
    SignInGuard(SignInGuardEvent),
    Service(ServiceEvent),
    Reading(ReadingEvent),
}

/// The events of one type of stream.
pub trait StreamEvent: DomainEvent {
    /// The type of the stream.
    const STREAM: &'static str;

    /// The version that events of this name have here; older ones are brought up to it as they are
    /// read. Nothing where there is no such name.
    fn version_of(name: &str) -> Option<&'static str>;

    /// The name under which it is stored.
    fn name(&self) -> &'static str;
}

/// A stored event that this binary can't read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableEvent {
    /// The type of stream, the type of event, or its version.
    #[error(
        "{event_type} version {event_version} of a {aggregate_type} stream is not known here: a \
         newer version of Entrybook wrote it"
    )]
    Unknown { aggregate_type: String, event_type: String, event_version: String },
    #[error("the payload of {event_type} version {event_version} is that of a {found}")]
    Mistyped { event_type: String, event_version: String, found: &'static str },
    #[error("the payload of {event_type} version {event_version} is damaged: {cause}")]
    Payload { event_type: String, event_version: String, cause: serde_json::Error },
}

impl UnreadableEvent {
    /// Whether a newer binary wrote it, and can read it: nothing is wrong with the event.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }

    fn unknown(aggregate_type: &str, event_type: &str, event_version: &str) -> Self {
        Self::Unknown {
            aggregate_type: aggregate_type.to_owned(),
            event_type: event_type.to_owned(),
            event_version: event_version.to_owned(),
        }
    }
}

/// Brings one event from one version to the next.
///
/// cqrs-es's own `SemanticVersionEventUpcaster` would turn any version below its own into `2.0.0`,
/// and so make something of versions that never were.
struct Upcaster {
    event_type: &'static str,
    from: &'static str,
    to: &'static str,
    payload: fn(Value) -> Value,
}

impl EventUpcaster for Upcaster {
    fn can_upcast(&self, event_type: &str, event_version: &str) -> bool {
        event_type == self.event_type && event_version == self.from
    }

    fn upcast(&self, event: SerializedEvent) -> SerializedEvent {
        SerializedEvent {
            event_version: self.to.to_owned(),
            payload: (self.payload)(event.payload),
            ..event
        }
    }
}

/// In order: what one writes, the next may bring further.
static UPCASTERS: [Upcaster; 2] = [
    Upcaster {
        event_type: "SessionStarted",
        from: "1",
        to: "2",
        payload: session::method_to_methods,
    },
    Upcaster { event_type: "SessionEnded", from: "1", to: "2", payload: session::before_erasure },
];

fn is_old(event_type: &str, event_version: &str) -> bool {
    UPCASTERS.iter().any(|upcaster| upcaster.can_upcast(event_type, event_version))
}

fn upcast(stored: SerializedEvent) -> SerializedEvent {
    UPCASTERS.iter().fold(stored, |event, upcaster| {
        if upcaster.can_upcast(&event.event_type, &event.event_version) {
            upcaster.upcast(event)
        } else {
            event
        }
    })
}

/// A payload as it came.
enum Payload<'a> {
    Text(&'a str),
    Value(Value),
}

impl Payload<'_> {
    fn into_value(self) -> serde_json::Result<Value> {
        match self {
            Self::Text(text) => serde_json::from_str(text),
            Self::Value(value) => Ok(value),
        }
    }

    fn read<E: StreamEvent>(self) -> serde_json::Result<E> {
        match self {
            Self::Text(text) => serde_json::from_str(text),
            Self::Value(value) => serde_json::from_value(value),
        }
    }
}

fn read<E: StreamEvent>(
    event_type: &str,
    event_version: &str,
    payload: Payload<'_>,
) -> Result<E, UnreadableEvent> {
    let damaged = |cause| UnreadableEvent::Payload {
        event_type: event_type.to_owned(),
        event_version: event_version.to_owned(),
        cause,
    };
    let (version, payload) = if is_old(event_type, event_version) {
        let current = upcast(SerializedEvent::new(
            String::new(),
            0,
            E::STREAM.to_owned(),
            event_type.to_owned(),
            event_version.to_owned(),
            payload.into_value().map_err(damaged)?,
            Value::Null,
        ));
        (Cow::Owned(current.event_version), Payload::Value(current.payload))
    } else {
        (Cow::Borrowed(event_version), payload)
    };
    // Before anything of it is believed: what a newer binary wrote may well look like what is known.
    if E::version_of(event_type) != Some(&*version) {
        return Err(UnreadableEvent::unknown(E::STREAM, event_type, event_version));
    }
    let event: E = payload.read().map_err(damaged)?;
    if event.name() != event_type {
        return Err(UnreadableEvent::Mistyped {
            event_type: event_type.to_owned(),
            event_version: event_version.to_owned(),
            found: event.name(),
        });
    }
    Ok(event)
}

/// Reads a stored event of a stream whose type is known.
pub fn read_stored<E: StreamEvent>(
    event_type: &str,
    event_version: &str,
    payload: Value,
) -> Result<E, UnreadableEvent> {
    read(event_type, event_version, Payload::Value(payload))
}

/// The same from the text of the payload.
pub fn read_stored_text<E: StreamEvent>(
    event_type: &str,
    event_version: &str,
    json: &str,
) -> Result<E, UnreadableEvent> {
    read(event_type, event_version, Payload::Text(json))
}

impl Event {
    /// Reads a stored event. Old versions are brought up to the present one.
    pub fn from_stored(
        aggregate_type: &str,
        event_type: &str,
        event_version: &str,
        payload: Value,
    ) -> Result<Self, UnreadableEvent> {
        Self::read(aggregate_type, event_type, event_version, Payload::Value(payload))
    }

    /// The same from the text of the payload. In its present version an event is parsed with nothing
    /// in between, which is most of the time that reading the book takes.
    pub fn from_stored_text(
        aggregate_type: &str,
        event_type: &str,
        event_version: &str,
        json: &str,
    ) -> Result<Self, UnreadableEvent> {
        Self::read(aggregate_type, event_type, event_version, Payload::Text(json))
    }

    fn read(
        aggregate_type: &str,
        event_type: &str,
        event_version: &str,
        payload: Payload<'_>,
    ) -> Result<Self, UnreadableEvent> {
        match aggregate_type {
            stream::USER => read(event_type, event_version, payload).map(Self::User),
            stream::SESSION => read(event_type, event_version, payload).map(Self::Session),
            stream::SIGN_IN_GUARD => {
                read(event_type, event_version, payload).map(Self::SignInGuard)
            }
            stream::SERVICE => read(event_type, event_version, payload).map(Self::Service),
            stream::READING => read(event_type, event_version, payload).map(Self::Reading),
            _ => Err(UnreadableEvent::unknown(aggregate_type, event_type, event_version)),
        }
    }

    /// The name under which it is stored.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::User(event) => event.name(),
            Self::Session(event) => event.name(),
            Self::SignInGuard(event) => event.name(),
            Self::Service(event) => event.name(),
            Self::Reading(event) => event.name(),
        }
    }

    /// The version in which it is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::User(event) => event.version(),
            Self::Session(event) => event.version(),
            Self::SignInGuard(event) => event.version(),
            Self::Service(event) => event.version(),
            Self::Reading(event) => event.version(),
        }
    }
}
