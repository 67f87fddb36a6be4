//! The description of the API, held against the running server by schemathesis, which makes up
//! thousands of requests from it, right ones and wrong ones: every answer has to be one that is
//! described, and none a fault of ours.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{
    http::{Api, password_of},
    server::Tokens,
    shared::Running,
    tools,
};

/// Nothing may be throttled, or most answers would be 429; tokens must outlast the run.
const SETTINGS: [(&str, &str); 7] = [
    ("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "1000000"),
    ("ENTRYBOOK_CHANGES_PER_HOUR", "1000000"),
    ("ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR", "1000000"),
    ("ENTRYBOOK_THROTTLE_FREE_FAILURES", "1000000"),
    ("ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES", "1000000"),
    ("ENTRYBOOK_ACCESS_TOKEN_LIFETIME", "8h"),
    ("ENTRYBOOK_REFRESH_GRACE", "5m"),
];
/// The same requests in every run.
const SEED: &str = "20260101";

fn schemathesis() -> PathBuf {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/schemathesis");
    if std::env::var_os("ENTRYBOOK_TEST_SCHEMATHESIS").is_none() && local.exists() {
        return local;
    }
    tools::find("ENTRYBOOK_TEST_SCHEMATHESIS", &["schemathesis"], "schemathesis")
}

/// Runs it to its end, and gives what it printed.
async fn run(
    description: &str,
    token: Option<&str>,
    settings: &Path,
    arguments: &[&str],
) -> (bool, String) {
    let mut command = Command::new(schemathesis());
    command
        .args(["--config-file".as_ref(), settings.as_os_str()])
        .args(["run", description, "--seed", SEED, "--continue-on-failure"])
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(settings.parent().unwrap())
        .kill_on_drop(true);
    for proxy in
        ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env_remove(proxy);
    }
    if let Some(token) = token {
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let output = command.output().await.unwrap();
    let printed = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), printed)
}

/// A server, its description, and a place for what schemathesis writes.
struct Subject {
    running: Running,
    api: Api,
    description: String,
    place: tempfile::TempDir,
}

impl Subject {
    async fn start() -> Self {
        let running = Running::start(&SETTINGS).await;
        let api = running.api();
        let description = api.url("/api/v1/openapi.json");
        Self { running, api, description, place: crate::support::scratch() }
    }

    fn settings(&self, extra: &str) -> PathBuf {
        let path = self.place.path().join("settings.toml");
        std::fs::write(&path, format!("{}{extra}", include_str!("schemathesis.toml"))).unwrap();
        path
    }

    /// The run must find nothing, and the server must have come through it.
    async fn passes(&self, token: Option<&str>, extra: &str, arguments: &[&str]) {
        let (passed, printed) =
            run(&self.description, token, &self.settings(extra), arguments).await;
        let log = self.running.server.log();
        let loud = |line: &&str| line.contains("ERROR") || line.contains("WARN");
        let loud: Vec<_> = log.lines().filter(loud).collect();
        assert!(passed, "{printed}\n{}", loud.join("\n"));
        assert!(printed.contains("passed"), "{printed}");
        let log = self.running.server.log();
        assert!(
            !log.contains("panicked") && !log.contains("\"ERROR\"") && !log.contains(" ERROR "),
            "{log}"
        );
        self.api.get("/readyz").send().await.is(200);
    }

    /// Somebody with every role, so that nothing is refused for want of one.
    async fn admin(&self) -> Tokens {
        self.api.admin().await
    }
}

/// A run whose requests are all refused for want of a token has looked at nothing.
const MUST_BE_SIGNED_IN: &str = "\n[warnings]\nfail-on = [\"missing_auth\"]\n";

#[tokio::test]
async fn every_answer_to_somebody_signed_in_is_as_described() {
    if !tools::with("schemathesis") {
        return;
    }
    let subject = Subject::start().await;
    let admin = subject.admin().await;
    // The first two end the session that everything else is asked with, and the next three may: what answers
    // tell of an admin is asked with, too. The others answer without end.
    let standing = ["disable_user", "change_roles", "erase_user"];
    let without = ["logout", "end_session", "follow_projections", "follow_history"];
    let without = [&standing[..], &without].concat();
    let without: Vec<_> =
        without.into_iter().flat_map(|id| ["--exclude-operation-id", id]).collect();
    let phases = ["--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "40"];
    subject.passes(Some(&admin.access), MUST_BE_SIGNED_IN, &[&without[..], &phases].concat()).await;
    let me = subject.api.me(&admin.access).await.is(200).json();
    assert_eq!(
        me["roles"],
        json!(["user", "auditor", "admin"]),
        "it was signed in, as an admin, to the end"
    );
    let standing: Vec<_> =
        standing.into_iter().flat_map(|id| ["--include-operation-id", id]).collect();
    let phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "40"];
    subject.passes(Some(&admin.access), "", &[&standing[..], &phases].concat()).await;
}

#[tokio::test]
async fn every_answer_to_a_stranger_and_to_who_leaves_is_as_described() {
    if !tools::with("schemathesis") {
        return;
    }
    let subject = Subject::start().await;
    let admin = subject.admin().await;
    let phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "25"];
    let leaving = ["--include-operation-id", "logout", "--include-operation-id", "end_session"];
    subject.passes(Some(&admin.access), "", &[&leaving[..], &phases].concat()).await;
    let others = subject.api.register("stays").await;
    subject.passes(None, "", &phases).await;
    subject.api.me(&others.access).await.is(200);
    subject.api.sign_in_with("stays", &password_of("stays")).await;
}

/// The runs above can fail: of a description that says something else, they do.
#[tokio::test]
async fn a_description_that_is_wrong_is_found_out() {
    if !tools::with("schemathesis") {
        return;
    }
    let subject = Subject::start().await;
    let admin = subject.admin().await;
    let mut description = subject.api.get("/api/v1/openapi.json").send().await.is(200).json();
    description["components"]["schemas"]["User"]["properties"]["username"]["type"] =
        "integer".into();
    let audit = &mut description["paths"]["/api/v1/audit"]["get"]["responses"];
    audit.as_object_mut().unwrap().remove("422").unwrap();
    let file = subject.place.path().join("wrong.json");
    std::fs::write(&file, description.to_string()).unwrap();
    let base = subject.api.url("");
    let arguments =
        ["--url", &base, "--include-operation-id", "me", "--include-operation-id", "read_history"];
    let settings = subject.settings("");
    let (passed, printed) =
        run(file.to_str().unwrap(), Some(&admin.access), &settings, &arguments).await;
    assert!(!passed, "{printed}");
    assert!(printed.contains("Undocumented status code"), "{printed}");
    assert!(printed.contains("Response violates schema"), "{printed}");
}

/// `entrybook openapi` prints what the server serves, so that a client can be made without one.
#[tokio::test]
async fn the_command_line_prints_what_is_served() {
    let running = Running::shared().await;
    let served = running.api().get("/api/v1/openapi.json").send().await.is(200).json();
    let printed = running.setup.command(&["openapi"]).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(printed, served);
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
}
