//! A key that was destroyed is nowhere any more: not in what PostgreSQL has sampled for its planner either.

use std::{fs, path::Path};

use commands::database;
use domain::UserId;
use sqlx::PgPool;

use super::{count, erase::admin};
use crate::{book::Desk, support::server::eventually};

const MIGRATION: &str = include_str!("../../../migrations/0010_statistics.sql");

/// The sealing key of a person, as it is wrapped.
async fn wrapped(pool: &PgPool, id: UserId) -> Vec<u8> {
    sqlx::query_scalar("SELECT wrapped FROM sealing_keys WHERE id = 'p:' || $1")
        .bind(id.to_string())
        .fetch_one(pool)
        .await
        .unwrap()
}

/// The catalogues in which any row holds these bytes, in whichever form.
async fn catalogues_with(owner: &PgPool, bytes: &[u8]) -> Vec<String> {
    let relations: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
            AND relname NOT IN ('pg_stat_activity', 'pg_locks', 'pg_authid', 'pg_shadow') ORDER BY 1",
    )
    .fetch_all(owner)
    .await
    .unwrap();
    let mut found = Vec::new();
    for relation in relations {
        let query = format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.{relation} AS r
                             WHERE strpos(r::text, encode($1, 'hex')) > 0 OR strpos(r::text, encode($1, 'base64')) > 0)"
        );
        // Some views can't be read outside of their place, such as a standby's.
        if let Ok(true) = sqlx::query_scalar(&query).bind(bytes).fetch_one(owner).await {
            found.push(relation);
        }
    }
    found
}

/// The files of the cluster, but for the write-ahead log and other databases, in which these bytes stand.
async fn files_with(owner: &PgPool, bytes: &[u8]) -> Vec<String> {
    sqlx::raw_sql("CHECKPOINT").execute(owner).await.unwrap();
    let (directory, database): (String, String) = sqlx::query_as(
        "SELECT current_setting('data_directory'), oid::text FROM pg_database WHERE datname = current_database()",
    )
    .fetch_one(owner)
    .await
    .unwrap();
    let directory = Path::new(&directory);
    let mut forms = vec![bytes.to_vec()];
    forms.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes());
    let mut waiting = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        let is_other = path.parent().is_some_and(|parent| parent.ends_with("base"))
            && !path.ends_with(&database);
        if path.ends_with("pg_wal") || is_other {
            continue;
        }
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let Ok(content) = fs::read(&path) else { continue };
        let holds =
            |form: &Vec<u8>| content.windows(form.len()).any(|window| window == form.as_slice());
        if forms.iter().any(holds) {
            found.push(path.strip_prefix(directory).unwrap().display().to_string());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_key_is_in_no_catalogue_and_in_no_file() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let bob = desk.register("bob").await.account.id;
    for name in ["carol", "dave", "erin"] {
        desk.register(name).await;
    }
    let key = wrapped(desk.owner(), ada).await;
    sqlx::raw_sql("ANALYZE").execute(desk.owner()).await.unwrap();
    assert_eq!(files_with(desk.owner(), &key).await.len(), 1, "the table alone");

    desk.book.erase(ada, &admin(bob)).await.unwrap().unwrap();
    sqlx::raw_sql("ANALYZE").execute(desk.owner()).await.unwrap();
    assert_eq!(catalogues_with(desk.owner(), &key).await, [""; 0]);
    // A dead row is kept for as long as a transaction is open that began before (docs/erasure.md), such as autovacuum's.
    eventually("the key is in no file", async || {
        sqlx::raw_sql("VACUUM FULL sealing_keys").execute(desk.owner()).await.unwrap();
        files_with(desk.owner(), &key).await.is_empty().then_some(())
    })
    .await;
    // The search finds what is there.
    let there = wrapped(desk.owner(), bob).await;
    assert_eq!(files_with(desk.owner(), &there).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sampled_before_is_cleared_by_the_migration_and_at_a_start() {
    let sampled =
        "SELECT count(*) FROM pg_stats WHERE tablename = 'sealing_keys' AND attname = 'wrapped'";
    for by_migration in [true, false] {
        let desk = Desk::open().await;
        let ada = desk.register("ada").await.account.id;
        for name in ["bob", "carol", "dave"] {
            desk.register(name).await;
        }
        let key = wrapped(desk.owner(), ada).await;
        // As it was before there was the migration.
        sqlx::raw_sql(
            "ALTER TABLE sealing_keys ALTER COLUMN wrapped SET STATISTICS -1; ANALYZE sealing_keys",
        )
        .execute(desk.owner())
        .await
        .unwrap();
        assert_eq!(count(desk.owner(), sampled).await, 1);
        assert_eq!(catalogues_with(desk.owner(), &key).await, ["pg_statistic", "pg_stats"]);
        if by_migration {
            sqlx::raw_sql(MIGRATION).execute(desk.owner()).await.unwrap();
        } else {
            database::migrate(&desk.url().parse().unwrap()).await.unwrap();
        }
        assert_eq!(count(desk.owner(), sampled).await, 0);
        assert_eq!(catalogues_with(desk.owner(), &key).await, [""; 0]);
        sqlx::raw_sql("ANALYZE").execute(desk.owner()).await.unwrap();
        assert_eq!(count(desk.owner(), sampled).await, 0);
    }
}
