//! How it was: a person at any moment, with a time line to step along, and who was signed in then.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::HistoryBehind;
use crate::{
    Chrome, HistoryRow, PersonRef, Problem, Role, SessionView, paths, query::link, session,
    texts::MessageId,
};

#[derive(Clone, askama::Template)]
#[template(path = "state.html")]
pub struct StatePage {
    pub chrome: Chrome,
    pub form: StateForm,
    pub problems: StateProblems,
    /// Who held what was typed for the person, where that is not one alone.
    pub holders: Vec<Holder>,
    pub shown: Option<StateShown>,
}

/// What was asked for; an empty text is nobody, now, and nothing to compare with.
#[derive(Clone, Default)]
pub struct StateForm {
    /// An id, or what was typed.
    pub user: String,
    /// A time, or the number of a line; as is `against`.
    pub at: String,
    pub against: String,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct StateProblems {
    pub user: Option<Problem>,
    pub at: Option<Problem>,
    pub against: Option<Problem>,
}

/// Somebody who held an e-mail address or a username for a time.
#[derive(Clone)]
pub struct Holder {
    pub person: PersonRef,
    /// The line by which they took it.
    pub from: u64,
    /// The line by which they gave it back.
    pub to: Option<u64>,
}

#[derive(Clone)]
pub enum StateShown {
    Person(Box<PersonThen>),
    People(PeopleThen),
}

/// A person at a moment.
#[derive(Clone)]
pub struct PersonThen {
    pub person: PersonRef,
    pub at: DateTime<Utc>,
    /// The last line of the book that counts here.
    pub line: u64,
    /// The last line of the book.
    pub head: u64,
    /// How far the history shows the book, where that is not all of it.
    pub behind: Option<HistoryBehind>,
    /// None before they registered.
    pub account: Option<AccountThen>,
    pub sessions: Vec<SessionView>,
    pub session_count: u64,
    /// What differs from the other moment, and which that is.
    pub changes: Option<(DateTime<Utc>, Vec<StateChange>)>,
    /// Their events around the moment, newest first.
    pub steps: Vec<HistoryRow>,
    /// The lines of their events before and after the moment.
    pub previous: Option<u64>,
    pub next: Option<u64>,
    /// The line of their first event.
    pub first: Option<u64>,
}

/// An account at a moment.
#[derive(Clone)]
pub struct AccountThen {
    pub email: Option<String>,
    pub username: Option<String>,
    pub full_name: Option<String>,
    pub roles: Vec<Role>,
    pub disabled: bool,
    pub erased: bool,
    pub registered: DateTime<Utc>,
    /// How many events it had.
    pub version: u64,
}

/// Something that differs between two moments.
#[derive(Clone)]
pub struct StateChange {
    pub what: StateDifference,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateDifference {
    Registered,
    Email,
    Username,
    FullName,
    Role,
    Disabled,
    Erased,
    Session,
}

/// Who was signed in at a moment.
#[derive(Clone)]
pub struct PeopleThen {
    pub at: DateTime<Utc>,
    /// Each with their sessions.
    pub people: Vec<(PersonRef, Vec<SessionView>)>,
    /// What the next page begins after.
    pub next: Option<String>,
}

impl StateDifference {
    fn message(self) -> MessageId {
        match self {
            Self::Registered => MessageId("state-registered"),
            Self::Email => MessageId("state-email"),
            Self::Username => MessageId("state-username"),
            Self::FullName => MessageId("state-full-name"),
            Self::Role => MessageId("state-role"),
            Self::Disabled => MessageId("state-disabled"),
            Self::Erased => MessageId("state-erased"),
            Self::Session => MessageId("state-session"),
        }
    }
}

/// A field of the form.
struct Field<'a> {
    name: &'static str,
    label: Cow<'static, str>,
    hint: Cow<'static, str>,
    value: &'a str,
    problem: Option<Cow<'static, str>>,
}

impl StatePage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("state-title")
    }

    fn fields(&self) -> [Field<'_>; 3] {
        let (chrome, form, problems) = (&self.chrome, &self.form, &self.problems);
        let told =
            |problem: Option<Problem>| problem.map(|problem| chrome.message(problem.message()));
        [
            Field {
                name: "user",
                label: chrome.t("state-user"),
                hint: chrome.t("state-user-hint"),
                value: &form.user,
                problem: told(problems.user),
            },
            Field {
                name: "at",
                label: chrome.t("state-at"),
                hint: chrome.t("state-at-hint"),
                value: &form.at,
                problem: told(problems.at),
            },
            Field {
                name: "against",
                label: chrome.t("state-against"),
                hint: chrome.t("state-against-hint"),
                value: &form.against,
                problem: told(problems.against),
            },
        ]
    }

    fn moment(&self, then: &PersonThen) -> String {
        let (name, time) = (then.person.text(&self.chrome), self.chrome.minute(&then.at));
        let args = [("name", crate::Arg::Text(&name)), ("time", crate::Arg::Text(&time))];
        self.chrome.texts().get_with("state-moment", &args).into_owned()
    }

    fn line(&self, then: &PersonThen) -> String {
        let (line, head) = (self.chrome.number(&then.line), self.chrome.number(&then.head));
        let args = [("line", crate::Arg::Text(&line)), ("head", crate::Arg::Text(&head))];
        self.chrome.texts().get_with("state-line", &args).into_owned()
    }

    fn since(&self, since: &DateTime<Utc>) -> Cow<'static, str> {
        self.chrome.t_with("state-changes-lead", "time", &self.chrome.minute(since))
    }

    fn signed_in(&self, people: &PeopleThen) -> Cow<'static, str> {
        self.chrome.t_with("state-signed-in", "time", &self.chrome.minute(&people.at))
    }

    fn compare(&self, line: &u64) -> Cow<'static, str> {
        self.chrome.t_with("state-compare-line", "line", &self.chrome.number(line))
    }

    /// The same person at another line, against the same moment.
    fn at_line(&self, line: &u64) -> String {
        let form = &self.form;
        let at = line.to_string();
        link(paths::AUDIT_STATE, &[("user", &form.user), ("at", &at), ("against", &form.against)])
    }

    fn now(&self) -> String {
        let form = &self.form;
        link(paths::AUDIT_STATE, &[("user", &form.user), ("against", &form.against)])
    }

    /// What differs from this line to the moment that is shown.
    fn against_line(&self, line: &u64) -> String {
        let form = &self.form;
        let against = line.to_string();
        let parameters = [("user", &*form.user), ("at", &form.at), ("against", &against)];
        link(paths::AUDIT_STATE, &parameters)
    }

    fn session_count(&self, then: &PersonThen) -> Cow<'static, str> {
        self.chrome.t_count("state-sessions", then.session_count)
    }

    /// Said where not all of them are shown.
    fn sessions_shown(&self, then: &PersonThen) -> Option<Cow<'static, str>> {
        let shown = u64::try_from(then.sessions.len()).unwrap_or(u64::MAX);
        (shown < then.session_count).then(|| self.chrome.t_count("state-sessions-shown", shown))
    }

    fn people_count(&self, people: &PeopleThen) -> Cow<'static, str> {
        let count = u64::try_from(people.people.len()).unwrap_or(u64::MAX);
        match people.next {
            Some(_) => self.chrome.t_count("state-people-more", count),
            None => self.chrome.t_count("state-people", count),
        }
    }

    fn of_person(&self, id: &str) -> String {
        link(paths::AUDIT_STATE, &[("user", id), ("at", &self.form.at)])
    }

    fn more_people(&self, after: &str) -> String {
        link(paths::AUDIT_STATE, &[("at", &self.form.at), ("after", after)])
    }

    fn history_of(&self, id: &str) -> String {
        link(paths::HISTORY, &[("user", id)])
    }

    fn device(&self, session: &SessionView) -> String {
        session::device(&self.chrome, session.user_agent.as_deref())
    }
}

impl Holder {
    /// From which line to which.
    pub(crate) fn held(&self, chrome: &Chrome) -> Cow<'static, str> {
        let from = chrome.number(&self.from);
        match &self.to {
            Some(to) => {
                let to = chrome.number(to);
                let args = [("from", crate::Arg::Text(&from)), ("to", crate::Arg::Text(&to))];
                chrome.texts().get_with("state-held-until", &args)
            }
            None => chrome.t_with("state-held-since", "from", &from),
        }
    }
}

impl PersonThen {
    /// Whether a line of the time line is the last that counts.
    fn is_here(&self, row: &HistoryRow) -> bool {
        row.position == Some(self.line)
    }

    /// Whether it is still to come.
    fn is_later(&self, row: &HistoryRow) -> bool {
        row.position.is_none_or(|position| position > self.line)
    }
}

impl StateChange {
    fn before(&self, chrome: &Chrome) -> Cow<'_, str> {
        self.side(chrome, self.from.as_ref())
    }

    fn after(&self, chrome: &Chrome) -> Cow<'_, str> {
        self.side(chrome, self.to.as_ref())
    }

    fn side<'a>(&self, chrome: &Chrome, side: Option<&'a String>) -> Cow<'a, str> {
        let Some(text) = side else { return Cow::Borrowed("–") };
        match self.what {
            StateDifference::Registered | StateDifference::Disabled | StateDifference::Erased => {
                chrome.t("state-yes")
            }
            StateDifference::Role => {
                let known = [Role::User, Role::Auditor, Role::Admin];
                let role = known.into_iter().find(|role| role.as_str() == text);
                role.map_or(Cow::Borrowed(text.as_str()), |role| chrome.message(role.message()))
            }
            StateDifference::Email
            | StateDifference::Username
            | StateDifference::FullName
            | StateDifference::Session => Cow::Borrowed(text.as_str()),
        }
    }
}
