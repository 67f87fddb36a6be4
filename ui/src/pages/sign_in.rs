//! Signing in with a password.

use std::borrow::Cow;

use crate::{
    Chrome, FormProblem, Problem,
    field::{Field, focus_on_problem, form_problem},
};

#[derive(Clone, Default, askama::Template)]
#[template(path = "sign_in.html")]
pub struct SignInPage {
    pub chrome: Chrome,
    /// As it was typed.
    pub identifier: String,
    pub remember_me: bool,
    /// Where to go afterwards. The caller has checked that it leads nowhere else.
    pub return_to: Option<String>,
    pub problem: Option<FormProblem>,
    pub problems: SignInProblems,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SignInProblems {
    pub identifier: Option<Problem>,
    pub password: Option<Problem>,
}

impl SignInPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("sign-in-title")
    }

    fn problem(&self) -> Option<FormProblem> {
        form_problem(self.problem, &[self.problems.identifier, self.problems.password])
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let chrome = &self.chrome;
        let identifier =
            Field::text("identifier", chrome.t("sign-in-identifier"), &self.identifier)
                .autocomplete("username")
                .problem(chrome, self.problems.identifier);
        let password = Field::password("password", chrome.t("sign-in-password"))
            .autocomplete("current-password")
            .problem(chrome, self.problems.password);
        focus_on_problem(if self.identifier.is_empty() {
            vec![identifier.focus(), password]
        } else {
            vec![identifier, password.focus()]
        })
    }
}
