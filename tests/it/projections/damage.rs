//! Live tables that were damaged, and folds that changed: found, told apart, shown without what is
//! sealed, and mended by who asks for it.

use crate::support::reading::{rebuild, verify};
use ::projections::{Build, BuildState, FoldState, Options, Outcome, RebuildError, builds};
use serde_json::json;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::sync::CancellationToken;

use super::{
    book::{Book, Reader, user},
    rebuilding::{leftovers, named, rebuild_with},
    views::contents,
};
use crate::support::{database::TestDatabase, held::Held};

async fn run(pool: &PgPool, statement: &str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

fn columns(row: &Option<Vec<(String, String)>>) -> Vec<&str> {
    row.iter().flatten().map(|(column, _)| column.as_str()).collect()
}

#[tokio::test]
async fn a_damaged_table_is_found_and_mended_only_where_that_is_asked_for() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let whole = contents(pool).await;
    run(
        pool,
        "UPDATE ledger.users_v2 SET disabled = true, email_sealed = 'sealed for somebody else'
          WHERE username_index = '#ada';
         DELETE FROM ledger.users_v2 WHERE username_index = '#robert';
         INSERT INTO ledger.users_v2 SELECT (jsonb_populate_record(u, jsonb_build_object(
                    'user_id', 'ffffffff-0000-0000-0000-000000000000', 'full_name', 'secret name'))).*
           FROM ledger.users_v2 AS u WHERE username_index = '#eve'",
    )
    .await;
    let damaged = contents(pool).await;
    let users = named("users");

    let found = verify(pool, users).await.unwrap();
    let [table] = &found.tables[..] else { panic!("{found:?}") };
    assert!(!found.is_equal());
    assert_eq!((table.rows_live, table.rows_new), (3, 3));
    assert_eq!((table.missing, table.surplus, table.changed), (1, 1, 1));
    let [ada, bob, stranger] = &table.first[..] else { panic!("{table:?}") };
    assert_eq!((ada.key.clone(), bob.key.clone()), (user(1).to_string(), user(2).to_string()));
    assert_eq!(stranger.key, "ffffffff-0000-0000-0000-000000000000");
    // Both rows, where both have one: the columns that differ. Else the one there is.
    assert_eq!(columns(&ada.live), ["disabled", "email_sealed"]);
    assert_eq!(columns(&ada.new), ["disabled", "email_sealed"]);
    let disabled = |row: &Option<Vec<(String, String)>>| row.as_ref().unwrap()[0].1.clone();
    assert_eq!((disabled(&ada.live).as_str(), disabled(&ada.new).as_str()), ("true", "false"));
    assert_ne!(
        ada.live.as_ref().unwrap()[1],
        ada.new.as_ref().unwrap()[1],
        "masked, and told apart"
    );
    assert!(bob.live.is_none() && columns(&bob.new).len() == 13, "{bob:?}");
    assert!(stranger.new.is_none() && columns(&stranger.live).len() == 13, "{stranger:?}");
    assert_eq!(found.fold, FoldState::Same);
    assert!(found.to_string().contains("the table was damaged"), "{found}");

    let refused = rebuild_with(pool, &[users], Options::default()).await.unwrap();
    assert_eq!(refused[0].outcome, Outcome::Differs);
    assert_eq!(refused[0].verified, found);
    assert_eq!(contents(pool).await, damaged, "nothing is swapped");
    assert_eq!(leftovers(pool).await, 0);
    let told = builds(pool).await.unwrap();
    let build = told.iter().find(|one| one.name == "users").unwrap();
    let detail = build.detail.as_ref().unwrap();
    assert!(detail.starts_with(&found.to_string()), "{detail}");
    for shown in [
        format!("{found:?} {found} {refused:?} {told:?}"),
        json!([&found, &refused, &told]).to_string(),
    ] {
        for sealed in [
            "sealed ada",
            "sealed bob",
            "sealed for",
            "secret name",
            "#ada",
            "#eve",
            "#robert",
            "full name",
        ] {
            assert!(!shown.contains(sealed), "{sealed:?} in {shown}");
        }
    }

    let dry = Options { dry_run: true, repair: true, ..Options::default() };
    assert_eq!(rebuild_with(pool, &[users], dry).await.unwrap()[0].outcome, Outcome::Differs);
    assert_eq!(contents(pool).await, damaged, "a dry run swaps nothing, whatever it is told");
    let repair = Options { repair: true, ..Options::default() };
    let mended = rebuild_with(pool, &[users], repair).await.unwrap();
    assert_eq!((mended[0].outcome, &mended[0].verified), (Outcome::Swapped, &found));
    assert_eq!(contents(pool).await, whole);
}

/// Whoever damaged it has changed the table itself, not only what is in it.
#[tokio::test]
async fn a_live_table_that_can_not_be_read_is_told_and_mended_where_that_is_asked_for() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    let reader = Reader::new(pool).await;
    reader.read().await;
    let whole = contents(pool).await;
    let live = "SELECT coalesce(array_agg(oid::bigint ORDER BY oid), '{}') FROM pg_class
                 WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'";
    for (name, table, damage, why) in [
        ("users", "users", "DROP TABLE ledger.users_v2", "the table is not there"),
        (
            "users",
            "users",
            "ALTER TABLE ledger.users_v2 RENAME TO users_aside",
            "the table is not there",
        ),
        (
            "users",
            "users",
            "ALTER TABLE ledger.users_v2 DROP COLUMN disabled",
            "column disabled is missing",
        ),
        (
            "users",
            "users",
            "ALTER TABLE ledger.users_v2 ALTER COLUMN disabled TYPE text",
            "column disabled is text instead of boolean",
        ),
        (
            "users",
            "users",
            "ALTER TABLE ledger.users_v2 ADD COLUMN note text",
            "column note is none of its own",
        ),
        (
            "users",
            "users",
            "ALTER TABLE ledger.users_v2 DROP COLUMN disabled,
                                          ADD COLUMN disabled boolean NOT NULL DEFAULT false",
            "its columns are in another order",
        ),
        (
            "audit_history",
            "audit_history_times",
            "DROP TABLE ledger.audit_history_times_v3",
            "the table is not there",
        ),
    ] {
        run(pool, damage).await;
        let before: Vec<i64> = sqlx::query_scalar(live).fetch_one(pool).await.unwrap();
        let chosen = [named(name)];
        let found = verify(pool, chosen[0]).await.unwrap();
        assert!(!found.is_equal() && !found.is_comparable(), "{damage}: {found:?}");
        for one in &found.tables {
            let told = one.unreadable.as_deref();
            assert_eq!(told, (one.table == table).then_some(why), "{damage}: {found:?}");
        }
        let said = found.to_string();
        let sentence = format!("{table} can't be compared, because {why}. ");
        assert!(said.contains(&sentence) && said.contains("rebuild with repair"), "{said}");

        let refused = rebuild_with(pool, &chosen, Options::default()).await.unwrap();
        assert_eq!((refused[0].outcome, &refused[0].verified), (Outcome::Differs, &found));
        let after: Vec<i64> = sqlx::query_scalar(live).fetch_one(pool).await.unwrap();
        assert_eq!(after, before, "nothing is swapped: {damage}");
        let told = build_of(pool, name).await;
        assert_eq!((told.state, told.detail), (BuildState::Differs, Some(said)));

        let repair = Options { repair: true, ..Options::default() };
        let mended = rebuild_with(pool, &chosen, repair).await.unwrap();
        assert_eq!((mended[0].outcome, &mended[0].verified), (Outcome::Swapped, &found));
        let told = build_of(pool, name).await;
        assert_eq!(told.state, BuildState::Swapped);
        let detail = told.detail.unwrap();
        assert!(detail.starts_with("Swapped in, although users") || name != "users", "{detail}");
        assert!(detail.contains(sentence.trim_end_matches(". ")), "{detail}");
        assert!(contents(pool).await == whole, "{damage}");
        run(pool, "DROP TABLE IF EXISTS ledger.users_aside").await;
        for projection in ::projections::all() {
            let verified = verify(pool, projection).await.unwrap();
            assert!(verified.is_equal(), "{damage}: {verified}");
        }
    }
    // As of a first start: the swaps have named all as they should be.
    let names = "SELECT coalesce(array_agg(relname::text ORDER BY relname), '{}') FROM pg_class
                  WHERE relnamespace = 'ledger'::regnamespace";
    let mended: Vec<String> = sqlx::query_scalar(names).fetch_one(pool).await.unwrap();
    let fresh = TestDatabase::create().await;
    Reader::new(fresh.pool()).await.read().await;
    let made: Vec<String> = sqlx::query_scalar(names).fetch_one(fresh.pool()).await.unwrap();
    assert_eq!(mended, made);
}

/// Who has taken a table's key away may have written a row twice, or one without a key.
#[tokio::test]
async fn rows_that_stand_there_twice_or_without_a_key_are_damage() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let whole = contents(pool).await;
    let users = [named("users")];
    run(
        pool,
        "ALTER TABLE ledger.users_v2 DROP CONSTRAINT users_v2_pkey;
         INSERT INTO ledger.users_v2 SELECT * FROM ledger.users_v2 WHERE username_index = '#ada'",
    )
    .await;
    let doubled = contents(pool).await;
    let found = verify(pool, users[0]).await.unwrap();
    let [table] = &found.tables[..] else { panic!("{found:?}") };
    assert!(!found.is_equal() && found.is_comparable() && !table.same_rows, "{found:?}");
    assert_eq!((table.rows_live, table.rows_new), (4, 3));
    assert_eq!((table.missing, table.surplus, table.changed, table.repeated), (0, 0, 0, 1));
    let said = found.to_string();
    assert!(said.contains("users has 1 rows once more under the same key. "), "{said}");
    assert!(said.contains("users has no valid index users_v2_pkey. "), "{said}");
    assert!(!said.contains("users lacks"), "{said}");

    let refused = rebuild_with(pool, &users, Options::default()).await.unwrap();
    assert_eq!(refused[0].outcome, Outcome::Differs);
    assert_eq!(contents(pool).await, doubled, "nothing is swapped");
    let repair = Options { repair: true, ..Options::default() };
    let mended = rebuild_with(pool, &users, repair).await.unwrap();
    assert_eq!((mended[0].outcome, &mended[0].verified), (Outcome::Swapped, &found));
    assert_eq!(contents(pool).await, whole);
    assert!(verify(pool, users[0]).await.unwrap().is_equal());

    run(
        pool,
        "ALTER TABLE ledger.users_v2 DROP CONSTRAINT users_v2_pkey;
         ALTER TABLE ledger.users_v2 ALTER COLUMN user_id DROP NOT NULL;
         INSERT INTO ledger.users_v2
         SELECT (jsonb_populate_record(u, '{\"user_id\": null}')).*
           FROM ledger.users_v2 AS u WHERE username_index <> '#ada'",
    )
    .await;
    let found = verify(pool, users[0]).await.unwrap();
    let [table] = &found.tables[..] else { panic!("{found:?}") };
    assert_eq!((table.missing, table.surplus, table.changed, table.repeated), (0, 2, 0, 0));
    assert!(table.first.iter().all(|row| row.key == "null" && row.new.is_none()), "{table:?}");
    assert_eq!(table.first.len(), 2);
}

/// Rows and columns are as they should be: what is wrong shows in how long readers take.
#[tokio::test]
async fn an_index_that_is_missing_or_invalid_is_damage() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let users = [named("users")];
    assert!(verify(pool, users[0]).await.unwrap().is_equal());
    run(
        pool,
        "DROP INDEX ledger.users_v2_email;
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ledger.users_v2_updated'::regclass;
         ALTER TABLE ledger.users_v2 DROP CONSTRAINT users_v2_pkey;
         CREATE UNIQUE INDEX users_v2_pkey ON ledger.users_v2 (user_id)",
    )
    .await;
    let found = verify(pool, users[0]).await.unwrap();
    let [table] = &found.tables[..] else { panic!("{found:?}") };
    assert_eq!(table.indexes, ["users_v2_email", "users_v2_updated", "users_v2_pkey"]);
    assert!(table.same_rows && !found.is_equal(), "{found:?}");
    let said = found.to_string();
    let sentence = "users has no valid index users_v2_email, users_v2_updated, users_v2_pkey. ";
    assert!(said.contains(sentence) && said.contains("the table was damaged"), "{said}");

    let refused = rebuild_with(pool, &users, Options::default()).await.unwrap();
    assert_eq!(refused[0].outcome, Outcome::Differs);
    let repair = Options { repair: true, ..Options::default() };
    assert_eq!(rebuild_with(pool, &users, repair).await.unwrap()[0].outcome, Outcome::Swapped);
    assert!(verify(pool, users[0]).await.unwrap().is_equal());
}

#[tokio::test]
async fn of_many_columns_that_are_none_of_its_own_ten_are_named() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let added: Vec<_> = (0..25).map(|n| format!("ADD COLUMN note_{n} text")).collect();
    run(pool, &format!("ALTER TABLE ledger.users_v2 {}", added.join(", "))).await;
    let found = verify(pool, named("users")).await.unwrap();
    let why = found.tables[0].unreadable.clone().unwrap();
    assert!(why.ends_with("column note_9 is none of its own, nor are 15 more"), "{why}");
    assert_eq!(why.matches("is none of its own").count(), 10);
}

/// A table that is whole, and can't be read for another reason, is not swapped away unseen.
#[tokio::test]
async fn a_lock_or_a_right_that_is_missing_is_no_damage() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let whole = contents(pool).await;
    let repair = Options { repair: true, swap_attempts: 1, ..Options::default() };

    let options = database.connect_options().options([("lock_timeout", "200ms")]);
    let hasty = PgPoolOptions::new().connect_with(options).await.unwrap();
    let held = Held::live_table_of(&database, "users").await;
    let broken = rebuild_with(&hasty, &[named("users")], repair).await;
    assert_eq!(code_of(&broken).as_deref(), Some("55P03"), "{broken:?}");
    held.let_go().await;
    assert_eq!(build_of(pool, "users").await.state, BuildState::Failed);
    assert!(contents(pool).await == whole);

    run(
        pool,
        "DO $$ BEGIN
             CREATE ROLE entrybook_test_stranger NOLOGIN;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
         GRANT ALL ON SCHEMA ledger, public TO entrybook_test_stranger;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO entrybook_test_stranger;
         DROP TABLE IF EXISTS ledger.users_v2_new",
    )
    .await;
    let options = database.connect_options().options([("role", "entrybook_test_stranger")]);
    let stranger = PgPoolOptions::new().connect_with(options).await.unwrap();
    let broken = rebuild_with(&stranger, &[named("users")], repair).await;
    assert_eq!(code_of(&broken).as_deref(), Some("42501"), "{broken:?}");
    assert!(contents(pool).await == whole);
}

fn code_of<T>(result: &Result<T, RebuildError>) -> Option<String> {
    match result {
        Err(RebuildError::Database(sqlx::Error::Database(cause))) => {
            cause.code().map(|code| code.into_owned())
        }
        _ => None,
    }
}

async fn build_of(pool: &PgPool, name: &str) -> Build {
    builds(pool).await.unwrap().into_iter().find(|one| one.name == name).unwrap()
}

#[tokio::test]
async fn every_table_of_a_projection_is_compared_and_its_sealed_columns_are_masked() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    run(
        pool,
        "UPDATE ledger.sessions_v2 SET last_source = 'source of a stranger';
         UPDATE ledger.audit_history_v3 SET source = 'source of a stranger', identifier = 'typed text',
                address = 'address index' WHERE position < 4;
         UPDATE ledger.audit_history_times_v3 SET last_position = 1",
    )
    .await;
    for (name, changed) in [("sessions", vec![3]), ("audit_history", vec![3, 1])] {
        let found = verify(pool, named(name)).await.unwrap();
        let counts: Vec<i64> = found.tables.iter().map(|table| table.changed).collect();
        assert_eq!(counts, changed, "{found}");
        let shown = format!("{found:?} {}", json!(found));
        for sealed in ["source of", "source at", "typed text", "nobody", "address index"] {
            assert!(!shown.contains(sealed), "{sealed:?} in {shown}");
        }
    }
}

#[tokio::test]
async fn a_changed_fold_is_told_from_a_damaged_table() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    Book::new(pool).fill().await;
    Reader::new(pool).await.read().await;
    let users = named("users");
    run(pool, "UPDATE ledger.users_v2 SET roles = '{}' WHERE username_index = '#ada'").await;
    let line =
        users.fingerprint().into_keys().find(|line| line.contains("UserRoleGranted")).unwrap();
    sqlx::query("UPDATE projections SET fold = jsonb_set(fold, ARRAY[$1], '\"other\"')")
        .bind(&line)
        .execute(pool)
        .await
        .unwrap();
    let found = verify(pool, users).await.unwrap();
    assert_eq!(found.fold, FoldState::Changed { events: vec!["UserRoleGranted 1".into()] });
    assert!(found.to_string().contains("changed without a new version"), "{found}");

    // Lines of the sample book that only one of both programs knows say nothing.
    sqlx::query("UPDATE projections SET fold = (fold - $1) || '{\"999 ClientAdded 1\": \"it\"}'")
        .bind(&line)
        .execute(pool)
        .await
        .unwrap();
    assert_eq!(verify(pool, users).await.unwrap().fold, FoldState::Same);

    // So it is with what other tables are given, which older programs have not noted.
    let history = named("audit_history");
    let of_others = " (other tables)";
    let stored: Vec<String> = history.fingerprint().into_keys().collect();
    let (noted, not_noted): (Vec<_>, Vec<_>) =
        stored.into_iter().partition(|line| !line.ends_with(of_others));
    assert_eq!(noted.len(), not_noted.len() + 1, "one for each line, and one for the tables");
    sqlx::query("UPDATE projections SET fold = fold - $1 WHERE name = 'audit_history'")
        .bind(&not_noted)
        .execute(pool)
        .await
        .unwrap();
    run(pool, "UPDATE ledger.audit_history_times_v3 SET last_position = 1").await;
    assert_eq!(verify(pool, history).await.unwrap().fold, FoldState::Same);
    sqlx::query("UPDATE projections SET fold = jsonb_set(fold, ARRAY[$1], '\"other\"') WHERE name = 'audit_history'")
        .bind("001 UserRegistered 1 (other tables)")
        .execute(pool)
        .await
        .unwrap();
    let changed = FoldState::Changed { events: vec!["UserRegistered 1 (other tables)".into()] };
    assert_eq!(verify(pool, history).await.unwrap().fold, changed);

    run(pool, "UPDATE projections SET fold = NULL").await;
    let found = verify(pool, users).await.unwrap();
    assert_eq!(found.fold, FoldState::Unknown);
    assert!(found.to_string().contains("can't be told"), "{found}");

    // A rebuild knows by which fold the tables were made.
    let repair = Options { repair: true, ..Options::default() };
    let cancel = CancellationToken::new();
    rebuild(pool, &[users], repair, &cancel, &mut |_| {}).await.unwrap();
    let found = verify(pool, users).await.unwrap();
    assert_eq!((found.is_equal(), found.fold), (true, FoldState::Same));
}
