//! Telling how far a build is: bars in a terminal, plain lines where there is none, JSON for programs.

use super::super::Out;
use ::projections::{Build, Phase, Progress};
use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often a plain line tells of one projection, at most, while it stays in one phase.
const PLAIN: Duration = Duration::from_secs(2);
/// How often a line of JSON does.
const JSON: Duration = Duration::from_millis(500);

/// How far the build of one projection is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename = "progress")]
pub(super) struct Step {
    projection: String,
    /// Whether it is built for the first time, which has to be done before anything else.
    first_build: bool,
    phase: String,
    events_done: i64,
    events_total: i64,
    events_per_second: f64,
    seconds_left: Option<f64>,
    seconds: f64,
}

impl From<&Progress> for Step {
    fn from(progress: &Progress) -> Self {
        Self {
            projection: progress.projection.to_owned(),
            first_build: false,
            phase: progress.phase.as_str().to_owned(),
            events_done: progress.events_done,
            events_total: progress.events_total,
            events_per_second: progress.events_per_second,
            seconds_left: progress.seconds_left,
            seconds: progress.seconds,
        }
    }
}

impl From<&Build> for Step {
    fn from(build: &Build) -> Self {
        Self {
            projection: build.name.clone(),
            first_build: false,
            phase: build.phase.clone(),
            events_done: build.events_done,
            events_total: build.events_total.max(build.events_done),
            events_per_second: build.events_per_second,
            seconds_left: build.seconds_left,
            seconds: build.seconds,
        }
    }
}

impl Step {
    /// Of a first build, whoever is at it.
    pub(super) fn of_first(build: &Build) -> Self {
        Self { first_build: true, ..Self::from(build) }
    }

    /// Whether lines are read in it; in the others all are.
    fn reads(&self) -> bool {
        [Phase::Folding, Phase::Copying, Phase::CatchingUp]
            .iter()
            .any(|phase| phase.as_str() == self.phase)
    }

    /// Whether each projection goes through it by itself.
    fn is_of_one(&self) -> bool {
        ![Phase::Folding, Phase::Copying].iter().any(|phase| phase.as_str() == self.phase)
    }

    /// `folding, line 1,200 of 5,000, 900 lines/s, 4 s left`
    pub(super) fn words(&self) -> String {
        let mut words = self.phase.replace('_', " ");
        if self.first_build {
            words = format!("first build, {words}");
        }
        if !self.reads() {
            return words;
        }
        let (done, total) = (count(self.events_done), count(self.events_total));
        words = format!("{words}, line {done} of {total}");
        if self.events_per_second >= 1.0 {
            words = format!("{words}, {} lines/s", count(self.events_per_second as i64));
        }
        match self.seconds_left {
            Some(left) => format!("{words}, {} left", duration(left)),
            None => words,
        }
    }

    /// How much of the lines is done, in percent.
    pub(super) fn percent(&self) -> i64 {
        self.events_done.saturating_mul(100).checked_div(self.events_total).unwrap_or(100)
    }
}

/// `1,234,567`
pub(super) fn count(number: i64) -> HumanCount {
    HumanCount(u64::try_from(number).unwrap_or(0))
}

/// `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        ..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600.. => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Who tells. In a terminal what it drew goes with it, however the work ends.
pub(super) enum Telling<'a> {
    Bars(Bars),
    Lines(HashMap<String, Told>),
    Json { out: &'a mut Out, told: HashMap<String, Told> },
}

/// What was last told of one projection.
pub(super) struct Told {
    at: Instant,
    phase: String,
}

impl<'a> Telling<'a> {
    /// Standard error is for people, standard output for answers.
    pub(super) fn new(names: &[&str], json: bool, out: &'a mut Out) -> Self {
        // A terminal that can't move its cursor gets lines.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if json {
            Self::Json { out, told: HashMap::new() }
        } else if stderr().is_terminal() && !dumb {
            Self::Bars(Bars::new(names))
        } else {
            Self::Lines(HashMap::new())
        }
    }

    /// What can't be told to anybody any more is not worth ending the work for.
    pub(super) fn tell(&mut self, step: &Step) {
        match self {
            Self::Bars(bars) => bars.tell(step),
            Self::Lines(told) => {
                if due(told, step, PLAIN) {
                    let _ = writeln!(stderr(), "{}: {}", step.projection, step.words());
                }
            }
            Self::Json { out, told } => {
                if due(told, step, JSON) {
                    let _ = out.json_line(step);
                }
            }
        }
    }
}

/// At once where the phase has changed.
fn due(told: &mut HashMap<String, Told>, step: &Step, every: Duration) -> bool {
    let now = Instant::now();
    let due = told
        .get(&step.projection)
        .is_none_or(|last| last.phase != step.phase || now - last.at >= every);
    if due {
        told.insert(step.projection.clone(), Told { at: now, phase: step.phase.clone() });
    }
    due
}

pub(super) struct Bars {
    multi: MultiProgress,
    bars: Vec<(String, ProgressBar)>,
}

impl Bars {
    fn new(names: &[&str]) -> Self {
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let style = ProgressStyle::with_template("{prefix} [{bar:24}] {percent:>3} %  {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        // To standard error.
        let multi = MultiProgress::new();
        let bars = names.iter().map(|name| {
            let bar = multi.add(ProgressBar::new(0));
            bar.set_style(style.clone());
            bar.set_prefix(format!("{name:<width$}"));
            bar.set_message("waiting");
            ((*name).to_owned(), bar)
        });
        let bars = bars.collect();
        Self { multi, bars }
    }

    fn tell(&self, step: &Step) {
        let Some(at) = self.bars.iter().position(|(name, _)| *name == step.projection) else {
            return;
        };
        for (place, (_, bar)) in self.bars.iter().enumerate() {
            if place == at {
                bar.set_length(u64::try_from(step.events_total).unwrap_or(0));
                bar.set_position(u64::try_from(step.events_done).unwrap_or(0));
                bar.set_message(step.words());
            } else if place < at && step.is_of_one() && !step.first_build && !bar.is_finished() {
                // They are finished one after the other.
                bar.finish_with_message("done");
            }
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // What came of it is said in words.
        let _ = self.multi.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(phase: &str) -> Step {
        Step {
            projection: "users".into(),
            first_build: false,
            phase: phase.into(),
            events_done: 1_234_567,
            events_total: 10_000_000,
            events_per_second: 123_456.7,
            seconds_left: Some(71.2),
            seconds: 10.0,
        }
    }

    #[test]
    fn steps_are_said_in_words() {
        assert_eq!(
            step("folding").words(),
            "folding, line 1,234,567 of 10,000,000, 123,456 lines/s, 1 min 11 s left"
        );
        assert_eq!(step("folding").percent(), 12);
        assert_eq!(step("indexing").words(), "indexing");
        let first = Step { first_build: true, seconds_left: None, ..step("catching_up") };
        assert!(first.words().starts_with("first build, catching up, line 1,234,567 of"));
        let empty = Step { events_done: 0, events_total: 0, ..step("folding") };
        assert_eq!(empty.percent(), 100);
    }

    #[test]
    fn durations_are_said_as_people_do() {
        let said: Vec<_> = [0.04, 9.9, 9.96, 59.4, 60.0, 3599.0, 7500.0].map(duration).into();
        assert_eq!(
            said,
            ["0.0 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "59 min 59 s", "2 h 5 min"]
        );
    }

    #[test]
    fn a_new_phase_is_told_at_once_and_nothing_else() {
        let mut told = HashMap::new();
        let long = Duration::from_secs(3600);
        assert!(due(&mut told, &step("folding"), long));
        assert!(!due(&mut told, &step("folding"), long));
        assert!(due(&mut told, &step("comparing"), long));
        assert!(due(&mut told, &Step { projection: "sessions".into(), ..step("comparing") }, long));
    }
}
