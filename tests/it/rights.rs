//! What somebody can do who has the database login of the application, and not the master key.

use std::collections::BTreeSet;

use commands::{
    SignInError,
    clock::{Clock as _, SystemEntropy},
    database,
    keyring::{Keyring, MasterKey},
    rights::{self, NEEDED},
};
use domain::{Identifier, Password};
use sqlx::PgPool;

use crate::{
    book::Desk,
    support::{
        database::TestDatabase,
        scratch,
        server::{Setup, eventually},
    },
};

fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

async fn refused(pool: &PgPool, attack: &str) {
    let error = sqlx::raw_sql(attack).execute(pool).await.expect_err(attack);
    assert_eq!(code(&error), "42501", "{attack}: {error}");
}

async fn sign_in(desk: &Desk, name: &str) -> Result<commands::SignedIn, SignInError> {
    let password = Password::present(&format!("the password of {name}")).unwrap();
    desk.book.sign_in(&Identifier::typed(name), password, false, &desk.origin()).await
}

/// A right that is granted and not written down, or written down and not granted, fails here.
#[tokio::test]
async fn the_role_has_the_rights_that_the_document_gives_reasons_for_and_no_others() {
    let desk = Desk::open().await;
    let granted: BTreeSet<_> = rights::granted(desk.owner()).await.unwrap().into_iter().collect();
    let needed: BTreeSet<_> = NEEDED.iter().map(|right| (*right).to_owned()).collect();
    assert_eq!(granted, needed);
    assert!(rights::compare(&desk.pool).await.unwrap().is_none(), "the role sees it as well");

    let document = include_str!("../../docs/rights.md");
    let mut documented = BTreeSet::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let (what, rest) = line.trim_start_matches("| `").split_once("` | ").unwrap();
        let privileges = rest.split_once(" | ").unwrap().0;
        for privilege in privileges.split(", ") {
            let right = match privilege.split_once(" of ") {
                _ if privilege == "MEMBER" => format!("member of {what}"),
                Some((privilege, columns)) => {
                    for column in columns.split(' ') {
                        documented.insert(format!("{what}({column}): {privilege}"));
                    }
                    continue;
                }
                None => format!("{what}: {privilege}"),
            };
            documented.insert(right);
        }
    }
    assert_eq!(documented, needed, "docs/rights.md");

    sqlx::raw_sql("GRANT UPDATE ON sequencer TO entrybook_app")
        .execute(desk.owner())
        .await
        .unwrap();
    let found = rights::compare(&desk.pool).await.unwrap();
    assert_eq!((found.surplus, found.missing), (vec!["sequencer: UPDATE".to_owned()], vec![]));
    database::migrate(&desk.url().parse().unwrap()).await.unwrap();
    assert!(rights::compare(&desk.pool).await.unwrap().is_none(), "a migration takes it back");
}

#[tokio::test]
async fn what_the_database_login_could_break_is_refused_and_the_service_goes_on() {
    let desk = Desk::open().await;
    desk.register("ada").await;
    desk.register("bob").await;
    for attack in [
        // The order.
        "UPDATE sequencer SET position = position + 5",
        "DELETE FROM sequencer",
        "SELECT 1 FROM sequencer FOR UPDATE",
        "INSERT INTO journal (position, tx, event_id) VALUES (1000000, '1', 1)",
        // Names.
        "UPDATE identifiers SET user_id = gen_random_uuid()",
        "DELETE FROM identifiers",
        "INSERT INTO identifiers (kind, index, user_id) VALUES ('username', 'x', gen_random_uuid())",
        "INSERT INTO identifiers (kind, index, user_id, permit) VALUES ('username', 'x', gen_random_uuid(), sha256('x'))",
        "SELECT release_identifiers(sha256('x'), user_id, NULL, NULL) FROM identifiers",
        "SELECT release_identifiers(NULL, user_id, NULL, NULL) FROM identifiers",
        // Keys: one that does not open, in place of those that are to come.
        "INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ('m:2099-01', 'x', 'x')",
        "INSERT INTO sealing_keys (id, wrapped, master_key, permit) VALUES ('m:2099-01', 'x', 'x', '')",
        "DELETE FROM sealing_keys",
        "UPDATE sealing_keys SET wrapped = 'x'",
        "INSERT INTO signing_keys (kid, algorithm, wrapped, master_key, signs_from) VALUES ('x', 'EdDSA', 'x', 'x', now())",
        "UPDATE signing_keys SET retired_at = now()",
        "DELETE FROM signing_keys",
        "INSERT INTO log_keys (id, origin, wrapped, master_key, signs_from) VALUES ('00000000', 'mine', 'x', 'x', now())",
        // What was signed.
        "INSERT INTO checkpoints (origin, size, root, note) VALUES ('localhost', 1, sha256('x'), 'x')",
        "INSERT INTO cosignatures (origin, size, witness, line) VALUES ('localhost', 1, 'x', 'x')",
        // The permit itself.
        "SELECT * FROM write_permit",
        "INSERT INTO write_permit (hash) VALUES (sha256('x'))",
        "DELETE FROM destroyed_keys",
        "SELECT key_is_forfeit('p:x')",
        "ALTER TABLE identifiers DISABLE TRIGGER permit",
        "DROP FUNCTION require_permit() CASCADE",
        "CREATE FUNCTION public.permit_holds(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    ] {
        refused(&desk.pool, attack).await;
    }
    // Another one is not taken in its place.
    let admitted: bool = sqlx::query_scalar("SELECT admit_write_permit(sha256('x'))")
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    assert!(!admitted);
    sign_in(&desk, "ada").await.unwrap();
    desk.register("eve").await;
    let bob = desk.book.find_account(&Identifier::typed("bob")).await.unwrap().unwrap();
    desk.book.erase(bob, &desk.origin()).await.unwrap().unwrap();
    desk.register("bob").await;
}

/// Temporary objects and a schema of one's own come before others where a name is not qualified.
#[tokio::test]
async fn a_function_of_the_attacker_is_not_taken_for_ours() {
    let desk = Desk::open().await;
    desk.register("ada").await;
    let mut attacker = desk.pool.acquire().await.unwrap();
    sqlx::raw_sql(
        "CREATE TEMPORARY TABLE write_permit AS SELECT sha256('x') AS hash;
         CREATE TEMPORARY TABLE sequencer (position bigint);
         CREATE FUNCTION pg_temp.permit_holds(bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true';
         CREATE FUNCTION pg_temp.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT $1'",
    )
    .execute(&mut *attacker)
    .await
    .unwrap();
    for attack in [
        "INSERT INTO identifiers (kind, index, user_id, permit) VALUES ('username', 'x', gen_random_uuid(), 'x')",
        "SELECT release_identifiers('x', user_id, NULL, NULL) FROM identifiers",
        "SELECT destroy_key(id, 'x') FROM sealing_keys",
    ] {
        let error = sqlx::raw_sql(attack).execute(&mut *attacker).await.expect_err(attack);
        assert_eq!(code(&error), "42501", "{attack}: {error}");
    }
    sqlx::query("SELECT settle_events(10)").execute(&mut *attacker).await.unwrap();
}

/// The role may insert events, and nobody looks whether one was written by the service before a key is made.
#[tokio::test]
async fn an_event_that_somebody_inserted_neither_destroys_a_key_nor_keeps_one_from_being_made() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let insert = "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                  VALUES ('Service', 'month:' || $1, 1, 'MonthForgotten', '1',
                          jsonb_build_object('MonthForgotten', jsonb_build_object('month', $1::text)), '{}')";
    let next = (desk.clock.now() + chrono::Months::new(1)).format("%Y-%m").to_string();
    sqlx::query(insert).bind(&next).execute(&desk.pool).await.unwrap();
    let this = desk.clock.now().format("%Y-%m").to_string();
    sqlx::query(insert).bind(&this).execute(&desk.pool).await.unwrap();
    let error = sqlx::query("SELECT destroy_key($1, sha256('x'))")
        .bind(format!("m:{this}"))
        .execute(&desk.pool)
        .await
        .unwrap_err();
    assert_eq!(code(&error), "42501", "{error}");
    assert!(desk.book.keyring().person(ada).await.unwrap().is_some());
    // Next month comes, and has its key.
    desk.clock.advance(chrono::TimeDelta::days(31));
    desk.book.keyring().month(desk.clock.now()).await.unwrap();
    sign_in(&desk, "ada").await.unwrap();
    let keys: i64 = sqlx::query_scalar("SELECT count(*) FROM sealing_keys WHERE id = ANY($1)")
        .bind(vec![format!("m:{this}"), format!("m:{next}")])
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    assert_eq!(keys, 2);
}

/// Only an owner of the table can do this by now. What the account's own events say is what counts.
#[tokio::test]
async fn an_identifier_that_leads_to_another_account_lets_nobody_in() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let eve = desk.register("eve").await.account.id;
    sqlx::query("UPDATE identifiers SET user_id = $1 WHERE user_id = $2")
        .bind(eve.0)
        .bind(ada.0)
        .execute(desk.owner())
        .await
        .unwrap();
    let password = Password::present("the password of eve").unwrap();
    let as_ada =
        desk.book.sign_in(&Identifier::typed("ada"), password, false, &desk.origin()).await;
    assert!(matches!(as_ada, Err(SignInError::WrongCredentials)), "{as_ada:?}");
    for name in ["ada", "ada@example.org"] {
        assert_eq!(desk.book.find_account(&Identifier::typed(name)).await.unwrap(), None, "{name}");
    }
    assert_eq!(desk.book.find_account(&Identifier::typed("eve")).await.unwrap(), Some(eve));
    sign_in(&desk, "eve").await.unwrap();
}

/// Who comes first at a new database could put a permit there. It is named, and the owner's login mends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_permit_of_somebody_else_is_named_and_corrected_by_a_migration() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    setup.start().await.stop().await;
    sqlx::raw_sql("UPDATE write_permit SET hash = sha256('somebody else')")
        .execute(database.pool())
        .await
        .unwrap();
    let doctor = setup.command(&["doctor"]).env("ENTRYBOOK_MIGRATE", "no").output().unwrap();
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    println!("{told}");
    assert!(told.contains("FAIL  write permit"), "{told}");
    let migrated = setup.command(&["migrate"]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let doctor = setup.command(&["doctor"]).output().unwrap();
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("ok    write permit") && told.contains("ok    rights"), "{told}");
    let server = setup.start().await;
    server.register("ada").await;
    eventually("she is in", async || Some(server.sign_in("ada").await)).await;
}

/// A database of before has no permit; the first process with the master key puts it there.
#[tokio::test]
async fn two_processes_agree_on_the_permit() {
    let database = TestDatabase::create().await;
    database::migrate(&database.connect_options()).await.unwrap();
    let pool = database::connect(database.connect_options(), 4).await.unwrap();
    let text = MasterKey::generate(&SystemEntropy).to_text();
    let master = || MasterKey::parse(&text).unwrap();
    let entropy = std::sync::Arc::new(SystemEntropy);
    let one = Keyring::load(pool.clone(), master(), entropy.clone()).await.unwrap();
    sqlx::raw_sql("DELETE FROM write_permit").execute(database.pool()).await.unwrap();
    assert!(!one.permit_holds().await.unwrap());
    let two = Keyring::load(pool.clone(), master(), entropy).await.unwrap();
    assert!(one.permit_holds().await.unwrap() && two.permit_holds().await.unwrap());
}
