//! Why a form as a whole was not taken, told above it.

use std::borrow::Cow;

use crate::{Chrome, moment};

/// What stands above a form that comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormProblem {
    /// Single fields are marked. Pages add this themselves where a field has a problem.
    CheckFields,
    /// The same for a wrong password and an unknown account.
    WrongCredentials,
    AccountDisabled,
    Throttled {
        /// Until the next attempt is taken; the same as `Retry-After`.
        wait_seconds: u64,
    },
    /// More was changed within the hour than people change.
    OverBudget {
        /// The same as `Retry-After`.
        wait_seconds: u64,
    },
    /// The csrf token was not the one of this visit.
    Expired,
    /// Another request changed the same thing first.
    Conflict,
    Unavailable,
}

impl FormProblem {
    pub(crate) fn text(self, chrome: &Chrome) -> Cow<'static, str> {
        match self {
            Self::CheckFields => chrome.t("form-check-fields"),
            Self::WrongCredentials => chrome.t("form-wrong-credentials"),
            Self::AccountDisabled => chrome.t("form-account-disabled"),
            Self::Throttled { wait_seconds } => {
                chrome.t_with("form-throttled", "wait", &moment::wait(chrome, wait_seconds))
            }
            Self::OverBudget { wait_seconds } => {
                chrome.t_with("form-over-budget", "wait", &moment::wait(chrome, wait_seconds))
            }
            Self::Expired => chrome.t("form-expired"),
            Self::Conflict => chrome.t("form-conflict"),
            Self::Unavailable => chrome.t("form-unavailable"),
        }
    }
}
