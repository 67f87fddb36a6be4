//! Reading an export: every line is held against the hashes in the file, and these against what was signed.

use sha2::{Digest as _, Sha256};

use super::{
    Completeness, Control, Header, Looked, MOST, RUN, VERSION,
    found::{Found, LeafLine},
    look, manifest, split,
};
use crate::{Audit, Checkpoint, Followed, Hash, MAX_LEAF, REACH, Trust, Verdict, subtrees};

/// So many bytes of lines that are not as they were hashed are held at once …
const HELD: usize = 1 << 22;
/// … and so many lines of one run.
const CROWD: usize = 4 * RUN;

/// What reading an export came to.
#[derive(Debug)]
pub struct Report {
    pub header: Option<Header>,
    /// Of the lines that it holds.
    pub verdict: Verdict,
    /// How many lines of the book its filter leaves out.
    pub left_out: u64,
    pub completeness: Completeness,
    /// Lines of the file that are none of an export, by their number: the first of them.
    pub unreadable: Vec<u64>,
    /// Why the checkpoint at its end is not believed.
    pub checkpoint: Option<String>,
    /// What of the hand-overs in the file is believed.
    pub followed: Followed,
    /// The keys that are believed, with those that were handed over to.
    pub trust: Trust,
}

impl Report {
    /// Everything that it holds is proved, and it is all there.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.verdict.is_sound()
            && self.verdict.unhashed == 0
            && self.completeness == Completeness::Whole
            && self.unreadable.is_empty()
            && self.checkpoint.is_none()
    }
}

/// Reads an export, line by line.
pub struct Reader {
    trust: Trust,
    audit: Audit,
    header: Option<Header>,
    /// How many lines of the book were read or left out, those of the run included.
    size: u64,
    /// The run that is read.
    run: Run,
    /// Runs that were read, and those before them: lines that were moved are looked for in both.
    window: Run,
    before: Run,
    /// How much text they hold.
    held: usize,
    left_out: u64,
    lines: u64,
    digest: Sha256,
    number: u64,
    unreadable: Vec<u64>,
    end: Option<End>,
    behind_end: bool,
}

/// The last line.
struct End {
    manifest: String,
    checkpoint: String,
    hand_overs: Vec<String>,
    /// Of all that stands before it.
    digest: Vec<u8>,
    /// It is byte by byte what is written of these.
    is_canonical: bool,
}

/// Lines, and the hashes that stand before them.
#[derive(Default)]
struct Run {
    first: u64,
    hashes: Vec<Hash>,
    lines: Vec<Found>,
}

impl Run {
    /// Tells of each line whose place it takes. Those of this run follow each other as they were hashed, also
    /// where some are gone.
    fn order(&mut self) {
        let (first, end) = (self.first, self.first + self.hashes.len() as u64);
        let is_own = |found: &Found| (first..end).contains(&found.position);
        let mut own: Vec<u64> =
            self.lines.iter().filter(|found| is_own(found)).map(|found| found.position).collect();
        let is_in_order = own.len() == self.lines.len() && own.is_sorted();
        if is_in_order || self.hashes.is_empty() {
            return;
        }
        own.sort_unstable();
        let mut own = own.into_iter();
        for (found, place) in self.lines.iter_mut().zip(first..) {
            let next = if is_own(found) { own.next() } else { None };
            found.stands_at = next.unwrap_or(place);
        }
    }
}

impl Reader {
    /// `trust` is in the keys whose signatures are believed; `checkpoints` come from elsewhere, and are held
    /// against the book beside the one in the file.
    #[must_use]
    pub fn new(trust: impl Into<Trust>, checkpoints: Vec<Checkpoint>) -> Self {
        Self {
            trust: trust.into(),
            audit: Audit::new(checkpoints),
            header: None,
            size: 0,
            run: Run::default(),
            window: Run::default(),
            before: Run::default(),
            held: 0,
            left_out: 0,
            lines: 0,
            digest: Sha256::default(),
            number: 0,
            unreadable: Vec::new(),
            end: None,
            behind_end: false,
        }
    }

    /// The next line of the file, with its line feed.
    pub fn line(&mut self, line: &[u8]) {
        self.take(line, look(line));
    }

    /// The same of a line that was looked at already.
    pub fn take(&mut self, line: &[u8], looked: Looked) {
        self.number += 1;
        self.behind_end |= self.end.is_some();
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if let Looked(Some(leaf)) = looked {
            self.digest.update(line);
            self.leaf(text, leaf);
            return;
        }
        let control = serde_json::from_slice(text);
        match &control {
            Ok(Control::Run { first, .. } | Control::Gap { first, .. }) => self.go_to(*first),
            Ok(Control::End { manifest, hand_overs, .. }) if self.end.is_none() => {
                if let Some(size) = self.signed_size(manifest, hand_overs) {
                    self.go_to(size + 1);
                }
            }
            Ok(Control::Export(_) | Control::End { .. }) | Err(_) => {}
        }
        self.close_run();
        match control {
            Ok(Control::Export(header)) if self.number == 1 && header.v == VERSION => {
                self.header = Some(header);
            }
            Ok(Control::Run { first, hashes }) if first == self.size + 1 => match split(&hashes) {
                Some(hashes) if hashes.len() <= RUN => {
                    self.size += hashes.len() as u64;
                    self.run = Run { first, hashes, lines: Vec::with_capacity(RUN) };
                }
                _ => self.unreadable(),
            },
            Ok(Control::Gap { first, last, hashes }) if first == self.size + 1 => {
                self.gap(last, &hashes);
            }
            Ok(end @ Control::End { .. }) if self.end.is_none() => {
                let is_canonical = serde_json::to_vec(&end)
                    .is_ok_and(|text| line.strip_suffix(b"\n") == Some(&*text));
                if let Control::End { manifest, checkpoint, hand_overs } = end {
                    let digest = self.digest.clone().finalize().to_vec();
                    self.end = Some(End { manifest, checkpoint, hand_overs, digest, is_canonical });
                }
            }
            _ => self.unreadable(),
        }
        self.digest.update(line);
    }

    fn leaf(&mut self, text: &[u8], leaf: LeafLine) {
        self.lines += 1;
        if self.run.first == 0 {
            // No run was begun.
            self.run.first = self.size + 1;
        }
        if leaf.position.is_none() {
            self.unreadable();
        }
        // Its place in the run is what an unreadable one claims.
        let next = self.run.first + self.run.lines.len() as u64;
        let position = leaf.position.unwrap_or(next);
        let hashed = position.checked_sub(self.run.first).and_then(|index| {
            usize::try_from(index).ok().and_then(|index| self.run.hashes.get(index))
        });
        let mut kept = None;
        if hashed != Some(&leaf.hash) && leaf.position.is_some() && text.len() <= MAX_LEAF {
            self.held += text.len();
            kept = str::from_utf8(text).ok().map(Into::into);
        }
        self.run.lines.push(Found { position, stands_at: position, hash: leaf.hash, text: kept });
        // A file with more lines than hashes must not fill the memory.
        if self.run.lines.len() > CROWD || self.held > HELD {
            self.close_run();
            self.close_windows();
        }
    }

    /// Whether the last line was read.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Something stands behind the last line that is no line.
    pub fn goes_on(&mut self) {
        self.behind_end |= self.has_ended();
    }

    fn gap(&mut self, last: u64, hashes: &str) {
        let cuts: Vec<_> = subtrees(self.size, last.min(MOST)).collect();
        match split(hashes) {
            Some(hashes) if hashes.len() == cuts.len() && !cuts.is_empty() && last <= MOST => {
                let cuts = cuts.into_iter().map(|(_, height)| height);
                let hashes: Vec<_> = cuts.zip(hashes).collect();
                self.left_out += last - self.size;
                self.size = last;
                self.close_windows();
                self.audit.gap(&hashes);
            }
            _ => self.unreadable(),
        }
    }

    fn close_run(&mut self) {
        let mut run = std::mem::take(&mut self.run);
        run.order();
        self.window.hashes.append(&mut run.hashes);
        self.window.lines.append(&mut run.lines);
        if self.window.hashes.len() as u64 >= REACH {
            self.next_window();
        }
    }

    /// Goes on at a line behind the next one: those between are missing, and so is what stands before them in the
    /// file. What is left of a run whose beginning is missing has no hashes, and is taken as it stands: no root
    /// follows any more that it could be held against.
    fn go_to(&mut self, next: u64) {
        if next <= self.size + 1 || next > MOST {
            return;
        }
        let own = |found: &Found| found.position <= self.size;
        let at = self.run.lines.iter().rposition(own).map_or(0, |last| last + 1);
        let left = self.run.lines.split_off(at);
        self.close_run();
        self.close_windows();
        for found in left {
            if (self.size + 1..next).contains(&found.position) {
                self.missing(found.position - 1);
                self.size += 1;
                self.window.hashes.push(found.hash);
            }
            self.window.lines.push(found);
        }
        self.missing(next - 1);
    }

    /// The lines up to this one are missing with their hashes.
    fn missing(&mut self, last: u64) {
        if last > self.size {
            self.close_windows();
            self.audit.missing(last);
            self.size = last;
        }
    }

    /// Up to which line the export went, if that is signed.
    fn signed_size(&self, manifest: &str, hand_overs: &[String]) -> Option<u64> {
        let origin = self.header.as_ref().map_or("", |header| &header.origin);
        let size = manifest.split('\n').nth(2)?.parse().ok()?;
        let mut trust = self.trust.clone();
        trust.follow(hand_overs.iter().map(String::as_str));
        trust.signed(manifest, origin, size).ok().map(|_| size)
    }

    /// Looks at the lines before the last: among the hashes of the last, too, for what was moved.
    fn next_window(&mut self) {
        let window = std::mem::take(&mut self.window);
        let Run { hashes, lines, .. } = std::mem::replace(&mut self.before, window);
        if !(hashes.is_empty() && lines.is_empty()) {
            self.audit.window(&lines, &hashes, &self.before.hashes);
        }
    }

    fn close_windows(&mut self) {
        self.next_window();
        self.next_window();
        self.held = 0;
    }

    fn unreadable(&mut self) {
        if self.unreadable.len() < RUN {
            self.unreadable.push(self.number);
        }
    }

    /// What it has come to.
    #[must_use]
    pub fn end(mut self) -> Report {
        self.close_run();
        self.close_windows();
        let origin = self.header.as_ref().map(|header| header.origin.clone()).unwrap_or_default();
        let mut followed = Followed::default();
        let (completeness, checkpoint) = match &self.end {
            None => (Completeness::CutOff, None),
            Some(end) => {
                followed = self.trust.follow(end.hand_overs.iter().map(String::as_str));
                let root = self.audit.tree().root();
                let expected = manifest(&origin, self.size, self.lines, root, &end.digest);
                let is_its_end = end.is_canonical && !self.behind_end;
                let completeness = match self.trust.signed(&end.manifest, &origin, self.size) {
                    Err(error) => Completeness::NotSigned(error.to_string()),
                    Ok(text) if text == expected.as_bytes() && is_its_end => Completeness::Whole,
                    Ok(_) => Completeness::Altered,
                };
                let refused = match self.trust.checkpoint(end.checkpoint.as_bytes(), &origin) {
                    Ok(checkpoint) if checkpoint.size == self.size => {
                        self.audit.hold_against(checkpoint);
                        None
                    }
                    Ok(checkpoint) => Some(format!(
                        "it is of {} lines, and the export goes up to line {}",
                        checkpoint.size, self.size
                    )),
                    Err(error) => Some(error.to_string()),
                };
                (completeness, refused)
            }
        };
        let Self { header, left_out, unreadable, trust, .. } = self;
        let verdict = self.audit.end();
        Report { header, verdict, left_out, completeness, unreadable, checkpoint, followed, trust }
    }
}
