//! The settings that a server tells the history when it starts.
//!
//! A fixed list of those that bear on who gets in, for how long, what is kept and what is signed. What
//! may hold a secret or name a person is left out, or said to be set and no more: no address of a
//! database, no key, no path.

use super::{Key, Sources};
use domain::ServerSettings;
use sha2::{Digest, Sha256};

/// The most bytes of one value that are told as they are.
const LONGEST: usize = 1000;

/// Told as they were written.
const TOLD: [&str; 28] = [
    "listen",
    "public_url",
    "applications",
    "registration",
    "migrate",
    "access_token_lifetime",
    "refresh_lifetime",
    "remember_lifetime",
    "session_lifetime",
    "refresh_grace",
    "token_algorithm",
    "token_audience",
    "throttle_free_failures",
    "throttle_first_delay",
    "throttle_longest_delay",
    "throttle_forget",
    "address_throttle_free_failures",
    "address_throttle_forget_each",
    "registrations_per_hour",
    "changes_per_hour",
    "address_changes_per_hour",
    "trusted_proxies",
    "log_origin",
    "log_interval",
    "log_entries",
    "retention",
    "log",
    "log_format",
];
/// Told to be set: a path may name a person, an address may hold a password.
const SET: [&str; 2] = ["log_anchor_file", "log_anchor_url"];
/// Keys with the addresses of their owners: the keys are told.
const WITNESSES: &str = "log_witnesses";

/// The settings to be told, by their names.
pub(super) fn settings(sources: &Sources) -> ServerSettings {
    let value = |name: &str| {
        let (text, _) = sources.get(Key::named(name)?)?;
        Some(shortened(text))
    };
    let told = TOLD.into_iter().filter_map(|name| Some((name.to_owned(), value(name)?)));
    let set = SET.into_iter().filter_map(|name| {
        value(name)?;
        Some((name.to_owned(), "set".to_owned()))
    });
    let written = Key::named(WITNESSES).and_then(|key| sources.get(key));
    let witnesses =
        written.map(|(text, _)| (WITNESSES.to_owned(), shortened(&without_addresses(text))));
    told.chain(set).chain(witnesses).collect()
}

/// An event has a bound, and whoever wants to know whether a long value was changed can tell.
fn shortened(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let digest: String = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes, of the SHA-256 {digest}", text.len())
}

fn without_addresses(text: &str) -> String {
    let parts = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';'));
    let keys: Vec<_> = parts.filter(|part| !part.is_empty() && !part.contains("://")).collect();
    keys.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    #[test]
    fn no_secret_and_no_path_is_told() {
        for name in TOLD {
            let Some(key) = Key::named(name) else { panic!("{name} is no setting") };
            assert!(!key.is_secret(), "{name}");
            assert!(!["PATH", "FILE", "DIR"].contains(&key.value), "{name} is {}", key.value);
        }
        let given = [
            ("ENTRYBOOK_MASTER_KEY", "secret-1"),
            ("DATABASE_URL", "postgres://somebody:secret-2@db/book"),
            ("ENTRYBOOK_OWNER_DATABASE_URL", "postgres://somebody:secret-3@db/book"),
            ("ENTRYBOOK_ADMIN_PASSWORD", "secret-4"),
            ("ENTRYBOOK_ADMIN_EMAIL", "secret-5@example.org"),
            ("ENTRYBOOK_DATA_DIR", "/home/secret-6"),
            ("ENTRYBOOK_REGISTRATION", "closed"),
        ];
        let environment = given.map(|(name, value)| (name.into(), value.into()));
        let told = settings(&Sources::gather(&[], None, environment).unwrap());
        assert_eq!(told.get("registration").map(String::as_str), Some("closed"));
        assert_eq!(told.get("refresh_lifetime").map(String::as_str), Some("24h"));
        assert!(!format!("{told:?}").contains("secret"), "{told:?}");
        assert!(told.keys().all(|name| KEYS.iter().any(|key| key.name == name)));
    }

    #[test]
    fn a_long_value_is_told_by_its_digest() {
        assert_eq!(shortened("10.0.0.0/8"), "10.0.0.0/8");
        assert_eq!(shortened(&"x".repeat(LONGEST)).len(), LONGEST);
        let (one, other) = (shortened(&"x".repeat(70_000)), shortened(&"y".repeat(70_000)));
        assert!(one.starts_with("70000 bytes, of the SHA-256 ") && one.len() < 100, "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn of_witnesses_the_keys_are_told() {
        let given = "one+aaaaaaaa+AbC https://w1.example:s3cret@host/ two+bbbbbbbb+DeF http://w2/";
        assert_eq!(without_addresses(given), "one+aaaaaaaa+AbC two+bbbbbbbb+DeF");
    }
}
