//! `entrybook projections` on a book of the tests: what it tells, what it finds, and what it leaves when it is broken off.

use super::*;
use crate::projections::book::{Book, Reader, user};
use crate::support::{database::TestDatabase, held::Held, scratch};
use ::projections::named;
use domain::GuardSubject;
use nix::pty::{Winsize, openpty};
use serde_json::json;
use sqlx::{Connection, PgPool};
use std::io::Read;
use std::process::Stdio;
use tempfile::TempDir;

/// A book, its read tables up to date, and no server.
struct Kept {
    database: TestDatabase,
    setup: Setup,
    _scratch: TempDir,
}

impl Kept {
    async fn with(lines: i64) -> Self {
        let database = TestDatabase::create().await;
        let scratch = scratch();
        let setup = Setup::on(&database.url(), &scratch.path().join("none"));
        run(&setup, &["migrate"]).ok();
        // Makes the keys: a book that has events and none has lost them.
        run(&setup, &["projections", "status"]).ok();
        let pool = database.pool();
        let mut book = Book::new(pool);
        book.fill().await;
        book.fail(GuardSubject::Account(user(1)), None).await;
        // More of the last one, as the owner.
        sqlx::query(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             SELECT aggregate_type, aggregate_id, sequence + n, event_type, event_version, payload, metadata
               FROM (SELECT * FROM events ORDER BY id DESC LIMIT 1) AS last,
                    generate_series(1, $1 - (SELECT count(*) FROM events)) AS n",
        )
        .bind(lines)
        .execute(pool)
        .await
        .unwrap();
        Reader::new(pool).await.read().await;
        Self { database, setup, _scratch: scratch }
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        run(&self.setup, &[&["projections"], arguments].concat())
    }

    /// Which tables are live.
    async fn live(&self) -> Vec<(String, i64)> {
        sqlx::query_as(
            "SELECT relname::text, oid::bigint FROM pg_class
              WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' AND relname !~ '_new$' ORDER BY 1",
        )
        .fetch_all(self.pool())
        .await
        .unwrap()
    }

    async fn execute(&self, statement: &str) {
        sqlx::raw_sql(statement).execute(self.pool()).await.unwrap();
    }
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

#[tokio::test]
async fn a_rebuild_tells_how_far_it_is_and_a_dry_run_swaps_nothing() {
    let kept = Kept::with(500).await;
    let before = kept.live().await;

    let dry = kept.run(&["rebuild", "--dry-run"]);
    assert!(!dry.err.contains('\x1b'), "no terminal gets no escapes: {}", dry.err);
    for name in ["users", "sessions", "audit_history", "transparency", "claims"] {
        assert!(dry.err.contains(&format!("{name}: comparing\n")), "{}", dry.err);
    }
    let said = dry.ok();
    assert!(said.contains("users: equal; nothing was swapped\n  500 lines in "), "{said}");
    assert!(said.contains("users equals the fold of the book up to line 500."), "{said}");
    assert_eq!(kept.live().await, before);

    let rebuilt = kept.run(&["rebuild", "users"]);
    assert!(
        rebuilt.err.contains("users: swapping\n") || rebuilt.err.contains("users: comparing\n")
    );
    let said = rebuilt.ok();
    assert!(said.starts_with("users: built anew and swapped in\n"), "{said}");
    assert!(!said.contains("sessions"), "{said}");
    let after = kept.live().await;
    let swapped = before.iter().zip(&after).filter(|(before, after)| before != after);
    let swapped: Vec<_> = swapped.map(|(before, _)| before.0.as_str()).collect();
    assert_eq!(swapped, ["users_v2"]);

    let lines = json_lines(&kept.run(&["rebuild", "--json"]).ok());
    let results = of_type(&lines, "result");
    let names: Vec<_> = results.iter().map(|result| result["projection"].as_str()).collect();
    assert_eq!(names, ["users", "sessions", "audit_history", "transparency", "claims"].map(Some));
    for result in results {
        assert_eq!(result["outcome"], "swapped");
        // What was asked for before, what came of it, and what is asked for now are lines of the book, but
        // for those that wait for their place still, as transactions of other tests are open.
        let events = result["events"].as_i64().unwrap();
        assert!(result["equal"] == true && (500..=503).contains(&events), "{result}");
        let version = named(result["projection"].as_str().unwrap()).unwrap().version();
        assert_eq!((&result["version"], &result["resumed_at"]), (&json!(version), &json!(0)));
        assert!(result["seconds"].as_f64().unwrap() > 0.0, "{result}");
        assert!(result["events_per_second"].as_f64().unwrap() > 0.0, "{result}");
        let phases = result["phases"].as_array().unwrap();
        assert!(phases.iter().any(|phase| phase[0] == "folding"), "{result}");
        assert_eq!(result["verified"]["position"], events);
        assert_eq!(result["verified"]["fold"]["state"], "same");
    }
    let progress = of_type(&lines, "progress");
    assert!(!progress.is_empty());
    for one in &progress {
        assert!(one["events_done"].as_i64() <= one["events_total"].as_i64(), "{one}");
        for key in ["events_per_second", "seconds"] {
            assert!(one[key].is_f64(), "{one}");
        }
        assert_eq!(one["first_build"], false);
    }
    let is_of = |name| progress.iter().any(|one| one["projection"] == name);
    assert!(is_of("users") && is_of("sessions") && is_of("audit_history"), "{progress:?}");
    assert_eq!(lines.last().unwrap()["type"], "result");

    assert!(
        kept.run(&["rebuild", "users", "--dry-run", "--repair"]).refused(2).contains("--repair")
    );
    assert!(kept.run(&["rebuild", "nobody"]).refused(4).contains("users, sessions, audit_history"));
}

#[tokio::test]
async fn damage_is_found_shown_masked_and_mended() {
    let kept = Kept::with(200).await;
    let (ada, bob) = (user(1).0, user(2).0);
    kept.execute(&format!(
        "UPDATE ledger.users_v2 SET disabled = NOT disabled, email_sealed = 'sealed by nobody' WHERE user_id = '{ada}';
         DELETE FROM ledger.users_v2 WHERE user_id = '{bob}'"
    ))
    .await;
    let before = kept.live().await;
    let tells_nothing = |text: &str| {
        // But for the names of columns.
        assert!(!text.replace("sealed = ", "").contains("sealed "), "{text}");
        assert!(!text.contains('#'), "an index is not told: {text}");
    };

    for verb in [&["verify"][..], &["rebuild", "users"]] {
        let found = kept.run(verb);
        assert_eq!(found.code, 6, "{}{}", found.out, found.err);
        let said = found.out;
        assert!(said.contains("users: DIFFERENT"), "{said}");
        assert!(said.contains("lacks 1 rows, has 0 too many and 1 with other values"), "{said}");
        assert!(said.contains("the table was damaged"), "{said}");
        assert!(said.contains(&ada.to_string()) && said.contains(&bob.to_string()), "{said}");
        assert!(
            said.contains("disabled = true") && said.contains("email_sealed = (masked "),
            "{said}"
        );
        assert!(said.contains("live  no such row"), "{said}");
        assert!(said.contains("entrybook projections rebuild --repair users"), "{said}");
        tells_nothing(&said);
        tells_nothing(&found.err);
    }
    let found = kept.run(&["verify", "users", "--json"]);
    assert_eq!(found.code, 6);
    tells_nothing(&found.out);
    let lines = json_lines(&found.out);
    let result = of_type(&lines, "result")[0];
    assert_eq!((&result["outcome"], &result["equal"]), (&json!("differs"), &json!(false)));
    let table = &result["verified"]["tables"][0];
    assert_eq!((&table["missing"], &table["changed"]), (&json!(1), &json!(1)));
    assert!(of_type(&lines, "journal").is_empty(), "it was not asked for");
    assert_eq!(kept.live().await, before, "nothing was swapped");

    let status = kept.run(&["status"]).ok();
    assert!(status.contains("The last comparison found a difference: users differs"), "{status}");
    let doctor = run(&kept.setup, &["doctor"]).out;
    assert!(
        doctor.contains("warn  read tables     The last comparison found a difference"),
        "{doctor}"
    );

    // The same difference, where another program made the table.
    kept.execute(
        "UPDATE projections
            SET fold = (SELECT jsonb_object_agg(key, 'another') FROM jsonb_each(fold))
          WHERE name = 'users'",
    )
    .await;
    let found = kept.run(&["verify", "users"]);
    assert_eq!(found.code, 6);
    assert!(found.out.contains("The fold has changed without a new version"), "{}", found.out);
    assert!(found.out.contains("UserRegistered"), "{}", found.out);

    let said = kept.run(&["rebuild", "users", "--repair"]).ok();
    assert!(said.contains("swapped in, though it differed"), "{said}");
    let said = kept.run(&["verify"]).ok();
    assert!(said.contains("users: equal") && said.contains("journal: sound"), "{said}");
    assert!(said.contains("identifiers: equal"), "{said}");
    assert!(!run(&kept.setup, &["doctor"]).out.contains("found a difference"));
}

#[tokio::test]
async fn a_table_that_can_not_be_read_is_damage_and_is_mended() {
    let kept = Kept::with(100).await;
    kept.execute(
        "DROP TABLE ledger.users_v2; ALTER TABLE ledger.sessions_v2 DROP COLUMN last_source",
    )
    .await;
    let before = kept.live().await;
    for verb in [&["verify"][..], &["rebuild", "users", "sessions"]] {
        let found = kept.run(verb);
        assert_eq!(found.code, 6, "{}{}", found.out, found.err);
        for said in [
            "users: DAMAGED; the live one can't be read, and nothing was swapped",
            "users can't be compared, because the table is not there. ",
            "sessions can't be compared, because column last_source is missing. ",
            "entrybook projections rebuild --repair users sessions",
        ] {
            assert!(found.out.contains(said), "{said}: {}", found.out);
        }
        assert_eq!(kept.live().await, before, "nothing was swapped");
    }
    let lines = json_lines(&kept.run(&["verify", "users", "--json"]).out);
    let result = of_type(&lines, "result")[0];
    assert_eq!((&result["outcome"], &result["equal"]), (&json!("differs"), &json!(false)));
    assert_eq!(result["verified"]["tables"][0]["unreadable"], "the table is not there");

    // Its rows can't be written either.
    let mut book = Book::new(kept.pool());
    book.register(user(77), "zoe").await;
    let said = kept.run(&["rebuild", "users", "sessions", "--repair"]).ok();
    let outcome = "built anew and swapped in; the live one could not be compared";
    for name in ["users", "sessions"] {
        assert!(said.contains(&format!("{name}: {outcome}")), "{said}");
    }
    let said = kept.run(&["verify", "users", "sessions"]).ok();
    assert_eq!(said.matches(": equal").count(), 2, "{said}");
    assert!(!kept.run(&["status"]).ok().contains("stopped"));
}

#[tokio::test]
async fn what_was_done_before_an_error_is_told_beside_it() {
    let kept = Kept::with(100).await;
    let before = kept.live().await;
    let held = Held::live_table_of(&kept.database, "sessions").await;
    let child = kept
        .setup
        .command(&["projections", "rebuild", "users", "sessions", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It waits for the table, and is cut.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks
                WHERE NOT granted AND relation = 'ledger.sessions_v2'::regclass LIMIT 1";
    eventually("it compares sessions", async || {
        sqlx::query_scalar::<_, bool>(cut).fetch_optional(kept.pool()).await.unwrap()
    })
    .await;
    let ended = Answer::of(child.wait_with_output().unwrap());
    held.let_go().await;
    assert!(![0, 6].contains(&ended.code), "{} {}", ended.code, ended.err);
    assert!(ended.err.contains("Before that users was swapped in."), "{}", ended.err);
    let lines = json_lines(&ended.out);
    let results = of_type(&lines, "result");
    let [users] = &results[..] else { panic!("{results:?}") };
    assert_eq!((&users["projection"], &users["outcome"]), (&json!("users"), &json!("swapped")));
    assert!(users["seconds"].is_f64() && users["verified"]["tables"].is_array(), "{users}");
    let changed = before.iter().zip(&kept.live().await).filter(|(was, is)| was != is).count();
    assert_eq!(changed, 1);
    let status = kept.run(&["status", "--json"]).json();
    assert_eq!(
        (&status[0]["build"]["state"], &status[1]["build"]["state"]),
        (&json!("swapped"), &json!("failed"))
    );
}

#[tokio::test]
async fn verify_finds_damage_beneath_the_read_tables() {
    let kept = Kept::with(100).await;
    kept.execute("DELETE FROM identifiers WHERE index = (SELECT min(index) FROM identifiers)")
        .await;
    let found = kept.run(&["verify", "identifiers"]);
    assert_eq!(found.code, 6, "{}", found.err);
    assert!(
        found.out.contains("identifiers: DIFFERENT") && found.out.contains("1 are missing"),
        "{}",
        found.out
    );
    assert!(!found.out.contains('#'), "{}", found.out);

    // Past the triggers, as nobody but their owner can.
    kept.execute(
        "ALTER TABLE journal DISABLE TRIGGER ALL;
         DELETE FROM journal WHERE position = 50",
    )
    .await;
    let lines = kept.run(&["verify", "journal", "--json"]);
    assert_eq!(lines.code, 6, "{}", lines.err);
    let lines = json_lines(&lines.out);
    assert_eq!((&lines[0]["type"], &lines[0]["equal"]), (&json!("journal"), &json!(false)));
    assert_eq!((&lines[0]["gaps"], &lines[0]["missing"]), (&json!(1), &json!(1)));
    // And a rebuild of such a book is an error, and no short table.
    let before = kept.live().await;
    let said = kept.run(&["rebuild", "users"]).refused(1);
    assert!(said.contains("line 51 where line 50 should be"), "{said}");
    assert!(said.contains("The live tables serve as before"), "{said}");
    assert_eq!(kept.live().await, before);
    let status = kept.run(&["status"]).ok();
    assert!(status.contains("The last rebuild of users failed"), "{status}");
}

#[tokio::test]
async fn who_can_not_go_on_says_where_and_what_to_do() {
    let kept = Kept::with(100).await;
    let mut other =
        sqlx::PgConnection::connect_with(&kept.database.connect_options()).await.unwrap();
    let lock = "SELECT pg_advisory_lock(x'0E17B002'::int, hashtext('users'))";
    sqlx::query(lock).execute(&mut other).await.unwrap();
    let said = kept.run(&["rebuild"]).refused(4);
    assert!(said.contains("another process is rebuilding or verifying users"), "{said}");
    assert!(said.contains("entrybook projections status"), "{said}");
    other.close().await.unwrap();

    let mut book = Book::new(kept.pool());
    let id = uuid::Uuid::from_u128(0xC001).to_string();
    book.raw("User", &id, "UserPainted", json!({"UserPainted": {}})).await;
    Reader::new(kept.pool()).await.settle().await;
    let before = kept.live().await;
    let said = kept.run(&["rebuild", "users"]).refused(1);
    // The one that was turned away is lines 101 and 102.
    assert!(said.contains("line 103") && said.contains("UserPainted version 1"), "{said}");
    assert!(said.contains("Run the version of Entrybook that wrote that event"), "{said}");
    assert_eq!(kept.live().await, before);

    let status = kept.run(&["status"]).ok();
    let place =
        format!("users is stopped at line 103 (User {id} number 1, UserPainted version 1): ");
    assert!(status.contains(&place), "{status}");
    let advice = "  → Run a version of Entrybook that can apply this event";
    assert!(status.contains(advice), "{status}");
    let status = kept.run(&["status", "--json"]).json();
    let users = &status[0];
    assert_eq!((&users["name"], &users["state"]), (&json!("users"), &json!("stopped")));
    assert_eq!(users["stopped"]["position"], 103);
    assert!(users["advice"].as_str().unwrap().starts_with("Run a version"), "{users}");
    assert_eq!((&users["built"], &users["build"]["state"]), (&json!(true), &json!("failed")));
    let doctor = run(&kept.setup, &["doctor"]);
    assert_eq!(doctor.code, 5);
    let told = "FAIL  read tables     users is stopped at line 103";
    assert!(doctor.out.contains(told), "{}", doctor.out);
}

/// Waiting for the database mends none of these, and what was built is not gone on with.
#[tokio::test]
async fn an_error_that_comes_again_is_not_said_to_pass() {
    let kept = Kept::with(100).await;
    // Of the owner, not of the role that the tables are read with.
    kept.execute(
        "ALTER TABLE ledger.users_v2 RENAME TO users_aside;
         CREATE VIEW ledger.users_v2 AS TABLE ledger.users_aside",
    )
    .await;
    let leads_nowhere = async |said: &str| {
        assert!(said.contains("The live tables serve as before. "), "{said}");
        assert!(said.contains("The next run begins anew."), "{said}");
        assert!(!said.contains("goes on where it was"), "{said}");
        let left = "SELECT to_regclass('ledger.users_v2_new') IS NOT NULL";
        let left: bool = sqlx::query_scalar(left).fetch_one(kept.pool()).await.unwrap();
        assert!(!left, "nothing is left to go on with");
    };
    let said = kept.run(&["rebuild", "users", "--repair"]).refused(1);
    assert!(said.contains("permission denied") && said.contains("A right is missing"), "{said}");
    leads_nowhere(&said).await;

    kept.execute(
        "ALTER TABLE ledger.users_aside OWNER TO entrybook_app;
         ALTER VIEW ledger.users_v2 OWNER TO entrybook_app",
    )
    .await;
    let said = kept.run(&["rebuild", "users", "--repair"]).refused(1);
    assert!(said.contains("Run again, it fails in the same way"), "{said}");
    assert!(!said.contains("A right is missing"), "{said}");
    leads_nowhere(&said).await;
}

/// What another process has done meanwhile is not told as done by this one.
#[tokio::test]
async fn who_was_turned_away_has_done_nothing_before() {
    let kept = Kept::with(100).await;
    // What brings the journal up to date waits for this row, and knows by then what was built before.
    let mut sequencer = kept.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM sequencer FOR UPDATE").execute(&mut *sequencer).await.unwrap();
    let child = kept
        .setup
        .command(&["projections", "rebuild", "users"])
        // A migration would wait for it as well.
        .env("ENTRYBOOK_MIGRATE", "no")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let waits = "SELECT true FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event_type = 'Lock'
                    AND query LIKE '%FROM settle_events(%'";
    eventually("it waits", async || {
        sqlx::query_scalar::<_, bool>(waits).fetch_optional(kept.pool()).await.unwrap()
    })
    .await;
    let mut other =
        sqlx::PgConnection::connect_with(&kept.database.connect_options()).await.unwrap();
    let lock = "SELECT pg_advisory_lock(x'0E17B002'::int, hashtext('users'))";
    sqlx::query(lock).execute(&mut other).await.unwrap();
    kept.execute(
        "UPDATE builds SET state = 'swapped', started_at = clock_timestamp(),
                updated_at = clock_timestamp() WHERE name = 'users'",
    )
    .await;
    sequencer.rollback().await.unwrap();
    let said = Answer::of(child.wait_with_output().unwrap()).refused(4);
    assert!(said.contains("another process is rebuilding or verifying users"), "{said}");
    assert!(!said.contains("Before that"), "{said}");
    other.close().await.unwrap();
}

/// So many rows are kept in memory before they are written, so a build that ends before has nothing to go on with.
const ROWS_IN_MEMORY: i64 = 50_000;

#[tokio::test]
async fn broken_off_it_leaves_the_live_tables_and_the_next_run_goes_on() {
    let kept = Kept::with(ROWS_IN_MEMORY + 35_000).await;
    let before = kept.live().await;
    for (signal, code, word) in
        [(Signal::SIGINT, 130, "cancelled"), (Signal::SIGKILL, -1, "interrupted")]
    {
        // Begun anew each time.
        kept.execute("DELETE FROM builds").await;
        let mut child = kept
            .setup
            .command(&["projections", "rebuild", "audit_history", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let written = "SELECT position FROM builds WHERE name = 'audit_history' AND position >= $1";
        eventually("rows are written", async || {
            assert!(child.try_wait().unwrap().is_none(), "it was too fast to be broken off");
            sqlx::query_scalar::<_, i64>(written)
                .bind(ROWS_IN_MEMORY)
                .fetch_optional(kept.pool())
                .await
                .unwrap()
        })
        .await;
        // Held, it is seen from another process, and can't come to its end before the signal.
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let build = &kept.run(&["status", "--json"]).json()[2]["build"];
        assert_eq!((&build["state"], &build["phase"]), (&json!("running"), &json!("folding")));
        let status = kept.run(&["status"]).ok();
        assert!(status.contains("audit_history is being rebuilt: folding, line "), "{status}");
        kill(pid, signal).unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
        let ended = Answer::of(child.wait_with_output().unwrap());
        assert_eq!(ended.code, code, "{}{}", ended.out, ended.err);
        assert_eq!(kept.live().await, before);
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM ledger.audit_history_v3")
            .fetch_one(kept.pool())
            .await
            .unwrap();
        assert!(rows >= ROWS_IN_MEMORY + 35_000, "what serves is whole: {rows}");
        if signal == Signal::SIGINT {
            assert!(ended.err.contains("The live tables serve as before"), "{}", ended.err);
            assert!(
                ended.err.contains("entrybook projections rebuild audit_history"),
                "{}",
                ended.err
            );
            let lines = json_lines(&ended.out);
            assert_eq!(lines.last().unwrap()["type"], "broken_off");
            assert_eq!(of_type(&lines, "result"), Vec::<&Value>::new());
        }
        let status = kept.run(&["status"]).ok();
        assert!(
            status.contains(&format!("The last rebuild of audit_history was {word} at line ")),
            "{status}"
        );
        let doctor = run(&kept.setup, &["doctor"]).out;
        assert!(
            doctor.contains(&format!("The last rebuild of audit_history was {word}")),
            "{doctor}"
        );
    }
    // What was left by the kill is gone on with.
    let said = kept.run(&["rebuild", "audit_history"]).ok();
    assert!(said.contains("audit_history: built anew and swapped in"), "{said}");
    assert!(said.contains("It went on after line 5"), "{said}");
    assert_ne!(kept.live().await, before);
    assert_eq!(kept.run(&["status"]).ok().matches("The last").count(), 0);
}

/// The first asks it to end in good order. What hinders that hinders nobody who asks again.
#[tokio::test]
async fn a_second_ctrl_c_ends_it_at_once() {
    const LINES: i64 = 2_000;
    let kept = Kept::with(LINES).await;
    let before = kept.live().await;
    let held = Held::live_table_of(&kept.database, "users").await;
    let mut child = kept
        .setup
        .command(&["projections", "rebuild", "users", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let is_so = async |what: &str| {
        let so = format!("SELECT EXISTS ({what})");
        let so: bool = sqlx::query_scalar(&so).fetch_one(kept.pool()).await.unwrap();
        so.then_some(())
    };
    eventually("it compares", async || {
        is_so("SELECT FROM builds WHERE name = 'users' AND phase = 'comparing'").await
    })
    .await;
    // How it ended is written down here.
    let mut builds = kept.pool().begin().await.unwrap();
    let lock = "SET LOCAL idle_in_transaction_session_timeout = 0;
                SELECT FROM builds WHERE name = 'users' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut *builds).await.unwrap();

    kill(pid, Signal::SIGINT).unwrap();
    eventually("it would write down that it was cancelled", async || {
        is_so(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()
                AND wait_event_type = 'Lock' AND query LIKE 'UPDATE builds SET state%'",
        )
        .await
    })
    .await;
    assert!(child.try_wait().unwrap().is_none(), "it ends in good order");
    kill(pid, Signal::SIGINT).unwrap();
    eventually("it ends", async || child.try_wait().unwrap()).await;
    let ended = Answer::of(child.wait_with_output().unwrap());
    assert_eq!(ended.code, 130, "{}{}", ended.out, ended.err);
    for words in ["The live tables serve as before", "entrybook projections rebuild users"] {
        assert!(ended.err.contains(words), "{}", ended.err);
    }
    assert_eq!(json_lines(&ended.out).last().unwrap()["type"], "broken_off");

    builds.rollback().await.unwrap();
    held.let_go().await;
    assert_eq!(kept.live().await, before);
    // What it had asked of the database ends when that notices.
    let said = eventually("nobody is at it", async || {
        let again = kept.run(&["rebuild", "users"]);
        let turned_away = again.code == 4 && again.err.contains("another process");
        (!turned_away).then(|| again.ok())
    })
    .await;
    assert!(said.contains("users: built anew and swapped in"), "{said}");
    assert!(said.contains("It went on after line 2,00"), "{said}");
    assert_ne!(kept.live().await, before);
}

/// What a terminal of 120 columns gets on standard error, and how the verb ended.
fn in_a_terminal(kind: &str, setup: &Setup, arguments: &[&str]) -> (String, Answer) {
    let size = Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let reading = std::thread::spawn(move || {
        let (mut master, mut shown) = (File::from(terminal.master), Vec::new());
        let mut part = [0; 4096];
        // Its end is an error: EIO, when nobody holds the other side.
        while let Ok(length @ 1..) = master.read(&mut part) {
            shown.extend_from_slice(&part[..length]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    let mut command = setup.command(arguments);
    command.env("TERM", kind).stdout(Stdio::piped()).stderr(terminal.slave);
    let child = command.spawn().unwrap();
    // It keeps the other side open.
    drop(command);
    let ended = Answer::of(child.wait_with_output().unwrap());
    (reading.join().unwrap(), ended)
}

#[tokio::test]
async fn a_terminal_shows_bars_and_is_left_clean() {
    let kept = Kept::with(9_000).await;
    let (shown, ended) =
        in_a_terminal("xterm", &kept.setup, &["projections", "rebuild", "users", "audit_history"]);
    let said = ended.ok();
    assert!(
        said.contains("users: built anew") && said.contains("audit_history: built anew"),
        "{said}"
    );
    assert!(!said.contains('\x1b'), "{said}");
    assert!(shown.contains("users         [") && shown.contains("audit_history ["), "{shown}");
    // The rebuild's own lines are in the book as well.
    assert!(shown.contains("100 %") && shown.contains("of 9,00"), "{shown}");
    assert!(!shown.contains("\x1b[?25l"), "the cursor is never hidden: {shown}");
    // The last thing is that the bars go.
    assert!(
        shown.trim_end_matches(['\r', '\n']).ends_with("\x1b[2K") || shown.ends_with("\x1b[1A"),
        "{shown:?}"
    );
    // One that can't move its cursor gets lines.
    let (shown, ended) = in_a_terminal("dumb", &kept.setup, &["projections", "rebuild", "users"]);
    ended.ok();
    assert!(shown.contains("users: comparing") && !shown.contains('\x1b'), "{shown:?}");
}

#[tokio::test]
async fn it_works_beside_a_server_with_a_private_database() {
    let dir = scratch();
    let setup = bare(&dir.path().join("book"));
    let server = Serving::start(&setup).await;
    assert_eq!(server.sign_in("nobody", "a wrong password").await, 401);
    let said = run(&setup, &["projections", "rebuild"]).ok();
    assert_eq!(said.matches("built anew and swapped in").count(), 5, "{said}");
    let said = run(&setup, &["projections", "verify"]).ok();
    assert_eq!(said.matches(": equal").count(), 6, "{said}");
    let status = run(&setup, &["projections", "status", "--json"]).json();
    assert_eq!(status[0]["replicas"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status[0]["build"]["state"], "compared");
    let said = run(&setup, &["projections", "status"]).ok();
    assert!(said.contains("SERVER"), "{said}");
    assert!(said.contains("users 2, sessions 2, audit_history 3"), "{said}");
    assert_eq!(server.sign_in("nobody", "a wrong password").await, 401);
    let admin = printed_password(&server.printed()).unwrap().to_owned();
    assert_eq!(server.sign_in("admin", &admin).await, 200);
}
