//! `--key`: verifier keys of the log as they are given, or files of them.

use super::usage;
use anyhow::Context as _;
use proof::is_verifier_key;
use std::fs;
use std::path::Path;

/// What was given as keys: each is one, or a file that has some.
pub(super) fn given(words: &[String]) -> anyhow::Result<Vec<String>> {
    let mut keys = Vec::new();
    for text in words {
        if is_verifier_key(text.trim()) {
            keys.push(text.trim().to_owned());
            continue;
        }
        let path = Path::new(text);
        if !path.exists() {
            return Err(usage(format!(
                "--key {text}: this is neither a verifier key, as `entrybook log key` prints it, nor a file with some."
            )));
        }
        let found = fs::read(path).with_context(|| format!("{text} could not be read"))?;
        let before = keys.len();
        for line in String::from_utf8_lossy(&found).lines().map(str::trim) {
            // What else `entrybook log key` says of them stands behind a space.
            let word = line.split_whitespace().next().unwrap_or_default();
            if is_verifier_key(word) {
                keys.push(word.to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                return Err(usage(format!("--key {text}: {word:?} in it is no verifier key.")));
            }
        }
        if keys.len() == before {
            return Err(usage(format!("--key {text}: there is no key in it.")));
        }
    }
    Ok(keys)
}
