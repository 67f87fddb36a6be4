//! JSON in one form only: RFC 8785 (JSON Canonicalization Scheme), of whole numbers.
//!
//! PostgreSQL's jsonb has a form of its own (keys by their length, spaces after colons), and hands out
//! another one than it was given. So what is hashed is neither what was sent nor what is stored, but this.

use std::{borrow::Cow, cmp::Ordering};

use serde::Deserialize;
use serde_json::value::RawValue;

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
    // What this has read is JSON, so that what follows only has to find its way through.
    let text = serde_json::from_str::<&RawValue>(text)?.get();
    Reader { text, at: 0 }.value(0, out)
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Goes through a text that is JSON, once.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Takes the next character that is no white space, as it is for all that has a meaning of its own.
    fn next(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += blank + 1;
        rest.get(blank).copied()
    }

    /// The text from the character that was taken last to the end of a string, a number or a word.
    fn rest_of(&mut self, begun: u8) -> Result<&'a str, CanonicalError> {
        let from = self.at - 1;
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let length = if begun == b'"' {
            let (mut length, mut escaped) = (0, false);
            for byte in rest {
                length += 1;
                match byte {
                    b'"' if !escaped => break,
                    b'\\' => escaped = !escaped,
                    _ => escaped = false,
                }
            }
            length
        } else {
            let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
            rest.iter().position(ends).unwrap_or(rest.len())
        };
        self.at += length;
        self.text.get(from..self.at).ok_or_else(unexpected)
    }

    fn value(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        if depth > MAX_DEPTH {
            return Err(CanonicalError::Depth);
        }
        let begun = self.next().ok_or_else(unexpected)?;
        match begun {
            b'{' => self.members(depth, out),
            b'[' => self.items(depth, out),
            b'"' => string(self.rest_of(begun)?, out).map(drop),
            b't' | b'f' | b'n' => {
                out.extend_from_slice(self.rest_of(begun)?.as_bytes());
                Ok(())
            }
            _ => number(self.rest_of(begun)?, out),
        }
    }

    fn items(&mut self, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        out.push(b'[');
        let before = self.at;
        if self.next() != Some(b']') {
            self.at = before;
            loop {
                self.value(depth + 1, out)?;
                if self.next() != Some(b',') {
                    break;
                }
                out.push(b',');
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
        // A name, or the end of an object without one.
        while self.next() == Some(b'"') {
            let from = out.len();
            let name = string(self.rest_of(b'"')?, out)?;
            out.push(b':');
            // The colon.
            self.next();
            self.value(depth + 1, out)?;
            members.push((name, from..out.len()));
            if self.next() != Some(b',') {
                break;
            }
            out.push(b',');
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
                out.extend_from_slice(written.get(place).ok_or_else(unexpected)?);
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Appends a string as it is written here, and tells what it says.
fn string<'a>(text: &'a str, out: &mut Vec<u8>) -> Result<Cow<'a, str>, CanonicalError> {
    if !text.contains('\\') {
        // What has no escapes needs none: the parser has seen that no control character is in it.
        out.extend_from_slice(text.as_bytes());
        let said = text.get(1..text.len().saturating_sub(1)).ok_or_else(unexpected)?;
        return Ok(Cow::Borrowed(said));
    }
    let Name(said) = serde_json::from_str(text)?;
    // serde_json escapes what RFC 8785 section 3.2.2.2 says, and nothing else.
    serde_json::to_writer(out, said.as_ref())?;
    Ok(said)
}

fn number(text: &str, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match text.parse::<i64>() {
        Ok(number) if number.unsigned_abs() <= MAX_SAFE_INTEGER.unsigned_abs() => {
            out.extend_from_slice(number.to_string().as_bytes());
            Ok(())
        }
        _ => Err(CanonicalError::Number(text.chars().take(40).collect())),
    }
}

/// What can't be in a text that was read as JSON.
fn unexpected() -> CanonicalError {
    CanonicalError::Syntax(serde::de::Error::custom("it ends too soon"))
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
        assert!(matches!(canonical(&"[".repeat(64)), Err(CanonicalError::Syntax(_))));
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        assert!(matches!(canonical(&deep), Err(CanonicalError::Depth)));
        assert!(matches!(canonical("{"), Err(CanonicalError::Syntax(_))));
        assert_eq!(canonical("-0").expect("zero"), "0");
    }
}
