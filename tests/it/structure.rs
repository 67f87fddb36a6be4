//! The architecture, held against the code: who may depend on whom, and what must be named everywhere.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let mut arrows = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if name == "entrybook-tests" {
            continue;
        }
        let mut ours: Vec<_> = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|dependency| dependency["path"].is_string())
            .map(|dependency| dependency["name"].as_str().unwrap().replace("entrybook-", ""))
            .collect();
        ours.sort();
        ours.dedup();
        arrows.insert(name.replace("entrybook-", ""), ours.join(" "));
    }
    let expected = [
        ("benchmarks", "commands domain postgres projections proof"),
        ("commands", "domain proof"),
        ("domain", ""),
        ("entrybook", "commands domain postgres projections proof ui"),
        ("postgres", ""),
        ("projections", "domain proof"),
        ("proof", ""),
        ("ui", ""),
    ];
    let expected = expected.map(|(from, to)| (from.to_owned(), to.to_owned()));
    assert_eq!(arrows, BTreeMap::from(expected));
}

#[test]
fn no_file_grows_past_where_it_can_be_read() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut long = Vec::new();
    for folder in [
        "domain",
        "proof",
        "commands",
        "projections",
        "ui",
        "postgres",
        "api",
        "benchmarks",
        "tests",
    ] {
        walk(&std::path::Path::new(root).join(folder), &mut |path, text| {
            if text.lines().count() > 650 {
                long.push(format!("{}: {} lines", path.display(), text.lines().count()));
            }
        });
    }
    assert!(long.is_empty(), "{long:#?}");
}

fn walk(folder: &std::path::Path, each: &mut impl FnMut(&std::path::Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}
