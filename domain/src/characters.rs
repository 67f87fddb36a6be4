//! Which characters names are made of: what can be seen, what looks alike, what changes the text around it.
//!
//! The data are Unicode's own, from `icu_properties` and `unicode-security`; the rules are those of UTS 39
//! (Unicode Security Mechanisms) and, for joiners, after RFC 5892, appendix A.

use icu_properties::props::{
    BidiControl, BinaryProperty, DefaultIgnorableCodePoint, EnumeratedProperty,
    ExtendedPictographic, GeneralCategory, JoinControl, NoncharacterCodePoint, Script,
    VariationSelector,
};
use unicode_security::{
    GeneralSecurityProfile, RestrictionLevel, RestrictionLevelDetection, confusable_detection,
};

/// More nonspacing marks than these on one letter are no writing (UTS 39, section 5.4).
const MARKS_AT_ONCE: usize = 4;

/// Whether a character may be in a username, apart from where it stands.
pub(crate) fn is_in_usernames(c: char) -> bool {
    let written = c.is_alphanumeric() || matches!(c, '.' | '_' | '-') || is_mark(c);
    written && c.identifier_allowed() && !is_unseen(c)
}

pub(crate) fn is_of_one_script(text: &str) -> bool {
    text.check_restriction_level(RestrictionLevel::SingleScript)
}

pub(crate) fn is_mark(c: char) -> bool {
    unicode_normalization::char::is_combining_mark(c)
}

/// Whether one nonspacing mark follows itself, or too many stand on one letter.
pub(crate) fn has_piled_marks(text: &str) -> bool {
    let (mut before, mut run) = (None, 0);
    for c in unicode_normalization::UnicodeNormalization::nfd(text) {
        if GeneralCategory::for_char(c) != GeneralCategory::NonspacingMark {
            (before, run) = (None, 0);
            continue;
        }
        run += 1;
        if before == Some(c) || run > MARKS_AT_ONCE {
            return true;
        }
        before = Some(c);
    }
    false
}

/// Whether a character shows nothing of itself: it is ignorable by default, or says in which direction text
/// runs.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    DefaultIgnorableCodePoint::for_char(c) || BidiControl::for_char(c)
}

/// Two texts with the same skeleton look alike (UTS 39, section 4).
pub(crate) fn skeleton(text: &str) -> String {
    confusable_detection::skeleton(text).collect()
}

/// Whether a text can be shown among others: no controls, nothing that turns the direction, no line ends,
/// something to be seen, and what can't be seen only where writing needs it.
pub(crate) fn is_sound_text(text: &str) -> bool {
    let characters: Vec<char> = text.chars().collect();
    let sound = |(at, c): (usize, &char)| match *c {
        c if c.is_control() || BidiControl::for_char(c) || NoncharacterCodePoint::for_char(c) => {
            false
        }
        '\u{2028}' | '\u{2029}' => false,
        c if JoinControl::for_char(c) => joins(&characters, at),
        c if VariationSelector::for_char(c) => {
            at.checked_sub(1).and_then(|before| characters.get(before)).is_some_and(|c| is_seen(*c))
        }
        c => !DefaultIgnorableCodePoint::for_char(c),
    };
    characters.iter().enumerate().all(sound) && characters.iter().any(|c| is_seen(*c))
}

/// The blank pattern of Braille is a symbol, and shows as a space.
fn is_seen(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !is_unseen(c) && c != '\u{2800}'
}

/// Whether a joiner stands where it does something: between letters of a script that has joiners, or within
/// one emoji.
fn joins(characters: &[char], at: usize) -> bool {
    let before = characters.get(..at).unwrap_or_default();
    let (Some(last), Some(next)) = (before.last(), characters.get(at + 1)) else { return false };
    let letters = |c: &char| c.is_alphabetic() || is_mark(*c);
    if letters(last) && letters(next) {
        // Marks are often of no script of their own.
        let base = before.iter().rev().find(|c| !is_mark(**c)).unwrap_or(last);
        return has_joiners(Script::for_char(*base));
    }
    let is_part =
        |c: &&char| VariationSelector::for_char(**c) || matches!(**c, '\u{1f3fb}'..='\u{1f3ff}');
    let base = before.iter().rev().find(|c| !is_part(c));
    base.is_some_and(|c| ExtendedPictographic::for_char(*c))
        && ExtendedPictographic::for_char(*next)
}

fn has_joiners(script: Script) -> bool {
    !matches!(
        script,
        Script::Common
            | Script::Inherited
            | Script::Unknown
            | Script::Latin
            | Script::Greek
            | Script::Cyrillic
            | Script::Armenian
            | Script::Georgian
            | Script::Hebrew
            | Script::Han
            | Script::Hiragana
            | Script::Katakana
            | Script::Bopomofo
            | Script::Hangul
    )
}
