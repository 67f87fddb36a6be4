//! Who, from where, for which request, and when: what every event carries beside its payload.

use std::{borrow::Cow, collections::HashMap, fmt, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

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
    /// The network around it, likewise: an IPv4 /24 or an IPv6 /48. Older lines have none.
    pub network: Option<Index>,
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
            if let Some(network) = &source.network {
                map.insert("network".to_owned(), network.0.clone());
            }
        }
        map
    }

    pub fn from_map(map: &HashMap<String, String>) -> Result<Self, MalformedMetadata> {
        let text = |key: &str| map.get(key).map(|value| Cow::Borrowed(value.as_str()));
        Self::read(Fields {
            actor: text("actor"),
            source: text("source"),
            address: text("address"),
            network: text("network"),
            request_id: text("request_id"),
            at: text("at"),
        })
    }

    /// Reads the stored form as it is, with no map in between.
    pub fn from_text(json: &str) -> Result<Self, MalformedMetadata> {
        Self::read(serde_json::from_str(json).map_err(|_| MalformedMetadata("form"))?)
    }

    fn read(fields: Fields<'_>) -> Result<Self, MalformedMetadata> {
        let source = match (fields.source, fields.address, fields.network) {
            (None, None, None) => None,
            (Some(sealed), Some(address), network) => Some(SealedSource {
                sealed: Sealed(sealed.into_owned()),
                address: Index(address.into_owned()),
                network: network.map(|network| Index(network.into_owned())),
            }),
            _ => return Err(MalformedMetadata("source")),
        };
        Ok(Self {
            actor: fields.actor.ok_or(MalformedMetadata("actor"))?.parse()?,
            source,
            request_id: fields.request_id.ok_or(MalformedMetadata("request_id"))?.into_owned(),
            at: DateTime::parse_from_rfc3339(&fields.at.ok_or(MalformedMetadata("at"))?)
                .map_err(|_| MalformedMetadata("at"))?
                .with_timezone(&Utc),
        })
    }
}

/// What is read of a flat object of texts. Other keys may be there, with texts as well: cqrs-es reads
/// such an object into a map.
#[derive(Default)]
struct Fields<'a> {
    actor: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    address: Option<Cow<'a, str>>,
    network: Option<Cow<'a, str>>,
    request_id: Option<Cow<'a, str>>,
    at: Option<Cow<'a, str>>,
}

/// A text that is copied only where it has escapes. serde borrows a `Cow` only where it is told to.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    let field = match &*key {
                        "actor" => &mut fields.actor,
                        "source" => &mut fields.source,
                        "address" => &mut fields.address,
                        "network" => &mut fields.network,
                        "request_id" => &mut fields.request_id,
                        "at" => &mut fields.at,
                        _ => continue,
                    };
                    *field = Some(value);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_comes_back_as_it_was_stored() {
        let at = DateTime::from_timestamp_micros(1_760_000_000_123_456).unwrap();
        let mut network = None;
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
                    network: network.clone(),
                }),
                request_id: "01H".into(),
                at,
            };
            network = Some(Index("cd".into()));
            assert_eq!(Metadata::from_map(&metadata.to_map()), Ok(metadata));
        }
    }
}
