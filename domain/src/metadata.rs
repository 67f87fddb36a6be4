//! Who, from where, for which request, and when: what every event carries beside its payload.

use std::{collections::HashMap, fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};

use crate::{Index, Sealed, UserId};

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// A person who is signed in, or is signing in.
    User(UserId),
    /// Nobody known: a request before its sender has proved who it is.
    Anonymous,
    /// Entrybook itself: an expiry, the end of a process that was begun by another.
    System,
    /// The command line, with the operating system's user, sealed.
    Cli(Sealed),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user:{id}"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::System => f.write_str("system"),
            Self::Cli(Sealed(user)) => write!(f, "cli:{user}"),
        }
    }
}

impl FromStr for Actor {
    type Err = MalformedMetadata;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "system" => Ok(Self::System),
            None if text == "anonymous" => Ok(Self::Anonymous),
            Some(("user", id)) => {
                id.parse().map(Self::User).map_err(|_| MalformedMetadata("actor"))
            }
            Some(("cli", sealed)) => Ok(Self::Cli(Sealed(sealed.to_owned()))),
            _ => Err(MalformedMetadata("actor")),
        }
    }
}

/// Where a request came from. The address and user agent are sealed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSource {
    /// JSON `{"address": "…", "user_agent": "…"}`.
    pub sealed: Sealed,
    /// The address under a key of the month, to find what else came from there.
    pub address: Index,
}

/// The metadata of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub actor: Actor,
    pub source: Option<SealedSource>,
    pub request_id: String,
    /// When it happened, to the microsecond.
    pub at: DateTime<Utc>,
}

/// A stored event whose metadata can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the event's metadata has no sound {0:?}")]
pub struct MalformedMetadata(pub &'static str);

impl Metadata {
    /// The stored form: a flat JSON object of texts, as cqrs-es has it.
    #[must_use]
    pub fn to_map(&self) -> HashMap<String, String> {
        let mut map = HashMap::from([
            ("actor".to_owned(), self.actor.to_string()),
            ("request_id".to_owned(), self.request_id.clone()),
            ("at".to_owned(), self.at.to_rfc3339_opts(SecondsFormat::Micros, true)),
        ]);
        if let Some(source) = &self.source {
            map.insert("source".to_owned(), source.sealed.0.clone());
            map.insert("address".to_owned(), source.address.0.clone());
        }
        map
    }

    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, MalformedMetadata> {
        let text = |key: &'static str| map.get(key).ok_or(MalformedMetadata(key));
        let source = match (map.get("source"), map.get("address")) {
            (None, None) => None,
            (Some(sealed), Some(address)) => Some(SealedSource {
                sealed: Sealed(sealed.clone()),
                address: Index(address.clone()),
            }),
            _ => return Err(MalformedMetadata("source")),
        };
        Ok(Self {
            actor: text("actor")?.parse()?,
            source,
            request_id: text("request_id")?.clone(),
            at: DateTime::parse_from_rfc3339(text("at")?)
                .map_err(|_| MalformedMetadata("at"))?
                .with_timezone(&Utc),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_as_it_was_stored() {
        let at = DateTime::from_timestamp_micros(1_760_000_000_123_456).unwrap();
        for actor in [
            Actor::User(UserId(uuid::Uuid::from_u128(7))),
            Actor::Anonymous,
            Actor::System,
            Actor::Cli(Sealed("s1.m:operators.AAAA".into())),
        ] {
            let metadata = Metadata {
                actor,
                source: Some(SealedSource {
                    sealed: Sealed("s1.m:2026-01.BBBB".into()),
                    address: Index("ab".into()),
                }),
                request_id: "01H".into(),
                at,
            };
            assert_eq!(Metadata::from_map(&metadata.to_map()), Ok(metadata));
        }
    }
}
