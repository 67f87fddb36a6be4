//! One line of the book, with all that its event holds.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{Chrome, HistoryRow, paths};

#[derive(Clone, askama::Template)]
#[template(path = "line.html")]
pub struct LinePage {
    pub chrome: Chrome,
    pub line: u64,
    /// The last line of the book.
    pub head: u64,
    pub row: HistoryRow,
    pub recorded: DateTime<Utc>,
    pub version: String,
    pub stream: String,
    pub sequence: u64,
    pub request_id: String,
    /// What was one way before it, and another after.
    pub changes: Vec<LineChange>,
    /// What else it says: names as the event has them.
    pub fields: Vec<(String, String)>,
}

/// A value before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineChange {
    pub name: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl LineChange {
    fn side(side: &Option<String>) -> &str {
        side.as_deref().unwrap_or("–")
    }
}

impl LinePage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t_with("line-title", "line", &self.chrome.number(&self.line))
    }

    /// The lines before and after it.
    fn steps(&self) -> Vec<(&'static str, Cow<'static, str>, String)> {
        let chrome = &self.chrome;
        let before = self.line.checked_sub(1).filter(|line| *line > 0);
        let after = self.line.checked_add(1).filter(|line| *line <= self.head);
        [("prev", chrome.t("line-before"), before), ("next", chrome.t("line-after"), after)]
            .into_iter()
            .filter_map(|(direction, text, line)| {
                Some((direction, text, paths::history_line(&line?.to_string())))
            })
            .collect()
    }

    fn proof(&self) -> String {
        paths::log_proof(&self.line.to_string())
    }
}
