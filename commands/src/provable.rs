//! What an event must be to become a line of the transparency log.
//!
//! The log is folded from the book like any other projection, and an event that is no leaf would stop it for
//! good. So such a one is never appended.

use std::{collections::HashMap, io};

use serde_json::Value;

use crate::StorageError;

/// The most bytes that an event takes as JSON, with its metadata and its names. In the transparency log it
/// is a leaf, of 65,535 bytes at most (docs/transparency-log.md), and one that is none would stop the log for
/// good: so it is refused here. What a leaf has beside these takes some hundred bytes.
pub const MAX_EVENT: usize = 60_000;

/// Refuses what could be no leaf of the transparency log: for its length, or for a number in it.
pub(crate) fn provable(
    stream_type: &str,
    id: &str,
    names: usize,
    payload: &Value,
    metadata: &HashMap<String, String>,
) -> Result<(), StorageError> {
    let refused =
        |cause: String| StorageError::Unprovable { stream: format!("{stream_type} {id}"), cause };
    if !has_whole_numbers(payload) {
        return Err(refused("a number in it is not whole, or beyond 2^53 - 1".to_owned()));
    }
    let mut length = Length(stream_type.len() + id.len() + names);
    let written = serde_json::to_writer(&mut length, payload)
        .and_then(|()| serde_json::to_writer(&mut length, metadata));
    written.map_err(|cause| refused(cause.to_string()))?;
    if length.0 > MAX_EVENT {
        return Err(refused(format!("it takes {} bytes, and {MAX_EVENT} are the most", length.0)));
    }
    Ok(())
}

/// RFC 8785 writes other numbers in ways that not every language reads back.
fn has_whole_numbers(value: &Value) -> bool {
    const LARGEST: u64 = (1 << 53) - 1;
    match value {
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number <= LARGEST,
            (None, Some(number)) => number.unsigned_abs() <= LARGEST,
            (None, None) => false,
        },
        Value::Array(values) => values.iter().all(has_whole_numbers),
        Value::Object(members) => members.values().all(has_whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_be_no_leaf_is_refused() {
        let stream = "x";
        let bare = "User".len() + stream.len() + 4 + "{}".len();
        let told = |payload: &Value| {
            let told = provable("User", stream, 4, payload, &HashMap::new());
            told.map_err(|error| error.to_string())
        };
        // As long as it may be; a quote takes two bytes.
        let text = |length: usize| Value::String("\"".repeat(length / 2) + &"x".repeat(length % 2));
        let longest = MAX_EVENT - bare - 2;
        assert_eq!(told(&text(longest)), Ok(()));
        let refused = told(&text(longest + 1)).unwrap_err();
        assert!(refused.contains("60001 bytes"), "{refused}");

        let largest = 9_007_199_254_740_991_i64;
        assert_eq!(told(&json!({"a": [largest, -largest, 0, null, true]})), Ok(()));
        for wrong in [json!({"a": [1.5]}), json!(largest + 1), json!([-largest - 1]), json!(1e300)]
        {
            assert!(told(&wrong).unwrap_err().contains("not whole"), "{wrong}");
        }
    }
}
