//! The proof of the book by somebody else's hand: Go's own transparency log, and Python that was written from
//! the documentation. Neither shares code with Entrybook.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{Signed, exported, text};
use crate::support::{
    http::Api,
    tools::{find, with},
};

/// Where Debian and Fedora put the sources of Go's packages.
const GOPATH: &str = "/usr/share/gocode";

/// Runs a program to its end, which must be a good one; what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{error}");
    said
}

/// The same, which must not be.
fn fails(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file in which one letter of a leaf is another.
fn changed(signed: &Signed, export: &Path) -> PathBuf {
    let whole = std::fs::read_to_string(export).unwrap();
    let changed = whole.replacen(
        "\"position\":40,\"recorded_at\":\"2",
        "\"position\":40,\"recorded_at\":\"1",
        1,
    );
    assert_ne!(changed, whole);
    signed.file("changed.jsonl", changed.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn python_recomputes_the_root_and_verifies_the_signatures() {
    let signed = Signed::ended().await;
    let check = |export: &Path, key: &str, checkpoints: &[&Path]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/vectors/check_export.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(export).arg(key).args(checkpoints);
        command
    };
    let first = signed.file("first.txt", &signed.first.0);
    let last = signed.file("last.txt", &signed.last.0);
    let whole = exported(&signed, "whole.jsonl", &[]).await;
    let said = run(&mut check(&whole, signed.key(), &[&first, &last]));
    print!("{said}");
    assert!(said.contains("consistent with 2 other checkpoints"), "{said}");
    for words in
        [&["--type", "SessionStarted"][..], &["--type", "SignInFailed"], &["--after", "300"]]
    {
        let part = exported(&signed, &words.join(""), words).await;
        let said = run(&mut check(&part, signed.key(), &[&first]));
        print!("{words:?}: {said}");
    }
    let forger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    let error = fails(&mut check(&whole, &forger.verifier_key(), &[]));
    assert!(error.contains("the key has not signed it"), "{error}");
    let error = fails(&mut check(&changed(&signed, &whole), signed.key(), &[]));
    assert!(error.contains("NOT as it was signed: line 40 has another hash"), "{error}");
    let nothing = signed.file("nothing.jsonl", b"{\"export\":7}\n");
    let error = fails(&mut check(&nothing, signed.key(), &[]));
    assert!(error.starts_with("NOT as it was signed") && error.lines().count() == 1, "{error}");
    let other = ::proof::Checkpoint { root: ::proof::Hash([7; 32]), ..signed.first.1.clone() };
    let other = signed.file("other.txt", &other.sign(&[&forger]).unwrap());
    fails(&mut check(&whole, signed.key(), &[&other]));
}

/// CSV and OCSF, by a program that was written from the documentation.
#[tokio::test(flavor = "multi_thread")]
async fn python_checks_tables_and_finds_what_was_edited() {
    let signed = Signed::ended().await;
    let check = |export: &Path, key: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/vectors/check_export.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(export).arg(key);
        command
    };
    let forger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    for format in ["csv", "ocsf"] {
        let path = exported(&signed, format, &["--format", format]).await;
        let said = run(&mut check(&path, signed.key()));
        print!("{format}: {said}");
        assert!(said.contains("as they were written and signed by"), "{said}");
        let part = ["--format", format, "--type", "SignInFailed"];
        let part = exported(&signed, &format!("part.{format}"), &part).await;
        print!("{format}: {}", run(&mut check(&part, signed.key())));
        let error = fails(&mut check(&path, &forger.verifier_key()));
        assert!(error.contains("the key has not signed it"), "{error}");

        let whole = std::fs::read_to_string(&path).unwrap();
        let separator = if format == "csv" { "\r\n" } else { "\n" };
        let lines: Vec<&str> = whole.split_inclusive(separator).collect();
        let mut shorter = lines.clone();
        shorter.remove(20);
        let mut swapped = lines.clone();
        swapped.swap(20, 21);
        let mut doubled = lines.clone();
        doubled.insert(20, lines[20]);
        for (name, changed) in [
            ("edited", whole.replacen("127.0.0.1", "127.0.0.2", 1)),
            ("a line less", shorter.concat()),
            ("two lines that changed places", swapped.concat()),
            ("a line twice", doubled.concat()),
            ("without its end", lines[..lines.len() - 1].concat()),
            ("half of it", whole[..whole.len() / 2].to_owned()),
            ("something behind its end", format!("{whole}x{separator}")),
        ] {
            assert_ne!(changed, whole, "{name}");
            let file = signed.file("changed", changed.as_bytes());
            let error = fails(&mut check(&file, signed.key()));
            print!("{format}, {name}: {error}");
            assert!(error.starts_with("NOT as it was signed"), "{name}: {error}");
            assert_eq!(error.lines().count(), 1, "{name}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn go_recomputes_the_root_and_its_proofs_hold() {
    if !with("go") {
        return;
    }
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let proof = api.get("/log/proof/40").send().await.is(200).body;
    let proof = signed.file("proof.txt", &proof);
    let first = signed.file("first.txt", &signed.first.0);
    let whole = exported(&signed, "whole.jsonl", &[]).await;

    // Built of what the system has, with no module and no network.
    let go = find("ENTRYBOOK_TEST_GO", &["go"], "go");
    let program = signed.scratch.path().join("check");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/it/auditing/go/main.go");
    let mut build = Command::new(go);
    build.arg("build").arg("-o").arg(&program).arg(source).current_dir(signed.scratch.path());
    build.envs([("GO111MODULE", "off"), ("GOPATH", GOPATH), ("GOFLAGS", "")]);
    build.env("GOCACHE", signed.scratch.path().join("cache")).env("HOME", signed.scratch.path());
    run(&mut build);

    let check = |export: &Path, key: &str, older: &Path| {
        let mut command = Command::new(&program);
        command.args([text(export), key, text(older), text(&proof)]);
        command
    };
    let said = run(&mut check(&whole, signed.key(), &first));
    print!("{said}");
    for held in [
        "as it was signed by",
        "inclusion of",
        "the server's proof of line 40: holds",
        "consistency with",
    ] {
        assert!(said.contains(held), "{held}: {said}");
    }
    let forger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    let error = fails(&mut check(&whole, &forger.verifier_key(), &first));
    assert!(error.contains("the signature of a note"), "{error}");
    let error = fails(&mut check(&changed(&signed, &whole), signed.key(), &first));
    assert!(error.contains("another hash") || error.contains("should be"), "{error}");
    let other = ::proof::Checkpoint { root: ::proof::Hash([7; 32]), ..signed.first.1.clone() };
    let other = signed.file("other.txt", &other.sign(&[&forger]).unwrap());
    fails(&mut check(&whole, signed.key(), &other));
}
