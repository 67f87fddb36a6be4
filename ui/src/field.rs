//! One field of a form with its label, hint and problem; `templates/parts/field.html` draws it.

use std::borrow::Cow;

use crate::{Chrome, FormProblem, Problem};

/// A text or password field.
///
/// There is no `maxlength`: it would cut what is pasted without a word, and count other units than
/// the server. E-mails are a text field, because browsers refuse addresses that RFC 6531 allows.
pub(crate) struct Field<'a> {
    pub(crate) name: &'static str,
    pub(crate) label: Cow<'a, str>,
    pub(crate) kind: &'static str,
    pub(crate) value: &'a str,
    pub(crate) autocomplete: &'static str,
    pub(crate) input_mode: Option<&'static str>,
    pub(crate) capitals: bool,
    pub(crate) required: bool,
    /// Of a password, in UTF-16 units: never stricter than the server's count of characters.
    pub(crate) min_length: Option<usize>,
    pub(crate) focus: bool,
    pub(crate) hint: Option<Cow<'a, str>>,
    pub(crate) problem: Option<Cow<'a, str>>,
}

impl<'a> Field<'a> {
    /// A line of text; `label` is a text that was already looked up.
    pub(crate) fn text(name: &'static str, label: Cow<'a, str>, value: &'a str) -> Self {
        Self {
            name,
            label,
            kind: "text",
            value,
            autocomplete: "off",
            input_mode: None,
            capitals: false,
            required: true,
            min_length: None,
            focus: false,
            hint: None,
            problem: None,
        }
    }

    /// A password. It always comes back empty.
    pub(crate) fn password(name: &'static str, label: Cow<'a, str>) -> Self {
        Self { kind: "password", ..Self::text(name, label, "") }
    }

    pub(crate) fn email(self) -> Self {
        Self { input_mode: Some("email"), ..self.autocomplete("email") }
    }

    pub(crate) fn full_name(self) -> Self {
        Self { capitals: true, required: false, ..self.autocomplete("name") }
    }

    pub(crate) fn new_password(self) -> Self {
        Self { min_length: Some(8), ..self.autocomplete("new-password") }
    }

    pub(crate) fn autocomplete(self, autocomplete: &'static str) -> Self {
        Self { autocomplete, ..self }
    }

    pub(crate) fn optional(self) -> Self {
        Self { required: false, ..self }
    }

    pub(crate) fn focus(self) -> Self {
        Self { focus: true, ..self }
    }

    pub(crate) fn hint(self, hint: Cow<'a, str>) -> Self {
        Self { hint: Some(hint), ..self }
    }

    pub(crate) fn problem(self, chrome: &Chrome, problem: Option<Problem>) -> Self {
        Self { problem: problem.map(|problem| chrome.message(problem.message())), ..self }
    }

    /// The ids of what describes it, for `aria-describedby`.
    pub(crate) fn described_by(&self) -> Option<String> {
        let hint = self.hint.as_ref().map(|_| format!("{}-hint", self.name));
        let problem = self.problem.as_ref().map(|_| format!("{}-problem", self.name));
        match (problem, hint) {
            (Some(problem), Some(hint)) => Some(format!("{problem} {hint}")),
            (one, other) => one.or(other),
        }
    }
}

/// The fields, the first one with a problem holding the focus.
pub(crate) fn focus_on_problem(mut fields: Vec<Field<'_>>) -> Vec<Field<'_>> {
    let with_problem = fields.iter().position(|field| field.problem.is_some());
    if let Some(with_problem) = with_problem {
        for (at, field) in fields.iter_mut().enumerate() {
            field.focus = at == with_problem;
        }
    }
    fields
}

/// What stands above a form: its own problem, or else that single fields are marked.
pub(crate) fn form_problem(
    own: Option<FormProblem>,
    fields: &[Option<Problem>],
) -> Option<FormProblem> {
    let marked = fields.iter().any(Option::is_some);
    own.or(marked.then_some(FormProblem::CheckFields))
}
