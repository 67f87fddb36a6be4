//! The whole benchmark on a tiny history: that it runs, and leaves no figure out. What the figures are
//! is not looked at.

use std::{path::Path, process::Command};

use serde_json::Value;

#[test]
fn a_tiny_run_has_every_figure() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("benchmarks-smoke");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_entrybook-benchmarks"))
            .arg("--out")
            .arg(&out)
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let page = run(&["--events", "1000", "--quick"]);

    let results = std::fs::read(out.join("results.json")).unwrap();
    let results: Value = serde_json::from_slice(&results).unwrap();
    for (part, how_many) in [
        ("histories", 3),
        ("sequencing", 3),
        ("first_builds", 3),
        ("sizes", 2),
        ("scans", 3),
        ("copies", 5),
        ("baseline", 2),
        ("proving", 2),
        ("appends", 3),
        ("lags", 3),
        ("costs", 3),
    ] {
        assert_eq!(results[part].as_array().map(Vec::len), Some(how_many), "{part}");
    }
    let mut missing = Vec::new();
    find_missing("", &results, &mut missing);
    missing.retain(|path| {
        // What a tiny history hasn't got, or what isn't of everything.
        let known =
            ["/longest_session", "/index", "/stored/0/rows", "/rebuild_seconds", "/micros/5/1"];
        // All streams are scanned where none is named.
        path != "/scans/0/streams" && !known.iter().any(|known| path.ends_with(known))
    });
    assert!(missing.is_empty(), "{missing:#?}");
    for lags in results["lags"].as_array().unwrap() {
        assert_eq!(lags["lags"].as_array().map(Vec::len), Some(6), "{lags}");
    }
    assert!(results["lags"][2]["rebuild_seconds"].is_number(), "{}", results["lags"][2]);

    // The page can be written again from the figures, and is the same.
    assert_eq!(run(&["page"]), page);
    std::fs::remove_dir_all(&out).unwrap();
}

/// What is null, or empty, and where. A figure that is no number is null in JSON.
fn find_missing(path: &str, value: &Value, missing: &mut Vec<String>) {
    match value {
        Value::Null => missing.push(path.to_owned()),
        Value::Array(parts) if parts.is_empty() => missing.push(path.to_owned()),
        Value::Array(parts) => {
            for (nth, part) in parts.iter().enumerate() {
                find_missing(&format!("{path}/{nth}"), part, missing);
            }
        }
        Value::Object(parts) => {
            for (name, part) in parts {
                find_missing(&format!("{path}/{name}"), part, missing);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
