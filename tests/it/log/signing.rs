//! What is signed, by whom, and when nothing is signed any more.

use std::{collections::BTreeMap, path::Path};

use ::projections::transparency;
use ::proof::{Checkpoint, Hash, InclusionProof, Leaf, Tree, is_consistent};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool, Row};

use super::{
    backup::{dump, restore},
    client::{
        FAST, all_is_signed, events, fast, is_remembered, keys, log_ends, log_json, newest,
        origin_of, remembered, warning,
    },
};
use crate::support::{
    database::TestDatabase,
    http::Api,
    scratch,
    server::{Server, Setup, eventually},
    shared::Running,
};

fn api(server: &Server) -> Api {
    Api::new(server.url(""))
}

/// Signs ada's registration, and more, in at this server.
async fn register(server: &Server, names: &[&str]) {
    for name in names {
        server.register(name).await;
    }
}

/// The checkpoints of all logs, as they are stored.
async fn stored(pool: &PgPool) -> Vec<(String, u64, Vec<u8>, Vec<u8>)> {
    let rows =
        sqlx::query("SELECT origin, size, root, note FROM checkpoints ORDER BY signed_at, size")
            .fetch_all(pool)
            .await
            .unwrap();
    let row = |row: sqlx::postgres::PgRow| {
        (row.get(0), row.get::<i64, _>(1).unsigned_abs(), row.get(2), row.get(3))
    };
    rows.into_iter().map(row).collect()
}

/// The root of the tree of each size, from the events alone.
async fn roots(pool: &PgPool) -> BTreeMap<u64, Hash> {
    let events = sqlx::query(
        "SELECT position, aggregate_type, aggregate_id, sequence, event_type, event_version,
                payload::text, metadata::text, recorded_at
           FROM journal JOIN events ON events.tx = journal.tx AND id = event_id ORDER BY position",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let mut tree = Tree::default();
    let mut roots = BTreeMap::new();
    for event in &events {
        let leaf = Leaf {
            position: event.get::<i64, _>(0).unsigned_abs(),
            stream_type: event.get(1),
            stream_id: event.get(2),
            sequence: event.get::<i64, _>(3).unsigned_abs(),
            event_type: event.get(4),
            event_version: event.get(5),
            payload: event.get(6),
            metadata: event.get(7),
            recorded_at: event.get(8),
        };
        tree.push(leaf.hash().unwrap(), |_| {});
        roots.insert(tree.size(), tree.root());
    }
    roots
}

/// Every checkpoint that was ever stored is of the book as it is.
async fn all_hold(pool: &PgPool, keys: &[String]) -> usize {
    let (roots, stored) = (roots(pool).await, stored(pool).await);
    for (origin, size, root, note) in &stored {
        let checkpoint = Checkpoint::verify(note, origin, keys).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root.0.to_vec()), (*size, root.clone()));
        assert_eq!(roots.get(size), Some(&checkpoint.root), "{size}");
    }
    stored.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_signed_within_seconds_and_follows_from_the_one_before() {
    // With the interval that is the default.
    let running = Running::start(&FAST[1..]).await;
    let (api, pool) = (running.api(), running.database.pool());
    let mut before: Option<Checkpoint> = None;
    for number in 0..4 {
        let began = std::time::Instant::now();
        api.register(&format!("person-{number}")).await;
        let (_, checkpoint) = all_is_signed(&api, pool).await;
        println!("{} lines signed after {:?}", checkpoint.size, began.elapsed());
        if let Some(before) = &before {
            assert!(checkpoint.size > before.size);
            let conn = &mut *pool.acquire().await.unwrap();
            let path = transparency::prove_consistency(conn, checkpoint.size, before.size).await;
            let (size, root) = (checkpoint.size, checkpoint.root);
            assert!(is_consistent(path.unwrap(), size, root, before.size, before.root));
        }
        before = Some(checkpoint);
    }
    let keys = keys(&api).await;
    let checkpoints = all_hold(pool, &keys).await;
    println!("{checkpoints} checkpoints hold");
    assert_eq!(warning(&api).await, None);
    // The name is that of the public address, for good, and the book says when it began.
    let port = running.setup.port;
    assert_eq!(origin_of(&keys[0]), format!("localhost:{port}/log"));
    let begun: Vec<String> = sqlx::query_scalar(
        "SELECT payload #>> '{LogBegun,key}' FROM events WHERE event_type = 'LogBegun'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert_eq!(begun, keys);
    eventually("it is remembered", async || {
        (remembered(&running.setup.data_dir).len() == 1).then_some(())
    })
    .await;
    let metrics = api.get("/metrics").send().await.is(200).text();
    assert!(metrics.contains("entrybook_log_refused 0"), "{metrics}");
    let status = log_json(&running.setup, &["status"], 0).await;
    assert_eq!(status["stopped"], Value::Null);
    assert_eq!(status["keys"][0]["key"], keys[0]);
    assert_eq!(log_ends(&running.setup, &["key"], 0).await.trim(), keys[0]);
}

/// The signer is the one that holds this lock.
async fn instead_of_the_signer(url: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(hashtext('process:sign_log'))")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_signer_people_sign_in_and_the_log_catches_up() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let held = instead_of_the_signer(&database.url()).await;
    let server = setup.start().await;
    register(&server, &["ada", "ben"]).await;
    server.sign_in("ada").await;
    server.sign_in("ben").await;
    let api = api(&server);
    assert_eq!(newest(&api).await, None, "nobody signs");
    api.get("/log/proof/1").send().await.problem(404, "not-found");
    let status = eventually("all lines wait", async || {
        let status = log_json(&setup, &["status"], 0).await;
        (status["unsigned"].as_u64().unwrap() > 4).then_some(status)
    })
    .await;
    assert_eq!((&status["size"], &status["stopped"]), (&Value::Null, &Value::Null));

    held.close().await.unwrap();
    let (_, checkpoint) = all_is_signed(&api, database.pool()).await;
    println!("caught up to {} lines", checkpoint.size);
    all_hold(database.pool(), &keys(&api).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_signs_and_the_other_takes_over() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let one = fast(Setup::on(&database.url(), &scratch.path().join("one")));
    let one = one.known_as("http://localhost:8080");
    let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
    let (first, second) = tokio::join!(one.start(), two.start());
    for number in 0..5 {
        register(&first, &[&format!("first-{number}")]).await;
        register(&second, &[&format!("second-{number}")]).await;
    }
    all_is_signed(&api(&first), database.pool()).await;
    all_is_signed(&api(&second), database.pool()).await;
    // Both remember, whoever signed.
    eventually("both remember", async || {
        let both = [&one, &two].map(|setup| remembered(&setup.data_dir).len());
        (both == [1, 1]).then_some(())
    })
    .await;
    // Whichever it was that signed, it is killed once.
    first.kill();
    register(&second, &["ada"]).await;
    all_is_signed(&api(&second), database.pool()).await;
    let first = one.start().await;
    second.kill();
    register(&first, &["ben"]).await;
    all_is_signed(&api(&first), database.pool()).await;
    let keys = keys(&api(&first)).await;
    assert_eq!(keys.len(), 1, "they began one log");
    let checkpoints = all_hold(database.pool(), &keys).await;
    println!("{checkpoints} checkpoints of two replicas hold");
    assert_eq!(warning(&api(&first)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_killed_sign_nothing_twice_and_go_on() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    for round in 0..4 {
        let server = setup.start().await;
        for number in 0..6 {
            register(&server, &[&format!("person-{round}-{number}")]).await;
        }
        server.kill();
    }
    // Killed between the row and the file: the file knows less.
    let stored = stored(database.pool()).await;
    let [file] = &remembered(&setup.data_dir)[..] else { panic!("one file") };
    let (_, older, _, note) = &stored[stored.len() / 2];
    std::fs::write(file, note).unwrap();
    let server = setup.start().await;
    register(&server, &["ada"]).await;
    let (_, checkpoint) = all_is_signed(&api(&server), database.pool()).await;
    assert!(checkpoint.size > *older);
    assert_eq!(warning(&api(&server)).await, None);
    eventually("the file knows the newest again", async || {
        let newest = newest(&api(&server)).await.unwrap();
        (std::fs::read(file).unwrap() == newest.0).then_some(())
    })
    .await;
    all_hold(database.pool(), &keys(&api(&server)).await).await;

    // And before any file: a data directory that is new.
    server.kill();
    std::fs::remove_file(file).unwrap();
    let server = setup.start().await;
    register(&server, &["ben"]).await;
    all_is_signed(&api(&server), database.pool()).await;
    eventually("a new file remembers", async || {
        (remembered(&setup.data_dir).len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_an_older_backup_is_found_out_and_a_new_log_goes_on() {
    let (database, restored) = (TestDatabase::create().await, TestDatabase::create().await);
    let scratch = scratch();
    let file = scratch.path().join("backup.sql");
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let setup = setup.known_as("http://localhost:8080");
    let server = setup.start().await;
    register(&server, &["ada"]).await;
    all_is_signed(&api(&server), database.pool()).await;
    dump(&database.url(), &file).await;
    register(&server, &["ben"]).await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    is_remembered(&setup.data_dir, &note).await;
    assert!(server.stop().await.success());

    restore(&restored.url(), &file).await;
    let newest_in = async |database: &TestDatabase| stored(database.pool()).await.pop().unwrap().1;
    let (in_backup, newer) = (newest_in(&restored).await, newest_in(&database).await);
    assert!(newer > in_backup);
    let setup = Setup { database_url: Some(restored.url()), ..setup };
    let server = setup.start().await;
    let told = eventually("it is found out", async || warning(&api(&server)).await).await;
    println!("{told}");
    assert!(told.contains(&format!("has {in_backup} lines")), "{told}");
    assert!(told.contains(&format!("one of {newer} lines was signed")), "{told}");
    assert!(told.contains("restored from an older backup"), "{told}");
    assert!(told.contains("entrybook log begin --origin localhost:8080/log2"), "{told}");
    assert!(!told.contains(scratch.path().to_str().unwrap()), "anybody may read it: {told}");
    let metrics = api(&server).get("/metrics").send().await.is(200).text();
    assert!(metrics.contains("entrybook_log_refused 1"), "{metrics}");
    // Signing in goes on, and nothing is signed of it, whoever's turn it is.
    server.sign_in("ada").await;
    let forgetful = Setup { data_dir: scratch.path().join("other"), ..setup.replica() };
    let other = forgetful.start().await;
    register(&other, &["cleo", "dan", "eva", "finn"]).await;
    assert!(server.stop().await.success());
    register(&other, &["gus"]).await;
    eventually("the tree has what is not signed", async || {
        let size = transparency::size(&mut restored.pool().acquire().await.unwrap()).await;
        (size.unwrap() == events(restored.pool()).await).then_some(())
    })
    .await;
    assert_eq!(warning(&api(&other)).await.as_deref(), Some(told.as_str()));
    let status = log_json(&forgetful, &["status"], 5).await;
    assert_eq!(
        (&status["stopped"]["by"], &status["stopped"]["text"]),
        (&"memory".into(), &told.as_str().into())
    );
    assert_eq!(status["size"], in_backup);
    let words = log_ends(&setup, &["status"], 5).await;
    assert!(words.contains("STOPPED") && words.contains(&told), "{words}");
    assert_eq!(newest(&api(&other)).await.unwrap().1.size, in_backup);

    // The old name is taken; a new one goes on, over all lines.
    let refused = log_ends(&setup, &["begin", "--origin", "localhost:8080/log"], 4).await;
    assert!(refused.contains("there was a log of the name"), "{refused}");
    let begun = log_ends(&setup, &["begin", "--origin", "localhost:8080/log2"], 0).await;
    assert!(begun.contains("localhost:8080/log2+"), "{begun}");
    let (_, checkpoint) = eventually("the new log signs", async || {
        let keys = keys(&api(&other)).await;
        (origin_of(&keys[0]) == "localhost:8080/log2").then_some(())?;
        newest(&api(&other)).await
    })
    .await;
    assert_eq!(checkpoint.origin, "localhost:8080/log2");
    let (_, checkpoint) = all_is_signed(&api(&other), restored.pool()).await;
    assert_eq!(roots(restored.pool()).await.get(&checkpoint.size), Some(&checkpoint.root));
    assert_eq!(warning(&api(&other)).await, None);
    log_ends(&setup, &["status"], 0).await;
    let begun: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'LogBegun'")
            .fetch_one(restored.pool())
            .await
            .unwrap();
    assert_eq!(begun, 2);
    // The restored book forked nothing of the old log.
    let mut stored = stored(restored.pool()).await;
    stored.retain(|(origin, ..)| origin == "localhost:8080/log");
    assert_eq!(stored.last().unwrap().1, in_backup);
}

/// As with a backup of before the log began: it would begin once more, with another key.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_knows_nothing_of_the_log_begins_no_second_one_under_its_name() {
    let (database, new) = (TestDatabase::create().await, TestDatabase::create().await);
    let scratch = scratch();
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let setup = setup.known_as("http://localhost:8080");
    let server = setup.start().await;
    register(&server, &["ada"]).await;
    let (_, checkpoint) = all_is_signed(&api(&server), database.pool()).await;
    eventually("it is remembered", async || remembered(&setup.data_dir).pop()).await;
    assert!(server.stop().await.success());

    let setup = Setup { database_url: Some(new.url()), ..setup };
    let server = setup.start().await;
    register(&server, &["ben"]).await;
    let told = eventually("it is found out", async || warning(&api(&server)).await).await;
    println!("{told}");
    assert!(told.contains("lines of another log of the name localhost:8080/log"), "{told}");
    assert!(!told.contains(scratch.path().to_str().unwrap()), "anybody may read it: {told}");
    assert!(stored(new.pool()).await.is_empty(), "nothing was signed");
    server.sign_in("ben").await;
    log_ends(&setup, &["begin", "--origin", "localhost:8080/log2"], 0).await;
    let (_, next) = eventually("a log of another name signs", async || {
        newest(&api(&server)).await.filter(|(_, newest)| newest.origin != checkpoint.origin)
    })
    .await;
    assert_eq!(next.origin, "localhost:8080/log2");
    eventually("nothing is wrong", async || warning(&api(&server)).await.is_none().then_some(()))
        .await;
}

/// What a refusal is about is set right, and it goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_the_tree_that_was_changed_stops_the_log_until_it_is_right() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    api.register("ada").await;
    all_is_signed(&api, pool).await;
    let right: Vec<u8> =
        sqlx::query_scalar("SELECT hash FROM ledger.transparency_v1 WHERE node = 1")
            .fetch_one(pool)
            .await
            .unwrap();
    let change = async |hash: &[u8]| {
        sqlx::query("UPDATE ledger.transparency_v1 SET hash = $1 WHERE node = 1")
            .bind(hash)
            .execute(pool)
            .await
            .unwrap();
    };
    change(&[7; 32]).await;
    let told = eventually("it is found out", async || warning(&api).await).await;
    println!("{told}");
    assert!(told.contains("rows of it were changed"), "{told}");
    let before = newest(&api).await.unwrap().1;
    api.register("ben").await;
    log_ends(&running.setup, &["status"], 5).await;
    assert_eq!(newest(&api).await.unwrap().1, before);
    change(&right).await;
    all_is_signed(&api, pool).await;
    eventually("nothing is wrong any more", async || warning(&api).await.is_none().then_some(()))
        .await;

    // A row that is gone, too.
    sqlx::query("DELETE FROM ledger.transparency_v1 WHERE node = 1").execute(pool).await.unwrap();
    let told = eventually("it is found out", async || warning(&api).await).await;
    println!("{told}");
    assert!(told.contains("hash 1 of level 0 of the tree is not there"), "{told}");
    sqlx::query("INSERT INTO ledger.transparency_v1 (node, hash) VALUES (1, $1)")
        .bind(&right)
        .execute(pool)
        .await
        .unwrap();
    api.register("cleo").await;
    all_is_signed(&api, pool).await;
    all_hold(pool, &keys(&api).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_not_rewritten_and_one_that_was_is_found_out() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    api.register("ada").await;
    all_is_signed(&api, pool).await;
    let mut connection = running.database.pool().acquire().await.unwrap();
    let statements = [
        "UPDATE checkpoints SET signed_at = now()",
        "DELETE FROM checkpoints",
        "TRUNCATE checkpoints",
    ];
    for (role, code) in [("SET ROLE entrybook_app", "42501"), ("RESET ROLE", "23001")] {
        sqlx::raw_sql(role).execute(&mut *connection).await.unwrap();
        for statement in statements {
            let refused = sqlx::raw_sql(statement).execute(&mut *connection).await.unwrap_err();
            let found =
                refused.as_database_error().and_then(|error| error.code().map(String::from));
            assert_eq!(found.as_deref(), Some(code), "{role}: {statement}: {refused}");
        }
    }
    // Somebody who may do all.
    sqlx::raw_sql(
        "ALTER TABLE checkpoints DISABLE TRIGGER append_only;
         UPDATE checkpoints SET root = decode(repeat('07', 32), 'hex')
          WHERE size = (SELECT max(size) FROM checkpoints);
         ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER append_only",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let told = eventually("it is found out", async || warning(&api).await).await;
    println!("{told}");
    // Whoever looks first: the memory of this server, or the signature.
    assert!(
        told.contains("another one of as many lines") || told.contains("not as the log"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_book_whose_end_was_cut_off_is_found_out() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    api.register("ada").await;
    all_is_signed(&api, pool).await;
    sqlx::raw_sql(
        "ALTER TABLE journal DISABLE TRIGGER append_only;
         ALTER TABLE events DISABLE TRIGGER append_only;
         WITH cut AS (DELETE FROM journal WHERE position = (SELECT max(position) FROM journal)
                      RETURNING tx, event_id)
         DELETE FROM events USING cut WHERE (events.tx, events.id) = (cut.tx, cut.event_id)",
    )
    .execute(pool)
    .await
    .unwrap();
    let told = eventually("it is found out", async || warning(&api).await).await;
    println!("{told}");
    assert!(told.contains("lines were deleted"), "{told}");
    assert!(log_ends(&running.setup, &["status"], 5).await.contains(&told));
}

/// As a witness stops it: for all replicas, over a restart, until somebody has looked into it.
#[tokio::test(flavor = "multi_thread")]
async fn what_binds_all_replicas_is_lifted_by_somebody_alone() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let setup = setup.known_as("http://localhost:8080");
    let server = setup.start().await;
    all_is_signed(&api(&server), database.pool()).await;
    let refusal = r#"{"origin":"localhost:8080/log","by":"witness","text":"it has seen more","since":"2026-01-01T00:00:00Z"}"#;
    sqlx::query(
        "UPDATE projections SET state = 'stopped', detail = $1 WHERE name = 'process:sign_log'",
    )
    .bind(refusal)
    .execute(database.pool())
    .await
    .unwrap();
    let told = eventually("it has stopped", async || warning(&api(&server)).await).await;
    assert_eq!(told, "it has seen more");
    // One that was under way when it stopped may still be stored.
    let size = newest(&api(&server)).await.unwrap().1.size;
    assert!(server.stop().await.success());
    let server = setup.start().await;
    register(&server, &["ada"]).await;
    eventually("the tree has what is not signed", async || {
        let tree = transparency::size(&mut database.pool().acquire().await.unwrap()).await;
        (tree.unwrap() > size + 1).then_some(())
    })
    .await;
    assert_eq!(newest(&api(&server)).await.unwrap().1.size, size);
    log_ends(&setup, &["status"], 5).await;
    let resumed = log_ends(&setup, &["resume"], 0).await;
    assert!(resumed.contains("it has seen more"), "{resumed}");
    // Who has lifted it, and what it was, is in the book.
    let (told, by): (Value, String) = sqlx::query_as(
        "SELECT payload, metadata->>'actor' FROM events WHERE event_type = 'LogResumed'",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    let expected = json!({"origin": "localhost:8080/log", "refusal": "it has seen more"});
    assert_eq!(told, json!({ "LogResumed": expected }));
    assert!(by.starts_with("cli:s1."), "{by}");
    all_is_signed(&api(&server), database.pool()).await;
    assert_eq!(warning(&api(&server)).await, None);
    log_ends(&setup, &["status"], 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rotation_each_checkpoint_is_checked_with_the_key_of_its_time() {
    let running = Running::start(&FAST).await;
    let (api, pool) = (running.api(), running.database.pool());
    api.register("ada").await;
    let (old_note, _) = all_is_signed(&api, pool).await;
    let printed = log_ends(&running.setup, &["rotate", "--after", "0s"], 0).await;
    api.register("ben").await;
    all_is_signed(&api, pool).await;
    let both = eventually("both keys are told", async || {
        let keys = keys(&api).await;
        (keys.len() == 2).then_some(keys)
    })
    .await;
    assert!(printed.contains(&both[1]), "{printed}");
    let [old, new] = [0, 1].map(|at| both[at..=at].to_vec());
    let origin = origin_of(&old[0]);
    assert_eq!(origin, origin_of(&new[0]), "the log is the same");
    let note = eventually("the new key signs", async || {
        api.register(&crate::support::shared::unique("cleo")).await;
        let (note, _) = all_is_signed(&api, pool).await;
        Checkpoint::verify(&note, origin, &new).is_ok().then_some(note)
    })
    .await;
    assert!(Checkpoint::verify(&note, origin, &old).is_err());
    assert!(Checkpoint::verify(&old_note, origin, &old).is_ok());
    assert!(Checkpoint::verify(&old_note, origin, &new).is_err());
    all_hold(pool, &both).await;
    assert_eq!(warning(&api).await, None, "what the old key signed is believed");

    // One that is yet to sign is told, and does not.
    log_ends(&running.setup, &["rotate", "--after", "1d"], 0).await;
    let refused = log_ends(&running.setup, &["rotate", "--after", "0s"], 4).await;
    assert!(refused.contains("was made already and signs from"), "{refused}");
    eventually("three keys are told", async || (keys(&api).await.len() == 3).then_some(())).await;
    api.register("dan").await;
    let (note, _) = all_is_signed(&api, pool).await;
    assert!(Checkpoint::verify(&note, origin, &new).is_ok());
    let added: i64 =
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'LogKeyAdded'")
            .fetch_one(pool)
            .await
            .unwrap();
    assert_eq!(added, 2);
}

/// Another cluster, as for a move to another machine: its transaction ids are others.
async fn another_server(place: &Path) -> postgres::PrivatePostgres {
    let mut settings = postgres::Settings::new(place.join("elsewhere"));
    settings.bin_dir = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN").map(Into::into);
    settings.fallback_dir = std::env::temp_dir().join("entrybook-tests-elsewhere");
    postgres::PrivatePostgres::start(settings).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_book_that_moved_to_another_server_keeps_its_lines_its_proofs_and_its_log() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let file = scratch.path().join("move.sql");
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let setup = setup.known_as("http://localhost:8080");
    let server = setup.start().await;
    register(&server, &["ada", "ben"]).await;
    all_is_signed(&api(&server), database.pool()).await;
    assert!(server.stop().await.success());
    let server = setup.start().await;
    let (_, before) = all_is_signed(&api(&server), database.pool()).await;
    let old_keys = keys(&api(&server)).await;
    let proof = api(&server).get("/log/proof/3").send().await.is(200).text();
    let proof = InclusionProof::parse(&proof).unwrap();
    server.kill();
    let lines = roots(database.pool()).await;
    dump(&database.url(), &file).await;

    let elsewhere = another_server(scratch.path()).await;
    let url = elsewhere.superuser_parts().url();
    restore(&url, &file).await;
    let setup = Setup { database_url: Some(url.clone()), ..setup };
    let server = setup.start().await;
    let there = PgPool::connect(&url).await.unwrap();
    // The first start there tells that the book was restored, and the next one no more.
    let restored = async || {
        sqlx::query_scalar("SELECT payload FROM events WHERE event_type = 'BookRestored'")
            .fetch_all(&there)
            .await
            .unwrap()
    };
    let told: Vec<Value> = restored().await;
    let [told] = &told[..] else { panic!("{told:?}") };
    let cluster = async |pool: &PgPool| -> String {
        sqlx::query_scalar("SELECT system_identifier::text FROM pg_control_system()")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let (from, to) = (cluster(database.pool()).await, cluster(&there).await);
    assert_eq!(told["BookRestored"], json!({ "from": from, "to": to }));
    assert!(server.stop().await.success());
    let server = setup.start().await;
    assert_eq!(restored().await.len(), 1);
    register(&server, &["cleo"]).await;
    let (_, after) = all_is_signed(&api(&server), &there).await;
    assert_eq!(warning(&api(&server)).await, None);
    assert_eq!(keys(&api(&server)).await, old_keys);
    assert!(after.size > before.size);
    let moved = roots(&there).await;
    for (size, root) in &lines {
        assert_eq!(moved.get(size), Some(root), "the lines up to {size}");
    }
    let leaf = {
        let conn = &mut *there.acquire().await.unwrap();
        let path = transparency::prove_consistency(conn, after.size, before.size).await.unwrap();
        assert!(is_consistent(path, after.size, after.root, before.size, before.root));
        transparency::leaf_hashes(conn, 2, 1).await.unwrap()[0]
    };
    // A proof of before holds, and one of now is of the same line.
    proof.verify(leaf, origin_of(&old_keys[0]), &old_keys).unwrap();
    let now = api(&server).get("/log/proof/3").send().await.is(200).text();
    let now = InclusionProof::parse(&now).unwrap();
    assert_eq!(now.verify(leaf, origin_of(&old_keys[0]), &old_keys).unwrap().size, after.size);
    let checkpoints = all_hold(&there, &old_keys).await;
    println!(
        "{checkpoints} checkpoints hold in another cluster, {} of {} lines",
        after.size,
        events(&there).await
    );
    there.close().await;
    assert!(server.stop().await.success());
}
