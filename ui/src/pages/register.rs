//! Making an account.

use std::borrow::Cow;

use crate::{
    Chrome, FormProblem, Problem,
    field::{Field, focus_on_problem, form_problem},
};

/// The form. What was typed is kept, except the password.
#[derive(Clone, Default, askama::Template)]
#[template(path = "register.html")]
pub struct RegisterPage {
    pub chrome: Chrome,
    pub email: String,
    pub username: String,
    pub full_name: String,
    /// Where to go afterwards. The caller has checked that it leads nowhere else.
    pub return_to: Option<String>,
    pub problem: Option<FormProblem>,
    pub problems: RegisterProblems,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct RegisterProblems {
    pub email: Option<Problem>,
    pub username: Option<Problem>,
    pub full_name: Option<Problem>,
    pub password: Option<Problem>,
}

impl RegisterPage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("register-title")
    }

    fn problem(&self) -> Option<FormProblem> {
        let RegisterProblems { email, username, full_name, password } = self.problems;
        form_problem(self.problem, &[email, username, full_name, password])
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let chrome = &self.chrome;
        focus_on_problem(vec![
            Field::text("email", chrome.t("register-email"), &self.email)
                .email()
                .focus()
                .problem(chrome, self.problems.email),
            Field::text("username", chrome.t("register-username"), &self.username)
                .autocomplete("username")
                .hint(chrome.t("register-username-hint"))
                .problem(chrome, self.problems.username),
            Field::text("full_name", chrome.t("register-full-name"), &self.full_name)
                .full_name()
                .problem(chrome, self.problems.full_name),
            Field::password("password", chrome.t("register-password"))
                .new_password()
                .hint(chrome.t("register-password-hint"))
                .problem(chrome, self.problems.password),
        ])
    }
}
