//! What is dropped because nobody uses it, and what is not.

use std::time::Duration;

use projections::{Heartbeat, Identity, Projection, Projector, Pruned, Sequencer, prune, replicas};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{
    database::TestDatabase,
    replica::Replica,
    scratch,
    server::{Setup, binary, eventually},
};

/// A server of the tests that is registered as any other.
fn server(pool: &PgPool, id: u128, projections: &[&'static dyn Projection]) -> Heartbeat {
    let sequencer = Sequencer::new(pool.clone());
    let projector = Projector::new(
        crate::support::reading::source_of(pool),
        projections.to_vec(),
        sequencer.head(),
    );
    let identity =
        Identity { id: Uuid::from_u128(id), host: "host".into(), binary: "1.2.3".into() };
    Heartbeat::new(pool.clone(), projector, projections, identity)
}

/// Version 7 of `sessions`, which no binary knows, with what a build has left beside it; and version
/// 70, to be told from it.
async fn unknown_versions(pool: &PgPool) {
    sqlx::raw_sql(
        "CREATE TABLE ledger.sessions_v7 AS SELECT generate_series(1, 1000) AS id;
         CREATE TABLE ledger.sessions_v7_new AS SELECT 1 AS id;
         CREATE TABLE ledger.sessions_v70 AS SELECT 1 AS id;
         INSERT INTO projections (name, version, state, tables) VALUES
             ('sessions', 7, 'live', '{sessions_v7}'), ('sessions', 70, 'live', '{sessions_v70}'),
             ('process:of_the_tests', 1, 'live', '{}');
         INSERT INTO builds (name, version, state, phase, dry_run) VALUES
             ('sessions', 7, 'cancelled', 'folding', false);
         INSERT INTO replicas (id, host, program, projection_names, projection_versions) VALUES
             (gen_random_uuid(), 'far', '9.9.9', '{sessions}', '{7}'),
             (gen_random_uuid(), 'far', '9.9.9', '{sessions}', '{70}')",
    )
    .execute(pool)
    .await
    .unwrap();
}

async fn tables(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
          WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

fn of<'a>(pruned: &'a [Pruned], name: &str, version: i32) -> Vec<&'a Pruned> {
    pruned.iter().filter(|one| one.name == name && one.version == version).collect()
}

/// The servers that are bound to this version have not been seen for so long.
async fn unseen(pool: &PgPool, version: i32, for_so_long: &str) {
    sqlx::query(
        "UPDATE replicas SET seen_at = clock_timestamp() - $2::interval WHERE $1 = ANY(projection_versions)",
    )
    .bind(version)
    .bind(for_so_long)
    .execute(pool)
    .await
    .unwrap();
}

const OURS: [&str; 6] = [
    "audit_history_times_v3",
    "audit_history_v3",
    "claims_v1",
    "sessions_v2",
    "transparency_v1",
    "users_v2",
];

#[tokio::test]
async fn a_version_is_dropped_once_its_last_server_is_gone() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let all = projections::all();
    server(pool, 1, &all).beat().await.unwrap();
    unknown_versions(pool).await;
    let with_unknown =
        [&OURS[..4], &["sessions_v7", "sessions_v70", "sessions_v7_new"], &OURS[4..]].concat();

    // In use: only what a build has left is dropped.
    let pruned = prune(pool, &[], false).await.unwrap();
    let because = of(&pruned, "sessions", 7)[0].kept_because.clone().unwrap();
    assert_eq!(because, "a running server uses it: version 9.9.9 on far");
    assert!(of(&pruned, "sessions", 2)[0].kept_because.clone().unwrap().contains("1.2.3 on host"));
    assert!(of(&pruned, "sessions", 7)[1].dropped);
    assert!(pruned.iter().all(|one| !one.name.starts_with("process:")), "{pruned:?}");
    let left: Vec<_> = with_unknown.iter().filter(|name| **name != "sessions_v7_new").collect();
    assert_eq!(tables(pool).await.iter().collect::<Vec<_>>(), left);

    // Dead a moment ago is dead enough; seen a moment ago is not dead.
    unseen(pool, 7, "31 seconds").await;
    unseen(pool, 70, "1 second").await;
    let before = tables(pool).await;
    let pruned = prune(pool, &all, true).await.unwrap();
    let found = of(&pruned, "sessions", 7)[0];
    assert_eq!((&found.kept_because, found.dropped), (&None, false));
    assert_eq!(found.tables, ["sessions_v7"]);
    assert!(found.bytes > 8_000);
    assert_eq!(tables(pool).await, before, "only looked at");

    let pruned = prune(pool, &all, false).await.unwrap();
    assert!(of(&pruned, "sessions", 7)[0].dropped);
    assert!(of(&pruned, "sessions", 70)[0].kept_because.is_some());
    assert!(!tables(pool).await.contains(&"sessions_v7".to_owned()));
    let left: Vec<(String, i32)> = sqlx::query_as(
        "SELECT name, version FROM projections UNION SELECT name, version FROM builds ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let left: Vec<_> = left.iter().map(|(name, version)| (name.as_str(), *version)).collect();
    assert_eq!(
        left,
        [
            ("audit_history", 3),
            ("claims", 1),
            ("process:of_the_tests", 1),
            ("sessions", 2),
            ("sessions", 70),
            ("transparency", 1),
            ("users", 2)
        ]
    );

    // Without any server, what this binary is bound to stays.
    unseen(pool, 70, "1 minute").await;
    unseen(pool, 1, "1 minute").await;
    let pruned = prune(pool, &all, false).await.unwrap();
    assert_eq!(of(&pruned, "users", 2)[0].kept_because.as_deref(), Some("this binary uses it"));
    assert_eq!(tables(pool).await, OURS);
}

#[tokio::test]
async fn what_somebody_holds_or_builds_is_not_dropped() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    server(pool, 1, &projections::all()).beat().await.unwrap();
    unknown_versions(pool).await;
    unseen(pool, 7, "1 minute").await;
    // Not by the end of this test.
    unseen(pool, 70, "-10 minutes").await;
    let all = projections::all();
    let before = tables(pool).await;

    // A reader who takes long: the rest goes on, and nobody waits behind the drop for long.
    let mut reader = pool.begin().await.unwrap();
    sqlx::raw_sql(
        "SELECT FROM ledger.sessions_v7 LIMIT 1; SELECT FROM ledger.sessions_v7_new LIMIT 1",
    )
    .execute(&mut *reader)
    .await
    .unwrap();
    let pruned = prune(pool, &all, false).await.unwrap();
    for one in of(&pruned, "sessions", 7) {
        assert!(one.kept_because.as_ref().unwrap().contains("somebody holds"), "{one:?}");
    }
    assert_eq!(tables(pool).await, before);
    reader.rollback().await.unwrap();

    // Somebody builds: the lock that a build holds, as `builds` finds it.
    let mut builder = pool.begin().await.unwrap();
    sqlx::raw_sql("SELECT pg_advisory_xact_lock(236433410, hashtext('sessions'))")
        .execute(&mut *builder)
        .await
        .unwrap();
    let pruned = prune(pool, &all, false).await.unwrap();
    for one in of(&pruned, "sessions", 7) {
        assert_eq!(one.kept_because.as_deref(), Some("sessions is being built right now"));
    }
    assert_eq!(tables(pool).await, before);
    builder.rollback().await.unwrap();

    let pruned = prune(pool, &all, false).await.unwrap();
    assert!(of(&pruned, "sessions", 7).iter().all(|one| one.dropped), "{pruned:?}");
}

#[tokio::test]
async fn a_server_is_registered_while_it_runs() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let all = projections::all();
    let cancel = CancellationToken::new();
    let running = tokio::spawn(server(pool, 1, &all).run(cancel.clone()));
    let one = eventually("it is registered", async || replicas(pool).await.unwrap().pop()).await;
    assert_eq!((one.host.as_str(), one.binary.as_str(), one.alive), ("host", "1.2.3", true));
    assert_eq!(
        one.projections,
        all.iter().map(|p| (p.name().to_owned(), p.version())).collect::<Vec<_>>()
    );
    // It beats.
    unseen(pool, 1, "10 seconds").await;
    let late = replicas(pool).await.unwrap().pop().unwrap().seen_at;
    eventually("it is seen again", async || {
        (replicas(pool).await.unwrap().pop().unwrap().seen_at > late + Duration::from_secs(5))
            .then_some(())
    })
    .await;
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(replicas(pool).await.unwrap(), []);

    // Whoever beats forgets who has been dead for a day, and nobody else.
    for (id, dead) in [(2, "23 hours"), (3, "25 hours")] {
        server(pool, id, &all).beat().await.unwrap();
        sqlx::query("UPDATE replicas SET seen_at = clock_timestamp() - $2::interval WHERE id = $1")
            .bind(Uuid::from_u128(id))
            .bind(dead)
            .execute(pool)
            .await
            .unwrap();
    }
    server(pool, 4, &all).beat().await.unwrap();
    let known: Vec<_> =
        replicas(pool).await.unwrap().iter().map(|one| (one.id.as_u128(), one.alive)).collect();
    assert_eq!(known, [(2, false), (4, true)]);
}

/// A server that stood still for a while (a suspended machine, a network that was away) finds its tables
/// dropped, and makes them again.
#[tokio::test]
async fn who_was_taken_for_dead_makes_its_tables_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let mut server = server(pool, 1, &projections::all());
    server.beat().await.unwrap();
    assert_eq!(tables(pool).await, OURS);
    unseen(pool, 1, "1 minute").await;
    prune(pool, &[], false).await.unwrap();
    assert_eq!(tables(pool).await, Vec::<String>::new());
    server.beat().await.unwrap();
    assert_eq!(tables(pool).await, OURS);
}

/// Either it registers first, and its tables are kept, or it registers afterwards and makes them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_while_others_prune_has_its_tables() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    for round in 1..=20 {
        let mut starting = server(pool, round, &projections::all());
        let (pruned, beaten) = tokio::join!(prune(pool, &[], false), async {
            // A little later each time.
            tokio::time::sleep(Duration::from_millis(u64::try_from(round).unwrap())).await;
            starting.beat().await
        });
        pruned.unwrap();
        beaten.unwrap();
        assert_eq!(tables(pool).await, OURS, "round {round}");
        starting.leave().await.unwrap();
    }
}

/// Being registered is for the sake of pruning alone: without it, a server serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_register_serves() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let scratch = scratch();
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused by the tests'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON replicas EXECUTE FUNCTION refuse()",
    )
    .execute(pool)
    .await
    .unwrap();
    let mut server = Replica::launch(binary(), &setup);
    server.ready().await;
    eventually("it has said that it could not", async || {
        server.log().contains("could not register itself").then_some(())
    })
    .await;
    sqlx::raw_sql("DROP TRIGGER refuse ON replicas").execute(pool).await.unwrap();
    eventually("it is registered", async || replicas(pool).await.unwrap().pop()).await;
    server.stop().await;
    assert_eq!(replicas(pool).await.unwrap(), [], "it said goodbye");
}
