//! The languages that pages come in, and how one is chosen.

use unic_langid::LanguageIdentifier;

/// A language that has a folder under `locales/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locale {
    #[default]
    En,
}

impl Locale {
    pub const ALL: [Self; 1] = [Self::En];

    /// How much of an `Accept-Language` header is read. Browsers send less than 200 bytes.
    const MAX_HEADER_BYTES: usize = 1024;

    /// The value for the `lang` attribute and for `Content-Language` (BCP 47).
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::En => "en",
        }
    }

    pub(crate) fn language(self) -> LanguageIdentifier {
        self.tag().parse().unwrap_or_default()
    }

    /// The language a browser likes best of those there are, from its `Accept-Language` header
    /// (RFC 9110, section 12.5.4). Without the header, or without one in common: English.
    #[must_use]
    pub fn negotiate(accept_language: Option<&str>) -> Self {
        let header = accept_language.unwrap_or_default();
        let header = header.get(..Self::MAX_HEADER_BYTES).unwrap_or(header);
        let mut best: Option<(Self, f32)> = None;
        for range in header.split(',') {
            let (tag, weight) = weighted(range);
            let Some(locale) = Self::matching(tag) else { continue };
            let better = best.is_none_or(|(_, best_weight)| weight > best_weight);
            if weight > 0.0 && better {
                best = Some((locale, weight));
            }
        }
        best.map_or_else(Self::default, |(locale, _)| locale)
    }

    fn matching(tag: &str) -> Option<Self> {
        if tag == "*" {
            return Some(Self::default());
        }
        let wanted: LanguageIdentifier = tag.parse().ok()?;
        Self::ALL.into_iter().find(|locale| locale.language().language == wanted.language)
    }
}

/// `de;q=0.5` as a tag and its weight; a weight that can't be read counts as none at all.
fn weighted(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let tag = parts.next().unwrap_or_default();
    let weight = parts
        .find_map(|part| part.strip_prefix("q="))
        .map_or(1.0, |q| q.parse::<f32>().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0));
    (tag, weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tag_is_a_language() {
        for locale in Locale::ALL {
            assert_eq!(locale.language().to_string(), locale.tag());
        }
    }

    #[test]
    fn any_header_leads_to_a_language() {
        for header in [
            None,
            Some(""),
            Some("en-GB,en;q=0.9"),
            Some("fr, *;q=0.1"),
            Some("tlh"),
            Some(";;;q=,,,=q"),
            Some("en;q=nan"),
        ] {
            assert_eq!(Locale::negotiate(header), Locale::En, "{header:?}");
        }
        assert_eq!(Locale::negotiate(Some(&"é,".repeat(4000))), Locale::En);
    }

    #[test]
    fn a_range_has_a_tag_and_a_weight() {
        assert_eq!(weighted(" de-CH ; q=0.5 "), ("de-CH", 0.5));
        assert_eq!(weighted("de"), ("de", 1.0));
        assert_eq!(weighted("de;q=7"), ("de", 0.0));
        assert_eq!(weighted("de;q=nan"), ("de", 0.0));
    }

    #[test]
    fn a_region_is_no_reason_to_refuse_a_language() {
        assert_eq!(Locale::matching("en-AU"), Some(Locale::En));
        assert_eq!(Locale::matching("de"), None);
    }
}
