//! A line of an export as it stands in the file.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::LEAF;
use crate::{Hash, Leaf, Line, hash_of};

/// What a line of the file is by itself. To find it is most of the work of reading an export, and needs none
/// of the lines before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Looked(pub(super) Option<LeafLine>);

/// A line that is a leaf.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LeafLine {
    pub(super) hash: Hash,
    /// The position that it claims; nothing where it is no leaf as the documentation has them.
    pub(super) position: Option<u64>,
}

/// Looks at a line, with its line feed or without.
#[must_use]
pub fn look(line: &[u8]) -> Looked {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    Looked(text.starts_with(LEAF).then(|| {
        let members = str::from_utf8(text).ok().and_then(members);
        LeafLine { hash: hash_of(text), position: members.map(|leaf| leaf.position) }
    }))
}

/// The members of a leaf.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    event_version: Cow<'a, str>,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
    position: u64,
    recorded_at: DateTime<Utc>,
    sequence: u64,
    #[serde(borrow)]
    stream_id: Cow<'a, str>,
    #[serde(borrow)]
    stream_type: Cow<'a, str>,
    #[serde(rename = "v")]
    _v: u32,
}

/// Reads a leaf, if it is one byte by byte: in canonical form, and no longer than leaves are. Another reader
/// of the same bytes would else find something else in them.
fn members(text: &str) -> Option<Members<'_>> {
    let members: Members<'_> = serde_json::from_str(text).ok()?;
    let bytes = members.leaf(members.position).to_bytes().ok()?;
    (bytes == text.as_bytes()).then_some(members)
}

impl Members<'_> {
    fn leaf(&self, position: u64) -> Leaf<'_> {
        Leaf {
            position,
            stream_type: &self.stream_type,
            stream_id: &self.stream_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.event_version,
            recorded_at: self.recorded_at,
            payload: self.payload.get(),
            metadata: self.metadata.get(),
        }
    }
}

/// A leaf among those of its run.
pub(super) struct Found {
    pub(super) position: u64,
    pub(super) stands_at: u64,
    pub(super) hash: Hash,
    /// The leaf itself, where it is not the one that was hashed at its position: to be hashed as if it stood
    /// elsewhere.
    pub(super) text: Option<Box<str>>,
}

impl Line for Found {
    fn position(&self) -> u64 {
        self.position
    }

    fn hash_at(&self, position: u64) -> Hash {
        if position == self.position {
            return self.hash;
        }
        let moved = || members(self.text.as_deref()?)?.leaf(position).hash().ok();
        // What is no leaf belongs nowhere: its own hash stands at no other position.
        moved().unwrap_or(self.hash)
    }

    fn stands_at(&self) -> u64 {
        self.stands_at
    }
}
