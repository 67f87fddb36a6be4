//! Changing one's password.

use std::borrow::Cow;

use crate::{
    Chrome, FormProblem, Problem,
    field::{Field, focus_on_problem, form_problem},
};

#[derive(Clone, Default, askama::Template)]
#[template(path = "password.html")]
pub struct PasswordPage {
    pub chrome: Chrome,
    /// Whose password it is, for password managers; it is not sent.
    pub username: String,
    pub problem: Option<FormProblem>,
    pub problems: PasswordProblems,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct PasswordProblems {
    pub current_password: Option<Problem>,
    pub new_password: Option<Problem>,
}

impl PasswordPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("password-title")
    }

    fn problem(&self) -> Option<FormProblem> {
        form_problem(self.problem, &[self.problems.current_password, self.problems.new_password])
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let chrome = &self.chrome;
        focus_on_problem(vec![
            Field::password("current_password", chrome.t("password-current"))
                .autocomplete("current-password")
                .problem(chrome, self.problems.current_password),
            Field::password("new_password", chrome.t("password-new"))
                .new_password()
                .hint(chrome.t("password-new-hint"))
                .problem(chrome, self.problems.new_password),
        ])
    }
}
