//! Text of strangers on a terminal.
//!
//! What somebody typed as a name reaches the terminal of whoever reads the audit log. Control characters there move the cursor, set colours
//! and titles, and on some terminals answer back; those of the C1 set (U+0080 to U+009F) do it without an escape. Characters that change the
//! direction of text, or are not seen, make one text look like another. Sources: ECMA-48; Unicode Standard Annex 9 and Technical Report 36.

use domain::is_unseen;
use std::borrow::Cow;

/// The text with a sign in place of each character that must not reach a terminal. Ends of lines and tabs stay.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_wild) {
        text.chars().map(|c| if is_wild(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
    } else {
        Cow::Borrowed(text)
    }
}

/// The same for a text of one line: one that goes on below could pass for another entry.
pub(super) fn line(text: &str) -> String {
    let tame = |c: char| if is_wild(c) || c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(tame).collect()
}

/// JSON with such characters escaped (RFC 8259, section 7). They stand in strings alone, so it says the same as before.
pub(super) fn json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_wild) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_wild(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

fn is_wild(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Joiners and the selectors of how an emoji is shown: scripts and emoji need them.
        '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' => false,
        // Ends of lines that are no controls.
        '\u{2028}' | '\u{2029}' => true,
        c => c.is_control() || is_unseen(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILD: &str = "a\u{1b}[31m\u{9b}2J\u{7f}\u{85}\u{202e}gnp.exe\u{feff}\u{e0041}\r\u{2028}";

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        let tamed = text(WILD);
        assert!(!tamed.chars().any(is_wild), "{tamed:?}");
        assert_eq!(tamed.chars().count(), WILD.chars().count());
        for kept in ["Zoë Łuczak\tΑθήνα\n", "می\u{200c}خواهم", "👩\u{200d}🔬", "e\u{301}"]
        {
            assert!(matches!(text(kept), Cow::Borrowed(_)), "{kept:?}");
        }
        assert_eq!(line("a\nb\tc"), "a\u{fffd}b\u{fffd}c");
    }

    /// By Unicode's own table, whatever the version: nobody keeps ranges up to date by hand.
    #[test]
    fn whatever_is_ignored_by_default_is_shown_but_for_what_writing_needs() {
        let unseen: Vec<char> = (char::MIN..=char::MAX).filter(|c| is_unseen(*c)).collect();
        assert!(unseen.len() > 4_000, "{}", unseen.len());
        let left: Vec<char> = unseen.iter().copied().filter(|c| !is_wild(*c)).collect();
        let kept: Vec<char> =
            ['\u{200c}', '\u{200d}'].into_iter().chain('\u{fe00}'..='\u{fe0f}').collect();
        assert_eq!(left, kept);
        for (first, last) in [
            (0xad, 0xad),
            (0x34f, 0x34f),
            (0x115f, 0x1160),
            (0x17b4, 0x17b5),
            (0x180b, 0x180f),
            (0x2060, 0x206f),
            (0x3164, 0x3164),
            (0xfeff, 0xfeff),
            (0xffa0, 0xffa0),
            (0xfff0, 0xfff8),
            (0x1bca0, 0x1bca3),
            (0x1d173, 0x1d17a),
            (0xe0000, 0xe0fff),
        ] {
            for c in (first..=last).filter_map(char::from_u32) {
                assert!(is_wild(c), "U+{:04X}", u32::from(c));
                assert_eq!(line(&c.to_string()), "\u{fffd}");
            }
        }
    }

    #[test]
    fn json_says_the_same_as_before() {
        let value = serde_json::json!({ WILD: [WILD, 1, null], "ë": "plain\n" });
        for written in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let tamed = json(&written);
            assert!(!tamed.chars().any(is_wild), "{tamed:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&tamed).unwrap(), value);
        }
    }
}
