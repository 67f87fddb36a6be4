//! Every kind of change, made to a sound book.

use proptest::prelude::*;

use std::cell::Cell;

use super::*;
use crate::hash_of;

thread_local! {
    /// How often a line was hashed.
    static HASHED: Cell<u64> = const { Cell::new(0) };
}

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
        HASHED.set(HASHED.get() + 1);
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
            let ahead = &self.hashes[after..self.hashes.len().min(after + REACH as usize)];
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
            Verdict {
                lines: 100,
                findings: vec![],
                wrong: 0,
                proved: 100,
                unhashed: 0,
                held: 3,
                unheld: vec![],
                rootless: false,
            }
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
        let deleted = Finding::Deleted { first: position, last: position };
        assert_eq!(findings(&book), std::slice::from_ref(&deleted));
        book.renumber();
        let moved = Finding::Moved { first: position + 1, last: 100, by: -1 };
        let found = findings(&book);
        assert!(found.contains(&deleted), "{position}: {found:?}");
        assert!(found.contains(&moved), "{position}: {found:?}");
        assert_eq!(found.len(), 2, "{position}: {found:?}");
    }
}

#[test]
fn neighbours_that_were_deleted_are_one_finding() {
    let mut book = sound(100, &[100]);
    book.lines.drain(14..40);
    book.lines.remove(50);
    let deleted = [(15, 40), (77, 77)].map(|(first, last)| Finding::Deleted { first, last });
    assert_eq!(findings(&book), deleted);
}

#[test]
fn what_is_proved_otherwise_is_forgiven_and_nothing_else() {
    // Every kept hash of the first 2,000 lines is wrong, and one line behind them is.
    let mut book = sound(3_500, &[]);
    book.lines[2_599].body += 1;
    for hash in &mut book.hashes[..2_000] {
        *hash = hash_of(&hash.0);
    }
    let mut audit = Audit::new(Vec::new());
    audit.window(&book.lines, &book.hashes, &[]);
    assert!(audit.wrong > KEPT as u64);
    audit.forgive(400);
    assert!(audit.wrong > KEPT as u64, "some that were only counted may be later");
    audit.forgive(2_000);
    let verdict = audit.end();
    assert_eq!((verdict.findings, verdict.wrong), (vec![Finding::Edited { position: 2_600 }], 1));
}

#[test]
fn an_end_that_was_cut_off_is_told_by_the_hashes_alone() {
    let mut book = sound(100, &[]);
    book.lines.truncate(70);
    assert_eq!(findings(&book), [Finding::CutTail { lines: 70, size: 100 }]);
    // With a line behind it, it is a hole.
    book.lines.push(Said { position: 101, body: 5 });
    assert_eq!(findings(&book), [Finding::Deleted { first: 71, last: 100 }]);
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

/// What is found in a book of so many lines, sorted, and how often each line was hashed for it.
fn found_in(book: &Book, width: usize) -> (Vec<Finding>, u64) {
    HASHED.set(0);
    let mut findings = book.audit(width).findings;
    findings.sort_by_key(|finding| format!("{finding:?}"));
    (findings, HASHED.get())
}

#[test]
fn many_lines_that_were_deleted_or_inserted_are_named_and_so_are_those_behind_them() {
    for (width, many) in [(4_096, 9_000), (700, 2_000), (256, 1_500)] {
        let mut book = sound(many, &[many]);
        book.lines.drain(39..339);
        book.renumber();
        let (findings, hashed) = found_in(&book, width);
        let moved = Finding::Moved { first: 340, last: many, by: -300 };
        assert_eq!(findings, [Finding::Deleted { first: 40, last: 339 }, moved], "{width}");
        assert!(hashed < 4 * many + SEARCHES, "{width}: {hashed}");

        let mut book = sound(many, &[many]);
        let forged = (0..300).map(|body| Said { position: 0, body: 1_000_000 + body });
        book.lines.splice(39..39, forged);
        book.renumber();
        let verdict = book.audit(width);
        let moved = Finding::Moved { first: 40, last: many, by: 300 };
        assert!(verdict.findings.contains(&moved), "{width}: {:?}", verdict.findings);
        // The 300, of which the first are kept, and the run behind them.
        assert_eq!(verdict.wrong, 301, "{width}");
        let inserted = |finding: &Finding| matches!(finding, Finding::Inserted { position } if (40..340).contains(position));
        assert_eq!(verdict.findings.iter().filter(|found| inserted(found)).count(), KEPT - 1);
    }
}

#[test]
fn lines_that_changed_places_far_away_are_named() {
    for width in [256, 4_096] {
        let mut book = sound(2_000, &[2_000]);
        book.lines.swap(39, 699);
        book.renumber();
        let (findings, _) = found_in(&book, width);
        let expected = [
            Finding::Moved { first: 40, last: 40, by: 660 },
            Finding::Moved { first: 700, last: 700, by: -660 },
        ];
        assert_eq!(findings, expected, "{width}");
    }
}

/// However much is wrong, and where: the work grows with the book alone.
#[test]
fn a_book_that_was_edited_everywhere_takes_no_longer_than_a_few_sound_ones() {
    let many = 40_000;
    for (name, every, shuffled) in [("all", 1, false), ("some", 3, false), ("shuffled", 0, true)] {
        let mut book = sound(many, &[many]);
        if every > 0 {
            book.lines.iter_mut().step_by(every).for_each(|line| line.body += 1);
        }
        if shuffled {
            book.lines.sort_by_key(|line| hash_of(&line.position.to_be_bytes()).0);
            book.renumber();
        }
        // Those that were found before do not count.
        HASHED.set(0);
        let mut audit = Audit::new(book.checkpoints.clone());
        audit.window(&book.lines[..20_000], &book.hashes[..20_000], &book.hashes[20_000..21_024]);
        audit.window(&book.lines[20_000..], &book.hashes[20_000..], &[]);
        let verdict = audit.end();
        assert!(verdict.wrong > KEPT as u64, "{name}");
        let hashed = HASHED.get();
        assert!(hashed <= (3 + SEARCHES_A_LINE) * many + SEARCHES, "{name}: {hashed}");
    }
}

#[test]
fn a_checkpoint_among_lines_that_are_left_out_is_not_held_against_the_book() {
    let Book { lines, hashes, checkpoints } = sound(64, &[16, 24, 40, 64]);
    let mut audit = Audit::new(checkpoints);
    audit.window(&lines[..16], &hashes[..16], &[]);
    let mut tree = Tree::default();
    hashes[16..32].iter().for_each(|hash| tree.push(*hash, |_| {}));
    audit.gap(&[(4, tree.root())]);
    audit.window(&lines[32..], &hashes[32..], &[]);
    let verdict = audit.end();
    assert!(verdict.is_sound());
    assert_eq!((verdict.held, verdict.unheld, verdict.proved), (3, vec![24], 64));
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
