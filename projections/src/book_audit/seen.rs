//! Lines as they are held against the hashes.

use proof::{Hash, Leaf, Line, hash_of};

use super::{KEPT, Unreadable};
use crate::{
    journal::{CopiedLine, RecordedEvent, StoredLine},
    transparency::leaf,
};

/// A page as it was read.
pub(super) enum Found {
    Copied(Vec<CopiedLine>),
    Stored(Vec<StoredLine>),
}

/// A line as it is held against the hashes.
pub(super) struct Seen {
    pub(super) position: u64,
    pub(super) hash: Hash,
    event: Event,
}

/// To be hashed as if it stood elsewhere.
enum Event {
    Copied(CopiedLine),
    Read(Box<RecordedEvent>),
}

impl Line for Seen {
    fn position(&self) -> u64 {
        self.position
    }

    fn hash_at(&self, position: u64) -> Hash {
        if position == self.position {
            return self.hash;
        }
        let there = match &self.event {
            Event::Copied(line) => line.leaf_at(position),
            Event::Read(event) => Some(Leaf { position, ..leaf(event) }),
        };
        there.and_then(|leaf| leaf.hash().ok()).unwrap_or(self.hash)
    }
}

/// Hashes the lines of a page; those that can't be, apart.
pub(super) fn hashed(found: Found) -> (Vec<Seen>, Vec<Unreadable>) {
    let mut unreadable = Vec::new();
    let mut tell = |position: i64, cause: String| {
        if unreadable.len() < KEPT {
            unreadable.push(Unreadable { position, cause });
        }
    };
    let seen = match found {
        Found::Copied(lines) => {
            let lines = lines.into_iter().filter_map(|line| {
                let position = u64::try_from(line.position).ok()?;
                let hash = match line.leaf_at(position)?.hash() {
                    Ok(hash) => hash,
                    Err(cause) => {
                        tell(line.position, cause.to_string());
                        unhashable()
                    }
                };
                Some(Seen { position, hash, event: Event::Copied(line) })
            });
            lines.collect()
        }
        Found::Stored(lines) => {
            let lines = lines.into_iter().filter_map(|line| {
                let claimed = line.position;
                let position = u64::try_from(claimed).ok()?;
                let event = line.event.map_err(|cause| tell(claimed, cause)).ok()?;
                let hash = leaf(&event).hash().unwrap_or_else(|cause| {
                    tell(claimed, cause.to_string());
                    unhashable()
                });
                Some(Seen { position, hash, event: Event::Read(Box::new(event)) })
            });
            lines.collect()
        }
    };
    (seen, unreadable)
}

/// What can't be hashed was hashed nowhere.
fn unhashable() -> Hash {
    hash_of(b"")
}
