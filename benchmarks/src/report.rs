//! What was measured, as numbers and as a page.

mod proof;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{
    appending::Appends,
    baseline::Replay,
    disk::Stored,
    growth::{self, Costs},
    lag::Lags,
    limit::{Copy, Scan},
    machine::Machine,
    plans::{self, Access},
    proving::Proving,
    rebuilding::Rebuild,
};

/// What stands at the head of the page, and why a figure is below its target.
const HEAD: &str = include_str!("../head.md");
const NOTES: &str = include_str!("../notes.md");

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) seed: u64,
    pub(crate) minutes: f64,
    pub(crate) histories: Vec<History>,
    /// Of the longest history, as it was built.
    pub(crate) stored: Vec<Stored>,
    pub(crate) sequencing: Vec<Sequencing>,
    pub(crate) first_builds: Vec<Sequencing>,
    pub(crate) sizes: Vec<Size>,
    pub(crate) scans: Vec<Scan>,
    pub(crate) copies: Vec<Copy>,
    pub(crate) baseline: Vec<Replay>,
    pub(crate) appends: Vec<Appends>,
    pub(crate) lags: Vec<Lags>,
    pub(crate) costs: Vec<Costs>,
    pub(crate) plans: Vec<Access>,
    #[serde(default)]
    pub(crate) proving: Vec<Proving>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct History {
    pub(crate) events: u64,
    pub(crate) accounts: u64,
    pub(crate) sessions: u64,
    pub(crate) longest_session: Option<u64>,
    pub(crate) seconds: f64,
    pub(crate) peak_mib: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sequencing {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
}

/// The rebuilds of one history.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) events: u64,
    pub(crate) rebuilds: Vec<Rebuild>,
}

/// A figure, what it is held against, and whether it holds.
struct Verdict {
    what: String,
    is: String,
    target: &'static str,
    holds: bool,
    /// Told beside the target, and not held against it.
    informs: bool,
}

impl Verdict {
    fn mark(&self) -> &'static str {
        match (self.holds, self.informs) {
            (true, _) => "holds",
            (false, false) => "**missed**",
            (false, true) => "for information",
        }
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, seed: u64) -> Self {
        Self {
            machine,
            seed,
            minutes: 0.0,
            histories: Vec::new(),
            stored: Vec::new(),
            sequencing: Vec::new(),
            first_builds: Vec::new(),
            sizes: Vec::new(),
            scans: Vec::new(),
            copies: Vec::new(),
            baseline: Vec::new(),
            appends: Vec::new(),
            lags: Vec::new(),
            costs: Vec::new(),
            plans: Vec::new(),
            proving: Vec::new(),
        }
    }

    /// Takes over what a run that was broken off has measured of rebuilds, and what they are held
    /// against; each of these was measured in one run.
    pub(crate) fn go_on_from(&mut self, before: Self, events: u64) -> anyhow::Result<()> {
        let longest = before.histories.iter().map(|history| history.events).max().unwrap_or(0);
        if before.seed != self.seed || longest < events {
            anyhow::bail!(
                "results.json is of a history of {longest} events by seed {}; give --events and --seed as there, or leave \
                 --continue out",
                before.seed
            );
        }
        if before.machine.entrybook != self.machine.entrybook {
            self.machine.entrybook =
                format!("{}, rebuilds {}", self.machine.entrybook, before.machine.entrybook);
        }
        self.minutes = before.minutes;
        (self.sizes, self.scans) = (before.sizes, before.scans);
        (self.copies, self.baseline) = (before.copies, before.baseline);
        Ok(())
    }

    /// The rebuilds of the longest history.
    fn rebuilds(&self) -> &[Rebuild] {
        self.sizes.last().map(|size| size.rebuilds.as_slice()).unwrap_or_default()
    }

    fn rebuild_of(&self, names: &[&str]) -> Option<&Rebuild> {
        self.rebuilds().iter().find(|rebuild| rebuild.projections == names)
    }

    /// The least time in which a rebuild could be done: reading all events, and writing the rows.
    fn limit(&self, rebuild: &Rebuild) -> f64 {
        let scan = self.scans.first().map_or(f64::NAN, |scan| scan.seconds);
        let copies =
            self.copies.iter().filter(|copy| rebuild.projections.contains(&copy.projection));
        scan + copies.map(|copy| copy.seconds.min(copy.seconds_indexed_after)).sum::<f64>()
    }

    /// How many times faster the events that concern a view are folded than QueryReplay does it: as it
    /// comes, and with its commits not waited for.
    fn times_faster(&self, views: &[&str]) -> Option<[f64; 2]> {
        let ours = self.rebuild_of(views)?;
        let rate = ours.concerning as f64 / ours.seconds;
        let replays: Vec<_> =
            self.baseline.iter().filter(|one| views.contains(&one.view.as_str())).collect();
        let events: u64 = replays.iter().map(|one| one.events).sum();
        let seconds: f64 = replays.iter().map(|one| one.seconds).sum();
        let asynchronous: f64 = replays.iter().map(|one| one.seconds_asynchronous).sum();
        Some([seconds, asynchronous].map(|seconds| rate / (events as f64 / seconds)))
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if let Some([faster, _]) = self.times_faster(&["users", "sessions"]) {
            verdicts.push(Verdict {
                what: "rebuild of users and sessions, against QueryReplay".to_owned(),
                is: format!("{faster:.1} times as fast"),
                target: "40 times",
                informs: false,
                holds: faster >= 40.0,
            });
        }
        for rebuild in self.rebuilds() {
            let ratio = rebuild.seconds / self.limit(rebuild);
            verdicts.push(Verdict {
                what: format!("rebuild of {}, against the limit", rebuild.projections.join(", ")),
                is: format!("{ratio:.2} times the time"),
                target: "2 times",
                informs: false,
                holds: ratio <= 2.0,
            });
        }
        let peak =
            |size: &Size| size.rebuilds.iter().map(|rebuild| rebuild.peak_mib).fold(0.0, f64::max);
        let peaks: Vec<f64> = self.sizes.iter().map(peak).collect();
        if let [.., short, long] = peaks.as_slice() {
            verdicts.push(Verdict {
                what: "peak memory of a rebuild".to_owned(),
                is: format!("{long:.0} MiB"),
                target: "300 MB",
                informs: false,
                holds: long * 1.048_576 < 300.0,
            });
            verdicts.push(Verdict {
                what: "the same, against a tenth of the history".to_owned(),
                is: format!("{:.2}", long / short),
                target: "within 20 %",
                informs: false,
                holds: (0.8..=1.2).contains(&(long / short)),
            });
        }
        for appends in &self.appends {
            let ratio = crate::measure::median(&appends.ratios);
            verdicts.push(Verdict {
                what: format!("appends of {} clients, against pgbench", appends.clients),
                is: format!("{ratio:.2} of its rate"),
                target: "0.8",
                informs: false,
                holds: ratio >= 0.8,
            });
        }
        for lags in &self.lags {
            for lag in &lags.lags {
                verdicts.push(Verdict {
                    what: format!("lag of {} at 1,000 appends/s, p99, on {}", lag.of, lags.on),
                    is: format!("{:.0} ms", lag.p99),
                    target: "100 ms",
                    informs: lags.rebuild_seconds.is_some(),
                    holds: lag.p99 < 100.0,
                });
            }
        }
        // Of the proof alone, nothing else was measured.
        let costs = if self.costs.is_empty() { Vec::new() } else { growth::spread(&self.costs) };
        for (act, spread) in costs {
            verdicts.push(Verdict {
                what: format!("{act}, over all histories"),
                is: spread.map_or("too few full pages".into(), |spread| format!("{spread:.2}")),
                target: "within 1.3 times",
                informs: spread.is_none(),
                holds: spread.is_some_and(|spread| spread <= 1.3),
            });
        }
        verdicts.extend(self.proving.last().into_iter().flat_map(Report::proof_verdicts));
        let whole = plans::whole_tables(&self.plans);
        verdicts.push(Verdict {
            what: "statements that read a whole table".to_owned(),
            is: whole.len().to_string(),
            target: "none",
            informs: false,
            holds: whole.is_empty(),
        });
        verdicts
    }

    /// Each target that is missed, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = |verdict: &Verdict| !verdict.holds && !verdict.informs;
        let tell = |one: Verdict| format!("{}: {}, target {}", one.what, one.is, one.target);
        self.verdicts().into_iter().filter(missed).map(tell).collect()
    }

    /// What reads a table that grows from end to end, and which.
    pub(crate) fn read_whole(&self) -> Vec<String> {
        let tell = |access: &Access| format!("{} ({})", access.what, access.table);
        plans::whole_tables(&self.plans).into_iter().map(tell).collect()
    }

    pub(crate) fn markdown(&self) -> String {
        let mut page = Page(HEAD.trim_end().to_owned());
        self.about(&mut page);
        page.heading("Against the targets");
        let verdicts = self.verdicts();
        Self::targets(&mut page, &verdicts);
        page.paragraph(NOTES.trim_end());
        self.storage(&mut page);
        self.rebuilding(&mut page);
        self.baseline(&mut page);
        self.proof(&mut page);
        self.growing(&mut page);
        self.costs_and_plans(&mut page);
        page.0.push('\n');
        page.0
    }

    fn targets(page: &mut Page, verdicts: &[Verdict]) {
        page.table(
            &["what", "is", "target", ""],
            verdicts.iter().map(|verdict| {
                let mark = verdict.mark().to_owned();
                vec![verdict.what.clone(), verdict.is.clone(), verdict.target.into(), mark]
            }),
        );
    }

    fn about(&self, page: &mut Page) {
        let Machine {
            processor,
            cores,
            memory_gib,
            system,
            postgres,
            rustc,
            entrybook,
            parameters,
        } = &self.machine;
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("`{name} = {value}`")).collect();
        page.heading("What on");
        page.paragraph(&format!(
            "{processor}, {cores} cores, {memory_gib} GiB, {system}. PostgreSQL {postgres} on the same machine over a Unix socket, durable, \
             with {}. {rustc}, release build. Entrybook {entrybook}. Seed {}. The run took {:.0} minutes.",
            parameters.join(", "),
            self.seed,
            self.minutes
        ));
        page.table(
            &[
                "history",
                "accounts",
                "sessions",
                "longest session",
                "written",
                "put in order",
                "first build of all",
            ],
            self.histories.iter().zip(&self.sequencing).zip(&self.first_builds).map(
                |((history, order), first)| {
                    vec![
                        number(history.events as f64),
                        number(history.accounts as f64),
                        number(history.sessions as f64),
                        history.longest_session.map_or("–".into(), |many| number(many as f64)),
                        rate(history.events, history.seconds),
                        rate(order.events, order.seconds),
                        rate(first.events, first.seconds),
                    ]
                },
            ),
        );
    }

    fn storage(&self, page: &mut Page) {
        let Some(history) = self.histories.last() else { return };
        let each = |bytes: u64| format!("{:.1}", bytes as f64 / history.events as f64);
        page.heading("Disk");
        page.paragraph(
            "What the longest history takes when its read tables are built, indexes included. A rebuild needs the room of what it rebuilds a \
             second time, until it is done.",
        );
        page.table(
            &["table", "rows", "MB", "bytes an event", "of them indexes"],
            self.stored.iter().filter(|one| one.bytes >= history.events).map(|one| {
                vec![
                    one.what.clone(),
                    one.rows.map_or(String::new(), |rows| number(rows as f64)),
                    number(one.bytes as f64 / 1e6),
                    each(one.bytes),
                    each(one.indexes),
                ]
            }),
        );
    }

    fn rebuilding(&self, page: &mut Page) {
        page.heading("Rebuilding");
        page.paragraph(
            "The whole of a rebuild: reading, folding, copying, indexing, catching up, comparing every row with the live table, swapping. Each \
             in a process of its own. *Lines* are those of the book, *own events* those of the streams that the projection is of.",
        );
        for size in &self.sizes {
            page.paragraph(&format!("**{} events**", number(size.events as f64)));
            page.table(
                &[
                    "projection",
                    "seconds",
                    "lines/s",
                    "own events/s",
                    "peak MiB",
                    "seconds in each phase",
                ],
                size.rebuilds.iter().map(|rebuild| {
                    let phases: Vec<_> = rebuild
                        .phases
                        .iter()
                        .map(|(phase, seconds)| format!("{} {seconds:.1}", phase.replace('_', " ")))
                        .collect();
                    vec![
                        rebuild.projections.join(", "),
                        format!("{:.1}", rebuild.seconds),
                        number(rebuild.events as f64 / rebuild.seconds),
                        number(rebuild.concerning as f64 / rebuild.seconds),
                        format!("{:.0}", rebuild.peak_mib),
                        phases.join(", "),
                    ]
                }),
            );
        }
        page.heading("The limit");
        page.paragraph(
            "A bare scan of all events through sqlx with their JSON parsed, and one binary COPY of the final rows: into tables that have \
             their indexes, and into bare ones that get them afterwards. The limit is the scan and the faster of the two.",
        );
        page.table(
            &["scan of", "events", "seconds", "events/s"],
            self.scans.iter().map(|scan| {
                vec![
                    if scan.streams.is_empty() { "all".into() } else { scan.streams.join(", ") },
                    number(scan.events as f64),
                    format!("{:.1}", scan.seconds),
                    number(scan.events as f64 / scan.seconds),
                ]
            }),
        );
        page.table(
            &["rows of", "rows", "COPY, indexed", "COPY, indexed after", "rows/s of the faster"],
            self.copies.iter().map(|copy| {
                let least = copy.seconds.min(copy.seconds_indexed_after);
                vec![
                    copy.projection.clone(),
                    number(copy.rows as f64),
                    format!("{:.1} s", copy.seconds),
                    format!("{:.1} s", copy.seconds_indexed_after),
                    number(copy.rows as f64 / least),
                ]
            }),
        );
        page.table(
            &["rebuild of", "seconds", "limit", "ratio"],
            self.rebuilds().iter().map(|rebuild| {
                let limit = self.limit(rebuild);
                vec![
                    rebuild.projections.join(", "),
                    format!("{:.1}", rebuild.seconds),
                    format!("{limit:.1}"),
                    format!("{:.2}", rebuild.seconds / limit),
                ]
            }),
        );
    }

    fn baseline(&self, page: &mut Page) {
        page.heading("QueryReplay");
        page.paragraph(
            "The same views through cqrs-es's `QueryReplay` and `GenericQuery` with postgres-es, on the first lines of the same book \
             (`benchmarks/src/baseline.rs` says how it is kept fair). Rates are of the events that concern the view, for both.",
        );
        page.table(
            &["view", "events", "events/s", "events/s, commits not waited for"],
            self.baseline.iter().map(|replay| {
                vec![
                    replay.view.clone(),
                    number(replay.events as f64),
                    number(replay.events as f64 / replay.seconds),
                    number(replay.events as f64 / replay.seconds_asynchronous),
                ]
            }),
        );
        page.table(
            &["views", "ours is faster by", "with its commits not waited for"],
            [&["users"][..], &["sessions"], &["users", "sessions"]].iter().filter_map(|views| {
                let [synchronous, asynchronous] = self.times_faster(views)?;
                Some(vec![
                    views.join(", "),
                    format!("{synchronous:.1}"),
                    format!("{asynchronous:.1}"),
                ])
            }),
        );
        page.paragraph(
            "`users` alone is the weak spot: a rebuild walks every line of the book, and few of them concern accounts, where QueryReplay \
             reads the streams of accounts and no others. In one pass with the sessions they cost nothing more.",
        );
    }

    fn growing(&self, page: &mut Page) {
        page.heading("Appending");
        page.paragraph(
            "`Store::append` of one `SessionStarted` with its metadata to a new stream, against `pgbench` (prepared) inserting the same bytes \
             into a table with the same columns, indexes and rows; in turns, medians.",
        );
        page.table(
            &["clients", "appends/s", "pgbench/s", "ratio"],
            self.appends.iter().map(|appends| {
                vec![
                    appends.clients.to_string(),
                    number(appends.ours),
                    number(appends.pgbench),
                    format!("{:.2}", crate::measure::median(&appends.ratios)),
                ]
            }),
        );
        page.heading("Lag");
        page.paragraph(
            "Appends at 1,000/s, each at its time, with the sequencer and all projections at work in the same process. From an append's return \
             until the journal and each read table cover it, in milliseconds; looked at every 2 ms. The rebuild is of all projections, by another \
             process; after two minutes of it the appends stop.",
        );
        page.table(
            &["on", "appends", "appends/s", "an append, p50", "p99", "the rebuild"],
            self.lags.iter().map(|lags| {
                vec![
                    lags.on.clone(),
                    number(lags.appends as f64),
                    number(lags.per_second),
                    format!("{:.1}", lags.append_p50),
                    format!("{:.1}", lags.append_p99),
                    lags.rebuild_seconds.map_or(String::new(), |took| format!("{took:.1} s")),
                ]
            }),
        );
        page.table(
            &["on", "of", "p50", "p99", "most"],
            self.lags.iter().flat_map(|lags| {
                lags.lags.iter().map(|lag| {
                    vec![
                        lags.on.clone(),
                        lag.of.clone(),
                        format!("{:.1}", lag.p50),
                        format!("{:.1}", lag.p99),
                        format!("{:.1}", lag.most),
                    ]
                })
            }),
        );
    }

    fn costs_and_plans(&self, page: &mut Page) {
        page.heading("What the history costs");
        page.paragraph("Medians in microseconds, by one client, on warm books, in turns.");
        let mut head = vec!["act".to_owned()];
        head.extend(
            self.costs.iter().map(|costs| format!("{} events", number(costs.events as f64))),
        );
        head.push("spread".to_owned());
        let spread = growth::spread(&self.costs);
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        page.table(
            &head,
            spread.iter().enumerate().map(|(act, (name, spread))| {
                let mut row = vec![name.clone()];
                row.extend(self.costs.iter().map(|costs| {
                    let time = costs.micros.get(act).and_then(|(_, time)| *time);
                    time.map_or("–".into(), number)
                }));
                row.push(spread.map_or("–".into(), |spread| format!("{spread:.2}")));
                row
            }),
        );
        let long: Vec<_> =
            self.costs.iter().map(|costs| number(costs.long_session as f64)).collect();
        let full: Vec<_> = self.costs.iter().map(|costs| costs.full_pages.to_string()).collect();
        page.paragraph(&format!(
            "The long sessions had {} refreshes. Pages of one account are of those that fill one, 100 at most: {} of them. With fewer than \
             five in a history there is no spread to tell.",
            long.join(", "),
            full.join(", ")
        ));
        page.heading("Plans");
        page.paragraph(
            "How the tables are read by the statements that are really sent, told by `auto_explain` on the longest history. Tables of a handful \
             of rows may be read whole.",
        );
        page.table(
            &["what", "table", "how", "index"],
            self.plans.iter().map(|access| {
                vec![
                    access.what.clone(),
                    access.table.clone(),
                    access.node.clone(),
                    access.index.clone().unwrap_or_default(),
                ]
            }),
        );
    }
}

struct Page(String);

impl Page {
    fn heading(&mut self, text: &str) {
        self.paragraph(&format!("## {text}"));
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(self.0, "\n\n{text}");
        }
    }

    fn table(&mut self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
        let mut text = format!("| {} |\n|{}", head.join(" | "), " --- |".repeat(head.len()));
        for row in rows {
            let _ = write!(text, "\n| {} |", row.join(" | "));
        }
        self.paragraph(&text);
    }
}

/// With commas between the thousands.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rate(events: u64, seconds: f64) -> String {
    format!("{:.1} s, {}/s", seconds, number(events as f64 / seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(999.4), "999");
        assert_eq!(number(1_000.0), "1,000");
        assert_eq!(number(10_000_000.0), "10,000,000");
    }
}
