//! How far each projection has read the book, for admins.

use std::borrow::Cow;

use crate::{Chrome, texts::MessageId};

#[derive(Clone, Default, askama::Template)]
#[template(path = "projections.html")]
pub struct ProjectionsPage {
    pub chrome: Chrome,
    /// The last position of the book.
    pub head: u64,
    pub rows: Vec<ProjectionRow>,
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
    /// Why it stopped, say.
    pub detail: Option<String>,
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

impl ProjectionsPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("projections-title")
    }

    fn head_text(&self) -> Cow<'static, str> {
        self.chrome.t_with("projections-head", "lines", &self.chrome.number(&self.head))
    }
}
