//! Data keys, their references, and the text of sealed values. No IO here: which key a value names
//! is found out, and the keyring fetches it.

use std::{fmt, ops::Deref, str::FromStr, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, Utc};
use domain::{Sealed, UserId};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::primitives::{self, KeyBytes, NotAuthentic};
use crate::clock::Entropy;

/// The version of the text, and the first thing the associated data says.
const VERSION: &str = "s1";

/// A month of the calendar, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month {
    year: u16,
    month: u8,
}

impl Month {
    #[must_use]
    pub fn of(at: DateTime<Utc>) -> Self {
        let at = at.date_naive();
        Self {
            year: u16::try_from(at.year()).unwrap_or(0).min(9999),
            month: u8::try_from(at.month()).unwrap_or(1),
        }
    }

    /// The month after it.
    #[must_use]
    pub fn next(self) -> Self {
        match self.month {
            12.. => Self { year: self.year + 1, month: 1 },
            _ => Self { month: self.month + 1, ..self },
        }
    }

    /// When it is over: the first moment of the month after it.
    #[must_use]
    pub fn end(self) -> DateTime<Utc> {
        let Self { year, month } = self.next();
        NaiveDate::from_ymd_opt(i32::from(year), u32::from(month), 1)
            .map_or(DateTime::<Utc>::MAX_UTC, |day| day.and_time(NaiveTime::MIN).and_utc())
    }

    /// The months from one to another, both included; of more than `most` the last.
    pub(super) fn between(first: Self, last: Self, most: usize) -> Vec<Self> {
        let mut months = Vec::new();
        let mut month = last;
        while month >= first && months.len() < most {
            months.push(month);
            month = match (month.year.checked_sub(1), month.month) {
                (Some(year), 1) => Self { year, month: 12 },
                (None, 1) => break,
                (_, number) => Self { month: number.saturating_sub(1), ..month },
            };
        }
        months.reverse();
        months
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl FromStr for Month {
    type Err = NotSealed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (year, month) = text.split_once('-').ok_or(NotSealed)?;
        let month = Self {
            year: year.parse().map_err(|_| NotSealed)?,
            month: month.parse().map_err(|_| NotSealed)?,
        };
        if (1..=12).contains(&month.month) && month.to_string() == text {
            Ok(month)
        } else {
            Err(NotSealed)
        }
    }
}

/// Which key opens a value. Its text stands in the value, and its parts are ids of `sealing_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum KeyRef {
    /// `p:<user>`
    Person(UserId),
    /// `m:<YYYY-MM>`
    Month(Month),
    /// `p:<user>+m:<YYYY-MM>`: made of both keys, and gone with either.
    PersonAndMonth(UserId, Month),
    /// `s:<name>`: lower-case letters.
    Service(String),
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person(user) => write!(f, "p:{user}"),
            Self::Month(month) => write!(f, "m:{month}"),
            Self::PersonAndMonth(user, month) => write!(f, "p:{user}+m:{month}"),
            Self::Service(name) => write!(f, "s:{name}"),
        }
    }
}

impl FromStr for KeyRef {
    type Err = NotSealed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let reference = match text.split_once('+') {
            Some((person, month)) => {
                let (Self::Person(user), Self::Month(month)) = (person.parse()?, month.parse()?)
                else {
                    return Err(NotSealed);
                };
                Self::PersonAndMonth(user, month)
            }
            None => match text.split_once(':') {
                Some(("p", user)) => {
                    Self::Person(UserId(Uuid::try_parse(user).map_err(|_| NotSealed)?))
                }
                Some(("m", month)) => Self::Month(month.parse()?),
                Some(("s", name))
                    if (1..=32).contains(&name.len())
                        && name.bytes().all(|byte| byte.is_ascii_lowercase()) =>
                {
                    Self::Service(name.to_owned())
                }
                _ => return Err(NotSealed),
            },
        };
        // One spelling each: a UUID in capitals would name the same key by another text.
        if reference.to_string() == text { Ok(reference) } else { Err(NotSealed) }
    }
}

/// The text is no sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotSealed;

/// A data key and the reference that values sealed under it carry.
///
/// The key itself encrypts nothing: what does is derived from it, so that the same data key can
/// also make look-up values and take part in a joint key.
#[derive(Clone)]
pub struct SealingKey {
    reference: KeyRef,
    secret: Arc<KeyBytes>,
}

impl SealingKey {
    pub(super) fn new(reference: KeyRef, secret: KeyBytes) -> Self {
        Self { reference, secret: Arc::new(secret) }
    }

    pub(super) fn secret(&self) -> &[u8] {
        self.secret.as_slice()
    }

    /// The id of its row.
    pub(super) fn id(&self) -> String {
        self.reference.to_string()
    }

    /// A key for one purpose, out of this one.
    pub(super) fn derive(&self, info: &[&str]) -> KeyBytes {
        primitives::derive(self.secret(), info)
    }

    fn cipher_key(&self) -> KeyBytes {
        self.derive(&["entrybook/seal/v1"])
    }

    pub(super) fn seal(&self, entropy: &dyn Entropy, place: &str, plain: &[u8]) -> Sealed {
        let reference = self.id();
        let associated = associated(&reference, place);
        let sealed = primitives::encrypt(&self.cipher_key(), entropy, &associated, plain);
        Sealed(format!("{VERSION}.{reference}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    pub(super) fn open(
        &self,
        value: &SealedParts,
        place: &str,
    ) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let associated = associated(&value.reference.to_string(), place);
        primitives::decrypt(&self.cipher_key(), &associated, &value.bytes)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({}, …)", self.reference)
    }
}

/// A person's key. Whoever erases the person destroys it.
#[derive(Debug, Clone)]
pub struct PersonKey {
    user: UserId,
    key: SealingKey,
}

impl PersonKey {
    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    pub(super) fn new(user: UserId, secret: KeyBytes) -> Self {
        Self { user, key: SealingKey::new(KeyRef::Person(user), secret) }
    }

    /// A key made of this one and the month's: what it seals goes with the person and with the
    /// month, whichever is first.
    pub(super) fn and(&self, month: &MonthKey) -> SealingKey {
        let reference = KeyRef::PersonAndMonth(self.user, month.month);
        let both: Zeroizing<Vec<u8>> = Zeroizing::new([self.secret(), month.secret()].concat());
        let secret = primitives::derive(&both, &["entrybook/both/v1\0", &reference.to_string()]);
        SealingKey::new(reference, secret)
    }
}

/// A month's key, for what belongs to no account. It goes when the retention ends.
#[derive(Debug, Clone)]
pub struct MonthKey {
    month: Month,
    key: SealingKey,
}

impl MonthKey {
    pub(super) fn new(month: Month, secret: KeyBytes) -> Self {
        Self { month, key: SealingKey::new(KeyRef::Month(month), secret) }
    }

    #[must_use]
    pub fn month(&self) -> Month {
        self.month
    }
}

impl Deref for PersonKey {
    type Target = SealingKey;

    fn deref(&self) -> &SealingKey {
        &self.key
    }
}

impl Deref for MonthKey {
    type Target = SealingKey;

    fn deref(&self) -> &SealingKey {
        &self.key
    }
}

/// What a sealed value's text holds.
pub(super) struct SealedParts {
    pub(super) reference: KeyRef,
    bytes: Vec<u8>,
}

impl SealedParts {
    pub(super) fn parse(sealed: &Sealed) -> Result<Self, NotSealed> {
        let mut parts = sealed.0.split('.');
        let (Some(VERSION), Some(reference), Some(bytes), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotSealed);
        };
        Ok(Self {
            reference: reference.parse()?,
            bytes: URL_SAFE_NO_PAD.decode(bytes).map_err(|_| NotSealed)?,
        })
    }
}

/// Binds a value to its format, its key and its place. References have no NUL, so no two triples
/// give the same bytes.
fn associated(reference: &str, place: &str) -> Vec<u8> {
    [VERSION, reference, place].join("\0").into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SeededEntropy;

    fn person(n: u128) -> KeyRef {
        KeyRef::Person(UserId(Uuid::from_u128(n)))
    }

    fn month(text: &str) -> KeyRef {
        KeyRef::Month(text.parse().unwrap())
    }

    fn generate(reference: KeyRef, entropy: &dyn Entropy) -> SealingKey {
        SealingKey::new(reference, primitives::random_key(entropy))
    }

    fn open(key: &SealingKey, sealed: &str, place: &str) -> Option<Vec<u8>> {
        let parts = SealedParts::parse(&Sealed(sealed.to_owned())).ok()?;
        key.open(&parts, place).ok().map(|plain| plain.to_vec())
    }

    #[test]
    fn a_month_is_over_when_the_next_one_begins() {
        for (text, next, end) in [
            ("2026-01", "2026-02", "2026-02-01T00:00:00Z"),
            ("2026-12", "2027-01", "2027-01-01T00:00:00Z"),
        ] {
            let month: Month = text.parse().unwrap();
            assert_eq!(month.next().to_string(), next);
            assert_eq!(month.end(), end.parse::<DateTime<Utc>>().unwrap());
            assert_eq!(Month::of(month.end()), month.next());
        }
    }

    #[test]
    fn references_have_one_spelling() {
        let id = "0190b5c5-6a3e-7c10-8f5e-00000000002a";
        for text in [
            format!("p:{id}"),
            "m:2026-01".to_owned(),
            format!("p:{id}+m:2026-12"),
            "s:operators".to_owned(),
        ] {
            assert_eq!(text.parse::<KeyRef>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "p:",
            "p:7",
            "m:2026-13",
            "m:2026-00",
            "m:2026-1",
            "m:+026-01",
            "m:2026-01 ",
            "s:",
            "s:Operators",
            "s:a.b",
            "x:a",
            "m:2026-01+m:2026-02",
            &format!("m:2026-01+p:{id}"),
            &format!("p:{}", id.to_uppercase()),
            &format!("p:{}", id.replace('-', "")),
            &format!("p:{{{id}}}"),
            &format!("p:{id}+s:operators"),
            &format!("p:{id}+m:2026-01+m:2026-01"),
        ] {
            assert_eq!(text.parse::<KeyRef>(), Err(NotSealed), "{text:?}");
        }
    }

    #[test]
    fn a_value_opens_where_it_stood_and_nowhere_else() {
        let entropy = SeededEntropy::new(1);
        let key = generate(person(1), &entropy);
        let Sealed(sealed) = key.seal(&entropy, "User/1/email", b"ada@example.org");
        assert!(sealed.starts_with("s1.p:00000000-0000-0000-0000-000000000001."));
        assert_eq!(open(&key, &sealed, "User/1/email").unwrap(), b"ada@example.org");
        assert_eq!(open(&key, &sealed, "User/1/username"), None, "another field");
        assert_eq!(open(&key, &sealed, "User/2/email"), None, "another stream");

        let again = key.seal(&entropy, "User/1/email", b"ada@example.org");
        assert_ne!(again.0, sealed, "equal values look different");
    }

    #[test]
    fn a_value_under_another_reference_does_not_open() {
        let entropy = SeededEntropy::new(1);
        let key = generate(person(1), &entropy);
        let Sealed(sealed) = key.seal(&entropy, "place", b"value");
        // The same secret behind another name: the reference is authenticated too.
        let renamed = SealingKey::new(person(2), Zeroizing::new(**key.secret));
        let swapped = sealed.replace("000000000001.", "000000000002.");
        assert_ne!(swapped, sealed);
        assert_eq!(open(&renamed, &swapped, "place"), None);
        assert_eq!(open(&key, &swapped, "place"), None);
        assert_eq!(open(&key, &sealed.replacen("s1", "s2", 1), "place"), None);
    }

    #[test]
    fn months_are_counted_over_the_end_of_a_year() {
        let between = |first: &str, last: &str, most| {
            let months = Month::between(first.parse().unwrap(), last.parse().unwrap(), most);
            months.iter().map(Month::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(between("2025-11", "2026-02", 9), "2025-11 2025-12 2026-01 2026-02");
        assert_eq!(between("2025-11", "2026-02", 2), "2026-01 2026-02");
        assert_eq!(between("2026-02", "2026-02", 9), "2026-02");
        assert_eq!(between("2026-03", "2026-02", 9), "");
        assert_eq!(between("0000-01", "0000-02", 9), "0000-01 0000-02");
    }

    #[test]
    fn a_joint_key_needs_both() {
        let entropy = SeededEntropy::new(1);
        let [p, q] = [1, 2]
            .map(|n| PersonKey::new(UserId(Uuid::from_u128(n)), primitives::random_key(&entropy)));
        let [m, n] = ["2026-01", "2026-02"]
            .map(|month| MonthKey::new(month.parse().unwrap(), primitives::random_key(&entropy)));
        let both = p.and(&m);
        assert_eq!(both.id(), "p:00000000-0000-0000-0000-000000000001+m:2026-01");
        let Sealed(sealed) = both.seal(&entropy, "place", b"value");
        assert_eq!(open(&p.and(&m), &sealed, "place").unwrap(), b"value");
        for other in [&*p, &*m, &p.and(&n), &q.and(&m)] {
            assert_eq!(open(other, &sealed, "place"), None, "{other:?}");
        }
    }

    #[test]
    fn keys_are_never_printed() {
        let key = generate(month("2026-01"), &SeededEntropy::new(1));
        assert_eq!(format!("{key:?}"), "SealingKey(m:2026-01, …)");
        let month = MonthKey::new("2026-01".parse().unwrap(), Zeroizing::new([7; 32]));
        assert!(!format!("{month:?}").contains('7'), "{month:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = SealedParts::parse(&Sealed(text));
        }

        #[test]
        fn near_misses_do_not_open(
            version in "s[0-9]?",
            reference in "(p:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?\\+?(m:[0-9]{4}-[0-9]{2})?",
            bytes in "[A-Za-z0-9_=-]{0,90}",
        ) {
            let key = generate(month("2026-01"), &SeededEntropy::new(1));
            prop_assert_eq!(open(&key, &format!("{version}.{reference}.{bytes}"), "place"), None);
        }

        #[test]
        fn any_value_comes_back(plain in any::<Vec<u8>>(), place in any::<String>()) {
            let entropy = SeededEntropy::new(2);
            let key = generate(month("2026-01"), &entropy);
            let Sealed(sealed) = key.seal(&entropy, &place, &plain);
            prop_assert_eq!(open(&key, &sealed, &place), Some(plain));
        }
    }
}
