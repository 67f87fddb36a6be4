//! The first page after signing in: who I am, where I am signed in, what happened lately.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{Chrome, HistoryRow, Role, SessionView};

#[derive(Clone, askama::Template)]
#[template(path = "overview.html")]
pub struct OverviewPage {
    pub chrome: Chrome,
    pub account: Account,
    /// The first few, the current one first.
    pub sessions: Vec<SessionView>,
    /// How many there are in all.
    pub session_count: u64,
    /// The last few, newest first.
    pub history: Vec<HistoryRow>,
    /// Whether the list of sessions, and the history, are still being built: then they are empty.
    pub sessions_building: bool,
    pub history_building: bool,
}

/// Who is signed in.
#[derive(Clone)]
pub struct Account {
    pub email: String,
    pub username: String,
    pub full_name: Option<String>,
    pub roles: Vec<Role>,
    pub registered: DateTime<Utc>,
}

impl OverviewPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("overview-title")
    }

    fn greeting(&self) -> Cow<'static, str> {
        let name = self.account.full_name.as_deref().unwrap_or(&self.account.username);
        self.chrome.t_with("overview-greeting", "name", name)
    }
}
