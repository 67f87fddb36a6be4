//! Holding the lines against what was signed.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use proof::{Audit, Checkpoint, Finding, Followed, Hash, Node, Tree, Trust};
use tokio::sync::mpsc;

use super::{
    BookReport, KEPT, KeptHashes, Progress, Refused, Unreadable,
    reading::{AHEAD, Extent, Page, StoredCheckpoint},
    seen::Seen,
};
use crate::transparency::Kept;

/// The tree over the lines themselves, as long as there is one line at each position.
#[derive(Default)]
struct OwnTree {
    tree: Tree,
    /// The first size at which it has another root than the one that was signed.
    differs: Option<u64>,
    /// Kept hashes that are others, and not yet known to be wrong: it may be the lines.
    pending: KeptHashes,
}

/// The work of the thread that holds them against each other.
pub(super) struct Holding {
    audit: Audit,
    own: Option<OwnTree>,
    /// The last size at which the lines had the root that was signed. They are right up to there.
    agrees: u64,
    /// What of the kept hashes is not that of the lines up to there.
    kept: KeptHashes,
    /// The roots that were signed of sizes to come.
    signed: BTreeMap<u64, Vec<Hash>>,
    trust: Trust,
    checkpoints: u64,
    refused: Vec<Refused>,
    refused_in_all: u64,
    without_key: BTreeMap<String, u64>,
    unreadable: Vec<Unreadable>,
}

impl Holding {
    /// With the checkpoints that somebody else has kept; the largest of their sizes.
    pub(super) fn new(trust: Trust, notes: &[Vec<u8>]) -> (Self, u64) {
        let mut holding = Self {
            audit: Audit::new(Vec::new()),
            own: Some(OwnTree::default()),
            agrees: 0,
            kept: KeptHashes::default(),
            signed: BTreeMap::new(),
            trust,
            checkpoints: 0,
            refused: Vec::new(),
            refused_in_all: 0,
            without_key: BTreeMap::new(),
            unreadable: Vec::new(),
        };
        let mut largest = 0;
        for note in notes {
            let origin = note.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let origin = String::from_utf8_lossy(origin).into_owned();
            match holding.trust.checkpoint(note, &origin) {
                Ok(checkpoint) => {
                    largest = largest.max(checkpoint.size);
                    holding.hold_against(checkpoint);
                }
                Err(cause) => holding.refuse(origin, None, cause.to_string()),
            }
        }
        (holding, largest)
    }

    fn refuse(&mut self, origin: String, size: Option<u64>, cause: String) {
        self.refused_in_all += 1;
        if self.refused.len() < KEPT {
            self.refused.push(Refused { origin, size, cause });
        }
    }

    fn hold_against(&mut self, checkpoint: Checkpoint) {
        self.checkpoints += 1;
        self.signed.entry(checkpoint.size).or_default().push(checkpoint.root);
        self.audit.hold_against(checkpoint);
    }

    /// Holds a stored checkpoint against the book, if it is believed.
    fn look(&mut self, stored: StoredCheckpoint) {
        let StoredCheckpoint { origin, size, root, note } = stored;
        if !self.trust.knows(&origin) {
            let size = u64::try_from(size).unwrap_or_default();
            let largest = self.without_key.entry(origin).or_default();
            *largest = size.max(*largest);
            return;
        }
        let size = u64::try_from(size).ok();
        match self.trust.checkpoint(&note, &origin) {
            Ok(checkpoint)
                if Some(checkpoint.size) == size && checkpoint.root.0.as_slice() == root =>
            {
                self.hold_against(checkpoint);
            }
            Ok(_) => {
                let cause = "its row says another size or root than the note that was signed";
                self.refuse(origin, size, cause.to_owned());
            }
            Err(cause) => self.refuse(origin, size, cause.to_string()),
        }
    }

    /// Takes page after page; `hashes` is how many lines have a kept hash.
    pub(super) fn hold(
        mut self,
        mut pages: mpsc::Receiver<Page>,
        hashes: u64,
        progress: &Progress,
    ) -> Self {
        // Of an empty book.
        self.compare();
        while let Some(page) = pages.blocking_recv() {
            let last = page.last;
            self.page(page, hashes);
            progress.lines.store(last, Ordering::Relaxed);
        }
        self
    }

    fn page(&mut self, page: Page, hashes: u64) {
        let Page { first, last, lines: seen, unreadable, kept, checkpoints } = page;
        checkpoints.into_iter().for_each(|stored| self.look(stored));
        self.compare();
        let room = KEPT.saturating_sub(self.unreadable.len());
        self.unreadable.extend(unreadable.into_iter().take(room));
        self.grow(first, last, &seen, &kept, hashes);
        self.audit.forgive(self.agrees);
        // Where a hash is missing that must have been there, the line is taken at its word; the
        // checkpoints tell whether it may be.
        let mut own = seen.iter().peekable();
        let mut of_lines = Vec::new();
        for position in first..=last.min(hashes) {
            while own.next_if(|line| line.position < position).is_some() {}
            let there = own.peek().filter(|line| line.position == position);
            let known = kept.get(0, position - 1);
            let hash = known.or_else(|| there.map(|line| line.hash));
            of_lines.push(hash.unwrap_or(Hash([0; 32])));
        }
        let ahead = (last..).map_while(|index| kept.get(0, index)).take(AHEAD as usize);
        self.audit.window(&seen, &of_lines, &ahead.collect::<Vec<_>>());
    }

    /// Grows the tree over the lines themselves.
    fn grow(&mut self, first: u64, last: u64, seen: &[Seen], kept: &Kept, hashes: u64) {
        let is_dense = seen.iter().map(|line| line.position).eq(first..=last);
        if !is_dense {
            self.own = None;
        }
        for line in seen {
            let Some(own) = &mut self.own else { return };
            let OwnTree { tree, pending, .. } = own;
            tree.push(line.hash, |Node { level, index, hash }| {
                // What is not kept yet is not missing.
                if (index + 1) << (8 * u32::from(level)) > hashes {
                    return;
                }
                match kept.get(level, index) {
                    Some(known) if known == hash => {}
                    Some(_) => pending.wrong += 1,
                    None => pending.missing += 1,
                }
            });
            self.compare();
        }
    }

    /// Holds the tree over the lines against what was signed of its size.
    fn compare(&mut self) {
        let Some(own) = &mut self.own else { return self.signed.clear() };
        while let Some(next) = self.signed.first_entry()
            && *next.key() <= own.tree.size()
        {
            let (size, roots) = next.remove_entry();
            let is_so =
                size == own.tree.size() && roots.iter().all(|root| *root == own.tree.root());
            if !is_so {
                own.differs.get_or_insert(size);
            } else if own.differs.is_none() {
                self.agrees = size;
                let pending = std::mem::take(&mut own.pending);
                self.kept.missing += pending.missing;
                self.kept.wrong += pending.wrong;
            }
        }
    }

    pub(super) fn report(self, extent: &Extent, trusts_database: bool) -> BookReport {
        let mut verdict = self.audit.end();
        verdict.unhashed = verdict.unhashed.max(extent.head.saturating_sub(extent.hashes));
        verdict.proved = verdict.proved.max(self.agrees);
        let differs = self.own.and_then(|own| own.differs);
        if let Some(differs) = differs.filter(|_| verdict.wrong == 0) {
            // The kept hashes were rewritten as well, and were wrong before.
            verdict.findings.push(Finding::Forked { agrees: self.agrees, differs });
            verdict.wrong += 1;
        }
        // Where nothing else tells, the sequencer does, which counts what it has given out.
        if extent.sequenced > extent.head && verdict.wrong == 0 {
            let (lines, size) = (extent.head, extent.sequenced);
            verdict.findings.push(Finding::CutTail { lines, size });
            verdict.wrong += 1;
        }
        BookReport {
            verdict,
            checkpoints: self.checkpoints,
            keys: self.trust.keys(),
            followed: Followed::default(),
            trusts_database,
            refused: self.refused,
            refused_in_all: self.refused_in_all,
            without_key: self.without_key,
            unreadable: self.unreadable,
            kept: self.kept,
            unlisted: Vec::new(),
            unlisted_in_all: 0,
            not_hashed: extent.head.saturating_sub(extent.end()),
            misplaced: 0,
            unproved_for: None,
        }
    }
}
