//! The proof of the book, by somebody else's hand.

use std::process::Command;

/// The check was written in Python from `docs/transparency-log.md`, and shares nothing with the crate.
#[test]
fn the_test_vectors_follow_from_the_documentation() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/vectors/check.py");
    let output = Command::new("python3").arg(vectors).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all as documented"), "{said}");
}
