//! `entrybook audit verify` of a database that is as it should be.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ::postgres::{PrivatePostgres, Settings};
use ::projections::book_audit::{Given, Progress, audit_book};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio::sync::watch;

use super::{Signed, audit, found, refresh, text, verify};
use crate::{
    log::{
        backup::{dump, restore},
        client::{all_is_signed, events, origin_of},
    },
    projections::book::Reader,
    support::{
        held::Held,
        http::Api,
        scratch,
        server::{Setup, eventually},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_book_is_proved_beside_a_running_server_and_without_its_master_key() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    // Somebody writes meanwhile.
    let token = api.register("cleo").await.refresh;
    let lines = signed.last.1.size + 100;
    let writing = refresh(&api, &signed.database, token, lines);
    let stranger = Setup {
        extra: vec![("ENTRYBOOK_MASTER_KEY_FILE".into(), "/nowhere".into())],
        ..signed.setup.clone()
    };
    let verifying = async {
        for _ in 0..5 {
            let (code, report) = verify(&stranger, &[]).await;
            assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
        }
    };
    tokio::join!(writing, verifying);

    let kept = signed.file("kept.txt", &[signed.first.0.clone(), signed.last.0.clone()].concat());
    let words = ["--key", signed.key(), "--checkpoint", text(&kept)];
    let (code, report) = verify(&stranger, &words).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    assert_eq!((&report["of"], &report["trusts_database"]), (&"database".into(), &false.into()));
    assert_eq!(report["origins"], json!([origin_of(signed.key())]));
    assert!(report["proved"].as_u64().unwrap() >= signed.last.1.size, "{report}");
    assert_eq!(
        report["lines"].as_u64().unwrap(),
        report["proved"].as_u64().unwrap() + report["unproved"].as_u64().unwrap()
    );
    assert!(report["checkpoints"].as_u64().unwrap() >= 4, "two of the table, and two given");

    let words = String::from_utf8(audit(&stranger, &["verify"]).await.stdout).unwrap();
    println!("{words}");
    assert!(words.starts_with("integrity: sound\n"), "{words}");
    assert!(words.contains("completeness: nothing is missing"), "{words}");
    assert!(words.contains("vouches for itself"), "{words}");
}

/// The tree is a line behind the book when the audit looks how far both go, and is signed before the audit comes
/// to the checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_while_it_is_verified_is_held_against_no_hash_that_was_not_read() {
    let (signed, server) = Signed::serving().await;
    let (api, pool) = (Api::new(server.url("")), signed.database.pool());
    let held = Held::live_table_of(&signed.database, "transparency").await;
    // In one transaction: a second one would wait behind whoever waits for the table.
    api.sign_in("ben").await;
    let lines = events(pool).await;
    eventually("the line has its place", async || {
        let head: i64 =
            sqlx::query_scalar("SELECT max(position) FROM journal").fetch_one(pool).await.unwrap();
        (head.unsigned_abs() >= lines).then_some(())
    })
    .await;

    // The first connection is taken to look how far everything goes, the next to read it.
    let taken = Arc::new(AtomicUsize::new(0));
    let (go_on, waiting) = watch::channel(false);
    let wait = {
        let taken = taken.clone();
        move || {
            let is_first = taken.fetch_add(1, Ordering::Relaxed) == 0;
            let mut waiting = waiting.clone();
            async move { is_first || waiting.wait_for(|go_on| *go_on).await.is_ok() }
        }
    };
    let wait_connected = wait.clone();
    let slow = PgPoolOptions::new()
        .before_acquire(move |_, _| {
            let waited = wait();
            Box::pin(async move { Ok(waited.await) })
        })
        .after_connect(move |_, _| {
            let waited = wait_connected();
            Box::pin(async move {
                waited.await;
                Ok(())
            })
        })
        .connect_lazy_with(signed.database.connect_options());
    let given = Given { keys: signed.keys.clone(), ..Given::default() };
    let auditing =
        tokio::spawn(async move { audit_book(&slow, given, Arc::new(Progress::default())).await });
    eventually("it is about to read", async || (taken.load(Ordering::Relaxed) > 1).then_some(()))
        .await;
    held.let_go().await;
    let (_, checkpoint) = all_is_signed(&api, pool).await;
    assert!(checkpoint.size > signed.last.1.size);
    go_on.send(true).unwrap();
    let report = auditing.await.unwrap().unwrap();
    assert!(report.is_unaltered() && report.is_complete(), "{report:#?}");
    assert!(report.verdict.lines >= lines, "it looked behind the last hash: {report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_another_and_a_checkpoint_of_another_book_are_told() {
    let signed = Signed::ended().await;
    let forger = ::proof::NoteSigner::from_seed(origin_of(signed.key()), &[9; 32]).unwrap();
    let (code, report) = verify(&signed.setup, &["--key", &forger.verifier_key()]).await;
    assert_eq!(code, 6, "{report:#}");
    let kinds: Vec<_> = found(&report).iter().map(|finding| finding["kind"].clone()).collect();
    assert!(kinds.contains(&"checkpoint_not_believed".into()), "{report:#}");
    assert!(kinds.contains(&"not_signed".into()), "{report:#}");

    let stranger = ::proof::NoteSigner::from_seed("another.example/log", &[9; 32]).unwrap();
    let (code, report) = verify(&signed.setup, &["--key", &stranger.verifier_key()]).await;
    assert_eq!((code, found(&report)), (7, vec![json!({ "kind": "not_signed" })]), "{report:#}");
    let remarks = report["remarks"].to_string();
    assert!(remarks.contains("No key of the log localhost:8080/log is known"), "{remarks}");

    // A checkpoint of a book that went on otherwise.
    let other = ::proof::Checkpoint { root: ::proof::Hash([7; 32]), ..signed.first.1.clone() };
    let kept = signed.file("kept.txt", &other.sign(&[&forger]).unwrap());
    let keys =
        signed.file("keys", format!("{}\n{}\n", signed.key(), forger.verifier_key()).as_bytes());
    let (code, report) =
        verify(&signed.setup, &["--key", text(&keys), "--checkpoint", text(&kept)]).await;
    assert_eq!(code, 6, "{report:#}");
    assert_eq!(found(&report)[0]["kind"], "forked", "{report:#}");
    assert_eq!(found(&report)[0]["differs"], signed.first.1.size, "{report:#}");

    let empty = signed.file("empty", b"# none yet\n");
    for (words, says) in [
        (&["--key", "nonsense"][..], "this is neither a verifier key"),
        // By no key at all the database would vouch for itself.
        (&["--key", text(&empty)], "there is no key in it"),
        (&["--checkpoint", text(&keys)], "there is no checkpoint in it"),
    ] {
        let refused = audit(&signed.setup, &[&["verify"][..], words].concat()).await;
        let error = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{error}");
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_book_is_sound_and_one_that_was_not_signed_yet_is_not_proved() {
    let scratch = scratch();
    let database = crate::support::database::TestDatabase::create().await;
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    assert!(setup.command(&["migrate"]).output().unwrap().status.success());
    let (code, report) = verify(&setup, &[]).await;
    assert_eq!((code, found(&report), &report["lines"]), (0, vec![], &0.into()), "{report:#}");

    let made = ["admin", "create", "--email", "ada@example.org", "--username", "ada"];
    let mut command = setup.command(&made);
    assert!(command.output().unwrap().status.success());
    eventually("the line is posted", async || {
        audit(&setup, &["tail", "-n", "1"]).await;
        let (_, report) = verify(&setup, &[]).await;
        (report["lines"].as_u64()? > 0).then_some(())
    })
    .await;
    let (code, report) = verify(&setup, &[]).await;
    assert_eq!((code, found(&report)), (7, vec![json!({ "kind": "not_signed" })]), "{report:#}");
    let nowhere = Setup { database_url: None, data_dir: scratch.path().join("no"), ..setup };
    let refused = audit(&nowhere, &["verify"]).await;
    assert_eq!(refused.status.code(), Some(4), "there is no database");
}

/// Positions, hashes and checkpoints come through a backup, and the log goes on in another cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_restored_into_another_server_is_the_same_book() {
    let (signed, server) = Signed::serving().await;
    let file = signed.scratch.path().join("dump.sql");
    dump(&signed.database.url(), &file).await;
    assert!(server.stop().await.success());
    let before = leaves(&signed.setup).await;

    let home = scratch();
    let mut settings = Settings::new(home.path().join("postgres"));
    settings.bin_dir = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN").map(Into::into);
    settings.fallback_dir = std::env::temp_dir().join("entrybook-tests");
    let other = PrivatePostgres::start(settings).await.unwrap();
    let url = other.superuser_parts().url();
    restore(&url, &file).await;

    let kept = signed.file("kept.txt", &[signed.first.0.clone(), signed.last.0.clone()].concat());
    let words = ["--key", signed.key(), "--checkpoint", text(&kept)];
    let setup = Setup { database_url: Some(url), ..signed.setup.clone() };
    let (code, report) = verify(&setup, &words).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    let restored = report["lines"].as_u64().unwrap();
    println!("restored: {restored} lines, proved up to {}", report["proved"]);

    // It goes on there.
    let server = setup.start().await;
    let api = Api::new(server.url(""));
    api.register("dan").await;
    let options: sqlx::postgres::PgConnectOptions =
        setup.database_url.as_ref().unwrap().parse().unwrap();
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let (_, checkpoint) = all_is_signed(&api, &pool).await;
    assert!(checkpoint.size > restored);
    let (code, report) = verify(&setup, &words).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    let after = leaves(&setup).await;
    assert_eq!(after[..before.len()], before[..], "every line is hashed as it was");
    assert!(server.stop().await.success());
    pool.close().await;
    other.stop().await.unwrap();
}

/// The leaf lines of an export, of the lines that were signed when the book was dumped.
async fn leaves(setup: &Setup) -> Vec<Value> {
    let exported = audit(setup, &["export"]).await;
    let error = String::from_utf8_lossy(&exported.stderr);
    assert!(exported.status.success(), "{error}");
    let text = String::from_utf8(exported.stdout).unwrap();
    let leaves = text.lines().filter(|line| line.starts_with("{\"event_type\":"));
    leaves.take(300).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Of a tree that is far behind, because it is being built or stopped, the lines are counted all the same.
#[tokio::test(flavor = "multi_thread")]
async fn lines_that_no_hash_is_kept_of_are_counted_and_said_not_to_be_looked_at() {
    let signed = Signed::ended().await;
    let pool = signed.database.pool();
    let lines = events(pool).await;
    sqlx::raw_sql(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'User', 'u', n, 'UserEnabled', '1', '{\"UserEnabled\": {}}', '{}' FROM generate_series(1, 9000) AS n",
    )
    .execute(pool)
    .await
    .unwrap();
    // Its place in the book, and nothing else.
    Reader::of(pool, Vec::new()).await.settle().await;
    let (code, report) = verify(&signed.setup, &[]).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    assert_eq!(report["lines"], lines + 9_000, "{report:#}");
    assert!(report["unproved"].as_u64().unwrap() >= 9_000, "{report:#}");
    assert!(report["remarks"].to_string().contains(" lines are not in the tree yet"), "{report:#}");
}

/// What the signer has found out is said by who verifies, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_signs_no_more_is_told() {
    let signed = Signed::ended().await;
    let refusal = json!({
        "origin": origin_of(signed.key()), "by": "memory", "text": "it was set back",
        "since": "2026-01-01T00:00:00Z",
    });
    let stop =
        "UPDATE projections SET state = 'stopped', detail = $1 WHERE name = 'process:sign_log'";
    let stopped = sqlx::query(stop).bind(refusal.to_string());
    assert_eq!(stopped.execute(signed.database.pool()).await.unwrap().rows_affected(), 1);
    let (code, report) = verify(&signed.setup, &["--key", signed.key()]).await;
    assert_eq!((code, found(&report)), (7, vec![json!({"kind": "log_stopped"})]), "{report:#}");
    let says = report["completeness"]["findings"][0]["says"].as_str().unwrap();
    assert!(says.ends_with("since 2026-01-01 00:00:00 UTC: it was set back"), "{says}");
}
