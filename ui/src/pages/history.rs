//! The book itself: all of it for auditors, one's own lines for everybody.

use std::borrow::Cow;

use super::Holder;
use crate::{
    Chrome, EVENT_TYPES, HistoryRow, Problem, Role, SERVICE_OUTCOMES, SESSION_END_REASONS,
    SESSION_METHODS, SIGN_IN_FAILURE_REASONS,
    event::{event_label, outcome_label},
    paths,
    query::link,
};

/// From so many lines on nobody counts.
const MANY: u64 = 10_001;

#[derive(Clone, askama::Template)]
#[template(path = "history.html")]
pub struct HistoryPage {
    pub chrome: Chrome,
    pub scope: HistoryScope,
    pub filter: HistoryFilter,
    pub problems: HistoryFilterProblems,
    pub rows: Vec<HistoryRow>,
    /// How many lines there are, on the first page.
    pub count: Option<HistoryCount>,
    /// How far a search by address could see.
    pub searched: Option<HistorySearched>,
    /// Whether the page is not full although more may follow, because so many lines were looked through.
    pub broke_off: bool,
    /// How far the history shows the book, where that is not all of it.
    pub behind: Option<HistoryBehind>,
    /// Who held what was typed for the person or for who did it, where that is not one alone; with the
    /// field that it was typed in.
    pub holders: Vec<(&'static str, Holder)>,
    /// The cursor of the page with older lines, if there are any.
    pub older: Option<String>,
    /// The cursor of the page with newer lines, if there are any.
    pub newer: Option<String>,
}

/// How many lines pass a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryCount {
    pub lines: u64,
    /// If not, there are at least so many.
    pub exact: bool,
}

/// How far the history shows the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryBehind {
    pub reached: u64,
    /// The last line of the book.
    pub head: u64,
}

impl HistoryBehind {
    pub(crate) fn text(self, chrome: &Chrome) -> Cow<'static, str> {
        let (reached, head) = (chrome.number(&self.reached), chrome.number(&self.head));
        let args = [("reached", crate::Arg::Text(&reached)), ("head", crate::Arg::Text(&head))];
        chrome.texts().get_with("history-behind", &args)
    }
}

/// How far a search by address could see.
#[derive(Clone)]
pub struct HistorySearched {
    /// The first and the last month, as `2026-01`; none where nothing could be searched.
    pub months: Option<(String, String)>,
    /// Whether lines of an older version were passed by.
    pub left_out: bool,
}

/// Whose history it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistoryScope {
    /// The lines about the person who asks.
    Mine,
    /// All lines, for auditors.
    Everyone,
}

/// The filter as it was asked for; an empty text is no filter.
#[derive(Clone)]
pub struct HistoryFilter {
    pub user: String,
    pub actor: String,
    pub session: String,
    pub address: String,
    pub event_type: String,
    pub outcome: String,
    pub from: String,
    pub to: String,
    pub newest_first: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryFilterProblems {
    pub user: Option<Problem>,
    pub actor: Option<Problem>,
    pub session: Option<Problem>,
    pub address: Option<Problem>,
    pub event_type: Option<Problem>,
    pub from: Option<Problem>,
    pub to: Option<Problem>,
}

/// A field of the filter.
struct FilterField<'a> {
    name: &'static str,
    label: Cow<'a, str>,
    value: &'a str,
    hint: Option<Cow<'a, str>>,
    problem: Option<Cow<'a, str>>,
}

impl Default for HistoryFilter {
    fn default() -> Self {
        Self {
            user: String::new(),
            actor: String::new(),
            session: String::new(),
            address: String::new(),
            event_type: String::new(),
            outcome: String::new(),
            from: String::new(),
            to: String::new(),
            newest_first: true,
        }
    }
}

impl HistoryFilter {
    fn parameters(&self) -> [(&'static str, &str); 9] {
        [
            ("user", &self.user),
            ("actor", &self.actor),
            ("session", &self.session),
            ("address", &self.address),
            ("type", &self.event_type),
            ("outcome", &self.outcome),
            ("from", &self.from),
            ("to", &self.to),
            ("order", if self.newest_first { "" } else { "oldest" }),
        ]
    }
}

impl HistoryPage {
    fn title(&self) -> Cow<'static, str> {
        match self.scope {
            HistoryScope::Mine => self.chrome.t("history-mine-title"),
            HistoryScope::Everyone => self.chrome.t("history-title"),
        }
    }

    fn lead(&self) -> Cow<'static, str> {
        match self.scope {
            HistoryScope::Mine => self.chrome.t("history-mine-lead"),
            HistoryScope::Everyone => self.chrome.t("history-lead"),
        }
    }

    fn path(&self) -> &'static str {
        match self.scope {
            HistoryScope::Mine => paths::MY_HISTORY,
            HistoryScope::Everyone => paths::HISTORY,
        }
    }

    fn for_everyone(&self) -> bool {
        self.scope == HistoryScope::Everyone
    }

    fn is_filtered(&self) -> bool {
        self.filter.parameters().iter().any(|(_, value)| !value.is_empty())
    }

    /// Whether the filter could not be read, so that nothing was looked for.
    fn has_problem(&self) -> bool {
        let HistoryFilterProblems { user, actor, session, address, event_type, from, to } =
            self.problems;
        [user, actor, session, address, event_type, from, to].iter().any(Option::is_some)
    }

    /// What is to be said of the lines that were found.
    fn notes(&self) -> Vec<Cow<'static, str>> {
        [
            self.count_text(),
            self.behind_text(),
            self.broke_off_text(),
            self.searched_text(),
            self.left_out_text(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// How many lines there are, never more exactly than it is known.
    fn count_text(&self) -> Option<Cow<'static, str>> {
        let HistoryCount { lines, exact } = self.count.filter(|_| !self.rows.is_empty())?;
        Some(match (exact, lines) {
            (true, lines) => self.chrome.t_count("history-count", lines),
            (false, MANY..) => self.chrome.t_count("history-count-more", MANY - 1),
            (false, lines) if self.behind.is_some() => {
                self.chrome.t_count("history-count-so-far", lines)
            }
            (false, lines) => self.chrome.t_count("history-count-at-least", lines),
        })
    }

    /// That lines may be missing.
    fn behind_text(&self) -> Option<Cow<'static, str>> {
        self.behind.map(|behind| behind.text(&self.chrome))
    }

    /// The history with one of those who held it in place of what was typed.
    fn of_holder(&self, field: &str, holder: &Holder) -> String {
        link(self.path(), &[(field, &holder.person.id)])
    }

    /// That the search goes on only where somebody wants it to.
    fn broke_off_text(&self) -> Option<Cow<'static, str>> {
        self.broke_off.then(|| self.chrome.t_count("history-broke-off", MANY - 1))
    }

    fn searched_text(&self) -> Option<Cow<'static, str>> {
        let searched = self.searched.as_ref()?;
        let Some((first, last)) = &searched.months else {
            return Some(self.chrome.t("history-searched-none"));
        };
        let args = [("first", crate::Arg::Text(first)), ("last", crate::Arg::Text(last))];
        Some(self.chrome.texts().get_with("history-searched", &args))
    }

    fn left_out_text(&self) -> Option<Cow<'static, str>> {
        let left_out = self.searched.as_ref().is_some_and(|searched| searched.left_out);
        left_out.then(|| self.chrome.t("history-left-out"))
    }

    /// The reasons, methods and roles to choose from: value, label, whether chosen.
    fn outcomes(&self) -> Vec<(&str, Cow<'_, str>, bool)> {
        let chosen = self.filter.outcome.as_str();
        let roles = Role::GRANTABLE.map(Role::as_str);
        let known = SIGN_IN_FAILURE_REASONS
            .into_iter()
            .chain(SESSION_END_REASONS.into_iter().filter(|reason| *reason != "account_disabled"))
            .chain(SESSION_METHODS)
            .chain(SERVICE_OUTCOMES)
            .chain(roles);
        let unknown = !chosen.is_empty() && !known.clone().any(|outcome| outcome == chosen);
        known
            .chain(unknown.then_some(chosen))
            .map(|outcome| (outcome, outcome_label(&self.chrome, outcome), outcome == chosen))
            .collect()
    }

    /// The files that the lines can be had as: where to ask for each, and what it is called.
    fn exports(&self) -> [(String, Cow<'static, str>); 3] {
        [
            ("jsonl", self.chrome.t("history-export-jsonl")),
            ("csv", self.chrome.t("history-export-csv")),
            ("ocsf", self.chrome.t("history-export-ocsf")),
        ]
        .map(|(format, text)| (paths::history_export(format), text))
    }

    fn page_link(&self, cursor: &str) -> String {
        let parameters: Vec<_> =
            self.filter.parameters().into_iter().chain([("cursor", cursor)]).collect();
        link(self.path(), &parameters)
    }

    /// The links to the pages before and after this one, in the direction of reading.
    fn turns(&self) -> Vec<(&'static str, Cow<'static, str>, String)> {
        let older =
            self.older.as_ref().map(|cursor| (self.chrome.t("older"), self.page_link(cursor)));
        let newer =
            self.newer.as_ref().map(|cursor| (self.chrome.t("newer"), self.page_link(cursor)));
        let (back, on) = if self.filter.newest_first { (newer, older) } else { (older, newer) };
        let turn = |direction, link: Option<(Cow<'static, str>, String)>| {
            link.map(|(text, href)| (direction, text, href))
        };
        [turn("prev", back), turn("next", on)].into_iter().flatten().collect()
    }

    /// The kinds of events to choose from: value, label, whether chosen.
    fn event_types(&self) -> Vec<(&str, Cow<'_, str>, bool)> {
        let chosen = self.filter.event_type.as_str();
        let unknown = (!chosen.is_empty() && !EVENT_TYPES.contains(&chosen)).then_some(chosen);
        EVENT_TYPES
            .into_iter()
            .chain(unknown)
            .map(|event_type| {
                (event_type, event_label(&self.chrome, event_type), event_type == chosen)
            })
            .collect()
    }

    fn problem_text(&self, problem: Option<Problem>) -> Option<Cow<'static, str>> {
        problem.map(|problem| self.chrome.message(problem.message()))
    }

    /// The kinds of events are a list of their own; this is its problem.
    fn event_type_problem(&self) -> Option<Cow<'static, str>> {
        self.problem_text(self.problems.event_type)
    }

    /// The fields to type in, fewer for one's own history.
    fn fields(&self) -> Vec<FilterField<'_>> {
        let field = |name, label, value, hint, problem| FilterField {
            name,
            label,
            value,
            hint,
            problem: self.problem_text(problem),
        };
        let (chrome, filter, problems) = (&self.chrome, &self.filter, &self.problems);
        let mut fields = Vec::new();
        if self.for_everyone() {
            let user_hint = Some(chrome.t("history-user-hint"));
            fields.push(field(
                "user",
                chrome.t("history-user"),
                &*filter.user,
                user_hint,
                problems.user,
            ));
            let actor_hint = Some(chrome.t("history-actor-hint"));
            fields.push(field(
                "actor",
                chrome.t("history-actor"),
                &*filter.actor,
                actor_hint,
                problems.actor,
            ));
        }
        let time_hint = || Some(chrome.t("history-time-hint"));
        fields.push(field(
            "from",
            chrome.t("history-from"),
            &*filter.from,
            time_hint(),
            problems.from,
        ));
        fields.push(field("to", chrome.t("history-to"), &*filter.to, time_hint(), problems.to));
        fields.push(field(
            "session",
            chrome.t("history-session"),
            &*filter.session,
            None,
            problems.session,
        ));
        if self.for_everyone() {
            let address_hint = Some(chrome.t("history-address-hint"));
            fields.push(field(
                "address",
                chrome.t("history-from-address"),
                &*filter.address,
                address_hint,
                problems.address,
            ));
        }
        fields
    }
}
