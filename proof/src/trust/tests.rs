use chrono::{DateTime, Utc};
use tlog_tiles::Hash;

use super::*;
use crate::NoteSigner;

const ORIGIN: &str = "example.org/log";

fn key(seed: u8) -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, &[seed; 32]).expect("a key")
}

fn at() -> DateTime<Utc> {
    "2026-01-05T08:00:00.001001Z".parse().expect("a time")
}

fn says(old: &NoteSigner, new: &NoteSigner, last: u64) -> HandOver {
    HandOver {
        origin: ORIGIN.to_owned(),
        key: new.verifier_key(),
        old_id: old.key_id(),
        at: at(),
        first: last + 1,
        last,
    }
}

fn note(old: &NoteSigner, new: &NoteSigner, last: u64) -> String {
    says(old, new, last).sign(old, new).expect("signed")
}

fn checkpoint(key: &NoteSigner, size: u64) -> Vec<u8> {
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: Hash([7; 32]) };
    checkpoint.sign(&[key]).expect("signed")
}

fn trust(first: &NoteSigner) -> Trust {
    Trust::from(vec![first.verifier_key()])
}

#[test]
fn a_hand_over_has_one_form() {
    let note = note(&key(1), &key(2), 100);
    let id = key(1).key_id();
    let new = key(2).verifier_key();
    let text = format!(
        "entrybook log key v1\nexample.org/log\n{new}\n{id}\n2026-01-05T08:00:00.001001Z\n101\n100\n\n"
    );
    assert!(note.starts_with(&text), "{note}");
    assert_eq!(note.lines().filter(|line| line.starts_with('—')).count(), 2, "{note}");
    assert_eq!(HandOver::verify(&note, &key(1).verifier_key()).expect("it fits").last, 100);
    for (from, to) in [
        ("v1", "v2"),
        ("\n101\n", "\n0101\n"),
        ("\n101\n", "\n102\n"),
        ("\n100\n", "\n99\n"),
        ("08:00", "09:00"),
        ("001001Z", "001001+00:00"),
        ("\n100\n", "\n100\nmore\n"),
    ] {
        let other = note.replacen(from, to, 1);
        assert_ne!(other, note);
        HandOver::verify(&other, &key(1).verifier_key()).expect_err(to);
    }
}

#[test]
fn the_first_key_is_enough_for_any_number_of_rotations() {
    let notes: Vec<String> =
        (1..=50).map(|seed| note(&key(seed), &key(seed + 1), u64::from(seed) * 10)).collect();
    // In any order.
    let mut trust = trust(&key(1));
    let followed = trust.follow(notes.iter().rev().map(String::as_str));
    assert_eq!((followed.believed.len(), followed.ignored.len()), (50, 0));
    assert_eq!(followed.notes, notes, "in the order of the chain");
    assert_eq!(trust.current(&key(1).verifier_key()), key(51).verifier_key());
    for seed in 1..=51_u8 {
        let size = u64::from(seed) * 10;
        trust
            .checkpoint(&checkpoint(&key(seed), size.min(500)), ORIGIN)
            .map(drop)
            .or_else(|error| if seed == 51 { Ok(()) } else { Err(error) })
            .expect("its own size");
        trust
            .checkpoint(&checkpoint(&key(seed), size - 10), ORIGIN)
            .map(drop)
            .or_else(|error| if seed == 1 { Err(error) } else { Ok(()) })
            .expect("the first key may sign any size before");
    }
    trust.checkpoint(&checkpoint(&key(51), 501), ORIGIN).expect("the last key");
    // One that begins after the second rotation is followed from a key of that time.
    let mut later = Trust::from(vec![key(3).verifier_key()]);
    let followed = later.follow(notes.iter().map(String::as_str));
    assert_eq!((followed.believed.len(), followed.ignored.len()), (48, 2));
}

#[test]
fn each_key_signs_in_its_turn_alone() {
    let mut trust = trust(&key(1));
    let with_overlap = HandOver { first: 91, ..says(&key(1), &key(2), 100) };
    let with_overlap = with_overlap.sign(&key(1), &key(2)).expect("signed");
    assert_eq!(trust.follow([with_overlap.as_str()]).believed.len(), 1);
    let may = |seed: u8, size: u64| trust.checkpoint(&checkpoint(&key(seed), size), ORIGIN);
    for (seed, size) in [(1, 1), (1, 90), (1, 100), (2, 91), (2, 101), (2, 1_000_000)] {
        may(seed, size).expect("in its turn");
    }
    for (seed, size) in [(1, 101), (1, 1_000_000), (2, 1), (2, 90)] {
        let refused = may(seed, size).expect_err("out of its turn");
        assert!(matches!(refused, CheckpointError::OutOfTurn { .. }), "{seed} {size}: {refused}");
    }
    // A manifest may be younger than the checkpoint, and never by a key whose turn was over.
    let manifest = |seed: u8, size| {
        let note = crate::export::sign("text\n", &key(seed)).expect("signed");
        trust.signed(&String::from_utf8(note).expect("UTF-8"), ORIGIN, size)
    };
    manifest(1, 100).expect("its own");
    manifest(2, 50).expect("of an older checkpoint");
    manifest(1, 101).expect_err("its turn was over");
}

#[test]
fn what_is_no_hand_over_of_a_trusted_key_is_ignored_and_said() {
    let (first, forger) = (key(1), key(9));
    let elsewhere = |seed| NoteSigner::from_seed("example.org/other", &[seed; 32]).expect("a key");
    let of_another_log = HandOver {
        origin: "example.org/other".to_owned(),
        key: elsewhere(9).verifier_key(),
        old_id: elsewhere(1).key_id(),
        ..says(&first, &forger, 100)
    };
    let renamed = HandOver { old_id: first.key_id(), ..of_another_log.clone() };
    let signed_by_new_alone = says(&first, &forger, 100).sign(&forger, &forger);
    let without_possession = says(&first, &forger, 100).sign(&first, &key(8));
    for (name, note) in [
        ("by the new key alone", signed_by_new_alone.unwrap_or_default()),
        (
            "by the new key and a stranger",
            says(&first, &forger, 100).sign(&key(8), &forger).expect("signed"),
        ),
        ("without the new key's own signature", without_possession.expect("signed")),
        ("of another log", of_another_log.sign(&elsewhere(1), &elsewhere(9)).expect("signed")),
        (
            "of another log, with our key's id",
            renamed.sign(&elsewhere(1), &elsewhere(9)).expect("signed"),
        ),
        ("of a key that nobody trusts", note(&key(8), &forger, 100)),
        ("to itself", says(&first, &first, 100).sign(&first, &forger).expect("signed")),
        ("no note", "entrybook log key v1\n".to_owned()),
        ("a checkpoint", String::from_utf8(checkpoint(&first, 100)).expect("UTF-8")),
    ] {
        let mut trust = trust(&first);
        let followed = trust.follow([note.as_str()]);
        assert_eq!((followed.believed.len(), followed.ignored.len()), (0, 1), "{name}");
        assert_eq!(trust, self::trust(&first), "{name}");
    }
}

#[test]
fn a_key_that_has_handed_over_hands_over_no_more() {
    let (notes, again) = ([note(&key(1), &key(2), 100)], note(&key(1), &key(9), 200));
    let mut trust = trust(&key(1));
    let followed = trust.follow(notes.iter().map(String::as_str).chain([again.as_str()]));
    assert_eq!((followed.believed.len(), followed.ignored.len()), (1, 1));
    assert!(followed.ignored[0].contains("had handed over"), "{:?}", followed.ignored);
    // The same once more says nothing new, and no key comes back.
    let back = note(&key(2), &key(1), 300);
    let followed = trust.follow([notes[0].as_str(), back.as_str()]);
    assert_eq!((followed.believed.len(), followed.ignored.len()), (0, 1));
    // It does not begin before the one that hands over did.
    let early = note(&key(2), &key(3), 50);
    let followed = trust.follow([early.as_str()]);
    assert_eq!((followed.believed.len(), followed.ignored.len()), (0, 1));
    assert!(followed.ignored[0].contains("begins at 51"), "{:?}", followed.ignored);
}

#[test]
fn a_hand_over_bounds_a_key_that_was_given_too() {
    let mut trust = Trust::from(vec![key(1).verifier_key(), key(2).verifier_key()]);
    assert_eq!(trust.follow([note(&key(1), &key(2), 100).as_str()]).believed.len(), 1);
    trust.checkpoint(&checkpoint(&key(1), 101), ORIGIN).expect_err("the old key's turn is over");
    trust.checkpoint(&checkpoint(&key(2), 100), ORIGIN).expect_err("the new key's has not come");
    trust.checkpoint(&checkpoint(&key(2), 101), ORIGIN).expect("its turn");
}
