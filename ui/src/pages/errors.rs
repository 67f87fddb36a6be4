//! The pages for what could not be answered.

use std::borrow::Cow;

use crate::{Chrome, moment, texts::MessageId};

/// 404: nothing is here, or nothing that this person may see.
#[derive(Clone, Default, askama::Template)]
#[template(path = "error.html")]
pub struct NotFoundPage {
    pub chrome: Chrome,
}

/// 403: the person is known and lacks a role.
#[derive(Clone, Default, askama::Template)]
#[template(path = "error.html")]
pub struct ForbiddenPage {
    pub chrome: Chrome,
}

/// Any other status of 400 and above.
#[derive(Clone, Default, askama::Template)]
#[template(path = "error.html")]
pub struct ErrorPage {
    pub chrome: Chrome,
    /// The HTTP status; the texts follow it.
    pub status: u16,
    /// Whether what is asked for is being put together from the history for the first time.
    pub building: bool,
    /// Where to go on from here: another site opened this, and what is there is written down.
    pub go_on: Option<String>,
    /// Said instead of the text for the status, where the caller knows better.
    pub title: Option<String>,
    /// Said instead of the text for the status, where the caller knows better.
    pub detail: Option<String>,
    /// The same as `Retry-After`.
    pub wait_seconds: Option<u64>,
}

impl NotFoundPage {
    fn go_on(&self) -> Option<&str> {
        None
    }

    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("error-not-found-title")
    }

    fn detail(&self) -> Cow<'static, str> {
        self.chrome.t("error-not-found-detail")
    }
}

impl ForbiddenPage {
    fn go_on(&self) -> Option<&str> {
        None
    }

    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("error-forbidden-title")
    }

    fn detail(&self) -> Cow<'static, str> {
        self.chrome.t("error-forbidden-detail")
    }
}

impl ErrorPage {
    fn go_on(&self) -> Option<&str> {
        self.go_on.as_deref()
    }

    fn messages(&self) -> (MessageId, MessageId) {
        if self.building {
            return (MessageId("error-building-title"), MessageId("error-building-detail"));
        }
        if self.go_on.is_some() {
            return (MessageId("error-elsewhere-title"), MessageId("error-elsewhere-detail"));
        }
        match self.status {
            403 => (MessageId("error-forbidden-title"), MessageId("error-forbidden-detail")),
            404 => (MessageId("error-not-found-title"), MessageId("error-not-found-detail")),
            400 | 415 | 422 => {
                (MessageId("error-bad-request-title"), MessageId("error-bad-request-detail"))
            }
            405 => (MessageId("error-method-title"), MessageId("error-method-detail")),
            413 | 414 | 431 => {
                (MessageId("error-too-large-title"), MessageId("error-too-large-detail"))
            }
            429 => (MessageId("error-throttled-title"), MessageId("error-throttled-detail")),
            503 | 504 => {
                (MessageId("error-unavailable-title"), MessageId("error-unavailable-detail"))
            }
            500.. => (MessageId("error-internal-title"), MessageId("error-internal-detail")),
            _ => (MessageId("error-other-title"), MessageId("error-other-detail")),
        }
    }

    fn title(&self) -> Cow<'_, str> {
        match &self.title {
            Some(title) => Cow::Borrowed(title),
            None => self.chrome.message(self.messages().0),
        }
    }

    fn detail(&self) -> Cow<'_, str> {
        match (&self.detail, self.wait_seconds) {
            (Some(detail), _) => Cow::Borrowed(detail),
            (None, Some(seconds)) if self.status == 429 => self.chrome.t_with(
                "error-throttled-wait",
                "wait",
                &moment::wait(&self.chrome, seconds),
            ),
            (None, _) => self.chrome.message(self.messages().1),
        }
    }
}
