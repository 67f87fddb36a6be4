//! Erasing a person: what it does and that it is meant, and afterwards the receipt.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use crate::{
    Chrome, FormProblem, Problem,
    field::{Field, focus_on_problem, form_problem},
    paths,
    person::short_id,
};

/// The form that asks for it.
#[derive(Clone, Default, askama::Template)]
#[template(path = "erase.html")]
pub struct ErasePage {
    pub chrome: Chrome,
    /// Whose account it is.
    pub id: String,
    /// What is typed to confirm it: the username, or the id where that can't be read.
    pub name: String,
    /// Whether it is the account of the admin who asks.
    pub is_self: bool,
    /// What was typed to confirm it.
    pub typed: String,
    pub problem: Option<FormProblem>,
    pub problems: EraseProblems,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct EraseProblems {
    pub username: Option<Problem>,
    pub myself: Option<Problem>,
}

/// What stands there once it is done.
#[derive(Clone, Default, askama::Template)]
#[template(path = "erased.html")]
pub struct ErasedPage {
    pub chrome: Chrome,
    pub id: String,
    /// The line of the book that says it, and when it was written; nothing for a moment.
    pub line: Option<(u64, DateTime<Utc>)>,
    /// Whether the receipt can be had.
    pub has_receipt: bool,
}

impl ErasePage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("erase-title")
    }

    fn action(&self) -> String {
        paths::user_erase(&self.id)
    }

    fn problem(&self) -> Option<FormProblem> {
        form_problem(self.problem, &[self.problems.username, self.problems.myself])
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let chrome = &self.chrome;
        let label = if self.name == self.id {
            chrome.t_with("erase-type-id", "name", &self.name)
        } else {
            chrome.t_with("erase-type", "name", &self.name)
        };
        focus_on_problem(vec![
            Field::text("username", label, &self.typed).problem(chrome, self.problems.username),
        ])
    }

    fn myself_problem(&self) -> Option<Cow<'static, str>> {
        self.problems.myself.map(|problem| self.chrome.message(problem.message()))
    }
}

impl ErasedPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("erased-title")
    }

    fn short_id(&self) -> &str {
        short_id(&self.id)
    }

    fn receipt_link(&self) -> String {
        paths::user_receipt(&self.id)
    }

    fn here(&self) -> String {
        paths::user_erase(&self.id)
    }
}
