//! A session as its owner sees it: one device that is signed in.

use chrono::{DateTime, Utc};

use crate::{Chrome, UserAgent, paths};

/// One session.
#[derive(Clone)]
pub struct SessionView {
    pub id: String,
    /// The `User-Agent` header of its last request.
    pub user_agent: Option<String>,
    pub address: Option<String>,
    pub first_seen: DateTime<Utc>,
    pub last_seen: DateTime<Utc>,
    /// When it ends unless it is used before.
    pub expires: Option<DateTime<Utc>>,
    /// Whether it is the one that asks.
    pub current: bool,
}

impl SessionView {
    pub(crate) fn device(&self, chrome: &Chrome) -> String {
        device(chrome, self.user_agent.as_deref())
    }

    pub(crate) fn end_path(&self) -> String {
        paths::session_end(&self.id)
    }

    /// What the button that ends it is called for those who hear it out of its place.
    pub(crate) fn end_label(&self, chrome: &Chrome) -> String {
        let args = [
            ("device", crate::Arg::Text(&self.device(chrome))),
            ("time", crate::Arg::Text(&chrome.minute(&self.last_seen))),
        ];
        chrome.texts().get_with("sessions-end-named", &args).into_owned()
    }
}

/// A user agent in few words.
pub(crate) fn device(chrome: &Chrome, user_agent: Option<&str>) -> String {
    let known = user_agent.map(UserAgent::read);
    match known {
        Some(UserAgent { browser: Some(browser), system: Some(system) }) => chrome
            .texts()
            .get_with(
                "device-both",
                &[("browser", crate::Arg::Text(browser)), ("system", crate::Arg::Text(system))],
            )
            .into_owned(),
        Some(
            UserAgent { browser: Some(one), system: None }
            | UserAgent { browser: None, system: Some(one) },
        ) => one.to_owned(),
        _ => chrome.t("device-unknown").into_owned(),
    }
}
