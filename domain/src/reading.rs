//! Reading the history is history too: who looked for what, and took what away.
//!
//! There is one stream for each reader. A filter may name a person, so it is sealed, under the key of
//! its month; where it names one, it does so by their id.

use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use crate::{Sealed, StreamEvent, stream};

/// What somebody has read of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadingEvent {
    HistorySearched {
        /// What was asked for, as JSON; nothing where it was everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<Sealed>,
    },
    HistoryExported {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<Sealed>,
        format: String,
        /// The last line that it may hold.
        up_to: u64,
    },
    /// The state of a person, or of all sessions, was read as of a time.
    HistoryReplayed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<Sealed>,
    },
    /// New lines are read as they are written.
    HistoryFollowed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<Sealed>,
    },
}

impl ReadingEvent {
    /// The names under which the events are stored. They never change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::HistorySearched { .. } => "HistorySearched",
            Self::HistoryExported { .. } => "HistoryExported",
            Self::HistoryReplayed { .. } => "HistoryReplayed",
            Self::HistoryFollowed { .. } => "HistoryFollowed",
        }
    }

    /// The version in which each is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::HistorySearched { .. }
            | Self::HistoryExported { .. }
            | Self::HistoryReplayed { .. }
            | Self::HistoryFollowed { .. } => "1",
        }
    }

    /// What was asked for, sealed.
    #[must_use]
    pub fn filter(&self) -> Option<&Sealed> {
        match self {
            Self::HistorySearched { filter }
            | Self::HistoryExported { filter, .. }
            | Self::HistoryReplayed { filter }
            | Self::HistoryFollowed { filter } => filter.as_ref(),
        }
    }
}

impl StreamEvent for ReadingEvent {
    const STREAM: &'static str = stream::READING;

    fn version_of(name: &str) -> Option<&'static str> {
        match name {
            "HistorySearched" | "HistoryExported" | "HistoryReplayed" | "HistoryFollowed" => {
                Some("1")
            }
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name()
    }
}

impl DomainEvent for ReadingEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}
