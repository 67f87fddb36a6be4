//! Proving the history: what is verified, what is exported, and what is found of what somebody did who may
//! do anything to the database.

mod believing;
mod export;
mod forging;
mod independent;
mod keeping;
mod resuming;
mod sending;
mod taking_out;
mod tampering;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use ::proof::Checkpoint;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    log::client::{all_is_signed, events, fast, keys},
    support::{
        database::TestDatabase,
        http::Api,
        scratch,
        server::{Server, Setup},
    },
};

/// The book of a server that has signed it more than once, and how to ask about it.
struct Signed {
    setup: Setup,
    database: TestDatabase,
    keys: Vec<String>,
    /// Of some lines, and of all of them.
    first: (Vec<u8>, Checkpoint),
    last: (Vec<u8>, Checkpoint),
    scratch: TempDir,
}

impl Signed {
    /// With more lines than are in a run; the server goes on.
    async fn serving() -> (Self, Server) {
        let (database, scratch) = (TestDatabase::create().await, scratch());
        let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
        let setup = setup.known_as("http://localhost:8080");
        let server = setup.start().await;
        let api = Api::new(server.url(""));
        let token = api.register("ada").await.refresh;
        for typed in ["ada", "=1+1", "nobody@example.org"] {
            let body = json!({ "identifier": typed, "password": "a wrong password" });
            let asked = api.post("/api/v1/auth/login").header("user-agent", "=Test,\"1\"");
            asked.json(body).send().await.is(401);
        }
        let token = refresh(&api, &database, token, 60).await;
        let first = all_is_signed(&api, database.pool()).await;
        api.register("ben").await;
        refresh(&api, &database, token, 300).await;
        let last = all_is_signed(&api, database.pool()).await;
        let keys = keys(&api).await;
        assert!(first.1.size >= 60 && last.1.size >= 300);
        (Self { setup, database, keys, first, last, scratch }, server)
    }

    /// The same, and the server has ended.
    async fn ended() -> Self {
        let (signed, server) = Self::serving().await;
        assert!(server.stop().await.success());
        // What it wrote last gets its line and its hash.
        let posted = audit(&signed.setup, &["tail", "-n", "1"]).await;
        assert!(posted.status.success(), "{}", String::from_utf8_lossy(&posted.stderr));
        signed
    }

    /// A file with these bytes.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn key(&self) -> &str {
        self.keys.last().unwrap()
    }
}

/// Refreshes until the book has so many lines.
async fn refresh(api: &Api, database: &TestDatabase, mut token: String, lines: u64) -> String {
    while events(database.pool()).await < lines {
        token = api.refresh(&token).await.tokens(200).refresh;
    }
    token
}

/// Runs `entrybook audit` with these words.
async fn audit(setup: &Setup, words: &[&str]) -> Output {
    let mut command = setup.command(&[&["audit"][..], words].concat());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Verifies, and tells the exit code and the report.
async fn verify(setup: &Setup, words: &[&str]) -> (i32, Value) {
    let output = audit(setup, &[&["verify", "--json"][..], words].concat()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code().unwrap(), report.unwrap_or_else(|_| panic!("no report: {error}")))
}

/// What a report says is wrong, without the words.
fn found(report: &Value) -> Vec<Value> {
    let answers = ["integrity", "completeness"].map(|answer| report[answer].clone());
    let mut found = Vec::new();
    for answer in answers {
        let findings = answer["findings"].as_array().unwrap().clone();
        assert_eq!(answer["sound"], findings.is_empty(), "{report}");
        assert_eq!(answer["in_all"], findings.len(), "{report}");
        found.extend(findings);
    }
    for finding in &mut found {
        let says = finding.as_object_mut().unwrap().remove("says");
        assert!(!says.unwrap().as_str().unwrap().is_empty());
    }
    found.sort_by_key(Value::to_string);
    found
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An export of all lines, made by the command line.
async fn exported(signed: &Signed, name: &str, words: &[&str]) -> PathBuf {
    let path = signed.scratch.path().join(name);
    let output =
        audit(&signed.setup, &[&["export", "--out", text(&path)][..], words].concat()).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    assert!(error.contains(" up to the last checkpoint"), "{error}");
    path
}
