//! Which events the service itself wrote: a message authentication code in the metadata of each.
//!
//! Whoever has the application's database login may add events. The code is made with a key that only
//! a holder of the master key can derive, so an event that somebody else added is recognised wherever it
//! is read, and has no effect. `docs/events.md` describes the bytes.

use std::{collections::BTreeMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{CanonicalError, canonical_json};

/// The member of the metadata that holds the code.
pub const MAC: &str = "mac";
/// The member that says how many authentic events the stream has up to and with this one. It is there only
/// where that differs from the sequence number, because somebody else's events took numbers.
pub const NUMBER: &str = "number";

const EVENT: &[u8] = b"entrybook/event/v1";
const BOUNDARY: &[u8] = b"entrybook/event-boundary/v1";
/// RFC 2104 section 5 allows half of the output; 128 bits can't be guessed.
const TAG_BYTES: usize = 16;

/// What of a stored event the code covers. What the database sets itself (the id, the transaction, the
/// time of recording) is not among it.
#[derive(Debug, Clone, Copy)]
pub struct EventFields<'a> {
    pub stream_type: &'a str,
    pub stream_id: &'a str,
    pub sequence: i64,
    pub event_type: &'a str,
    pub event_version: &'a str,
    /// JSON, in any form: what counts is its canonical form.
    pub payload: &'a str,
}

/// Makes and checks the codes of the events of one database. Clones share the key.
#[derive(Clone)]
pub struct EventAuthenticator {
    key: Arc<Hmac<Sha256>>,
    last_without_mac: i64,
}

impl fmt::Debug for EventAuthenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventAuthenticator(after event {})", self.last_without_mac)
    }
}

impl EventAuthenticator {
    /// `last_without_mac` is the id of the last event that was stored before events carried a code.
    #[must_use]
    pub fn new(key: &[u8; 32], last_without_mac: i64) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes a key of any length (RFC 2104 section 2)"
        )]
        let key = Hmac::new_from_slice(key).expect("HMAC takes a key of any length");
        Self { key: Arc::new(key), last_without_mac }
    }

    /// The code over the boundary, which keeps it from being moved.
    #[must_use]
    pub fn boundary_mac(&self) -> Vec<u8> {
        self.boundary().finalize().into_bytes().to_vec()
    }

    /// Whether this is the code over the boundary; compared in constant time.
    #[must_use]
    pub fn is_boundary_mac(&self, mac: &[u8]) -> bool {
        self.boundary().verify_slice(mac).is_ok()
    }

    fn boundary(&self) -> Hmac<Sha256> {
        let mut input = Vec::with_capacity(64);
        part(&mut input, BOUNDARY);
        part(&mut input, &self.last_without_mac.to_be_bytes());
        let mut mac = Hmac::clone(&self.key);
        mac.update(&input);
        mac
    }

    /// The code of an event with this metadata, which holds none yet.
    pub fn mac<'a>(
        &self,
        event: &EventFields<'_>,
        metadata: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<String, CanonicalError> {
        let tag = self.over(event, metadata.into_iter().collect())?.finalize().into_bytes();
        Ok(URL_SAFE_NO_PAD.encode(tag.get(..TAG_BYTES).unwrap_or_default()))
    }

    /// Whether the service wrote this event, which is stored with this id and this metadata. Codes are
    /// compared in constant time.
    #[must_use]
    pub fn is_authentic(&self, id: i64, event: &EventFields<'_>, metadata: &str) -> bool {
        if id <= self.last_without_mac {
            return true;
        }
        let Ok(metadata) = serde_json::from_str::<BTreeMap<String, String>>(metadata) else {
            return false;
        };
        let Some(tag) = metadata.get(MAC).and_then(|mac| URL_SAFE_NO_PAD.decode(mac).ok()) else {
            return false;
        };
        let covered = metadata.iter().filter(|(key, _)| *key != MAC);
        let covered = covered.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        tag.len() == TAG_BYTES
            && self.over(event, covered).is_ok_and(|mac| mac.verify_truncated_left(&tag).is_ok())
    }

    /// Every part behind its length, so that no two events give the same bytes.
    fn over(
        &self,
        event: &EventFields<'_>,
        metadata: BTreeMap<&str, &str>,
    ) -> Result<Hmac<Sha256>, CanonicalError> {
        let mut input = Vec::with_capacity(1024 + event.payload.len());
        part(&mut input, EVENT);
        part(&mut input, event.stream_type.as_bytes());
        part(&mut input, event.stream_id.as_bytes());
        part(&mut input, &event.sequence.to_be_bytes());
        part(&mut input, event.event_type.as_bytes());
        part(&mut input, event.event_version.as_bytes());
        let mut payload = Vec::with_capacity(event.payload.len());
        canonical_json(event.payload, &mut payload)?;
        part(&mut input, &payload);
        for (key, value) in metadata {
            part(&mut input, key.as_bytes());
            part(&mut input, value.as_bytes());
        }
        let mut mac = Hmac::clone(&self.key);
        mac.update(&input);
        Ok(mac)
    }
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The number of an authentic event among those of its stream: from its metadata where that says so, and
/// else its sequence number.
#[must_use]
pub fn number_in_stream(sequence: i64, metadata: &str) -> i64 {
    // Hardly any event says so: the text is parsed only where it may.
    if !metadata.contains("\"number\"") {
        return sequence;
    }
    serde_json::from_str::<BTreeMap<String, String>>(metadata)
        .ok()
        .and_then(|metadata| metadata.get(NUMBER)?.parse().ok())
        .unwrap_or(sequence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    #[derive(Debug, Clone, PartialEq)]
    struct Owned {
        stream_type: String,
        stream_id: String,
        sequence: i64,
        event_type: String,
        event_version: String,
        payload: String,
        metadata: BTreeMap<String, String>,
    }

    impl Owned {
        fn fields(&self) -> EventFields<'_> {
            EventFields {
                stream_type: &self.stream_type,
                stream_id: &self.stream_id,
                sequence: self.sequence,
                event_type: &self.event_type,
                event_version: &self.event_version,
                payload: &self.payload,
            }
        }

        fn sealed(mut self, by: &EventAuthenticator) -> Self {
            let members = self.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let mac = by.mac(&self.fields(), members).unwrap();
            self.metadata.insert(MAC.to_owned(), mac);
            self
        }

        fn is_authentic(&self, by: &EventAuthenticator) -> bool {
            let metadata = serde_json::to_string(&self.metadata).unwrap();
            by.is_authentic(9, &self.fields(), &metadata)
        }
    }

    fn events() -> impl Strategy<Value = Owned> {
        let text = || "[a-zé\"\\\\ ]{1,8}";
        let metadata = proptest::collection::btree_map("[a-l]{1,4}", text(), 0..4);
        (text(), text(), 1..i64::MAX, text(), text(), text(), metadata).prop_map(
            |(stream_type, stream_id, sequence, event_type, event_version, inner, metadata)| {
                let payload = json!({"E": {"zz": inner, "a": sequence % 1_000}}).to_string();
                Owned {
                    stream_type,
                    stream_id,
                    sequence,
                    event_type,
                    event_version,
                    payload,
                    metadata,
                }
            },
        )
    }

    proptest! {
        /// Whatever of an event is changed, its code no longer fits, and nobody makes it without the key.
        #[test]
        fn any_change_of_what_is_covered_invalidates_the_code(
            event in events(), field in 0_usize..9, at in any::<prop::sample::Index>(), bit in 0_u8..7,
        ) {
            let by = EventAuthenticator::new(&KEY, 8);
            let sealed = event.clone().sealed(&by);
            prop_assert!(sealed.is_authentic(&by));
            prop_assert!(!event.is_authentic(&by), "without a code");
            prop_assert!(!sealed.is_authentic(&EventAuthenticator::new(&[8; 32], 8)), "another key");

            let mut changed = sealed.clone();
            let flip = |text: &mut String| {
                let mut chars: Vec<char> = text.chars().collect();
                let one = &mut chars[at.index(text.chars().count())];
                *one = char::from_u32(u32::from(*one) ^ (1 << bit)).unwrap_or('x');
                *text = chars.into_iter().collect();
            };
            match field {
                0 => flip(&mut changed.stream_type),
                1 => flip(&mut changed.stream_id),
                2 => changed.sequence ^= 1 << (at.index(62)),
                3 => flip(&mut changed.event_type),
                4 => flip(&mut changed.event_version),
                5 => {
                    let mut payload: Value = serde_json::from_str(&changed.payload).unwrap();
                    let Value::String(inner) = &mut payload["E"]["zz"] else { unreachable!() };
                    flip(inner);
                    changed.payload = payload.to_string();
                }
                6 => flip(changed.metadata.get_mut(MAC).unwrap()),
                7 => { changed.metadata.insert("zz".to_owned(), String::new()); }
                _ => match changed.metadata.iter_mut().find(|(key, _)| *key != MAC) {
                    Some((_, value)) => flip(value),
                    None => { changed.metadata.insert("z".to_owned(), "z".to_owned()); }
                },
            }
            prop_assert_ne!(&changed, &sealed);
            prop_assert!(!changed.is_authentic(&by));
        }

        /// PostgreSQL hands JSON out in another form than it was given.
        #[test]
        fn the_form_in_which_json_is_stored_makes_no_difference(event in events()) {
            let by = EventAuthenticator::new(&KEY, 8);
            let mut sealed = event.sealed(&by);
            let payload: Value = serde_json::from_str(&sealed.payload).unwrap();
            sealed.payload = format!(
                "{{\"E\" : {{\"zz\": {}, \"a\":{} }} }}", payload["E"]["zz"], payload["E"]["a"]
            );
            prop_assert!(sealed.is_authentic(&by));
        }
    }

    #[test]
    fn what_was_moved_between_neighbouring_fields_is_not_authentic() {
        let by = EventAuthenticator::new(&KEY, 0);
        let event = Owned {
            stream_type: "User".into(),
            stream_id: "ab".into(),
            sequence: 1,
            event_type: "cd".into(),
            event_version: "1".into(),
            payload: "{}".into(),
            metadata: BTreeMap::from([("actor".into(), "system".into())]),
        };
        let sealed = event.sealed(&by);
        let moved = Owned { stream_type: "Usera".into(), stream_id: "b".into(), ..sealed.clone() };
        assert!(sealed.is_authentic(&by) && !moved.is_authentic(&by));
    }

    #[test]
    fn only_events_up_to_the_boundary_need_no_code_and_the_boundary_is_bound() {
        let (by, later) = (EventAuthenticator::new(&KEY, 8), EventAuthenticator::new(&KEY, 9));
        let fields = EventFields {
            stream_type: "User",
            stream_id: "a",
            sequence: 1,
            event_type: "E",
            event_version: "1",
            payload: "{}",
        };
        assert!(by.is_authentic(8, &fields, "{}") && !by.is_authentic(9, &fields, "{}"));
        assert!(
            by.is_boundary_mac(&by.boundary_mac()) && !by.is_boundary_mac(&later.boundary_mac())
        );
        assert!(!by.is_boundary_mac(&[]));
    }

    #[test]
    fn metadata_that_is_no_flat_object_of_texts_is_not_authentic() {
        let by = EventAuthenticator::new(&KEY, 0);
        let fields = EventFields {
            stream_type: "User",
            stream_id: "a",
            sequence: 1,
            event_type: "E",
            event_version: "1",
            payload: "{}",
        };
        let mac = by.mac(&fields, []).unwrap();
        assert!(by.is_authentic(1, &fields, &format!("{{\"mac\":\"{mac}\"}}")));
        for metadata in ["", "[]", "{\"mac\":1}", "{\"mac\":\"\"}", "{\"mac\":\"AA\"}"] {
            assert!(!by.is_authentic(1, &fields, metadata), "{metadata}");
        }
        let nested = format!("{{\"mac\":\"{mac}\",\"x\":{{}}}}");
        assert!(!by.is_authentic(1, &fields, &nested));
    }

    #[test]
    fn the_number_in_a_stream_is_the_sequence_unless_the_metadata_says_another() {
        assert_eq!(number_in_stream(5, "{\"actor\":\"system\"}"), 5);
        assert_eq!(number_in_stream(5, "{\"number\":\"3\"}"), 3);
        assert_eq!(number_in_stream(5, "{\"actor\":\"\\\"number\\\"\"}"), 5);
    }
}
