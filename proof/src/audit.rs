//! Holding lines of the book against the hashes that are kept of them, and these against checkpoints:
//! which line is wrong, and how.
//!
//! The kept hashes are a claim like the lines. What makes them true is a checkpoint that was signed
//! while the book was as it should be, best one that somebody else has kept. So there are two answers:
//! whether each line is the one that was hashed, and whether the hashes are those that were signed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use crate::{Checkpoint, Hash, Tree};

/// A line as it is found. It can be hashed as if it stood elsewhere, to tell where it belongs.
pub trait Line {
    /// The position that it claims.
    fn position(&self) -> u64;

    /// Its hash, were it at this position.
    fn hash_at(&self, position: u64) -> Hash;
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The line says something else than what was hashed.
    Edited { position: u64 },
    /// The line was hashed, and is not there.
    Deleted { position: u64 },
    /// A line that was never hashed stands there beside the one that was, or behind the last.
    Inserted { position: u64 },
    /// Lines that belong at `first` to `last` stand so many places later, or earlier.
    Moved { first: u64, last: u64, by: i64 },
    /// The book ends before the checkpoint that was signed of it.
    CutTail { lines: u64, size: u64 },
    /// The book is not the one that was signed. It agrees with the checkpoint of `agrees` lines, and not
    /// with that of `differs`.
    Forked { agrees: u64, differs: u64 },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited { position } => {
                write!(f, "line {position} was edited: it is not what was hashed")
            }
            Self::Deleted { position } => write!(f, "line {position} was deleted"),
            Self::Inserted { position } => {
                write!(f, "line {position} was inserted: it was never hashed")
            }
            Self::Moved { first, last, by } => {
                let (way, places) = (if *by < 0 { "earlier" } else { "later" }, by.unsigned_abs());
                if first == last {
                    write!(f, "line {first} stands {places} places {way} than it was hashed")
                } else {
                    write!(
                        f,
                        "lines {first} to {last} stand {places} places {way} than they were hashed"
                    )
                }
            }
            Self::CutTail { lines, size } => write!(
                f,
                "the end was cut off: a checkpoint of {size} lines was signed, and there are {lines}"
            ),
            Self::Forked { agrees, differs } => write!(
                f,
                "the book was rewritten after it was signed: it agrees with what was signed of {agrees} \
                 lines, and not with what was signed of {differs}, so something in lines {} to {differs} \
                 is not what it was",
                agrees + 1
            ),
        }
    }
}

/// What an audit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How many lines were looked at.
    pub lines: u64,
    /// The first of what is wrong, in the order of the book.
    pub findings: Vec<Finding>,
    /// How much is wrong, all in all.
    pub wrong: u64,
    /// The lines up to the last checkpoint that the book agrees with: what is proved.
    pub proved: u64,
    /// Lines behind the last that was hashed. In a book that grows they wait for their hash.
    pub unhashed: u64,
}

impl Verdict {
    /// Nothing was found to be wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.wrong == 0
    }
}

/// So many findings are kept; the others are counted.
const KEPT: usize = 100;
/// So many lines are remembered that claim positions far ahead.
const EARLY: usize = 10_000;
/// How far from its place a line is looked for.
const REACH: u64 = 256;

/// A place in the book, as it was hashed.
struct Place {
    hash: Hash,
    /// The position that its line claims, once it is found.
    found: Option<u64>,
    /// How many lines claim this position that are of no place.
    strangers: u32,
}

/// An audit from the first line, in windows of lines. Memory does not grow with the book.
pub struct Audit {
    tree: Tree,
    checkpoints: VecDeque<Checkpoint>,
    agrees: u64,
    forked: bool,
    /// Places in reach of the window that is looked at, the first of them at `base`.
    places: VecDeque<Place>,
    base: u64,
    /// How many lines of no place claim a position that is not in reach yet.
    early: BTreeMap<u64, u32>,
    /// By how much the last lines were moved.
    shift: i64,
    lines: u64,
    findings: Vec<Finding>,
    wrong: u64,
    /// The end of a run of moved lines that may go on, in `findings`.
    moving: Option<usize>,
}

impl Audit {
    /// Every checkpoint is held against the book when it has come to its size.
    #[must_use]
    pub fn new(mut checkpoints: Vec<Checkpoint>) -> Self {
        checkpoints.sort_by_key(|checkpoint| checkpoint.size);
        Self {
            tree: Tree::default(),
            checkpoints: checkpoints.into(),
            agrees: 0,
            forked: false,
            places: VecDeque::new(),
            base: 1,
            early: BTreeMap::new(),
            shift: 0,
            lines: 0,
            findings: Vec::new(),
            wrong: 0,
            moving: None,
        }
    }

    /// The next lines, in whatever order they are found, and the hashes that are kept for the next
    /// positions. `ahead` are the hashes behind these, as many as are at hand: lines that were moved
    /// are looked for among them.
    ///
    /// Where the window begins is told by how many hashes were given before. A line belongs to the
    /// window whose positions it claims, and to the last one if it claims a later one.
    pub fn window(&mut self, lines: &[impl Line], hashes: &[Hash], ahead: &[Hash]) {
        let known = self.base + self.places.len() as u64 - 1;
        let from = self.tree.size() + 1;
        for (position, hash) in (from..).zip(hashes.iter().chain(ahead)) {
            if position > known {
                let strangers = self.early.remove(&position).unwrap_or_default();
                self.places.push_back(Place { hash: *hash, found: None, strangers });
            }
        }
        for line in lines {
            self.look(line);
        }
        self.lines += lines.len() as u64;
        for hash in hashes {
            self.tree.push(*hash, |_| {});
            self.compare();
        }
        while self.base + REACH <= self.tree.size() {
            self.settle();
        }
    }

    /// Finds the place of a line.
    fn look(&mut self, line: &impl Line) {
        let claimed = line.position();
        match self.place_of(line) {
            Some(place) => {
                self.shift = claimed.wrapping_sub(place).cast_signed();
                match self.at(place) {
                    Some(at) if at.found.is_none() => at.found = Some(claimed),
                    // The same line twice.
                    _ => self.find(Finding::Inserted { position: claimed }),
                }
            }
            None if claimed < self.base => self.find(Finding::Inserted { position: claimed }),
            None => {
                if let Some(at) = self.at(claimed) {
                    at.strangers += 1;
                } else if self.early.len() < EARLY {
                    *self.early.entry(claimed).or_default() += 1;
                } else {
                    self.find(Finding::Inserted { position: claimed });
                }
            }
        }
    }

    fn at(&mut self, position: u64) -> Option<&mut Place> {
        let index = position.checked_sub(self.base)?;
        self.places.get_mut(usize::try_from(index).ok()?)
    }

    /// Where a line belongs by its hash: where it says, moved as the one before it, or near by.
    fn place_of(&mut self, line: &impl Line) -> Option<u64> {
        let claimed = line.position();
        let as_before = claimed.wrapping_sub(self.shift.cast_unsigned());
        for place in [claimed, as_before] {
            if self.at(place).is_some_and(|at| at.hash == line.hash_at(place)) {
                return Some(place);
            }
        }
        let near = claimed.saturating_sub(REACH)..=claimed.saturating_add(REACH);
        let mut places = (self.base..).zip(&self.places).filter(|(place, _)| near.contains(place));
        places.find(|(place, at)| at.hash == line.hash_at(*place)).map(|(place, _)| place)
    }

    /// The next lines are left out: these are the hashes of the complete subtrees over them, as
    /// [`subtrees`](crate::subtrees) cuts them. What was signed of a size in between can't be held
    /// against the book.
    pub fn gap(&mut self, hashes: &[(u8, Hash)]) {
        while self.base <= self.tree.size() {
            self.settle();
        }
        for (height, hash) in hashes {
            self.tree.push_subtree(*height, *hash);
        }
        self.places.clear();
        self.base = self.tree.size() + 1;
        // Nothing that claims to be of what is left out is.
        let later = self.early.split_off(&self.base);
        for (position, many) in std::mem::replace(&mut self.early, later) {
            (0..many).for_each(|_| self.find(Finding::Inserted { position }));
        }
        (self.moving, self.shift) = (None, 0);
        self.compare();
    }

    /// Decides about the first place: nothing that is read from now on belongs there.
    fn settle(&mut self) {
        let Some(Place { found, strangers, .. }) = self.places.pop_front() else { return };
        let position = self.base;
        self.base += 1;
        match found {
            Some(claimed) if claimed != position => self.moved(position, claimed),
            Some(_) => self.moving = None,
            None if strangers > 0 => self.find(Finding::Edited { position }),
            None => self.find(Finding::Deleted { position }),
        }
        let inserted = strangers.saturating_sub(u32::from(found.is_none()));
        for _ in 0..inserted {
            self.find(Finding::Inserted { position });
        }
    }

    /// A run of lines that were moved alike is one finding.
    fn moved(&mut self, position: u64, claimed: u64) {
        let by_now = claimed.wrapping_sub(position).cast_signed();
        let run = self.moving.and_then(|index| self.findings.get_mut(index));
        if let Some(Finding::Moved { last, by, .. }) = run
            && (*by, *last + 1) == (by_now, position)
        {
            *last = position;
            return;
        }
        self.moving = Some(self.findings.len());
        self.find(Finding::Moved { first: position, last: position, by: by_now });
    }

    /// Holds the tree against the checkpoints of its size.
    fn compare(&mut self) {
        while self.checkpoints.front().is_some_and(|next| next.size <= self.tree.size()) {
            let Some(checkpoint) = self.checkpoints.pop_front() else { break };
            let is_reached = checkpoint.size == self.tree.size();
            if is_reached && checkpoint.root == self.tree.root() {
                self.agrees = checkpoint.size;
            } else if is_reached && !self.forked {
                self.forked = true;
                let (agrees, differs) = (self.agrees, checkpoint.size);
                self.find(Finding::Forked { agrees, differs });
            }
        }
    }

    fn find(&mut self, finding: Finding) {
        self.wrong += 1;
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        }
    }

    /// The tree over the hashes that were given so far.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// One more checkpoint: of the present size, or a later one.
    pub fn hold_against(&mut self, checkpoint: Checkpoint) {
        let at = self.checkpoints.partition_point(|other| other.size <= checkpoint.size);
        self.checkpoints.insert(at, checkpoint);
        self.compare();
    }

    /// What it has come to.
    #[must_use]
    pub fn end(mut self) -> Verdict {
        while self.base <= self.tree.size() {
            self.settle();
        }
        if let Some(checkpoint) = self.checkpoints.back() {
            let (lines, size) = (self.tree.size(), checkpoint.size);
            self.find(Finding::CutTail { lines, size });
        }
        let unhashed = self.early.values().map(|many| u64::from(*many)).sum();
        let Self { lines, findings, wrong, agrees, .. } = self;
        Verdict { lines, findings, wrong, proved: agrees, unhashed }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hash_of;

    #[derive(Debug, Clone)]
    struct Said {
        position: u64,
        body: u64,
    }

    impl Line for Said {
        fn position(&self) -> u64 {
            self.position
        }

        fn hash_at(&self, position: u64) -> Hash {
            hash_of(&[position.to_be_bytes(), self.body.to_be_bytes()].concat())
        }
    }

    /// A sound book of so many lines, the hashes that are kept of it, and checkpoints at these sizes.
    struct Book {
        lines: Vec<Said>,
        hashes: Vec<Hash>,
        checkpoints: Vec<Checkpoint>,
    }

    fn sound(many: u64, signed: &[u64]) -> Book {
        let lines: Vec<Said> =
            (1..=many).map(|position| Said { position, body: position * 7 }).collect();
        let hashes: Vec<Hash> = lines.iter().map(|line| line.hash_at(line.position)).collect();
        let mut tree = Tree::default();
        let mut checkpoints = Vec::new();
        for hash in &hashes {
            tree.push(*hash, |_| {});
            if signed.contains(&tree.size()) {
                let (origin, size, root) = ("book".to_owned(), tree.size(), tree.root());
                checkpoints.push(Checkpoint { origin, size, root });
            }
        }
        Book { lines, hashes, checkpoints }
    }

    impl Book {
        /// As a database is read: by the positions that are claimed, in windows.
        fn audit(&self, width: usize) -> Verdict {
            let mut audit = Audit::new(self.checkpoints.clone());
            for (first, hashes) in (1..).step_by(width).zip(self.hashes.chunks(width)) {
                let end = first + width as u64;
                let is_last = end > self.hashes.len() as u64;
                let lines: Vec<Said> = self
                    .lines
                    .iter()
                    .filter(|line| line.position >= first && (is_last || line.position < end))
                    .cloned()
                    .collect();
                let after = first as usize - 1 + hashes.len();
                let ahead = &self.hashes[after..self.hashes.len().min(after + width)];
                audit.window(&lines, hashes, ahead);
            }
            audit.end()
        }

        fn rehash(&mut self) {
            self.hashes = self.lines.iter().map(|line| line.hash_at(line.position)).collect();
        }

        fn renumber(&mut self) {
            for (line, position) in self.lines.iter_mut().zip(1..) {
                line.position = position;
            }
        }
    }

    fn findings(book: &Book) -> Vec<Finding> {
        let verdict = book.audit(16);
        assert_eq!(verdict.is_sound(), verdict.findings.is_empty());
        verdict.findings
    }

    #[test]
    fn a_sound_book_is_sound_however_it_is_read() {
        let book = sound(100, &[1, 50, 100]);
        for width in [1, 7, 16, 100, 256] {
            let verdict = book.audit(width);
            assert_eq!(
                verdict,
                Verdict { lines: 100, findings: vec![], wrong: 0, proved: 100, unhashed: 0 }
            );
        }
        assert_eq!(sound(100, &[60]).audit(16).proved, 60);
        assert_eq!(sound(100, &[]).audit(16).proved, 0);
    }

    #[test]
    fn an_edited_line_is_named() {
        for position in [1, 16, 17, 100] {
            let mut book = sound(100, &[100]);
            book.lines[position as usize - 1].body += 1;
            assert_eq!(findings(&book), [Finding::Edited { position }]);
        }
    }

    #[test]
    fn a_deleted_line_is_named_whether_or_not_the_others_are_renumbered() {
        for position in [1, 16, 17, 40, 99] {
            let mut book = sound(100, &[100]);
            book.lines.remove(position as usize - 1);
            assert_eq!(findings(&book), [Finding::Deleted { position }]);
            book.renumber();
            let moved = Finding::Moved { first: position + 1, last: 100, by: -1 };
            let found = findings(&book);
            assert!(found.contains(&Finding::Deleted { position }), "{position}: {found:?}");
            assert!(found.contains(&moved), "{position}: {found:?}");
            assert_eq!(found.len(), 2, "{position}: {found:?}");
        }
    }

    #[test]
    fn an_inserted_line_is_named() {
        for position in [1, 16, 17, 40] {
            let mut book = sound(100, &[100]);
            book.lines.insert(position as usize - 1, Said { position, body: 1_000_000 });
            book.renumber();
            let found = findings(&book);
            let moved = Finding::Moved { first: position, last: 100, by: 1 };
            assert!(found.contains(&Finding::Inserted { position }), "{position}: {found:?}");
            assert!(found.contains(&moved), "{position}: {found:?}");
            assert_eq!(found.len(), 2, "{position}: {found:?}");
        }
        // A second line of one position.
        let mut book = sound(100, &[100]);
        book.lines.insert(40, Said { position: 40, body: 1_000_000 });
        assert_eq!(findings(&book), [Finding::Inserted { position: 40 }]);
    }

    #[test]
    fn lines_that_changed_places_are_named() {
        for (one, other) in [(10, 11), (16, 17), (20, 30)] {
            let mut book = sound(100, &[100]);
            book.lines.swap(one - 1, other - 1);
            book.renumber();
            let by = (other - one) as i64;
            let (one, other) = (one as u64, other as u64);
            let mut found = findings(&book);
            found.sort_by_key(|finding| format!("{finding:?}"));
            let mut expected = vec![
                Finding::Moved { first: one, last: one, by },
                Finding::Moved { first: other, last: other, by: -by },
            ];
            expected.sort_by_key(|finding| format!("{finding:?}"));
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_tail_that_was_cut_off_with_its_hashes_is_found_by_the_checkpoint() {
        let mut book = sound(100, &[50, 100]);
        book.lines.truncate(80);
        book.hashes.truncate(80);
        let verdict = book.audit(16);
        assert_eq!(verdict.findings, [Finding::CutTail { lines: 80, size: 100 }]);
        assert_eq!(verdict.proved, 50);
    }

    #[test]
    fn a_book_that_was_rewritten_with_its_hashes_is_bracketed_by_the_checkpoints() {
        let mut book = sound(100, &[20, 50, 100]);
        book.lines[29].body += 1;
        book.rehash();
        let verdict = book.audit(16);
        assert_eq!(verdict.findings, [Finding::Forked { agrees: 20, differs: 50 }]);
        assert_eq!(verdict.proved, 20);
    }

    #[test]
    fn what_is_not_signed_yet_is_not_wrong() {
        let mut book = sound(100, &[90]);
        book.lines.push(Said { position: 101, body: 5 });
        let verdict = book.audit(16);
        assert!(verdict.is_sound());
        assert_eq!((verdict.lines, verdict.unhashed, verdict.proved), (101, 1, 90));
        book.rehash();
        let verdict = book.audit(16);
        assert!(verdict.is_sound());
        assert_eq!((verdict.lines, verdict.unhashed, verdict.proved), (101, 0, 90));
    }

    proptest! {
        /// Whatever is done to the lines, they are not called sound, unless they are what they were.
        #[test]
        fn no_change_goes_unnoticed(
            changes in prop::collection::vec((0..4_u8, 0..60_usize, 0..60_usize), 1..6),
            width in 1..70_usize,
        ) {
            let mut book = sound(60, &[60]);
            let before: Vec<_> = book.lines.iter().map(|line| (line.position, line.body)).collect();
            for (kind, one, other) in changes {
                let one = one % book.lines.len().max(1);
                let other = other % book.lines.len().max(1);
                match kind {
                    0 => if let Some(line) = book.lines.get_mut(one) { line.body += 1 },
                    1 => if !book.lines.is_empty() { book.lines.remove(one); },
                    2 => book.lines.insert(one, Said { position: 1, body: 999 }),
                    _ => if !book.lines.is_empty() { book.lines.swap(one, other) },
                }
                book.renumber();
            }
            let after: Vec<_> = book.lines.iter().map(|line| (line.position, line.body)).collect();
            let verdict = book.audit(width);
            let unchanged = verdict.is_sound() && verdict.unhashed == 0;
            prop_assert_eq!(unchanged, before == after);
        }
    }
}
