//! A line of the book as people read it.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{Chrome, PersonRef, paths, person::short_id, query::link, session};

/// That somebody read what is not their own: lines that say what they asked for.
pub const READING_TYPES: [&str; 4] =
    ["HistorySearched", "HistoryExported", "HistoryReplayed", "HistoryFollowed"];

/// Every kind of event that has a label, in the order in which filters offer them.
pub const EVENT_TYPES: [&str; 41] = [
    "SessionStarted",
    "SessionRefreshed",
    "SessionEnded",
    "SignInFailed",
    "SignInThrottled",
    "SignInAttemptsBlocked",
    "SignInFailuresCleared",
    "RegistrationsThrottled",
    "UserRegistered",
    "UserProfileChanged",
    "UserPasswordChanged",
    "UserPasswordRehashed",
    "UserRoleGranted",
    "UserRoleRevoked",
    "UserDisabled",
    "UserEnabled",
    "UserSessionsEnded",
    "UserErased",
    "ServerStarted",
    "ServerStopped",
    "SettingsChanged",
    "SchemaMigrated",
    "SigningKeyAdded",
    "SigningKeyRetired",
    "LogBegun",
    "LogKeyAdded",
    "LogKeyHandedOver",
    "LogResumed",
    "BookRestored",
    "ProjectionsRebuildBegun",
    "ProjectionsRebuildCancelled",
    "ProjectionsRebuilt",
    "ProjectionsPruneBegun",
    "ProjectionsPruned",
    "MasterKeyRotated",
    "MonthForgotten",
    "HistorySearched",
    "HistoryExported",
    "HistoryReplayed",
    "HistoryFollowed",
    "EventNotAuthentic",
];

/// The reasons of a `SessionEnded`.
pub const SESSION_END_REASONS: [&str; 8] = [
    "signed_out",
    "ended_elsewhere",
    "ended_others",
    "password_changed",
    "account_disabled",
    "expired",
    "token_reused",
    "account_erased",
];

/// The ways in which a `SessionStarted` came about.
pub const SESSION_METHODS: [&str; 2] = ["password", "registration"];

/// The reasons of a `SignInFailed`.
pub const SIGN_IN_FAILURE_REASONS: [&str; 3] =
    ["wrong_password", "unknown_identifier", "account_disabled"];

/// What is said of a `ServerStarted` after one that was killed, and of `ProjectionsRebuilt`.
pub const SERVICE_OUTCOMES: [&str; 7] =
    ["after_a_kill", "swapped", "differs", "cancelled", "interrupted", "refused", "failed"];

/// One event.
#[derive(Clone)]
pub struct HistoryRow {
    /// Its line number in the book; none until it is sequenced.
    pub position: Option<u64>,
    pub time: DateTime<Utc>,
    /// The stored name, as `SessionStarted`; a name without a label is shown as it is.
    pub event_type: String,
    /// A reason, as `token_reused`, or a role; what has no label is shown as it is.
    pub detail: Option<String>,
    /// Whom it is about, where that is an account.
    pub person: Option<PersonRef>,
    pub actor: Actor,
    pub address: Option<String>,
    pub user_agent: Option<String>,
    pub session: Option<String>,
    /// What was typed to sign in, where it is nobody's; what a reader of the history looked for.
    pub identifier: Option<String>,
}

/// Who did it.
#[derive(Clone, PartialEq, Eq)]
pub enum Actor {
    User(PersonRef),
    /// Somebody who had not proved who they are.
    Anonymous,
    /// Entrybook itself.
    System,
    /// The command line, and the operating system's user there.
    Cli(String),
    /// This version can't read who it was.
    Unknown,
}

impl HistoryRow {
    pub(crate) fn event(&self, chrome: &Chrome) -> Cow<'_, str> {
        event_label(chrome, &self.event_type)
    }

    pub(crate) fn detail(&self, chrome: &Chrome) -> Option<Cow<'_, str>> {
        self.detail.as_deref().map(|code| outcome_label(chrome, code))
    }

    pub(crate) fn device(&self, chrome: &Chrome) -> String {
        session::device(chrome, self.user_agent.as_deref())
    }

    /// Whether an auditor's eye should stop here.
    pub(crate) fn is_alarming(&self) -> bool {
        matches!(
            self.event_type.as_str(),
            "SignInFailed"
                | "SignInThrottled"
                | "SignInAttemptsBlocked"
                | "RegistrationsThrottled"
                | "LogResumed"
                | "BookRestored"
                | "EventNotAuthentic"
        ) || matches!(self.detail.as_deref(), Some("token_reused" | "after_a_kill"))
    }

    pub(crate) fn person_text(&self, chrome: &Chrome) -> Option<Cow<'_, str>> {
        self.person.as_ref().map(|person| person.text(chrome))
    }

    pub(crate) fn person_link(&self) -> Option<String> {
        self.person.as_ref().map(|person| link(paths::HISTORY, &[("user", &person.id)]))
    }

    /// All that its event holds.
    pub(crate) fn line_link(&self) -> Option<String> {
        self.position.map(|position| paths::history_line(&position.to_string()))
    }

    /// What was typed, or looked for.
    pub(crate) fn typed(&self, chrome: &Chrome) -> Option<Cow<'static, str>> {
        let typed = self.identifier.as_deref()?;
        let is_reading = READING_TYPES.contains(&self.event_type.as_str());
        Some(match is_reading {
            true => chrome.t_with("history-asked", "text", typed),
            false => chrome.t_with("history-typed", "text", typed),
        })
    }

    /// How it was with its person at this line.
    pub(crate) fn state_link(&self) -> Option<String> {
        let (person, position) = (self.person.as_ref()?, self.position?.to_string());
        Some(link(paths::AUDIT_STATE, &[("user", &person.id), ("at", &position)]))
    }

    pub(crate) fn session_short(&self) -> Option<&str> {
        self.session.as_deref().map(short_id)
    }

    /// The history of its session alone, on the page at `path`.
    pub(crate) fn session_link(&self, path: &str) -> String {
        link(path, &[("session", self.session.as_deref().unwrap_or_default())])
    }

    pub(crate) fn actor_text(&self, chrome: &Chrome) -> Cow<'_, str> {
        match &self.actor {
            Actor::User(person) => person.text(chrome),
            Actor::Anonymous => chrome.t("actor-anonymous"),
            Actor::System => chrome.t("actor-system"),
            Actor::Cli(name) => chrome.t_with("actor-cli", "name", name),
            Actor::Unknown => chrome.t("actor-unknown"),
        }
    }
}

/// The label of a kind of event, or its raw name.
pub(crate) fn event_label<'a>(chrome: &Chrome, event_type: &'a str) -> Cow<'a, str> {
    labelled(chrome, "event-", event_type).unwrap_or(Cow::Borrowed(event_type))
}

/// The label of a reason, a method or a role, or its raw name.
pub(crate) fn outcome_label<'a>(chrome: &Chrome, code: &'a str) -> Cow<'a, str> {
    labelled(chrome, "reason-", code)
        .or_else(|| labelled(chrome, "role-", code))
        .unwrap_or(Cow::Borrowed(code))
}

fn labelled(chrome: &Chrome, family: &str, code: &str) -> Option<Cow<'static, str>> {
    chrome.texts().find(&format!("{family}{code}"), &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Locale;

    fn row(event_type: &str, detail: Option<&str>) -> HistoryRow {
        HistoryRow {
            position: Some(1),
            time: DateTime::UNIX_EPOCH,
            event_type: event_type.into(),
            detail: detail.map(Into::into),
            person: None,
            actor: Actor::System,
            address: None,
            user_agent: None,
            session: None,
            identifier: None,
        }
    }

    #[test]
    fn every_event_and_reason_has_a_label_of_its_own() {
        let chrome = Chrome::new(Locale::En);
        for event_type in EVENT_TYPES {
            assert_ne!(row(event_type, None).event(&chrome), event_type);
        }
        for reason in SESSION_END_REASONS
            .into_iter()
            .chain(SIGN_IN_FAILURE_REASONS)
            .chain(SESSION_METHODS)
            .chain(SERVICE_OUTCOMES)
        {
            assert_ne!(row("SessionEnded", Some(reason)).detail(&chrome).unwrap(), reason);
        }
    }

    #[test]
    fn what_is_not_known_is_shown_as_it_is() {
        let chrome = Chrome::new(Locale::En);
        let row = row("UserMerged", Some("by_request"));
        assert_eq!(row.event(&chrome), "UserMerged");
        assert_eq!(row.detail(&chrome).unwrap(), "by_request");
    }

    #[test]
    fn a_detail_may_be_a_role() {
        let chrome = Chrome::new(Locale::En);
        assert_eq!(row("UserRoleGranted", Some("admin")).detail(&chrome).unwrap(), "Admin");
    }
}
