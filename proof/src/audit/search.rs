//! Looking for lines that are not where they say.
//!
//! Lines are moved in runs: what comes behind one that was deleted or inserted is moved with it. So one that
//! is found tells where its neighbours are. To look for one is to hash it anew for every place that is still
//! empty; how often that may be done grows with the book, so that the audit of one in which everything was
//! edited takes a few times as long as that of a sound one, and not thousands of times.

use super::{Audit, KEPT, Line, REACH};

impl Audit {
    /// Looks for lines, in the order of the positions that they claim; those that are found are taken out.
    pub(super) fn search<L: Line>(&mut self, missed: &mut [Option<&L>]) {
        let (mut at, mut step) = (0, 1);
        while let Some(next) = missed.get(at) {
            if self.findings.len() >= KEPT || self.searches < self.places.len() as u64 {
                return;
            }
            let Some(line) = *next else {
                at += 1;
                continue;
            };
            if let Some(place) = self.place_of(line) {
                self.take(missed, at, place);
                (at, step) = (at + 1, 1);
                continue;
            }
            // Many neighbours that were never hashed would each be looked for in vain. So they are passed
            // by in longer and longer steps; those that were passed by too far are taken back with the
            // first that is found.
            let neighbours = missed.get(at..).unwrap_or_default().windows(2).take_while(
                |pair| matches!(pair, [Some(one), Some(next)] if is_next(*one, *next, 1)),
            );
            match neighbours.take(step).count() {
                0 => (at, step) = (at + 1, 1),
                many => (at, step) = (at + many, step * 2),
            }
        }
    }

    /// Puts a line into its place, and with it the neighbours that were moved alike.
    fn take<L: Line>(&mut self, missed: &mut [Option<&L>], at: usize, place: u64) {
        let Some((before, [found, behind @ ..])) = missed.split_at_mut_checked(at) else { return };
        let Some(line) = found.take() else { return };
        self.take_run(before.iter_mut().rev(), line, place, -1);
        // The last that is put tells by how much those behind it were moved.
        self.put(line, place);
        self.take_run(behind.iter_mut(), line, place, 1);
    }

    fn take_run<'a, 'l: 'a, L: Line>(
        &mut self,
        neighbours: impl Iterator<Item = &'a mut Option<&'l L>>,
        mut last: &'l L,
        mut place: u64,
        by: i64,
    ) {
        for neighbour in neighbours {
            let Some(next) = place.checked_add_signed(by) else { return };
            let Some(line) = *neighbour else { return };
            if !is_next(last, line, by) || !self.fits(line, next) {
                return;
            }
            self.put(line, next);
            *neighbour = None;
            (last, place) = (line, next);
        }
    }

    /// The empty place to which a line belongs, from where it would be on outwards.
    fn place_of(&mut self, line: &impl Line) -> Option<u64> {
        let last = (self.base + self.places.len() as u64).checked_sub(1)?;
        let claimed = line.position();
        // One that claims a position far away belongs to none that is in reach.
        if claimed.saturating_add(REACH) < self.base || claimed > last.saturating_add(REACH) {
            return None;
        }
        let center =
            claimed.saturating_sub_signed(self.shift).clamp(self.base, last.max(self.base));
        let far = (center - self.base).max(last.saturating_sub(center));
        for distance in 0..=far {
            let sides = [center.checked_sub(distance), center.checked_add(distance)];
            for place in sides.into_iter().flatten() {
                let is_empty = self.at(place).is_some_and(|at| at.found.is_none());
                if is_empty {
                    self.searches = self.searches.saturating_sub(1);
                    if self.fits(line, place) {
                        return Some(place);
                    }
                }
            }
        }
        None
    }
}

/// Whether a line claims the position so many behind that of another.
fn is_next(one: &impl Line, next: &impl Line, by: i64) -> bool {
    one.position().checked_add_signed(by) == Some(next.position())
}
