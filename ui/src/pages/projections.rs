//! How far each projection has read the book, and its rebuilds, for admins.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{Arg, Chrome, assets, texts::MessageId};

/// The page. Its block `live` is what changes while somebody looks: the script of the page puts
/// each new one in place of the last, as [`ProjectionsPage::live`] writes it.
#[derive(Clone, Default, askama::Template)]
#[template(path = "projections.html")]
pub struct ProjectionsPage {
    pub chrome: Chrome,
    /// The last position of the book.
    pub head: u64,
    pub rows: Vec<ProjectionRow>,
}

/// What changes, alone.
#[derive(askama::Template)]
#[template(path = "parts/projections.html")]
struct Live<'a> {
    chrome: &'a Chrome,
    head: &'a u64,
    rows: &'a [ProjectionRow],
}

/// One projection, at one version.
#[derive(Debug, Clone)]
pub struct ProjectionRow {
    pub name: String,
    pub version: u32,
    pub position: u64,
    /// How many lines of the book it has still to read.
    pub lag_events: u64,
    /// How old the first of them is, in whole seconds.
    pub lag_seconds: u64,
    pub state: ProjectionState,
    /// Whether its tables have ever been complete: what reads them is answered from then on.
    pub built: bool,
    pub stopped: Option<ProjectionStop>,
    /// The rebuild or check that runs, or else the last one.
    pub build: Option<ProjectionBuild>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProjectionState {
    /// It was never made.
    Missing,
    /// It has not yet caught up for the first time.
    Building,
    Live,
    /// It met an event that it can't apply, and waits there.
    Stopped,
}

/// Where a projection stopped, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectionStop {
    /// The line that it can't apply.
    pub position: u64,
    /// The stream and the event, where the line can be read that far.
    pub stream: Option<String>,
    pub event: Option<String>,
    pub cause: String,
    /// What to do.
    pub advice: String,
}

/// A rebuild, or a check, which is one that changes nothing.
#[derive(Debug, Clone)]
pub struct ProjectionBuild {
    pub state: BuildState,
    pub phase: BuildPhase,
    pub check_only: bool,
    pub events_done: u64,
    pub events_total: u64,
    pub events_per_second: u64,
    pub seconds_left: Option<u64>,
    /// How long it has taken so far, or took.
    pub seconds: u64,
    pub updated: DateTime<Utc>,
    /// What differs, or what went wrong.
    pub detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildState {
    Running,
    /// A first build is complete.
    Built,
    /// The new tables serve.
    Swapped,
    /// They were equal to what serves.
    Compared,
    /// They were not, and so nothing was changed.
    Differs,
    Failed,
    Cancelled,
    /// Whoever ran it is gone.
    Interrupted,
}

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildPhase {
    Folding,
    Copying,
    Indexing,
    CatchingUp,
    Comparing,
    Swapping,
}

impl ProjectionState {
    fn message(self) -> MessageId {
        match self {
            Self::Live => MessageId("projection-live"),
            Self::Missing => MessageId("projection-missing"),
            Self::Building => MessageId("projection-building"),
            Self::Stopped => MessageId("projection-stopped"),
        }
    }

    /// How its badge looks.
    fn tone(self) -> &'static str {
        match self {
            Self::Live => "good",
            Self::Building => "plain",
            Self::Missing | Self::Stopped => "bad",
        }
    }
}

impl BuildPhase {
    fn message(self) -> MessageId {
        match self {
            Self::Folding => MessageId("build-folding"),
            Self::Copying => MessageId("build-copying"),
            Self::Indexing => MessageId("build-indexing"),
            Self::CatchingUp => MessageId("build-catching-up"),
            Self::Comparing => MessageId("build-comparing"),
            Self::Swapping => MessageId("build-swapping"),
        }
    }
}

impl ProjectionsPage {
    /// What changes while somebody looks, for the script of the page.
    pub fn live(&self) -> Result<String, crate::RenderError> {
        let live = Live { chrome: &self.chrome, head: &self.head, rows: &self.rows };
        Ok(askama::Template::render(&live)?)
    }

    /// Whether to look again soon.
    fn is_busy(&self) -> bool {
        self.rows.iter().any(ProjectionRow::is_busy)
    }

    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("projections-title")
    }

    fn script(&self) -> &'static str {
        assets::PROJECTIONS_SCRIPT.url()
    }
}

impl ProjectionRow {
    fn running(&self) -> Option<&ProjectionBuild> {
        self.build.as_ref().filter(|build| build.state == BuildState::Running)
    }

    /// The last build, where none runs.
    fn last(&self) -> Option<&ProjectionBuild> {
        self.build.as_ref().filter(|build| build.state != BuildState::Running)
    }

    /// Whether it is being made for the first time, without anybody having asked for it.
    fn is_first_build(&self) -> bool {
        !self.built && self.state == ProjectionState::Building
    }

    fn is_busy(&self) -> bool {
        self.running().is_some() || self.is_first_build()
    }

    fn can_cancel(&self) -> bool {
        self.built && self.running().is_some()
    }

    /// Whether there is anything to rebuild beside.
    fn can_rebuild(&self) -> bool {
        self.built && self.running().is_none()
    }

    /// Whether the last look at it found a difference that a rebuild would mend.
    fn can_repair(&self) -> bool {
        self.last().is_some_and(|build| build.state == BuildState::Differs)
    }

    fn lag(&self, chrome: &Chrome) -> String {
        let events = chrome.t_count("projections-events-behind", self.lag_events);
        let age = chrome.span(self.lag_seconds);
        chrome
            .texts()
            .get_with(
                "projections-behind",
                &[("events", Arg::Text(&events)), ("age", Arg::Text(&age))],
            )
            .into_owned()
    }
}

impl ProjectionBuild {
    fn is_bad(&self) -> bool {
        matches!(self.state, BuildState::Differs | BuildState::Failed)
    }

    /// The bar is full before the work is done: from then on it shows only that it goes on.
    fn is_counted(&self) -> bool {
        self.events_done < self.events_total
    }

    fn kind(&self, row: &ProjectionRow) -> MessageId {
        match (!row.built, self.check_only) {
            (true, _) => MessageId("build-is-first"),
            (false, true) => MessageId("build-is-check"),
            (false, false) => MessageId("build-is-rebuild"),
        }
    }

    /// `12,000 of 48,211 events · 92,000 events a second · about 4 s left`.
    fn progress(&self, chrome: &Chrome) -> String {
        let mut parts = vec![chrome.texts().get_with(
            "build-done-of",
            &[
                ("done", Arg::Text(&chrome.number(&self.events_done))),
                ("total", Arg::Text(&chrome.number(&self.events_total))),
            ],
        )];
        if self.is_counted() {
            if self.events_per_second > 0 {
                parts.push(chrome.t_count("build-speed", self.events_per_second));
            }
            if let Some(seconds) = self.seconds_left {
                parts.push(chrome.t_with("build-left", "time", &chrome.span(seconds)));
            }
        } else {
            parts.push(chrome.t_with("build-so-far", "time", &chrome.span(self.seconds)));
        }
        parts.join(" · ")
    }

    /// What became of it, and when.
    fn outcome(&self, chrome: &Chrome) -> String {
        let id = match (self.state, self.check_only) {
            (BuildState::Running, _) => return chrome.message(self.phase.message()).into_owned(),
            (BuildState::Built, _) => MessageId("build-built"),
            (BuildState::Swapped, _) => MessageId("build-swapped"),
            (BuildState::Compared, _) => MessageId("build-compared"),
            (BuildState::Differs, _) => MessageId("build-differs"),
            (BuildState::Failed, true) => MessageId("build-check-failed"),
            (BuildState::Failed, false) => MessageId("build-failed"),
            (BuildState::Cancelled, true) => MessageId("build-check-cancelled"),
            (BuildState::Cancelled, false) => MessageId("build-cancelled"),
            (BuildState::Interrupted, true) => MessageId("build-check-interrupted"),
            (BuildState::Interrupted, false) => MessageId("build-interrupted"),
        };
        let at = chrome.minute(&self.updated);
        let took = match self.seconds {
            0 => chrome.t("build-moment"),
            seconds => chrome.span(seconds),
        };
        let args = [("at", Arg::Text(&at)), ("took", Arg::Text(&took))];
        chrome.texts().get_with(id.0, &args).into_owned()
    }
}

/// Whether there is anything that all can be asked to do at once.
pub(crate) fn can_rebuild_all(rows: &[ProjectionRow]) -> bool {
    rows.len() > 1 && rows.iter().all(ProjectionRow::can_rebuild)
}
