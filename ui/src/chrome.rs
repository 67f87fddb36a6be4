//! What stands around every page: who is signed in, the navigation, the notice, the texts.

use std::borrow::Cow;

use crate::{Arg, Locale, Notice, Texts, assets, paths, texts::MessageId};

/// What every page is told about the request it answers.
#[derive(Clone, Default)]
pub struct Chrome {
    pub locale: Locale,
    /// The path that was asked for, without its query; it marks the place in the navigation.
    pub path: String,
    /// The token that every POST form sends back as `csrf`.
    pub csrf: String,
    pub request_id: String,
    /// Who is signed in.
    pub person: Option<SignedIn>,
    /// What the last request did, told once.
    pub notice: Option<Notice>,
}

/// The person who is signed in, as far as the frame must know.
#[derive(Clone, Default)]
pub struct SignedIn {
    /// The full name, or else the username.
    pub display_name: String,
    pub auditor: bool,
    pub admin: bool,
}

/// One entry of the navigation.
pub(crate) struct NavItem<'a> {
    pub(crate) href: &'static str,
    pub(crate) label: Cow<'a, str>,
    pub(crate) current: bool,
}

impl Chrome {
    /// A frame for somebody unknown; the other fields are public.
    #[must_use]
    pub fn new(locale: Locale) -> Self {
        Self { locale, ..Self::default() }
    }

    pub(crate) fn texts(&self) -> &'static Texts {
        Texts::of(self.locale)
    }

    /// A text.
    pub(crate) fn t<'a>(&self, id: &'a str) -> Cow<'a, str> {
        self.texts().find(id, &[]).unwrap_or(Cow::Borrowed(id))
    }

    /// A text that is told one other text.
    pub(crate) fn t_with<'a>(&self, id: &'a str, name: &str, value: &str) -> Cow<'a, str> {
        self.texts().find(id, &[(name, Arg::Text(value))]).unwrap_or(Cow::Borrowed(id))
    }

    /// A text that is told a number: `$count` to choose words by, `$number` to be read.
    pub(crate) fn t_count<'a>(&self, id: &'a str, count: u64) -> Cow<'a, str> {
        let number = self.number(&count);
        let args = [("count", Arg::Count(count)), ("number", Arg::Text(&number))];
        self.texts().find(id, &args).unwrap_or(Cow::Borrowed(id))
    }

    /// A text that was chosen at run time.
    pub(crate) fn message(&self, id: MessageId) -> Cow<'static, str> {
        self.t(id.0)
    }

    pub(crate) fn stylesheet(&self) -> &'static str {
        assets::STYLESHEET.url()
    }

    pub(crate) fn logo(&self) -> &'static str {
        assets::LOGO.url()
    }

    pub(crate) fn is_auditor(&self) -> bool {
        self.person.as_ref().is_some_and(|person| person.auditor)
    }

    /// The places this person can go to.
    pub(crate) fn nav(&self) -> Vec<NavItem<'static>> {
        let mut places = Vec::new();
        match &self.person {
            None => {
                places.push((paths::SIGN_IN, MessageId("nav-sign-in")));
                places.push((paths::REGISTER, MessageId("nav-register")));
            }
            Some(person) => {
                places.push((paths::OVERVIEW, MessageId("nav-overview")));
                places.push((paths::SESSIONS, MessageId("nav-sessions")));
                places.push((paths::MY_HISTORY, MessageId("nav-my-history")));
                if person.auditor {
                    places.push((paths::HISTORY, MessageId("nav-history")));
                    places.push((paths::AUDIT_STATE, MessageId("nav-replay")));
                }
                if person.admin {
                    places.push((paths::USERS, MessageId("nav-users")));
                    places.push((paths::PROJECTIONS, MessageId("nav-projections")));
                }
            }
        }
        places
            .into_iter()
            .map(|(href, label)| NavItem {
                href,
                label: self.message(label),
                current: self.path == href,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(person: Option<SignedIn>) -> Vec<&'static str> {
        let chrome = Chrome { person, ..Chrome::new(Locale::En) };
        chrome.nav().into_iter().map(|item| item.href).collect()
    }

    #[test]
    fn each_role_sees_its_own_places() {
        let person = |auditor, admin| Some(SignedIn { display_name: "Ada".into(), auditor, admin });
        assert_eq!(places(None), ["/sign-in", "/register"]);
        assert_eq!(places(person(false, false)), ["/", "/sessions", "/my-history"]);
        assert_eq!(
            places(person(true, false)),
            ["/", "/sessions", "/my-history", "/history", "/audit/state"]
        );
        assert_eq!(
            places(person(false, true)),
            ["/", "/sessions", "/my-history", "/users", "/projections"]
        );
    }
}
