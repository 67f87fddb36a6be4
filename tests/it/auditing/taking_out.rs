//! Runs of lines that were taken out of an export, and files that are none.

use std::fs;

use serde_json::{Value, json};

use super::{Signed, audit, export::nowhere, exported, found, text, verify};

/// The number in a file of the record of a line of the book.
fn at(format: &str, lines: &[&str], position: u64) -> usize {
    let is_its = |line: &&str| match format {
        "jsonl" => line.contains(&format!("\"position\":{position},")),
        "csv" => line.starts_with(&format!("{position},")),
        _ => line.contains(&format!("\"sequence\":{position},")),
    };
    lines.iter().position(is_its).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_lines_that_was_taken_out_is_one_finding_whatever_the_form() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    for format in ["jsonl", "csv", "ocsf"] {
        let path = exported(&signed, format, &["--format", format]).await;
        let whole = fs::read_to_string(&path).unwrap();
        let separator = if format == "csv" { "\r\n" } else { "\n" };
        let lines: Vec<&str> = whole.split_inclusive(separator).collect();
        let (code, report) = verify(&offline, &[text(&path), "--key", signed.key()]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
        let size = report["lines"].as_u64().unwrap();
        let begins = usize::from(format != "ocsf");
        let runs: &[&[(u64, u64)]] = &[
            &[(1, 20)],
            &[(1, 270)],
            &[(40, 60)],
            &[(250, 290)],
            &[(size - 10, size)],
            &[(200, size)],
            &[(1, 3), (50, 50), (240, 280), (size, size)],
        ];
        for runs in runs {
            let mut kept = lines.clone();
            for (first, last) in runs.iter().rev() {
                // The first with the hashes before it.
                let from = if *first == 1 { begins } else { at(format, &kept, *first) };
                kept.drain(from..=at(format, &kept, *last));
            }
            let file = signed.file("cut", kept.concat().as_bytes());
            let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
            println!("{format} {runs:?}: exit {code}, {}", report["completeness"]);
            assert_eq!((code, found(&report).len()), (7, runs.len()), "{report:#}");
            assert_eq!(report["signed"], format == "jsonl" && report["proved"] != 0, "{report:#}");
            let findings = report["completeness"]["findings"].as_array().unwrap();
            let words = audit(&offline, &["verify", text(&file), "--key", signed.key()]).await;
            let words = String::from_utf8(words.stdout).unwrap();
            for ((first, last), finding) in runs.iter().zip(findings) {
                let named = match finding["kind"].as_str().unwrap() {
                    "deleted" => (finding["first"].clone(), finding["last"].clone()),
                    "cut_tail" => {
                        let lines = finding["lines"].as_u64().unwrap();
                        ((lines + 1).into(), finding["size"].clone())
                    }
                    kind => panic!("{kind}: {report:#}"),
                };
                assert_eq!(named, ((*first).into(), (*last).into()), "{report:#}");
                let named = if first == last {
                    format!("line {first} was")
                } else {
                    format!("lines {first} to {last} were")
                };
                assert!(words.contains(&named), "{named}: {words}");
            }
        }
        // What is done beside it is not hidden by it.
        let mut moved = lines.clone();
        moved.drain(at(format, &moved, 40)..=at(format, &moved, 60));
        let number = at(format, &moved, 100);
        moved.swap(number, number + 1);
        let file = signed.file("moved", moved.concat().as_bytes());
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        assert_eq!(code, 6, "{format}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_can_not_be_verified_is_told_in_json_on_standard_output() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    let path = exported(&signed, "whole.jsonl", &[]).await;
    let whole = fs::read(&path).unwrap();
    let half = signed.file("half.jsonl", &whole[..whole.len() / 2]);
    let empty = signed.file("empty.jsonl", b"");
    let latin = signed.file("latin.jsonl", b"\xe4\xf6\xfc\n");
    let zipped = signed.file("whole.jsonl.gz", &[&[0x1f, 0x8b, 8][..], &[0; 40], b"\n"].concat());
    let zeros = signed.file("zeros.jsonl", &[0; 3 << 20]);
    let spoilt: Vec<u8> = whole.split(|byte| *byte == b'\n').nth(2).unwrap().to_vec();
    let headless = signed.file("headless.jsonl", &[&spoilt[..], b"\n"].concat());
    let no_checkpoint = signed.file("note.txt", b"nothing of the kind\n");
    let (key, directory) = (signed.key(), signed.scratch.path());
    let missing = directory.join("missing.jsonl");
    let cases: &[(&str, &[&str], i32)] = &[
        ("a file that was cut off", &[text(&half), "--key", key], 7),
        ("an empty file", &[text(&empty), "--key", key], 7),
        ("a file without its first line", &[text(&headless), "--key", key], 6),
        ("what is not UTF-8", &[text(&latin), "--key", key], 4),
        ("gzip", &[text(&zipped), "--key", key], 4),
        ("zeros", &[text(&zeros), "--key", key], 4),
        ("a file that is not there", &[text(&missing), "--key", key], 1),
        ("a directory", &[text(directory), "--key", key], 1),
        ("no key", &[text(&path)], 2),
        ("a key that is none", &[text(&path), "--key", "log+zz+"], 2),
        ("a file of keys that is binary", &[text(&path), "--key", text(&latin)], 2),
        (
            "a checkpoint that is none",
            &[text(&path), "--key", key, "--checkpoint", text(&no_checkpoint)],
            2,
        ),
        (
            "a checkpoint that is not there",
            &[text(&path), "--key", key, "--checkpoint", text(&missing)],
            1,
        ),
        ("no database", &[], 4),
        ("an option that is none", &["--nonsense"], 2),
    ];
    for (name, words, code) in cases {
        let output = audit(&offline, &[&["verify", "--json"][..], words].concat()).await;
        let printed = String::from_utf8(output.stdout).unwrap();
        println!("{name}: {:?} {printed}", output.status.code());
        assert_eq!(output.status.code(), Some(*code), "{name}: {printed}");
        let printed: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{name}: {error} in {printed:?}"));
        if let 6 | 7 = code {
            assert!(!found(&printed).is_empty(), "{name}: {printed}");
        } else {
            assert_eq!(printed["error"]["exit_code"], json!(code), "{name}: {printed}");
            assert!(!printed["error"]["message"].as_str().unwrap().is_empty(), "{name}");
            let told: Value = serde_json::from_slice(&output.stderr).unwrap();
            assert_eq!(told, printed, "{name}: the same on standard error");
        }
    }
}
