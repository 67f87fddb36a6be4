//! A projection is advanced by one replica at a time. When that one dies, another goes on.

use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, PgPool};

use crate::support::{
    database::TestDatabase,
    http::Api,
    replica::Replica,
    scratch,
    server::{Setup, binary, eventually},
};

/// A login of the database for one replica, by which its connections are told from those of others.
async fn login(database: &TestDatabase, name: &str) -> String {
    let role = format!("{}_{name}", database.connect_options().get_database().unwrap());
    let statement = format!("CREATE ROLE {role} SUPERUSER LOGIN PASSWORD 'of the tests'");
    sqlx::raw_sql(&statement).execute(database.pool()).await.unwrap();
    role
}

/// Who waits to write into the table of sessions: login, and process of the database.
async fn writers(pool: &PgPool) -> Vec<(String, i32)> {
    sqlx::query_as(
        "SELECT a.usename::text, a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
          WHERE l.relation = 'ledger.sessions_v2'::regclass AND NOT l.granted
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_replica_advances_a_projection_and_another_takes_over_when_it_is_killed() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let mut replicas = Vec::new();
    let mut setups = Vec::new();
    for name in ["one", "two"] {
        let role = login(&database, name).await;
        let url = database.connect_options().username(&role).password("of the tests");
        let setup = Setup::on(url.to_url_lossy().as_str(), &scratch.path().join(name))
            .known_as("http://localhost:8080");
        let mut replica = Replica::launch(binary(), &setup);
        replica.ready().await;
        replicas.push(replica);
        setups.push((role, setup));
    }
    let api = |replica: &Replica| Api::new(format!("http://127.0.0.1:{}", replica.port));
    api(&replicas[0]).register("ada").await;

    for round in 1..=3 {
        // Whoever writes a session now is stopped in the middle of it.
        let mut obstacle = database.pool().begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE ledger.sessions_v2 IN SHARE MODE")
            .execute(&mut *obstacle)
            .await
            .unwrap();
        let session = api(&replicas[0]).sign_in("ada").await.session_id;
        let (login, pid) = eventually("a replica writes the session", async || {
            writers(database.pool()).await.pop()
        })
        .await;
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(25)).await;
            assert_eq!(writers(database.pool()).await, [(login.clone(), pid)], "one at a time");
        }

        let dead = setups.iter().position(|(role, _)| *role == login).unwrap();
        let killed = replicas.remove(dead);
        killed.kill();
        obstacle.rollback().await.unwrap();
        let began = Instant::now();
        eventually("the other replica has written the session", async || {
            sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM ledger.sessions_v2 WHERE session_id = $1::uuid)",
            )
            .bind(&session)
            .fetch_one(database.pool())
            .await
            .unwrap()
            .then_some(())
        })
        .await;
        println!("round {round}: taken over after {:?}", began.elapsed());

        let (role, setup) = setups.remove(dead);
        let mut again = Replica::launch(binary(), &setup);
        again.ready().await;
        replicas.push(again);
        setups.push((role, setup));
    }
    for view in projections::all() {
        // Whoever has just started holds what it looks after for moments.
        let verified =
            eventually("nobody else works on it", async || match crate::support::reading::verify(
                database.pool(),
                view,
            )
            .await
            {
                Err(projections::RebuildError::UnderWay(_)) => None,
                verified => Some(verified.unwrap()),
            })
            .await;
        assert!(verified.is_equal(), "{verified:?}");
    }
    for replica in replicas {
        replica.stop().await;
    }
    for (role, _) in setups {
        sqlx::raw_sql(&format!("DROP ROLE {role}")).execute(database.pool()).await.unwrap();
    }
}
