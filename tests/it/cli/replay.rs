//! `entrybook audit replay`, and a tail that goes on where another was broken off.

use super::{Answer, run};
use crate::support::{
    http::password_of,
    server::{ADMIN_PASSWORD, eventually},
    shared::Running,
};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection};
use std::process::Stdio;

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_tells_how_it_was() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let change = json!({"username": "augusta", "current_password": password_of("ada")});
    api.patch("/api/v1/auth/me").bearer(&ada.access).json(change).send().await.is(200);
    api.post("/api/v1/auth/logout").bearer(&ada.access).send().await.is(204);
    api.sign_in_with("admin", ADMIN_PASSWORD).await;
    let said = |arguments: &[&str]| run(&running.setup, &[&["audit"], arguments].concat());

    running.database.settled().await;
    // By a former name, as the tail does.
    let told = lines(&said(&["tail", "--user", "ada", "--json"]).ok());
    let types: Vec<_> = told.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["UserRegistered", "SessionStarted", "UserProfileChanged", "SessionEnded"]);
    let position = |number: usize| told[number]["position"].to_string();
    let whole = said(&["replay", "ada", "--at", &position(1), "--json"]).json();
    assert_eq!(whole["state"]["account"]["username"], "ada");
    assert_eq!(whole["state"]["live_sessions"], 1);
    let at = told[1]["at"].as_str().unwrap();
    let same = said(&["replay", "augusta", "--at", at, "--json"]).json();
    assert_eq!(same["state"]["account"], whole["state"]["account"]);
    let text = said(&["replay", "ada@example.org", "--against", &position(1)]).ok();
    for words in [
        "augusta (",
        "  e-mail      ada@example.org\n",
        "  roles       user\n",
        "  state       active\n",
        "0 of 1 sessions live\n",
        "  username    ada -> augusta\n",
        "  session     ",
    ] {
        assert!(text.contains(words), "{words:?}: {text}");
    }

    // Who was signed in: by the read tables as by the whole book.
    let now = said(&["replay", "--json"]).json();
    let names = |people: &Value| -> Vec<String> {
        let people = people.as_array().unwrap().iter();
        people.map(|one| one["account"]["username"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&now), ["admin"]);
    // To the millisecond, as it is shown: a moment after she signed in.
    let at = told[2]["at"].as_str().unwrap();
    let before = said(&["replay", "--at", at, "--json"]).json();
    let by_book = said(&["replay", "--at", at, "--whole-book", "--json"]).json();
    assert_eq!(names(&before), ["ada"]);
    assert_eq!(names(&by_book), ["ada"]);
    assert_eq!(before[0]["sessions"], by_book[0]["sessions"]);
    let text = said(&["replay", "--at", at]).ok();
    assert!(text.starts_with("Signed in at ") && text.ends_with("\n1 person\n"), "{text}");
    assert_eq!(said(&["replay", "--at", "2020-01-01", "--json"]).json(), json!([]));
    assert!(said(&["replay", "--at", "2020-01-01"]).ok().ends_with("\n0 people\n"));

    // Somebody else takes the name that she gave up: who looks for it is told of her.
    let taken = json!({
        "email": "eve@example.org", "username": "ada", "password": password_of("eve"),
    });
    let eve = api.post("/api/v1/auth/register").json(taken).send().await.tokens(201);
    running.database.settled().await;
    let answer = said(&["tail", "--user", "ada", "--json"]);
    assert!(answer.err.contains(&ada.user_id) && answer.err.contains("before"), "{}", answer.err);
    let of_eve = lines(&answer.ok());
    assert!(of_eve.iter().all(|line| line["person"]["id"] == eve.user_id), "{of_eve:?}");
    assert_eq!(of_eve.len(), 2);
    assert!(!said(&["tail", "--user", "augusta"]).err.contains("before"));
    running.database.settled().await;
    let by_cli = lines(&said(&["tail", "--by", "cli", "--json"]).ok());
    assert!(by_cli.len() >= 7 && by_cli.iter().all(|line| line["actor"]["kind"] == "cli"));
    for (by, kind) in [("system", "system"), ("anonymous", "anonymous")] {
        let found = lines(&said(&["tail", "--by", by, "--json"]).ok());
        assert!(found.iter().all(|line| line["actor"]["kind"] == kind), "{by}: {found:?}");
    }

    // That it was asked for is in the history.
    let replayed = lines(&said(&["tail", "--type", "HistoryReplayed", "--json"]).ok());
    let asked: Vec<Value> = replayed
        .iter()
        .map(|line| serde_json::from_str(line["identifier"].as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(asked.len(), 4, "each once: {asked:?}");
    assert_eq!(asked[0], json!({"user": ada.user_id}));
    assert_eq!(asked[1], json!({"signed_in": "now"}));
    assert!(replayed.iter().all(|line| line["actor"]["kind"] == "cli"), "{replayed:?}");

    assert!(said(&["replay", "nobody"]).refused(4).contains("and there was none"));
    assert!(said(&["replay", "ada", "--at", "99999999"]).refused(4).contains("line 99999999"));
    assert!(said(&["replay", "ada", "--at", "yesterday"]).refused(2).contains("yesterday"));
    assert!(said(&["replay", "--at", "1"]).refused(2).contains("as of a time"));
    assert!(said(&["replay", "--against", "1"]).refused(2).contains("USER"));
}

/// One table that can't go on stops what reads it, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_projection_ends_the_verbs_that_read_it_and_no_others() {
    let running = Running::start(&[]).await;
    let ada = running.api().register("ada").await;
    let Running { server, setup, database, .. } = running;
    assert!(server.stop().await.success());
    let version =
        |name: &str| ::projections::named(name).map(|projection| projection.version()).unwrap();
    let (users, history) = (version("users"), version("audit_history"));
    // No row may be written to it any more.
    let refuse = async |table: String| {
        let check =
            format!("ALTER TABLE ledger.{table} ADD CONSTRAINT no_more CHECK (false) NOT VALID");
        sqlx::raw_sql(&check).execute(database.pool()).await.unwrap();
    };
    refuse(format!("users_v{users}")).await;
    let create = ["--email", "ben@example.org", "--username", "ben", "--generate-password"];
    run(&setup, &[&["admin", "create"], &create[..]].concat()).ok();
    let refused = async |arguments: &[&str]| {
        // The newest events wait for who else is at work in the cluster.
        eventually("it is stopped", async || {
            let told = run(&setup, arguments);
            (told.code != 0).then(|| told.refused(1))
        })
        .await
    };
    let listed = refused(&["admin", "list"]).await;
    assert!(listed.contains("The projection users, which is read here, is stopped"), "{listed}");
    let told = run(&setup, &["audit", "tail", "--type", "UserRegistered", "--json"]).ok();
    assert!(told.contains("\"label\":\"ben\""), "{told}");
    run(&setup, &["audit", "show", "1"]).ok();
    run(&setup, &["audit", "replay", "ada"]).ok();

    refuse(format!("audit_history_v{history}")).await;
    run(&setup, &["admin", "reset-password", "ben"]).ok();
    for verb in [&["tail"][..], &["replay", &ada.user_id], &["replay"]] {
        let told = refused(&[&["audit"], verb].concat()).await;
        assert!(told.contains("The projection audit_history, which is read"), "{verb:?}: {told}");
    }
    run(&setup, &["audit", "show", "1"]).ok();
    run(&setup, &["audit", "replay", "--whole-book"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_goes_on_after_a_line_and_by_place_and_outcome() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("ada").await;
    for _ in 0..3 {
        api.try_sign_in("ada", "not the password").await.is(401);
    }
    api.sign_in_with("ada", &password_of("ada")).await;
    let said = |arguments: &[&str]| run(&running.setup, &[&["audit", "tail"], arguments].concat());
    let of_ada = lines(&said(&["--user", "ada", "--json"]).ok());
    assert!(of_ada.len() >= 6, "{of_ada:?}");
    for (number, line) in of_ada.iter().enumerate() {
        let after = line["position"].to_string();
        let rest = lines(&said(&["--user", "ada", "--after", &after, "--json"]).ok());
        assert_eq!(rest, of_ada[number + 1..]);
    }
    let all = lines(&said(&["--user", "ada", "--after", "0", "--json"]).ok());
    assert_eq!(all, of_ada);
    let failed = lines(&said(&["--outcome", "wrong_password", "--json"]).ok());
    assert_eq!(failed.len(), 3);
    for address in ["127.0.0.1", "127.0.0.0/24", "127.0.0.0/16"] {
        let here = lines(&said(&["--address", address, "--user", "ada", "--json"]).ok());
        assert!(here.len() >= 6 && here.iter().all(|line| line["address"] == "127.0.0.1"));
    }
    assert_eq!(said(&["--address", "198.51.100.0/24", "--json"]).ok(), "");
    assert!(said(&["--address", "10.0.0.0/8"]).refused(2).contains("/16"));
    assert!(said(&["--after", "1", "-n", "2"]).refused(2).contains("--lines"));
}

/// A transaction somewhere in the cluster that is open for a moment more.
#[tokio::test(flavor = "multi_thread")]
async fn a_verb_waits_for_what_was_written_before_it() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    for _ in 0..5 {
        let mut open = running.database.connect_options().connect().await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut open).await.unwrap();
        let last = api.sign_in("ada").await;
        let mut tail = running.setup.command(&["audit", "tail", "--user", &ada.user_id, "--json"]);
        let tail = tail.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tail = tail.spawn().unwrap();
        // It is up within that time, and would have shown what there is.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(tail.try_wait().unwrap(), None, "it waits");
        open.close().await.unwrap();
        let answer = Answer::of(tail.wait_with_output().unwrap());
        // Somebody else's transaction may go on for longer than it waits.
        if !answer.err.contains("are not shown yet") {
            let told = lines(&answer.ok());
            return assert_eq!(told.last().unwrap()["session"], last.session_id, "{told:?}");
        }
    }
    panic!("the order of the book was held back five times");
}

/// What waits for its place is looked for where the journal ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_verb_reads_no_more_of_a_long_book_than_its_end() {
    let running = Running::start(&[]).await;
    let ada = running.api().register("ada").await;
    running.many_lines(&ada.user_id, 5_000).await;
    running.database.settled().await;
    let looked_through = async || -> i64 {
        let read = "SELECT idx_tup_read + seq_tup_read FROM pg_stat_user_tables t
                      JOIN pg_stat_user_indexes i USING (relid)
                     WHERE t.relname = 'events' AND indexrelname = 'events_tx_id'";
        sqlx::query_scalar(read).fetch_one(running.database.pool()).await.unwrap()
    };
    // The server's own share is counted late.
    eventually("it looks at few events", async || {
        let before = looked_through().await;
        let listed = run(&running.setup, &["admin", "list", "--json"]).json();
        assert_eq!(listed.as_array().unwrap().len(), 1);
        (looked_through().await - before < 1_000).then_some(())
    })
    .await;
}
