//! What is told of the proof, of replay and of searches.

use super::{Page, Report, Verdict, number, rate};
use crate::proving::Proving;

const HEAD: &str = include_str!("../../proof-head.md");

impl Report {
    pub(super) fn proof_verdicts(one: &Proving) -> [Verdict; 2] {
        let verified = |what: &str, seconds: f64| {
            let rate = one.events as f64 / seconds;
            Verdict {
                what: format!("verification of {what}"),
                is: format!("{} lines/s", number(rate)),
                target: "200,000 lines/s",
                informs: false,
                holds: rate >= 200_000.0,
            }
        };
        [
            verified("the database", one.verified_seconds),
            verified("an export, by one thread", one.file_verified_seconds),
        ]
    }

    /// The page of a run that measured nothing but this.
    pub(crate) fn proof_alone(&self) -> String {
        let mut page = Page(HEAD.trim_end().to_owned());
        self.about(&mut page);
        if let Some(one) = self.proving.last() {
            page.heading("Against the target");
            Self::targets(&mut page, &Self::proof_verdicts(one));
        }
        self.proof(&mut page);
        page.0.push('\n');
        page.0
    }

    pub(super) fn proof(&self, page: &mut Page) {
        if self.proving.is_empty() {
            return;
        }
        page.heading("The proof");
        page.paragraph(
            "*Put into the tree*: a rebuild of `transparency`; all lines read, hashed, and the tree's rows written, and then compared with the live \
             ones and swapped. *Verified* is the database: each line read as it is stored, hashed, held against the hash that is kept of it, and \
             the tree over all of them. *Of COPY*: of the rate at which PostgreSQL hands out the very same columns on as many connections as there \
             are processors, with nobody to look at them; verification reads on six, and waits less for the disk. An *export* is the book as JSON \
             Lines with its proofs: written, and verified by one thread, with no database; `entrybook audit verify` has as many as there are \
             processors. *Of hashing*: of the rate at which the file is read and hashed as a whole (SHA-256), by one thread.",
        );
        page.table(
            &[
                "history",
                "put into the tree",
                "of it hashing and writing",
                "verified",
                "of COPY",
                "export written",
                "export verified, one thread",
                "of hashing",
            ],
            self.proving.iter().map(|one| {
                vec![
                    number(one.events as f64),
                    rate(one.events, one.rebuilt_seconds),
                    rate(one.events, one.grown_seconds),
                    rate(one.events, one.verified_seconds),
                    format!("{:.2}", one.copied_seconds / one.verified_seconds),
                    rate(one.events, one.exported_seconds),
                    rate(one.events, one.file_verified_seconds),
                    format!("{:.2}", one.file_hashed_seconds / one.file_verified_seconds),
                ]
            }),
        );
        page.heading("Replay, and searches");
        page.paragraph(
            "Medians in milliseconds, by one client. Replayed are the first 50 accounts, who have done the most, with their sessions; \
             *signed in* is the first page of who was, in the middle of the history. Pages have 50 lines; the last kind finds none, and looks \
             through as many lines as a page may.",
        );
        let mut head = vec!["what".to_owned()];
        head.extend(self.proving.iter().map(|one| format!("{} events", number(one.events as f64))));
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let row = |what: String, of: &dyn Fn(&Proving) -> Option<f64>| {
            let times = self.proving.iter().map(|one| {
                of(one).map_or_else(|| "–".to_owned(), |micros| format!("{:.2}", micros / 1e3))
            });
            std::iter::once(what).chain(times).collect::<Vec<_>>()
        };
        let mut rows = vec![
            row("replay at the end".to_owned(), &|one| Some(one.replay_at_end)),
            row("replay in the middle".to_owned(), &|one| Some(one.replay_in_the_middle)),
            row("signed in".to_owned(), &|one| Some(one.signed_in)),
        ];
        for (nth, (what, _)) in self.proving.iter().flat_map(|one| &one.pages).enumerate() {
            if nth < self.proving.first().map_or(0, |one| one.pages.len()) {
                rows.push(row(format!("a page {what}"), &|one| {
                    one.pages.get(nth).map(|(_, micros)| *micros)
                }));
            }
        }
        page.table(&head, rows.into_iter());
    }
}
