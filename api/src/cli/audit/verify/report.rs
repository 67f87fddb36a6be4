//! What a verification came to, in words and for programs: whether the lines are those that were signed,
//! and whether they are all there.

use super::super::super::Exit;
use indicatif::HumanCount;
use projections::book_audit::is_of_completeness;
use proof::{Finding, Followed};
use serde::Serialize;
use serde_json::Value;

/// What to do where a signature is by a key that was not given.
pub(super) const ROTATED: &str = "If the log's key was rotated, give the key that it began with, or the new one as well: `entrybook log key` prints them all";

/// So many ignored hand-overs are said.
const IGNORED: usize = 10;

/// Which keys are believed because an older one has handed over to them, and what was ignored.
pub(super) fn followed(followed: &Followed) -> Vec<String> {
    let believed = followed.believed.iter().map(|hand_over| {
        format!(
            "{} is trusted from {} lines on, because the key {} has handed over to it.",
            hand_over.key,
            HumanCount(hand_over.first),
            hand_over.old_id
        )
    });
    let ignored =
        followed.ignored.iter().take(IGNORED).map(|why| format!("Ignored a hand-over: {why}."));
    let more = followed.ignored.len().saturating_sub(IGNORED);
    let more = (more > 0).then(|| format!("Ignored {more} hand-overs more."));
    believed.chain(ignored).chain(more).collect()
}

/// What it came to.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What was verified: `database`, or the format of a file.
    pub(super) of: String,
    /// The names of the logs that have signed it.
    pub(super) origins: Vec<String>,
    /// How many lines were looked at.
    pub(super) lines: u64,
    /// How many are left out by the filter of the export.
    pub(super) left_out: u64,
    /// The last line that a checkpoint proves.
    pub(super) proved: u64,
    /// Lines behind it.
    pub(super) unproved: u64,
    /// How many checkpoints were believed, and held against the lines.
    pub(super) checkpoints: u64,
    pub(super) keys: Vec<String>,
    pub(super) trusts_database: bool,
    /// Whether anything that was signed, and is believed, says anything of the lines.
    pub(super) signed: bool,
    pub(super) integrity: Answer,
    pub(super) completeness: Answer,
    pub(super) seconds: f64,
    /// What else is to be known, in sentences.
    pub(super) remarks: Vec<String>,
}

/// The kind of finding where the answer can't be given.
pub(super) const NOT_KNOWN: &str = "not_known";

/// A number of lines, in words.
pub(super) fn lines_of(many: u64) -> String {
    if many == 1 { "1 line".to_owned() } else { format!("{} lines", HumanCount(many)) }
}

/// One of the two answers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Answer {
    pub(super) sound: bool,
    /// How much is wrong.
    in_all: u64,
    /// The first of it.
    findings: Vec<Said>,
}

#[derive(Debug, Serialize)]
struct Said {
    #[serde(flatten)]
    finding: Value,
    says: String,
}

impl Answer {
    pub(super) fn sound() -> Self {
        Self { sound: true, ..Self::default() }
    }

    /// One more thing that is wrong. `kind` is for programs.
    pub(super) fn wrong(&mut self, kind: &str, says: impl Into<String>) {
        self.add(serde_json::json!({ "kind": kind }), says.into());
    }

    /// The same with more for programs than its kind.
    pub(super) fn add(&mut self, finding: Value, says: String) {
        self.sound = false;
        self.in_all += 1;
        self.findings.push(Said { finding, says });
    }

    fn has(&self, kind: &str) -> bool {
        let is_so = |said: &Said| said.finding.get("kind").and_then(Value::as_str) == Some(kind);
        self.findings.iter().any(is_so)
    }

    /// Many of one kind, of which the first were said.
    pub(super) fn and_more(&mut self, many: u64) {
        self.in_all += many;
        self.sound &= many == 0;
    }
}

/// Sorts what was found wrong with lines into the two answers.
pub(super) fn sort(
    findings: &[Finding],
    wrong: u64,
    integrity: &mut Answer,
    completeness: &mut Answer,
    says: impl Fn(&Finding) -> String,
) {
    for finding in findings {
        let told = serde_json::to_value(finding).unwrap_or_default();
        let answer = if is_of_completeness(finding) { &mut *completeness } else { &mut *integrity };
        answer.add(told, says(finding));
    }
    integrity.and_more(wrong.saturating_sub(findings.len() as u64));
}

impl Report {
    pub(super) fn exit(&self) -> Exit {
        match (self.integrity.sound, self.completeness.sound) {
            (true, true) => Exit::Done,
            (true, false) => Exit::Incomplete,
            (false, _) => Exit::Differs,
        }
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let verdict = |answer: &Answer, good: &str, bad: &str| {
            if answer.sound { good.to_owned() } else { bad.to_owned() }
        };
        let mut lines = vec![format!(
            "integrity: {}",
            verdict(
                &self.integrity,
                if self.signed { "sound" } else { "NOT PROVED" },
                "NOT AS IT WAS SIGNED"
            )
        )];
        self.integrity.say(&mut lines);
        if self.integrity.sound && !self.signed {
            lines.push(format!(
                "  {}, and nothing that was signed and is believed says that they are those that were written.",
                lines_of(self.lines)
            ));
        } else if self.integrity.sound {
            lines.push(format!("  {}", self.proof()));
        }
        lines.push(format!(
            "completeness: {}",
            verdict(
                &self.completeness,
                "nothing is missing",
                if self.completeness.has(NOT_KNOWN) { "NOT KNOWN" } else { "INCOMPLETE" }
            )
        ));
        self.completeness.say(&mut lines);
        lines.extend(self.remarks.iter().map(|remark| format!("  {remark}")));
        let per_second = (self.lines as f64 / self.seconds.max(0.001)) as u64;
        lines.push(format!(
            "{} in {:.1} s, {} a second",
            lines_of(self.lines),
            self.seconds,
            HumanCount(per_second)
        ));
        lines
    }

    /// What was looked at, and what proves it.
    fn proof(&self) -> String {
        let mut words = lines_of(self.lines);
        if self.left_out > 0 {
            words = format!("{words}, of a book with {} more", HumanCount(self.left_out));
        }
        words = match (self.proved, self.checkpoints) {
            (0, _) if self.of == "csv" || self.of == "ocsf" => {
                return format!("{words}, as the server wrote and signed them.");
            }
            (0, _) => return format!("{words}."),
            (proved, 1) => {
                format!("{words}; a checkpoint proves them up to line {}", HumanCount(proved))
            }
            (proved, many) => format!(
                "{words}; {} checkpoints prove them up to line {}",
                HumanCount(many),
                HumanCount(proved)
            ),
        };
        match self.unproved {
            0 => format!("{words}."),
            1 => format!("{words}, and 1 line behind it is not signed yet."),
            many => {
                format!("{words}, and {} lines behind it are not signed yet.", HumanCount(many))
            }
        }
    }
}

impl Answer {
    fn say(&self, lines: &mut Vec<String>) {
        lines.extend(self.findings.iter().map(|said| format!("  {}", said.says)));
        let more = self.in_all.saturating_sub(self.findings.len() as u64);
        if more > 0 {
            lines.push(format!("  and {} more", HumanCount(more)));
        }
    }
}
