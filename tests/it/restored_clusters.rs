//! A copied machine: its cluster has the system identifier of the one that it was copied from, and lower transaction ids than a
//! newer dump of it names.

use std::{os::unix::fs::PermissionsExt, path::Path};

use postgres::{PrivatePostgres, Settings};
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{
    log::backup::{dump, restore},
    support::{
        scratch,
        server::{Server, Setup, eventually},
    },
};

async fn cluster(data_dir: &Path) -> PrivatePostgres {
    let mut settings = Settings::new(data_dir);
    settings.bin_dir = std::env::var_os("ENTRYBOOK_TEST_POSTGRES_BIN").map(Into::into);
    settings.fallback_dir = std::env::temp_dir().join("entrybook-tests");
    PrivatePostgres::start(settings).await.unwrap()
}

async fn pool(url: &str) -> PgPool {
    PgPoolOptions::new().max_connections(2).connect(url).await.unwrap()
}

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

async fn number(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

const EVENTS: &str = "SELECT count(*) FROM events";
const LINES: &str = "SELECT count(*) FROM journal";

async fn all_have_lines(pool: &PgPool) {
    eventually("every event has its line", async || {
        let (events, lines) = (number(pool, EVENTS).await, number(pool, LINES).await);
        (events == lines).then_some(())
    })
    .await;
}

async fn readyz(server: &Server) -> String {
    server.http.get(server.url("/readyz")).send().await.unwrap().text().await.unwrap()
}

fn doctor(setup: &Setup) -> String {
    let doctor = setup.command(&["doctor"]).output().unwrap();
    String::from_utf8_lossy(&doctor.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_dump_in_a_copied_cluster_gets_lines_for_its_events() {
    let scratch = scratch();
    // PostgreSQL runs as another account where the tests run as root.
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (first, second) = (scratch.path().join("first"), scratch.path().join("second"));
    let file = scratch.path().join("dump.sql");

    // The machine is copied when it is new.
    let one = cluster(&first).await;
    let url = one.superuser_parts().url();
    let setup = Setup::on(&url, &scratch.path().join("data"));
    setup.start().await.stop().await;
    one.stop().await.unwrap();
    drop(one);
    copy(&first, &second);

    // It is used for long after that, and dumped.
    let one = cluster(&first).await;
    let url = one.superuser_parts().url();
    let setup = Setup { database_url: Some(url.clone()), ..setup };
    let there = pool(&url).await;
    sqlx::raw_sql(
        "DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    )
    .execute(&there)
    .await
    .unwrap();
    let server = setup.start().await;
    for name in ["ada", "ben", "cleo"] {
        server.register(name).await;
    }
    all_have_lines(&there).await;
    let before = number(&there, LINES).await;
    server.stop().await;
    let system = "SELECT system_identifier FROM pg_control_system()";
    let of_the_first = number(&there, system).await;
    dump(&url, &file).await;
    there.close().await;
    one.stop().await.unwrap();
    drop(one);

    // The dump comes into the copy.
    let two = cluster(&second).await;
    let url = two.superuser_parts().url();
    let setup = Setup { database_url: Some(url.clone()), ..setup };
    restore(&url, &file).await;
    let here = pool(&url).await;
    assert_eq!(number(&here, system).await, of_the_first, "nothing else tells the two apart");
    let ahead: bool =
        sqlx::query_scalar("SELECT tx > pg_snapshot_xmax(pg_current_snapshot()) FROM sequencer")
            .fetch_one(&here)
            .await
            .unwrap();
    assert!(ahead, "the transaction ids of the copy are lower");

    // A server that may not mend it says so, and lets people in.
    let told = doctor(&setup.clone().with("ENTRYBOOK_MIGRATE", "no"));
    assert!(told.contains("FAIL  cluster"), "{told}");
    let server = setup.clone().with("ENTRYBOOK_MIGRATE", "no").start().await;
    server.sign_in("ada").await;
    assert!(number(&here, EVENTS).await > before);
    assert_eq!(number(&here, LINES).await, before, "it has no line yet");
    let report = readyz(&server).await;
    assert!(report.contains("restored from a dump"), "{report}");
    let metrics =
        server.http.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("entrybook_sequencer_stalled 1"), "{metrics}");

    // The owner takes it up, and the server that runs goes on by itself.
    let migrated = setup.command(&["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    server.register("dora").await;
    all_have_lines(&here).await;
    assert!(number(&here, LINES).await > before);
    eventually("nothing is wrong with the order", async || {
        let report = readyz(&server).await;
        (!report.contains("restored from a dump")).then_some(())
    })
    .await;
    let told = doctor(&setup);
    assert!(told.contains("ok    cluster") && told.contains("ok    journal"), "{told}");
    server.stop().await;
    here.close().await;
    two.stop().await.unwrap();
}

/// Whoever owns the tables may move the control row; it is named, and mended while servers run.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_row_that_was_moved_is_named_and_mended_by_a_migration() {
    let (database, scratch) = (crate::support::database::TestDatabase::create().await, scratch());
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    let server = setup.start().await;
    server.register("ada").await;
    all_have_lines(database.pool()).await;
    sqlx::raw_sql("UPDATE sequencer SET position = position + 5")
        .execute(database.pool())
        .await
        .unwrap();
    server.sign_in("ada").await;
    let report = eventually("it is named", async || {
        let report = readyz(&server).await;
        report.contains("does not agree with the last line").then_some(report)
    })
    .await;
    assert!(report.contains("\"ready\":true"), "people can sign in: {report}");
    let told = doctor(&setup);
    assert!(told.contains("FAIL  cluster") && told.contains("entrybook migrate"), "{told}");
    let migrated = setup.command(&["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    all_have_lines(database.pool()).await;
    server.sign_in("ada").await;
    all_have_lines(database.pool()).await;
    assert!(doctor(&setup).contains("ok    cluster"));
    server.ready().await;
}

/// Without a server nobody settles anything, and an event of an hour ago is an alarm.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_for_over_a_minute_fails_the_check_up() {
    let (database, scratch) = (crate::support::database::TestDatabase::create().await, scratch());
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    setup.start().await.stop().await;
    sqlx::raw_sql(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, recorded_at)
         VALUES ('Test', 'x', 1, 'Tested', '1', '{}', '{}', now() - interval '1 hour')",
    )
    .execute(database.pool())
    .await
    .unwrap();
    // Its lines are broken to a width.
    let told = doctor(&setup).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        told.contains("FAIL journal") && told.contains("no open transaction holds them back"),
        "{told}"
    );
}
