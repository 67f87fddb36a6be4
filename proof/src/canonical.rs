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
    write(serde_json::from_str(text)?, 0, out)
}

/// An object's members in the order of the text: a map would drop one of two with the same name.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn write(value: &RawValue, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    if depth > MAX_DEPTH {
        return Err(CanonicalError::Depth);
    }
    let text = value.get();
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(mut members) = serde_json::from_str(text)?;
            members.sort_by(|(a, _), (b, _)| utf16_order(a, b));
            // In their order two of one name are neighbours.
            let mut before = None;
            out.push(b'{');
            for (name, value) in &members {
                if before == Some(name) {
                    return Err(CanonicalError::DuplicateName);
                }
                if before.is_some() {
                    out.push(b',');
                }
                before = Some(name);
                match name {
                    // As it stands in the text, and so without escapes.
                    Cow::Borrowed(name) => {
                        out.push(b'"');
                        out.extend_from_slice(name.as_bytes());
                        out.push(b'"');
                    }
                    Cow::Owned(name) => serde_json::to_writer(&mut *out, name)?,
                }
                out.push(b':');
                write(value, depth + 1, out)?;
            }
            out.push(b'}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            out.push(b'[');
            for (index, item) in items.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, depth + 1, out)?;
            }
            out.push(b']');
        }
        // What has no escapes needs none: the parser has seen that no control character is in it.
        Some(b'"') if !text.contains('\\') => out.extend_from_slice(text.as_bytes()),
        Some(b'"') => {
            let Name(string) = serde_json::from_str(text)?;
            // serde_json escapes what RFC 8785 section 3.2.2.2 says, and nothing else.
            serde_json::to_writer(out, string.as_ref())?;
        }
        Some(b't' | b'f' | b'n') => out.extend_from_slice(text.as_bytes()),
        _ => match text.parse::<i64>() {
            Ok(number) if number.unsigned_abs() <= MAX_SAFE_INTEGER.unsigned_abs() => {
                out.extend_from_slice(number.to_string().as_bytes());
            }
            _ => return Err(CanonicalError::Number(text.chars().take(40).collect())),
        },
    }
    Ok(())
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
