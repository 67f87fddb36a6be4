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

use serde::Serialize;

use crate::{Checkpoint, Hash, Tree, subtrees};

mod search;

/// A line as it is found. It can be hashed as if it stood elsewhere, to tell where it belongs.
pub trait Line {
    /// The position that it claims.
    fn position(&self) -> u64;

    /// Its hash, were it at this position.
    fn hash_at(&self, position: u64) -> Hash;

    /// Whose place it takes, where its place does not follow from the position that it claims: in a file.
    fn stands_at(&self) -> u64 {
        self.position()
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Finding {
    /// The line says something else than what was hashed.
    Edited { position: u64 },
    /// These lines were hashed, and are not there.
    Deleted { first: u64, last: u64 },
    /// A line that was never hashed stands there beside the one that was, or behind the last.
    Inserted { position: u64 },
    /// Lines that belong at `first` to `last` stand so many places later, or earlier.
    Moved { first: u64, last: u64, by: i64 },
    /// The book ends before the last line that was hashed, or that a checkpoint was signed of.
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
            Self::Deleted { first, last } if first == last => {
                write!(f, "line {first} was deleted")
            }
            Self::Deleted { first, last } => write!(f, "lines {first} to {last} were deleted"),
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
            Self::CutTail { lines, size } if lines + 1 == *size => {
                write!(f, "the end was cut off: line {size} was hashed or signed, and is missing")
            }
            Self::CutTail { lines, size } => write!(
                f,
                "the end was cut off: lines {} to {size} were hashed or signed, and are missing",
                lines + 1
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

impl Finding {
    /// The last line that it is about; nothing where it is about lines that are not there.
    #[must_use]
    pub fn place(&self) -> Option<u64> {
        match self {
            Self::Edited { position } | Self::Inserted { position } => Some(*position),
            Self::Deleted { last, .. } | Self::Moved { last, .. } => Some(*last),
            Self::Forked { differs, .. } => Some(*differs),
            Self::CutTail { .. } => None,
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
    /// How many checkpoints were held against the book.
    pub held: u64,
    /// The sizes of those that could not be: they lie among lines that are left out.
    pub unheld: Vec<u64>,
    /// Lines are missing with their hashes, so that nothing behind them could be held against what was signed.
    pub rootless: bool,
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
/// How far behind its place, or before it, a line that was moved is known again at the least. Whoever gives
/// windows gives as many hashes ahead of each.
pub const REACH: u64 = 1_024;
/// So many lines can be looked for everywhere, before the book pays for it by being long.
const SEARCHES: u64 = 1 << 18;
/// And so many places more are looked at for each line of the book.
const SEARCHES_A_LINE: u64 = 4;

/// A place in the book, as it was hashed.
struct Place {
    hash: Hash,
    found: Option<Found>,
    /// How many lines claim this position that are of no place.
    strangers: u32,
}

/// The line of a place.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// The position that it claims.
    claimed: u64,
    /// Whose place it takes.
    stands_at: u64,
}

/// A line that claims a position which is not in reach yet.
#[derive(Debug, Clone, Copy)]
struct Early {
    hash: Hash,
    stands_at: u64,
}

/// An audit from the first line, in windows of lines. Memory does not grow with the book.
pub struct Audit {
    tree: Tree,
    checkpoints: VecDeque<Checkpoint>,
    agrees: u64,
    held: u64,
    unheld: Vec<u64>,
    forked: bool,
    /// Lines are missing of which no hash is known either: no root follows from what is behind them.
    rootless: bool,
    /// Places in reach of the window that is looked at, the first of them at `base`.
    places: VecDeque<Place>,
    base: u64,
    /// Lines that claim positions which are not in reach yet, and how many there are.
    early: BTreeMap<u64, Vec<Early>>,
    early_lines: usize,
    /// By how much the last lines were moved.
    shift: i64,
    /// How many places may be looked at for lines that are not where they say.
    searches: u64,
    lines: u64,
    findings: Vec<Finding>,
    wrong: u64,
    /// How many of them are counted alone, and the last line that these are about.
    uncounted: (u64, u64),
    /// What is found of lines up to this one is not wrong.
    forgiven: u64,
    /// The end of a run of moved lines that may go on, in `findings`.
    moving: Option<usize>,
    /// The same of a run of deleted ones.
    deleting: Option<usize>,
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
            held: 0,
            unheld: Vec::new(),
            forked: false,
            rootless: false,
            places: VecDeque::new(),
            base: 1,
            early: BTreeMap::new(),
            early_lines: 0,
            shift: 0,
            searches: SEARCHES,
            lines: 0,
            findings: Vec::new(),
            wrong: 0,
            uncounted: (0, 0),
            forgiven: 0,
            moving: None,
            deleting: None,
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
                self.places.push_back(Place { hash: *hash, found: None, strangers: 0 });
                self.arrive(position, *hash);
            }
        }
        let more = SEARCHES_A_LINE.saturating_mul(lines.len() as u64);
        self.searches = self.searches.saturating_add(more).min(SEARCHES);
        self.look(lines);
        self.lines += lines.len() as u64;
        for hash in hashes {
            self.tree.push(*hash, |_| {});
            self.compare();
        }
        while self.base + REACH <= self.tree.size() {
            self.settle();
        }
    }

    /// A place comes into reach that lines have claimed before.
    fn arrive(&mut self, position: u64, hash: Hash) {
        let Some(claiming) = self.early.remove(&position) else { return };
        self.early_lines -= claiming.len();
        for Early { hash: own, stands_at } in claiming {
            let is_its = own == hash;
            let Some(place) = self.at(position) else { return };
            if is_its && place.found.is_none() {
                place.found = Some(Found { claimed: position, stands_at });
            } else if is_its {
                self.find(Finding::Inserted { position });
            } else {
                place.strangers += 1;
            }
        }
    }

    /// Finds the places of lines: where each says, moved as the one before it, or near by.
    fn look<L: Line>(&mut self, lines: &[L]) {
        let mut missed = Vec::new();
        for line in lines {
            let claimed = line.position();
            let as_before = claimed.wrapping_sub(self.shift.cast_unsigned());
            if self.fits(line, claimed) {
                self.put(line, claimed);
            } else if as_before != claimed && self.fits(line, as_before) {
                self.put(line, as_before);
            } else {
                missed.push(Some(line));
            }
        }
        let last_missed = missed.last().copied().flatten().map(Line::position);
        let shift = self.shift;
        self.search(&mut missed);
        // The next window begins behind the last line of this one.
        if last_missed != lines.last().map(Line::position) {
            self.shift = shift;
        }
        missed.into_iter().flatten().for_each(|line| self.stranger(line));
    }

    fn fits(&mut self, line: &impl Line, place: u64) -> bool {
        self.at(place).is_some_and(|at| at.hash == line.hash_at(place))
    }

    fn put(&mut self, line: &impl Line, place: u64) {
        let (claimed, stands_at) = (line.position(), line.stands_at());
        self.shift = claimed.wrapping_sub(place).cast_signed();
        match self.at(place) {
            Some(at) if at.found.is_none() => at.found = Some(Found { claimed, stands_at }),
            // The same line twice.
            _ => self.find(Finding::Inserted { position: claimed }),
        }
    }

    /// A line of no place.
    fn stranger(&mut self, line: &impl Line) {
        let position = line.position();
        if let Some(at) = self.at(position) {
            at.strangers += 1;
        } else if position >= self.base && self.early_lines < EARLY {
            let (hash, stands_at) = (line.hash_at(position), line.stands_at());
            self.early.entry(position).or_default().push(Early { hash, stands_at });
            self.early_lines += 1;
        } else {
            self.find(Finding::Inserted { position });
        }
    }

    fn at(&mut self, position: u64) -> Option<&mut Place> {
        let index = position.checked_sub(self.base)?;
        self.places.get_mut(usize::try_from(index).ok()?)
    }

    /// The next lines are left out: these are the hashes of the complete subtrees over them, as
    /// [`subtrees`](crate::subtrees) cuts them. What was signed of a size in between can't be held
    /// against the book.
    pub fn gap(&mut self, hashes: &[(u8, Hash)]) {
        self.settle_all();
        self.pass_over(hashes.iter().copied());
        self.deleting = None;
        self.compare();
    }

    /// The next lines up to `last` are missing, and so are their hashes. What is signed of later lines can't be
    /// held against the book any more.
    pub fn missing(&mut self, last: u64) {
        let first = self.tree.size() + 1;
        if last < first {
            return;
        }
        self.settle_all();
        self.rootless = true;
        // Hashes that nothing is held against: they keep count.
        let unknown = subtrees(first - 1, last).map(|(_, height)| (height, Hash([0; 32])));
        self.pass_over(unknown);
        self.deleted(first, last);
        self.compare();
    }

    fn settle_all(&mut self) {
        while self.base <= self.tree.size() {
            self.settle();
        }
    }

    /// Goes on behind lines that are not there.
    fn pass_over(&mut self, hashes: impl IntoIterator<Item = (u8, Hash)>) {
        for (height, hash) in hashes {
            self.tree.push_subtree(height, hash);
        }
        self.places.clear();
        self.base = self.tree.size() + 1;
        // Nothing that claims to be of what is left out is.
        let later = self.early.split_off(&self.base);
        for (position, claiming) in std::mem::replace(&mut self.early, later) {
            self.early_lines -= claiming.len();
            claiming.iter().for_each(|_| self.find(Finding::Inserted { position }));
        }
        (self.moving, self.shift) = (None, 0);
    }

    /// Decides about the first place: nothing that is read from now on belongs there.
    fn settle(&mut self) {
        let Some(Place { found, strangers, .. }) = self.places.pop_front() else { return };
        let position = self.base;
        self.base += 1;
        match found {
            Some(Found { claimed, .. }) if claimed != position => self.moved(position, claimed),
            Some(Found { stands_at, .. }) if stands_at != position => {
                self.moved(position, stands_at);
            }
            Some(_) => self.moving = None,
            None if strangers > 0 => self.find(Finding::Edited { position }),
            None => self.deleted(position, position),
        }
        let inserted = strangers.saturating_sub(u32::from(found.is_none()));
        for _ in 0..inserted {
            self.find(Finding::Inserted { position });
        }
    }

    /// A run of lines that are gone is one finding.
    fn deleted(&mut self, first: u64, last: u64) {
        let run = self.deleting.and_then(|index| self.findings.get_mut(index));
        if let Some(Finding::Deleted { last: before, .. }) = run
            && *before + 1 == first
        {
            *before = last;
            return;
        }
        self.deleting = Some(self.findings.len());
        self.find(Finding::Deleted { first, last });
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
            if self.rootless {
                continue;
            }
            if checkpoint.size < self.tree.size() {
                self.unheld.push(checkpoint.size);
                continue;
            }
            self.held += 1;
            if checkpoint.root == self.tree.root() {
                self.agrees = checkpoint.size;
            } else if !self.forked {
                self.forked = true;
                let (agrees, differs) = (self.agrees, checkpoint.size);
                self.find(Finding::Forked { agrees, differs });
            }
        }
    }

    fn find(&mut self, finding: Finding) {
        if finding.place().is_some_and(|place| place <= self.forgiven) {
            return;
        }
        self.wrong += 1;
        if self.findings.len() < KEPT {
            self.findings.push(finding);
        } else {
            let (many, last) = self.uncounted;
            self.uncounted = (many + 1, last.max(finding.place().unwrap_or(u64::MAX)));
        }
    }

    /// Forgets what was found of the lines up to this one, and what will be: they are proved without the
    /// kept hashes, so that it is those that are wrong.
    pub fn forgive(&mut self, up_to: u64) {
        self.forgiven = self.forgiven.max(up_to);
        let before = self.findings.len();
        self.findings.retain(|finding| finding.place().is_none_or(|place| place > up_to));
        let mut forgiven = (before - self.findings.len()) as u64;
        // Of these it is not known which of them are about later lines.
        let (many, last) = self.uncounted;
        if last <= up_to {
            forgiven += many;
            self.uncounted = (0, 0);
        }
        if forgiven > 0 {
            // They are found by their places among the findings, which are others now.
            (self.moving, self.deleting) = (None, None);
        }
        self.wrong -= forgiven;
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
        self.settle_all();
        let unhashed = self.early_lines as u64;
        let (mut lines, hashed) = (self.tree.size(), self.tree.size());
        // A run of deleted lines up to the last one is an end that was cut off.
        let run = self.deleting.and_then(|index| Some((index, self.findings.get(index)?)));
        if let Some((index, Finding::Deleted { first, last })) = run
            && *last == hashed
            && unhashed == 0
        {
            lines = first - 1;
            self.findings.remove(index);
            self.wrong -= 1;
        }
        let size = self.checkpoints.back().map_or(hashed, |checkpoint| checkpoint.size);
        if lines < size {
            self.find(Finding::CutTail { lines, size });
        }
        let Self { lines, findings, wrong, agrees, held, unheld, rootless, .. } = self;
        Verdict { lines, findings, wrong, proved: agrees, unhashed, held, unheld, rootless }
    }
}

#[cfg(test)]
mod tests;
