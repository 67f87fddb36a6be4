//! What each fold makes of the sample book is written down in `fixtures/folds.json`, so that no fold
//! and no table changes without a new version.

use std::collections::BTreeMap;

use crate::{Fingerprint, all, view::OTHER_TABLES};

const PINNED: &str = include_str!("../fixtures/folds.json");

#[test]
fn no_fold_changes_without_a_new_version() {
    let pinned: BTreeMap<String, Fingerprint> = serde_json::from_str(PINNED).unwrap();
    let mut changed = Vec::new();
    let mut unwritten = Vec::new();
    let mut now = pinned.clone();
    for projection in all() {
        let version = format!("{} v{}", projection.name(), projection.version());
        let known = pinned.get(&version).cloned().unwrap_or_default();
        let ours = projection.fingerprint();
        assert!(
            projection.tables().len() == 1 || ours.keys().any(|line| line.ends_with(OTHER_TABLES)),
            "{version} has several tables; `View::also` says what the others are given"
        );
        for (line, hash) in &ours {
            match known.get(line) {
                Some(pinned) if pinned == hash => {}
                Some(_) => changed.push(format!("{version}, {line}")),
                None => unwritten.push(format!("{version}, {line}")),
            }
        }
        for line in known.keys().filter(|line| !ours.contains_key(*line)) {
            changed.push(format!("{version}, {line}, which is gone"));
        }
        now.insert(version, ours);
    }
    assert!(
        changed.is_empty(),
        "These make something else of the same events than their version does in every database there \
         is: {changed:#?}\nGive the projection a new VERSION: it is then built beside the old one. Or \
         take the change back. (Each line is named by its number in domain/fixtures/book.jsonl.)"
    );
    assert!(
        unwritten.is_empty(),
        "These are not yet in projections/fixtures/folds.json: {unwritten:#?}\nIf you have added lines \
         to the sample book or given a projection a new VERSION, the file becomes:\n{}",
        serde_json::to_string_pretty(&now).unwrap()
    );
}
