//! The settings that a server tells the history when it starts.
//!
//! A fixed list of those that bear on who gets in, for how long, what is kept and what is signed. What
//! may hold a secret or name a person is left out, or said to be set and no more: no address of a
//! database, no key, no path.

use super::{Key, Sources};
use domain::ServerSettings;

/// Told as they were written.
const TOLD: [&str; 26] = [
    "listen",
    "public_url",
    "registration",
    "migrate",
    "access_token_lifetime",
    "refresh_lifetime",
    "remember_lifetime",
    "refresh_grace",
    "token_algorithm",
    "token_audience",
    "throttle_free_failures",
    "throttle_first_delay",
    "throttle_longest_delay",
    "throttle_forget",
    "address_throttle_free_failures",
    "address_throttle_first_delay",
    "address_throttle_longest_delay",
    "address_throttle_forget",
    "registrations_per_hour",
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
        Some(text.to_owned())
    };
    let told = TOLD.into_iter().filter_map(|name| Some((name.to_owned(), value(name)?)));
    let set = SET.into_iter().filter_map(|name| {
        value(name)?;
        Some((name.to_owned(), "set".to_owned()))
    });
    let witnesses = value(WITNESSES).map(|text| (WITNESSES.to_owned(), without_addresses(&text)));
    told.chain(set).chain(witnesses).collect()
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
    fn of_witnesses_the_keys_are_told() {
        let given = "one+aaaaaaaa+AbC https://w1.example:s3cret@host/ two+bbbbbbbb+DeF http://w2/";
        assert_eq!(without_addresses(given), "one+aaaaaaaa+AbC two+bbbbbbbb+DeF");
    }
}
