//! What is kept outside of the database, and what somebody who may write to the database does about it.

use ::proof::Checkpoint;
use sqlx::{Connection, PgConnection, PgPool};

use super::{
    client::{
        all_is_signed, fast, is_remembered, keys, log_ends, log_json, newest, remembered, warning,
    },
    witness::Place,
};
use crate::support::{
    database::TestDatabase,
    http::Api,
    scratch,
    server::{Server, Setup, client, eventually},
};

fn api(server: &Server) -> Api {
    Api::new(server.url(""))
}

/// The status of an answer, and the problem that it tells where the log can't be used.
async fn asked(server: &Server, path: &str) -> (u16, String) {
    let answer = client().get(server.url(path)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn is_unavailable(server: &Server, path: &str) {
    let (status, problem) = asked(server, path).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("/problems/unavailable") && problem.contains("/readyz"), "{problem}");
}

async fn notes(pool: &PgPool) -> Vec<Vec<u8>> {
    let notes = sqlx::query_scalar("SELECT note FROM checkpoints ORDER BY size");
    notes.fetch_all(pool).await.unwrap()
}

/// A row that is larger than the newest, with a note that was signed once, would be remembered and anchored
/// in place of what was signed since, and the book could be set back to that.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_put_there_is_neither_shown_nor_remembered_nor_anchored() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let file = scratch.path().join("anchors.txt");
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_ANCHOR_FILE", file.to_str().unwrap());
    let server = setup.start().await;
    for name in ["ada", "ben", "cleo"] {
        server.register(name).await;
        all_is_signed(&api(&server), database.pool()).await;
    }
    let (note, signed) = all_is_signed(&api(&server), database.pool()).await;
    is_remembered(&setup.data_dir, &note).await;
    let anchored = eventually("it is anchored", async || {
        let text = std::fs::read(&file).ok()?;
        text.ends_with(&[&note[..], b"\n"].concat()).then_some(text)
    })
    .await;

    // The application's rights do not suffice.
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let refused = sqlx::raw_sql(
        "SET ROLE entrybook_app;
         INSERT INTO checkpoints (origin, size, root, note) SELECT origin, size + 1, root, note FROM checkpoints",
    )
    .execute(&mut connection)
    .await
    .unwrap_err();
    assert!(refused.to_string().contains("with the permit of a process"), "{refused}");
    sqlx::raw_sql("RESET ROLE").execute(&mut connection).await.unwrap();
    let first = notes(database.pool()).await.swap_remove(0);
    let mut told_to_do = Vec::new();
    for planted in [first, note.clone(), b"garbage".to_vec()] {
        sqlx::query(
            "INSERT INTO checkpoints (origin, size, root, note)
             SELECT $1, max(size) + 1000000000000, decode(repeat('07', 32), 'hex'), $2 FROM checkpoints",
        )
        .bind(&signed.origin)
        .bind(planted)
        .execute(&mut connection)
        .await
        .unwrap();
        let told = eventually("it is found out", async || {
            let told = warning(&api(&server)).await?;
            let is_new = !told_to_do.iter().any(|before: &String| told.contains(before));
            is_new.then_some(told)
        })
        .await;
        println!("{told}");
        assert!(told.contains("is not as the log localhost:8080/log has signed it"), "{told}");
        let (_, statement) = told.split_once("it signs again with: ").unwrap();
        told_to_do.push(statement.split_once("; COMMIT").unwrap().0.to_owned() + "; COMMIT");
        eventually("it is not shown", async || {
            (asked(&server, "/log/checkpoint").await.0 == 503).then_some(())
        })
        .await;
        is_unavailable(&server, "/log/proof/1").await;
        let status = log_json(&setup, &["status"], 5).await;
        assert_eq!(status["stopped"]["by"], "tree", "{status}");
        // Each replica looks every tenth of a second at what it should remember.
        server.sign_in("ada").await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        is_remembered(&setup.data_dir, &note).await;
        assert_eq!(std::fs::read(&file).unwrap(), anchored);
    }
    // Whoever owns the table takes it away, and it signs again.
    // By what it is told, and nothing else: one statement takes away one row.
    for row in 0..3 {
        let told = eventually("the next row is named", async || {
            let told = warning(&api(&server)).await?;
            told_to_do.iter().rev().find(|statement| told.contains(*statement)).cloned()
        })
        .await;
        println!("{row}: {told}");
        sqlx::raw_sql(&told).execute(&mut connection).await.unwrap();
        told_to_do.retain(|statement| *statement != told);
    }
    eventually("it signs again", async || {
        let (_, checkpoint) = newest_shown(&server).await?;
        (checkpoint.size > signed.size).then_some(())
    })
    .await;
    eventually("nothing is wrong", async || warning(&api(&server)).await.is_none().then_some(()))
        .await;
}

/// The newest checkpoint, where one is shown.
async fn newest_shown(server: &Server) -> Option<(Vec<u8>, Checkpoint)> {
    if asked(server, "/log/checkpoint").await.0 != 200 {
        return None;
    }
    newest(&api(server)).await
}

/// What spoils a note for whoever reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_no_cosignature_is_left_out() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let server = setup.start().await;
    let (_, signed) = all_is_signed(&api(&server), database.pool()).await;
    sqlx::query(
        "INSERT INTO cosignatures (origin, size, witness, line) VALUES ($1, $2, 'x', E'x\\n\\ny')",
    )
    .bind(&signed.origin)
    .bind(signed.size as i64)
    .execute(database.pool())
    .await
    .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let (note, _) = newest(&api(&server)).await.unwrap();
    assert!(!String::from_utf8(note).unwrap().contains("x\n\ny"));
}

/// A row of the tree that was damaged, where a server and a file remember what was signed before it: nobody
/// has set the book back, and the advice is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_tree_is_not_taken_for_a_book_that_was_set_back() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let file = scratch.path().join("anchors.txt");
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_ANCHOR_FILE", file.to_str().unwrap());
    let server = setup.start().await;
    for name in ["ada", "ben", "cleo"] {
        server.register(name).await;
        all_is_signed(&api(&server), database.pool()).await;
    }
    assert!(server.stop().await.success());
    // What a crash may have left: they know of an older one than the table.
    let notes = notes(database.pool()).await;
    let older = &notes[notes.len() / 2];
    std::fs::write(remembered(&setup.data_dir).pop().unwrap(), older).unwrap();
    std::fs::write(&file, [&older[..], b"\n"].concat()).unwrap();
    let right: Vec<u8> =
        sqlx::query_scalar("SELECT hash FROM ledger.transparency_v1 WHERE node = 1")
            .fetch_one(database.pool())
            .await
            .unwrap();
    sqlx::raw_sql(
        "UPDATE ledger.transparency_v1 SET hash = decode(repeat('07', 32), 'hex') WHERE node = 1",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let server = setup.start().await;
    let told = eventually("it is found out", async || warning(&api(&server)).await).await;
    println!("{told}");
    assert!(told.contains("rows of it were changed"), "{told}");
    assert!(!told.contains("older backup"), "{told}");
    assert_eq!(log_json(&setup, &["status"], 5).await["stopped"]["by"], "tree");
    // Who asks is told that it is the log's fault, not theirs.
    sqlx::raw_sql("DELETE FROM ledger.transparency_v1 WHERE node = 1")
        .execute(database.pool())
        .await
        .unwrap();
    is_unavailable(&server, "/log/proof/1").await;
    // So nothing is left to be decided when it is right again.
    sqlx::query("INSERT INTO ledger.transparency_v1 (node, hash) VALUES (1, $1)")
        .bind(&right)
        .execute(database.pool())
        .await
        .unwrap();
    server.register("dan").await;
    all_is_signed(&api(&server), database.pool()).await;
    eventually("nothing is wrong", async || warning(&api(&server)).await.is_none().then_some(()))
        .await;
    assert!(!keys(&api(&server)).await.is_empty());
    log_ends(&setup, &["status"], 0).await;
}

/// A machine that lost its data directory, on a book that is the newest: it waits until the witness has said so.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_remembers_nothing_signs_when_a_witness_has_shown_that_nothing_is_lost() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let place = Place::make(scratch.path());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .with("ENTRYBOOK_LOG_WITNESSES", &place.setting());
    let server = setup.start().await;
    let keys = keys(&api(&server)).await;
    let witness = place.start(&keys).await;
    server.register("ada").await;
    let (_, signed) = all_is_signed(&api(&server), database.pool()).await;
    eventually("the witness has it", async || {
        (place.remembered(&signed.origin)?.size >= signed.size).then_some(())
    })
    .await;
    assert!(server.stop().await.success());
    witness.kill();
    std::fs::remove_dir_all(setup.data_dir.join("log")).unwrap();

    let server = setup.start().await;
    let told = eventually("it waits", async || warning(&api(&server)).await).await;
    assert!(told.contains("remembers nothing"), "{told}");
    let before = notes(database.pool()).await.len();
    server.register("ben").await;
    server.sign_in("ada").await;
    assert_eq!(notes(database.pool()).await.len(), before, "nothing is signed");
    let _witness = place.start(&keys).await;
    let (note, after) = all_is_signed(&api(&server), database.pool()).await;
    assert!(after.size > signed.size);
    is_remembered(&setup.data_dir, &note).await;
    assert_eq!(warning(&api(&server)).await, None);
}

/// What is no checkpoint any more stops the log, and whoever removes it lets it go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_that_is_damaged_is_named_and_can_be_removed() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let server = setup.start().await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    is_remembered(&setup.data_dir, &note).await;
    let file = remembered(&setup.data_dir).pop().unwrap();
    std::fs::write(&file, b"localhost/log\n\0\0\0").unwrap();
    let damaged = "If it was damaged, remove it on that server";
    let told = eventually("it is found out", async || {
        warning(&api(&server)).await.filter(|told| told.contains(damaged))
    })
    .await;
    println!("{told}");
    assert!(!told.contains(scratch.path().to_str().unwrap()), "anybody may read it: {told}");
    let status = log_ends(&setup, &["status"], 5).await;
    assert!(status.contains(file.to_str().unwrap()), "{status}");
    // It is still there: it stops again.
    log_ends(&setup, &["resume"], 0).await;
    eventually("it is found out again", async || warning(&api(&server)).await).await;
    std::fs::remove_file(&file).unwrap();
    log_ends(&setup, &["resume"], 0).await;
    server.register("ada").await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    is_remembered(&setup.data_dir, &note).await;
    assert_eq!(warning(&api(&server)).await, None);
}

/// Nobody who signs in needs the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_a_log_where_its_key_was_damaged() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let server = setup.start().await;
    server.register("ada").await;
    all_is_signed(&api(&server), database.pool()).await;
    assert!(server.stop().await.success());
    let right: Vec<u8> = sqlx::query_scalar("SELECT wrapped FROM log_keys")
        .fetch_one(database.pool())
        .await
        .unwrap();
    let change = async |wrapped: &[u8]| {
        sqlx::query("UPDATE log_keys SET wrapped = $1")
            .bind(wrapped)
            .execute(database.pool())
            .await
            .unwrap();
    };
    change(&[7; 60]).await;
    let server = setup.start().await;
    server.sign_in("ada").await;
    let told = eventually("it is told", async || warning(&api(&server)).await).await;
    println!("{told}");
    assert!(told.contains("row of log_keys is restored"), "{told}");
    is_unavailable(&server, "/log/checkpoint").await;
    let status = log_ends(&setup, &["status"], 1).await;
    assert!(status.contains("the keys of the transparency log can't be used"), "{status}");
    change(&right).await;
    eventually("it is shown again", async || newest_shown(&server).await).await;
    all_is_signed(&api(&server), database.pool()).await;
    eventually("nothing is wrong", async || warning(&api(&server)).await.is_none().then_some(()))
        .await;
}

/// The locks of those who sign, anchor and end sessions are held by idle connections. How soon a machine is
/// missed that went without a word can't be tried here; that it is asked for can.
#[tokio::test]
async fn a_connection_that_holds_a_lock_is_not_kept_for_a_machine_that_is_gone() {
    let database = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    projections::end_with_us(&mut connection).await.unwrap();
    let (local, idle, interval, count, check): (bool, String, String, String, String) =
        sqlx::query_as(
            "SELECT inet_client_addr() IS NULL, current_setting('tcp_keepalives_idle'),
                    current_setting('tcp_keepalives_interval'), current_setting('tcp_keepalives_count'),
                    current_setting('client_connection_check_interval')",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
    // By a socket of the file system there is no machine between.
    let expected = if local { ["0", "0", "0"] } else { ["10", "5", "3"] };
    assert_eq!([idle.as_str(), &interval, &count], expected);
    assert_eq!(check, "1s");
}
