//! The devices on which a person is signed in.

use std::borrow::Cow;

use crate::{Chrome, SessionView};

#[derive(Clone, Default, askama::Template)]
#[template(path = "sessions.html")]
pub struct SessionsPage {
    pub chrome: Chrome,
    /// All of them, the current one first.
    pub sessions: Vec<SessionView>,
}

impl SessionsPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("sessions-title")
    }

    fn has_others(&self) -> bool {
        self.sessions.iter().any(|session| !session.current)
    }
}
