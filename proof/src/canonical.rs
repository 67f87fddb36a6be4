//! JSON in one form only: RFC 8785 (JSON Canonicalization Scheme), of whole numbers.
//!
//! PostgreSQL's jsonb has a form of its own (keys by their length, spaces after colons), and hands out
//! another one than it was given. So what is hashed is neither what was sent nor what is stored, but this.

use std::{borrow::Cow, cmp::Ordering};

use memchr::memchr2;
use serde::{Deserialize, de::IgnoredAny};

/// Numbers beyond this are not the same in every language (RFC 7493 section 2.2).
const MAX_SAFE_INTEGER: i64 = 9_007_199_254_740_991;
/// Deeper than any event; a bound on the stack.
const MAX_DEPTH: usize = 32;

/// Why JSON has no canonical form here.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    #[error("it is not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("{0} is not a whole number between -(2^53 - 1) and 2^53 - 1")]
    Number(String),
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("an object has two members of the same name")]
    DuplicateName,
}

/// Appends the canonical form of a JSON text.
pub fn canonical_json(text: &str, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let mut reader = Reader { text, at: 0 };
    reader.value(0, out)?;
    if reader.next().is_some() { Err(reader.unexpected()) } else { Ok(()) }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Goes through a text once, and takes nothing but JSON (RFC 8259).
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    /// Takes the next character that is no white space, as it is for all that has a meaning of its own.
    fn next(&mut self) -> Option<u8> {
        let rest = self.rest();
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let blank = rest.iter().take_while(is_blank).count();
        self.at += blank + 1;
        rest.get(blank).copied()
    }

    /// What can't stand here, as a parser tells it that has the place.
    fn unexpected(&self) -> CanonicalError {
        let told = serde_json::from_str::<IgnoredAny>(self.text).err();
        told.unwrap_or_else(|| serde::de::Error::custom("it is not as RFC 8259 says")).into()
    }

    /// Goes on so many bytes. What was taken since `from`, to there.
    fn take(&mut self, from: usize, bytes: usize) -> Result<&'a str, CanonicalError> {
        self.at += bytes;
        self.text.get(from..self.at).ok_or_else(|| self.unexpected())
    }

    fn value(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        if depth > MAX_DEPTH {
            return Err(CanonicalError::Depth);
        }
        match self.next() {
            Some(b'{') => self.members(depth, out),
            Some(b'[') => self.items(depth, out),
            Some(b'"') => self.string(out).map(drop),
            Some(b't') => self.word("true", out),
            Some(b'f') => self.word("false", out),
            Some(b'n') => self.word("null", out),
            Some(b'-' | b'0'..=b'9') => self.number(out),
            _ => Err(self.unexpected()),
        }
    }

    /// A word of which the first letter is taken.
    fn word(&mut self, word: &str, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        if self.take(self.at - 1, word.len() - 1)? != word {
            return Err(self.unexpected());
        }
        out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    /// A number of which the first character is taken.
    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        let goes_on = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = self.rest().iter().take_while(goes_on).count();
        let text = self.take(self.at - 1, length)?;
        let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
        let is_whole =
            matches!(digits, [b'0'] | [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
        match text.parse::<i64>() {
            Ok(number) if is_whole && number.unsigned_abs() <= MAX_SAFE_INTEGER.unsigned_abs() => {
                out.extend_from_slice(number.to_string().as_bytes());
                Ok(())
            }
            _ if serde_json::from_str::<IgnoredAny>(text).is_err() => Err(self.unexpected()),
            _ => Err(CanonicalError::Number(text.chars().take(40).collect())),
        }
    }

    /// Appends a string as it is written here, and tells what it says. Its first quotation mark is taken.
    fn string(&mut self, out: &mut Vec<u8>) -> Result<Cow<'a, str>, CanonicalError> {
        let from = self.at - 1;
        let (mut length, mut has_escapes) = (0, false);
        loop {
            let rest = self.rest().get(length..).unwrap_or_default();
            let Some(more) = memchr2(b'"', b'\\', rest) else { return Err(self.unexpected()) };
            length += more + 1;
            if rest.get(more) == Some(&b'"') {
                break;
            }
            // Whatever is escaped is no end.
            has_escapes = true;
            length += 1;
        }
        let text = self.take(from, length)?;
        if has_escapes {
            let Name(said) =
                serde_json::from_str(text).map_err(|_: serde_json::Error| self.unexpected())?;
            // serde_json escapes what RFC 8785 section 3.2.2.2 says, and nothing else.
            serde_json::to_writer(out, said.as_ref())?;
            return Ok(said);
        }
        // What has no escapes needs none, unless it can't be.
        if text.bytes().fold(false, |any, byte| any | (byte < b' ')) {
            return Err(self.unexpected());
        }
        out.extend_from_slice(text.as_bytes());
        Ok(Cow::Borrowed(text.get(1..text.len() - 1).unwrap_or_default()))
    }

    fn items(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        out.push(b'[');
        let before = self.at;
        if self.next() != Some(b']') {
            self.at = before;
            loop {
                self.value(depth + 1, out)?;
                match self.next() {
                    Some(b',') => out.push(b','),
                    Some(b']') => break,
                    _ => return Err(self.unexpected()),
                }
            }
        }
        out.push(b']');
        Ok(())
    }

    /// The members as they come, and in their order where that is another one.
    fn members(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        out.push(b'{');
        let begins = out.len();
        let mut members = Vec::new();
        let before = self.at;
        if self.next() != Some(b'}') {
            self.at = before;
            loop {
                let from = out.len();
                if self.next() != Some(b'"') {
                    return Err(self.unexpected());
                }
                let name = self.string(out)?;
                out.push(b':');
                if self.next() != Some(b':') {
                    return Err(self.unexpected());
                }
                self.value(depth + 1, out)?;
                members.push((name, from..out.len()));
                match self.next() {
                    Some(b',') => out.push(b','),
                    Some(b'}') => break,
                    _ => return Err(self.unexpected()),
                }
            }
        }
        let order = |a: &Cow<'_, str>, b: &Cow<'_, str>| utf16_order(a, b);
        let follows = |(a, _): &(Cow<'_, str>, _), (b, _): &(Cow<'_, str>, _)| order(a, b).is_lt();
        if !members.is_sorted_by(follows) {
            members.sort_by(|(a, _), (b, _)| order(a, b));
            // In their order two of one name are neighbours.
            if !members.is_sorted_by(follows) {
                return Err(CanonicalError::DuplicateName);
            }
            let written = out.split_off(begins);
            for (index, (_, place)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                let place = place.start - begins..place.end - begins;
                out.extend_from_slice(written.get(place).unwrap_or_default());
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// RFC 8785 section 3.2.3: by the code units of UTF-16.
fn utf16_order(a: &str, b: &str) -> Ordering {
    if a.is_ascii() && b.is_ascii() {
        return a.cmp(b);
    }
    a.encode_utf16().cmp(b.encode_utf16())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn canonical(text: &str) -> Result<String, CanonicalError> {
        let mut out = Vec::new();
        canonical_json(text, &mut out)?;
        Ok(String::from_utf8(out).expect("UTF-8"))
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_another_implementation_of_rfc_8785_writes(value in any_json()) {
            let theirs = serde_json_canonicalizer::to_string(&value).expect("JSON");
            prop_assert_eq!(canonical(&value.to_string()).expect("canonical"), theirs);
        }

        /// One character of a text is another, or is missing, or is too many.
        #[test]
        fn it_takes_what_a_parser_takes(
            value in any_json(),
            place in any::<prop::sample::Index>(),
            other in prop_oneof![
                prop::sample::select(b" \t\n\r\x0c\"\\{}[],:-+.0123456789eEtrufalsn\x01u".to_vec()).prop_map(char::from),
                any::<char>(),
            ],
            cut in 0..2_usize,
            added in 0..2_usize,
        ) {
            let mut text: Vec<char> = value.to_string().chars().collect();
            let place = place.index(text.len());
            text.splice(place..place + cut, std::iter::repeat_n(other, added));
            let text: String = text.into_iter().collect();
            let theirs = serde_json::from_str::<IgnoredAny>(&text);
            let ours = canonical(&text);
            match &ours {
                Ok(form) => {
                    prop_assert!(theirs.is_ok(), "{text}");
                    let value: Value = serde_json::from_str(&text).expect("JSON");
                    prop_assert_eq!(&serde_json_canonicalizer::to_string(&value).expect("JSON"), form);
                }
                Err(CanonicalError::Syntax(_)) => {
                    // Half of a surrogate pair is found out where a string is read.
                    prop_assert!(theirs.is_err() || serde_json::from_str::<Value>(&text).is_err(), "{text}");
                }
                // Told before the rest of the text is looked at.
                Err(_) => {}
            }
        }

        #[test]
        fn spaces_and_order_make_no_difference(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).expect("JSON");
            let once = canonical(&pretty).expect("canonical");
            prop_assert_eq!(canonical(&once).expect("canonical"), once);
        }
    }

    #[test]
    fn names_go_by_their_utf_16_code_units() {
        // The example of RFC 8785 section 3.2.3.
        let text = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let order: Vec<usize> = ["\\r", "\"1\"", "\u{80}", "ö", "€", "😀", "\u{fb33}"]
            .iter()
            .map(|name| canonical(text).expect("canonical").find(name).expect("is there"))
            .collect();
        assert!(order.is_sorted(), "{order:?}");
    }

    #[test]
    fn what_is_not_the_same_everywhere_is_refused() {
        for text in ["1.0", "1e2", "9007199254740992", "-9007199254740992", "1.5", "1E400"] {
            let refused = canonical(&json!({ "n": 0 }).to_string().replace('0', text));
            assert!(matches!(refused, Err(CanonicalError::Number(_))), "{text}: {refused:?}");
        }
        assert!(matches!(canonical(r#"{"a":1,"a":2}"#), Err(CanonicalError::DuplicateName)));
        assert!(matches!(canonical(r#"{"a":1,"\u0061":2}"#), Err(CanonicalError::DuplicateName)));
        assert!(matches!(canonical(&"[".repeat(8)), Err(CanonicalError::Syntax(_))));
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(matches!(canonical(&deep), Err(CanonicalError::Depth)));
        assert!(matches!(canonical("{"), Err(CanonicalError::Syntax(_))));
        // Told before it is seen that the text ends too soon.
        assert!(matches!(canonical("[12345678901234567"), Err(CanonicalError::Number(_))));
        assert_eq!(canonical("-0").expect("zero"), "0");
    }
}
