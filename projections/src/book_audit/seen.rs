//! Lines as they are held against the hashes.

use proof::{Hash, Leaf, Line, hash_of};

use super::{KEPT, Unreadable};
use crate::{
    journal::{CopiedLine, CopiedPage, RecordedEvent, StoredLine},
    transparency::leaf,
};

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

/// The lines of a page, hashed; those that can't be, apart.
#[derive(Default)]
pub(super) struct Hashed {
    pub(super) lines: Vec<Seen>,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Hashed {
    /// Of a page as it came; nothing where anything is odd about it.
    pub(super) fn of_copy(page: CopiedPage) -> Option<Self> {
        let copied = page.lines()?;
        let mut hashed = Self { lines: Vec::with_capacity(copied.len()), ..Self::default() };
        for line in copied {
            let position = u64::try_from(line.position).ok()?;
            let hash = hashed.hash_of(line.position, line.leaf_at(position)?);
            hashed.lines.push(Seen { position, hash, event: Event::Copied(line) });
        }
        Some(hashed)
    }

    pub(super) fn of_stored(stored: Vec<StoredLine>) -> Self {
        let mut hashed = Self::default();
        for line in stored {
            let Ok(position) = u64::try_from(line.position) else { continue };
            match line.event {
                Ok(event) => {
                    let hash = hashed.hash_of(line.position, leaf(&event));
                    hashed.lines.push(Seen { position, hash, event: Event::Read(Box::new(event)) });
                }
                Err(cause) => hashed.tell(line.position, cause),
            }
        }
        hashed
    }

    fn hash_of(&mut self, position: i64, leaf: Leaf<'_>) -> Hash {
        leaf.hash().unwrap_or_else(|cause| {
            self.tell(position, cause.to_string());
            // What can't be hashed was hashed nowhere.
            hash_of(b"")
        })
    }

    /// Remembers why a line can't be hashed.
    fn tell(&mut self, position: i64, cause: String) {
        if self.unreadable.len() < KEPT {
            self.unreadable.push(Unreadable { position, cause });
        }
    }
}
