//! Any event of the book, read back from its stored form.

use cqrs_es::persist::{EventUpcaster, SerializedEvent};
use serde_json::Value;

use crate::{SessionEvent, SignInGuardEvent, UserEvent};

/// The types of streams, as stored in `aggregate_type`. They never change.
pub mod stream {
    pub const USER: &str = "User";
    pub const SESSION: &str = "Session";
    pub const SIGN_IN_GUARD: &str = "SignInGuard";
}

/// An event of any stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    User(UserEvent),
    Session(SessionEvent),
    SignInGuard(SignInGuardEvent),
}

/// A stored event that this binary can't read: a newer one wrote it, or it was damaged.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableEvent {
    #[error("events of stream type {aggregate_type:?} are not known to this version of Entrybook")]
    UnknownStream { aggregate_type: String },
    #[error(
        "{event_type} version {event_version} can't be read by this version of Entrybook: {cause}"
    )]
    Payload { event_type: String, event_version: String, cause: serde_json::Error },
}

/// Brings the stored forms of old versions up to the present one, in order.
///
/// There is one version of each event so far, so there is nothing to bring up yet.
#[must_use]
fn upcasters() -> Vec<Box<dyn EventUpcaster>> {
    Vec::new()
}

/// The stored event in its present version.
#[must_use]
pub fn upcast(stored: SerializedEvent) -> SerializedEvent {
    upcasters().iter().fold(stored, |event, upcaster| {
        if upcaster.can_upcast(&event.event_type, &event.event_version) {
            upcaster.upcast(event)
        } else {
            event
        }
    })
}

impl Event {
    /// Reads a stored event.
    pub fn from_stored(
        aggregate_type: &str,
        event_type: &str,
        event_version: &str,
        payload: Value,
    ) -> Result<Self, UnreadableEvent> {
        let stored = SerializedEvent::new(
            String::new(),
            0,
            aggregate_type.to_owned(),
            event_type.to_owned(),
            event_version.to_owned(),
            payload,
            Value::Null,
        );
        let current = upcast(stored);
        let read = match aggregate_type {
            stream::USER => serde_json::from_value(current.payload).map(Self::User),
            stream::SESSION => serde_json::from_value(current.payload).map(Self::Session),
            stream::SIGN_IN_GUARD => serde_json::from_value(current.payload).map(Self::SignInGuard),
            _ => {
                return Err(UnreadableEvent::UnknownStream {
                    aggregate_type: aggregate_type.to_owned(),
                });
            }
        };
        read.map_err(|cause| UnreadableEvent::Payload {
            event_type: event_type.to_owned(),
            event_version: event_version.to_owned(),
            cause,
        })
    }

    /// The name under which it is stored.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::User(event) => event.name(),
            Self::Session(event) => event.name(),
            Self::SignInGuard(event) => event.name(),
        }
    }
}
