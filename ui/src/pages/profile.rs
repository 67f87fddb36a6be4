//! Changing one's names and e-mail.

use std::borrow::Cow;

use crate::{
    Chrome, FormProblem, Problem,
    field::{Field, focus_on_problem, form_problem},
};

/// The form, with what is stored or what was typed.
#[derive(Clone, Default, askama::Template)]
#[template(path = "profile.html")]
pub struct ProfilePage {
    pub chrome: Chrome,
    pub full_name: String,
    pub username: String,
    pub email: String,
    pub problem: Option<FormProblem>,
    pub problems: ProfileProblems,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProfileProblems {
    pub full_name: Option<Problem>,
    pub username: Option<Problem>,
    pub email: Option<Problem>,
    pub current_password: Option<Problem>,
}

impl ProfilePage {
    fn title(&self) -> Cow<'static, str> {
        self.chrome.t("profile-title")
    }

    fn problem(&self) -> Option<FormProblem> {
        let ProfileProblems { full_name, username, email, current_password } = self.problems;
        form_problem(self.problem, &[full_name, username, email, current_password])
    }

    fn fields(&self) -> Vec<Field<'_>> {
        let chrome = &self.chrome;
        focus_on_problem(vec![
            Field::text("full_name", chrome.t("profile-full-name"), &self.full_name)
                .full_name()
                .problem(chrome, self.problems.full_name),
            Field::text("username", chrome.t("profile-username"), &self.username)
                .autocomplete("username")
                .hint(chrome.t("profile-username-hint"))
                .problem(chrome, self.problems.username),
            Field::text("email", chrome.t("profile-email"), &self.email)
                .email()
                .problem(chrome, self.problems.email),
            Field::password("current_password", chrome.t("profile-current-password"))
                .autocomplete("current-password")
                .optional()
                .hint(chrome.t("profile-current-password-hint"))
                .problem(chrome, self.problems.current_password),
        ])
    }
}
