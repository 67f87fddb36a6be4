//! The verbs beside a running server, and without one.

use super::*;
use crate::support::scratch;
use sqlx::Connection;
use std::io::Write;
use std::process::Stdio;

const USER: &str = "ada@example.org";

fn with_input(setup: &Setup, arguments: &[&str], input: &str) -> Answer {
    let mut child = setup
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Answer::of(child.wait_with_output().unwrap())
}

#[tokio::test]
async fn verbs_work_beside_a_running_server() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let server = Serving::start(&setup).await;

    // Made by the command line, known to the server at once.
    let create = [
        "admin",
        "create",
        "--email",
        USER,
        "--username",
        "ada",
        "--role",
        "user",
        "--password-stdin",
    ];
    let said = with_input(&setup, &create, "the password of ada\nand more\n").ok();
    assert_eq!(said, format!("Made ada ({USER}), user.\n"));
    assert_eq!(server.sign_in("ada", "the password of ada").await, 200);
    let said = with_input(&setup, &create, "the password of ada\n").refused(4);
    assert!(said.contains("already taken"), "{said}");
    let said = with_input(&setup, &create, "short\n").refused(2);
    assert!(said.contains("at least 8 characters"), "{said}");

    let reset = run(&setup, &["admin", "reset-password", "ADA", "--json"]).json();
    let password = reset["generated_password"].as_str().unwrap();
    assert_eq!(server.sign_in("ada", "the password of ada").await, 401);
    assert_eq!(server.sign_in("ada", password).await, 200);
    assert!(run(&setup, &["admin", "reset-password", "nobody"]).refused(4).contains("no account"));

    let admins = run(&setup, &["admin", "list", "--json"]).json();
    assert_eq!(admins.as_array().unwrap().len(), 1);
    let all = run(&setup, &["admin", "list", "--all"]).ok();
    assert!(all.contains("ada") && all.contains(USER) && all.contains("REGISTERED"), "{all}");

    // The command line is named in the history as who did it.
    let tail = run(&setup, &["audit", "tail", "--user", "ada", "--json"]).ok();
    let lines: Vec<Value> = tail.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["type"], "UserRegistered");
    assert_eq!(lines[0]["actor"]["kind"], "cli");
    assert_eq!(lines[0]["person"]["label"], "ada");
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap().name;
    assert!(lines[0]["actor"]["label"].as_str().unwrap().starts_with(&me), "{}", lines[0]);
    let failed = run(&setup, &["audit", "tail", "--type", "SignInFailed"]).ok();
    assert!(failed.contains("wrong_password") && failed.contains("127.0.0.1"), "{failed}");
    assert!(
        run(&setup, &["audit", "tail", "--type", "Nonsense"]).refused(2).contains("SignInFailed")
    );

    let searched = run(&setup, &["audit", "tail", "--type", "HistorySearched"]).ok();
    let asked = format!("user {}\n", lines[0]["person"]["id"].as_str().unwrap());
    assert!(searched.contains(&asked) && searched.contains("types SignInFailed\n"), "{searched}");
    let said = run(&setup, &["audit", "tail", "--session", "xx"]).refused(2);
    assert!(said.contains("write the id of a session"), "{said}");
    let backwards = ["audit", "tail", "--from", "2026-02-01", "--to", "2026-01-01"];
    assert!(run(&setup, &backwards).refused(2).contains("lies before"));

    let position = lines[0]["position"].to_string();
    let shown = run(&setup, &["audit", "show", &position]).ok();
    assert!(shown.contains(USER), "{shown}");
    assert!(!shown.contains("s1."), "what stays sealed is not shown: {shown}");
    assert!(run(&setup, &["audit", "show", "100000"]).refused(4).contains("no line"));

    let status = run(&setup, &["projections", "status", "--json"]).json();
    assert!(status.as_array().unwrap().iter().all(|one| one["state"] == "live"), "{status}");
    assert!(
        run(&setup, &["projections", "rebuild", "users"]).ok().starts_with("users: built anew")
    );
    assert!(
        run(&setup, &["projections", "rebuild", "nonsense"]).refused(4).contains("audit_history")
    );

    assert!(run(&setup, &["migrate"]).ok().contains("nothing to do"));
    let doctor = run(&setup, &["doctor", "--json"]).json();
    assert_eq!(doctor["healthy"], true, "{doctor}");
    let checks = doctor["checks"].as_array().unwrap();
    let guard = checks.iter().find(|check| check["name"] == "append-only").unwrap();
    assert_eq!(guard["status"], "ok", "{guard}");

    // Not even who has the login's password can take the guard away.
    let login = postgres::join(&setup.data_dir).unwrap().unwrap().url();
    let mut login = sqlx::PgConnection::connect(&login).await.unwrap();
    for statement in [
        "SET ROLE NONE; ALTER TABLE events DISABLE TRIGGER append_only",
        "SET ROLE NONE; DROP TABLE events",
        "SET ROLE NONE; DROP SCHEMA public CASCADE",
        "SET ROLE NONE; DROP FUNCTION refuse_rewriting CASCADE",
        "SET ROLE NONE; UPDATE events SET payload = '{}'",
        "DROP DATABASE entrybook",
        "SET ROLE postgres",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&mut login).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    login.close().await.unwrap();
}

#[tokio::test]
async fn verbs_without_a_server_start_the_database_and_stop_it_again() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    assert!(!setup.data_dir.exists());
    // In the wrong directory, verbs say where they looked, and make nothing.
    let here = setup.data_dir.to_str().unwrap();
    let doctor = run(&setup, &["doctor"]);
    assert_eq!(doctor.code, 5, "{}", doctor.err);
    assert!(doctor.out.contains(&format!("There is no database in {here}")), "{}", doctor.out);
    for verb in [
        &["admin", "list"][..],
        &["admin", "reset-password", "ada"],
        &["audit", "tail"],
        &["projections", "status"],
        &["projections", "rebuild", "users"],
    ] {
        let said = run(&setup, verb).refused(4);
        assert!(said.contains(&format!("There is no database in {here}")), "{said}");
    }
    assert!(!setup.data_dir.exists(), "nothing was made");

    let made = ["admin", "create", "--email", USER, "--username", "ada", "--json"];
    let made = run(&setup, &made).json();
    assert_eq!(made["roles"], serde_json::json!(["user", "auditor", "admin"]));
    nothing_left_on(&setup.data_dir).await;
    let listed = run(&setup, &["admin", "list", "--json"]).json();
    assert_eq!(listed[0]["id"], made["id"]);
    nothing_left_on(&setup.data_dir).await;

    // With an account in the book there is no first admin to make.
    let server = Serving::start(&setup).await;
    assert_eq!(printed_password(&server.printed()), None);
    assert_eq!(server.sign_in(USER, made["generated_password"].as_str().unwrap()).await, 200);
}

#[tokio::test]
async fn following_shows_what_comes_and_ends_with_its_reader() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let server = Serving::start(&setup).await;
    let out = dir.path().join("followed");
    let types = ["--type", "UserRegistered", "--type", "SignInFailed"];
    let mut following = setup
        .command(&["audit", "tail", "--follow", "--json"])
        .args(types)
        .stdout(File::create(&out).unwrap())
        .spawn()
        .unwrap();
    let lines = || std::fs::read_to_string(&out).unwrap().lines().count();
    eventually("the first line", async || (lines() == 1).then_some(())).await;
    assert_eq!(server.sign_in("nobody", "a wrong password").await, 401);
    eventually("the next line", async || (lines() == 2).then_some(())).await;
    kill(Pid::from_raw(i32::try_from(following.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = eventually("it ends", async || following.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(130));

    // A reader that leaves early is no error.
    let piped = setup
        .command(&["audit", "tail", "--json"])
        .stdout(Stdio::from(closed_pipe()))
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let piped = Answer::of(piped);
    assert_eq!((piped.code, piped.err.as_str()), (0, ""));
}

/// The writing end of a pipe that nobody reads.
fn closed_pipe() -> std::io::PipeWriter {
    let (_reader, writer) = std::io::pipe().unwrap();
    writer
}

/// A stranger types it at the form; an admin reads it in a terminal.
#[tokio::test]
async fn nothing_that_a_stranger_types_steers_a_terminal() {
    let running = crate::support::shared::Running::start(&[]).await;
    let wild = "\u{9b}2J\u{9d}0;owned\u{9c}\u{202e}gnp.exe\u{1b}[31m\u{7f}\u{85}";
    running.api().try_sign_in(&format!("{wild}@example.org"), "not the password").await.is(401);
    running.database.settled().await;
    let ask = async |arguments: &[&str]| {
        let mut command = running.setup.command(arguments);
        tokio::task::spawn_blocking(move || Answer::of(command.output().unwrap())).await.unwrap()
    };
    let tail = ask(&["audit", "tail", "--type", "SignInFailed"]).await.ok();
    let json = ask(&["audit", "tail", "--type", "SignInFailed", "--json"]).await.ok();
    let line: Value = serde_json::from_str(&json).unwrap();
    assert!(
        line["identifier"].as_str().unwrap().contains(wild),
        "JSON says what was typed: {line}"
    );
    let position = line["position"].to_string();
    let shown = ask(&["audit", "show", &position]).await.ok();
    let as_json = ask(&["audit", "show", &position, "--json"]).await.ok();
    let asked = ask(&["admin", "reset-password", wild]).await;
    for (what, text) in [
        ("tail", tail),
        ("--json", json),
        ("show", shown),
        ("show --json", as_json),
        ("error", asked.err),
    ] {
        assert!(text.contains("gnp.exe"), "{what}: {text}");
        let left = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
        assert_eq!(left, None, "{what}: {text:?}");
    }
}
