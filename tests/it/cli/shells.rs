//! What the program says of itself to shells, to `man`, and to scripts.

use super::*;
use crate::support::scratch;
use std::process::Command;

#[test]
fn errors_are_json_for_who_asked_for_json() {
    let dir = scratch();
    let setup = bare(&dir.path().join("nothing"));
    for (arguments, code, words) in [
        (&["audit", "show", "7", "--json"][..], 4, "There is no database in"),
        (&["--json", "admin", "list"], 2, "unexpected argument '--json'"),
        (&["admin", "list", "--json", "--nonsense"], 2, "unexpected argument '--nonsense'"),
        (&["users", "check-receipt", "none", "--json", "--key", "none"], 1, "cannot be read"),
        (&["audit", "verify", "none.jsonl", "--json"], 2, "give --key"),
    ] {
        let answer = run(&setup, arguments);
        assert_eq!(answer.code, code, "{arguments:?}: {}{}", answer.out, answer.err);
        assert_eq!(answer.out, answer.err, "{arguments:?}");
        let error: Value =
            serde_json::from_str(&answer.err).unwrap_or_else(|_| panic!("{}", answer.err));
        assert_eq!(error["error"]["exit_code"], code, "{error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(words), "{error}");
    }
    let mut command = setup.command(&["admin", "list", "--json"]);
    command.env("ENTRYBOOK_LISTEN", "nowhere");
    let error: Value =
        serde_json::from_str(&Answer::of(command.output().unwrap()).refused(2)).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("ENTRYBOOK_LISTEN"), "{error}");
    // Help is an answer, however it is asked for.
    assert!(
        run(&setup, &["admin", "list", "--json", "--help"])
            .ok()
            .contains("Usage: entrybook admin list")
    );
    assert!(
        run(&setup, &["users", "erase"]).refused(2).starts_with("error: the following required")
    );
}

#[test]
fn a_shell_completes_verbs_and_flags() {
    let dir = scratch();
    let setup = bare(&dir.path().join("nothing"));
    let script = dir.path().join("entrybook.bash");
    std::fs::write(&script, run(&setup, &["completions", "bash"]).ok()).unwrap();
    // As bash does it when somebody presses Tab twice.
    let complete = |words: &str| {
        let program = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _entrybook entrybook \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        String::from_utf8(Command::new("bash").args(["-c", &program]).output().unwrap().stdout)
            .unwrap()
    };
    assert_eq!(complete("entrybook proj"), "projections\n");
    assert!(complete("entrybook audit ''").contains("verify"));
    assert!(complete("entrybook projections rebuild --re").contains("--repair"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(run(&setup, &["completions", shell]).ok().contains("check-receipt"), "{shell}");
    }
    assert!(run(&setup, &["completions", "cmd"]).refused(2).contains("possible values"));
}

#[test]
fn every_verb_has_a_manual_page() {
    let dir = scratch();
    let setup = bare(&dir.path().join("nothing"));
    assert!(run(&setup, &["man"]).ok().contains(".TH entrybook 1"));
    let pages = dir.path().join("share/man1");
    run(&setup, &["man", "--out", pages.to_str().unwrap()]).ok();
    let page = |name: &str| std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
    assert!(page("entrybook-projections-rebuild").contains(r"\-\-repair"));
    assert!(page("entrybook").contains("projections"));
    assert!(page("entrybook-serve").contains("ENTRYBOOK_REFRESH_LIFETIME"));
    std::fs::write(dir.path().join("file"), "").unwrap();
    let said = run(&setup, &["man", "--out", dir.path().join("file").to_str().unwrap()]).refused(1);
    assert!(said.contains("could not be written"), "{said}");
}

#[test]
fn the_settings_in_force_are_shown_with_where_they_come_from() {
    let dir = scratch();
    let file = dir.path().join("entrybook.toml");
    std::fs::write(
        &file,
        "refresh_lifetime = \"2h\"\nlog_anchor_url = \"https://anchor.example/x\"\n",
    )
    .unwrap();
    let setup = bare(&dir.path().join("nothing"))
        .with("ENTRYBOOK_CONFIG", file.to_str().unwrap())
        .with("ENTRYBOOK_MASTER_KEY", crate::support::server::MASTER_KEY)
        .with("DATABASE_URL", "postgres://ada:hunter2@db/entrybook")
        .with("ENTRYBOOK_REMEMBER_LIFETIME", "3d");
    let shown = run(&setup, &["config", "show", "--json", "--data-dir", "elsewhere"]);
    assert!(
        !shown.out.contains("hunter2") && !shown.out.contains(crate::support::server::MASTER_KEY),
        "{}",
        shown.out
    );
    let shown = shown.json();
    assert_eq!(shown["problems"], serde_json::json!([]));
    let settings = shown["settings"].as_array().unwrap();
    let of = |name: &str| settings.iter().find(|one| one["name"] == name).unwrap().clone();
    let expected = |name: &str, value: Value, source: &str| {
        let one = of(name);
        assert_eq!((&one["value"], one["source"].as_str()), (&value, Some(source)), "{one}");
    };
    expected("refresh_lifetime", "2h".into(), "file");
    assert_eq!(of("refresh_lifetime")["file"], file.to_str().unwrap());
    expected("remember_lifetime", "3d".into(), "environment");
    expected("data_dir", "elsewhere".into(), "flag");
    expected("refresh_grace", "10s".into(), "default");
    expected("postgres_user", Value::Null, "default");
    expected("database_url", "(set)".into(), "environment");
    expected("log_anchor_url", "https://anchor.example/x".into(), "file");

    let changed = run(&setup, &["config", "show", "--changed"]).ok();
    assert!(
        changed.contains("ENTRYBOOK_REFRESH_LIFETIME") && !changed.contains("REFRESH_GRACE"),
        "{changed}"
    );
    let wrong = run(&setup.clone().with("ENTRYBOOK_REFRESH_LIFETIME", "soon"), &["config", "show"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.out.contains("soon") && wrong.err.contains("ENTRYBOOK_REFRESH_LIFETIME is \"soon\""),
        "{}{}",
        wrong.out,
        wrong.err
    );

    // A password in an address is refused, and not said.
    let with_password =
        setup.with("ENTRYBOOK_LOG_ANCHOR_URL", "https://me:hunter2@anchor.example/x");
    let wrong = run(&with_password, &["config", "show"]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.err.contains("https://…@anchor.example/x") && wrong.err.contains("no password"),
        "{}",
        wrong.err
    );
    assert!(
        !format!("{}{}", wrong.out, wrong.err).contains("hunter2"),
        "{}{}",
        wrong.out,
        wrong.err
    );
}

#[tokio::test]
async fn the_verbs_of_the_log_answer_in_json() {
    let running = crate::support::shared::Running::start(&[]).await;
    let ask = async |arguments: &[&str]| {
        let mut command = running.setup.command(arguments);
        tokio::task::spawn_blocking(move || Answer::of(command.output().unwrap())).await.unwrap()
    };
    let nothing = ask(&["log", "resume", "--json"]).await.json();
    assert_eq!(nothing, serde_json::json!({"taken_for_signed": null, "refusal": null}));
    let rotated = ask(&["log", "rotate", "--after", "7d", "--json"]).await.json();
    let keys = ask(&["log", "key", "--json"]).await.json();
    assert_eq!(rotated["key"], keys[1]["key"], "{keys}");
    assert_eq!(rotated["signs_from"], keys[1]["signs_from"], "{keys}");
    let begin = ["log", "begin", "--origin", "elsewhere.example/log", "--json"];
    let refused: Value = serde_json::from_str(&ask(&begin).await.refused(4)).unwrap();
    assert!(refused["error"]["message"].as_str().unwrap().contains("--yes"), "{refused}");
    let begun = ask(&[&begin[..], &["--yes"]].concat()).await.json();
    assert_eq!(begun["origin"], "elsewhere.example/log", "{begun}");
    assert_eq!(begun["keys"], ask(&["log", "key", "--json"]).await.json());
}
