//! The visible texts of one language, from the Fluent files under `locales/`.
//!
//! The files are part of the binary. A text that is missing shows its id instead, so that a page is
//! never lost over one; `tests/it/texts.rs` proves that none is missing, and none is left over.

use std::{borrow::Cow, sync::LazyLock};

use fluent_bundle::{FluentArgs, FluentResource, FluentValue, concurrent::FluentBundle};

use crate::Locale;

/// What a text is told.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    Text(&'a str),
    /// A number that the language may choose its words by.
    Count(u64),
}

/// The texts of one language. Shared by all threads.
pub struct Texts {
    bundle: FluentBundle<FluentResource>,
}

/// The id of a text that is chosen at run time. Written as `MessageId("…")` wherever it is named,
/// by which the test over all texts finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageId(pub(crate) &'static str);

const EN: [&str; 7] = [
    include_str!("../locales/en/frame.ftl"),
    include_str!("../locales/en/account.ftl"),
    include_str!("../locales/en/history.ftl"),
    include_str!("../locales/en/state.ftl"),
    include_str!("../locales/en/admin.ftl"),
    include_str!("../locales/en/projections.ftl"),
    include_str!("../locales/en/errors.ftl"),
];

static ENGLISH: LazyLock<Texts> = LazyLock::new(|| Texts::from_sources(Locale::En, &EN));

impl Texts {
    /// The texts of a language. They are read once, on first use.
    #[must_use]
    pub fn of(locale: Locale) -> &'static Self {
        match locale {
            Locale::En => &ENGLISH,
        }
    }

    fn from_sources(locale: Locale, sources: &[&str]) -> Self {
        let mut bundle = FluentBundle::new_concurrent(vec![locale.language()]);
        bundle.set_use_isolating(false);
        for source in sources {
            // A line that can't be read costs that line alone; a test sees to it that there is none.
            let resource = FluentResource::try_new((*source).to_owned())
                .unwrap_or_else(|(resource, _errors)| resource);
            bundle.add_resource_overriding(resource);
        }
        Self { bundle }
    }

    /// The text of this id, or the id where there is none.
    #[must_use]
    pub fn get<'a>(&'a self, id: &'a str) -> Cow<'a, str> {
        self.find(id, &[]).unwrap_or(Cow::Borrowed(id))
    }

    /// The text of this id, told these arguments, or the id where there is none.
    #[must_use]
    pub fn get_with<'a>(&'a self, id: &'a str, args: &[(&str, Arg<'_>)]) -> Cow<'a, str> {
        self.find(id, args).unwrap_or(Cow::Borrowed(id))
    }

    /// The text of this id, if there is one.
    #[must_use]
    pub fn find(&self, id: &str, args: &[(&str, Arg<'_>)]) -> Option<Cow<'_, str>> {
        let pattern = self.bundle.get_message(id)?.value()?;
        let args: FluentArgs<'_> =
            args.iter().map(|(name, value)| (*name, value.fluent())).collect();
        let mut errors = Vec::new();
        let text = self.bundle.format_pattern(pattern, Some(&args), &mut errors);
        Some(Cow::Owned(text.into_owned()))
    }
}

impl<'a> Arg<'a> {
    fn fluent(self) -> FluentValue<'a> {
        match self {
            Self::Text(text) => FluentValue::from(text),
            Self::Count(count) => FluentValue::from(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_sound() {
        for source in EN {
            let read = FluentResource::try_new(source.to_owned());
            assert!(read.is_ok(), "{:?}", read.err().map(|(_, errors)| errors));
        }
    }

    #[test]
    fn no_id_is_given_twice() {
        let mut bundle = FluentBundle::new_concurrent(vec![Locale::En.language()]);
        for source in EN {
            let resource = FluentResource::try_new(source.to_owned()).unwrap();
            assert_eq!(bundle.add_resource(resource), Ok(()));
        }
    }

    #[test]
    fn a_text_counts_and_is_not_isolated() {
        let texts = Texts::of(Locale::En);
        assert_eq!(
            texts.get_with("wait-minutes", &[("count", Arg::Count(1)), ("number", Arg::Text("1"))]),
            "one minute"
        );
        assert_eq!(
            texts.get_with(
                "wait-minutes",
                &[("count", Arg::Count(12)), ("number", Arg::Text("12"))]
            ),
            "12 minutes"
        );
        assert_eq!(texts.get_with("sign-out", &[("name", Arg::Text("12"))]), "Sign out");
    }

    #[test]
    fn a_missing_text_shows_its_id() {
        assert_eq!(Texts::of(Locale::En).get("no-such-text"), "no-such-text");
        assert_eq!(Texts::of(Locale::En).find("no-such-text", &[]), None);
    }
}
