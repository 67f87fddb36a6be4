//! Every text that is named exists, and every text that exists is named.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ui::{
    EVENT_TYPES, SERVICE_OUTCOMES, SESSION_END_REASONS, SESSION_METHODS, SIGN_IN_FAILURE_REASONS,
};

/// What stands before the id of a text, in Rust and in templates.
const BEFORE_AN_ID: [&str; 6] =
    [".t(\"", ".t_with(\"", ".t_count(\"", ".time(\"", "get_with(\"", "MessageId(\""];

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, extension, found);
            } else if path.extension().is_some_and(|own| own == extension) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), extension, &mut found);
    assert!(!found.is_empty(), "no file in {folder}");
    found
}

/// The file without its unit tests, and without white space after opening parentheses.
fn readable(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap().to_owned();
    text.split('(').map(str::trim_start).collect::<Vec<_>>().join("(")
}

fn named() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for path in files("src", "rs").into_iter().chain(files("templates", "html")) {
        let text = readable(&path);
        for before in BEFORE_AN_ID {
            let mentions = text.split(before).skip(1).filter_map(|rest| rest.split('"').next());
            ids.extend(mentions.filter(|id| *id != "…").map(str::to_owned));
        }
    }
    ids.extend(EVENT_TYPES.map(|event_type| format!("event-{event_type}")));
    let reasons = SESSION_END_REASONS
        .into_iter()
        .chain(SIGN_IN_FAILURE_REASONS)
        .chain(SESSION_METHODS)
        .chain(SERVICE_OUTCOMES);
    ids.extend(reasons.map(|reason| format!("reason-{reason}")));
    ids
}

fn written(locale: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for path in files(&format!("locales/{locale}"), "ftl") {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
        ids.extend(lines.filter_map(|line| line.split(" =").next()).map(str::to_owned));
    }
    ids
}

/// The texts that other texts hold, as `{ brand }`.
fn referenced(locale: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for path in files(&format!("locales/{locale}"), "ftl") {
        let text = fs::read_to_string(path).unwrap();
        let braces = text.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let plain = braces
            .map(str::trim)
            .filter(|inner| inner.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
        ids.extend(plain.map(str::to_owned));
    }
    ids
}

#[test]
fn no_text_is_missing_and_none_is_left_over() {
    let named: BTreeSet<_> = named().union(&referenced("en")).cloned().collect();
    let written = written("en");
    assert!(named.len() > 150, "the search for ids has lost its way: {named:?}");
    let missing: Vec<_> = named.difference(&written).collect();
    let left_over: Vec<_> = written.difference(&named).collect();
    assert!(missing.is_empty(), "named, but not in locales/en: {missing:?}");
    assert!(left_over.is_empty(), "in locales/en, but never named: {left_over:?}");
}
