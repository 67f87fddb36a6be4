use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use commands::{
    clock::SeededEntropy,
    keyring::{Keyring, KeyringError, MasterKey, NewKey, Opened},
};
use domain::{IdentifierKind, UserId};
use futures_util::future::join_all;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Book, load, start};

const ADA: UserId = UserId(Uuid::from_u128(1));
const BOB: UserId = UserId(Uuid::from_u128(2));
const PLACE: &str = "User/1/email";

async fn insert(pool: &PgPool, row: &NewKey) {
    sqlx::query("INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ($1, $2, $3)")
        .bind(&row.id)
        .bind(&row.wrapped)
        .bind(&row.master_key)
        .execute(pool)
        .await
        .unwrap();
}

/// As whoever erases a person does it, with rights the application lacks.
async fn destroy(owner: &PgPool, id: &str) {
    let gone = sqlx::query("DELETE FROM sealing_keys WHERE id = $1")
        .bind(id)
        .execute(owner)
        .await
        .unwrap();
    assert_eq!(gone.rows_affected(), 1);
}

async fn ids(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM sealing_keys ORDER BY id").fetch_all(pool).await.unwrap()
}

#[tokio::test]
async fn processes_that_start_together_agree_on_the_keys() {
    let book = Book::new().await;
    let pool = &book.app;
    let loaded = join_all((0..8).map(|seed| load(pool, seed))).await;
    let keyrings: Vec<Keyring> = loaded.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids(pool).await, ["s:index", "s:operators", "s:service"]);

    let index = |keyring: &Keyring| keyring.index(IdentifierKind::Email, "ada@example.org");
    let [first, others @ ..] = keyrings.as_slice() else { panic!() };
    let sealed = first.seal(&first.operators(), "cli/actor", b"root");
    for other in others {
        assert_eq!(index(other), index(first));
        assert_eq!(other.service_secret("csrf"), first.service_secret("csrf"));
        assert_eq!(other.open(&sealed, "cli/actor").await.unwrap().text(), Some("root"));
    }

    let months = join_all(keyrings.iter().map(|keyring| keyring.month(start()))).await;
    let sealed = first.seal(months[0].as_ref().unwrap(), PLACE, b"192.0.2.1");
    for (keyring, month) in keyrings.iter().zip(&months) {
        assert_eq!(keyring.open(&sealed, PLACE).await.unwrap().text(), Some("192.0.2.1"));
        let month = month.as_ref().unwrap();
        let first = first.address_index(months[0].as_ref().unwrap(), "192.0.2.1");
        assert_eq!(keyring.address_index(month, "192.0.2.1"), first);
    }
    assert_eq!(ids(pool).await.len(), 4, "one month, one key");
}

#[tokio::test]
async fn a_wrong_master_key_is_named_and_writes_nothing() {
    let book = Book::new().await;
    let pool = &book.app;
    let right = load(pool, 1).await.unwrap();
    let before = ids(pool).await;

    let wrong = MasterKey::generate(&SeededEntropy::new(77));
    let given = wrong.id().to_owned();
    let refusal =
        Keyring::load(pool.clone(), wrong, Arc::new(SeededEntropy::new(2))).await.unwrap_err();
    let text = refusal.to_string();
    assert!(matches!(refusal, KeyringError::WrongMasterKey { .. }), "{text}");
    let expected = super::master().id().to_owned();
    assert!(text.contains(&given) && text.contains(&expected), "{text}");
    assert_eq!(ids(pool).await, before);

    let again = load(pool, 3).await.unwrap();
    assert_eq!(again.unknown_index("ada"), right.unknown_index("ada"));
}

#[tokio::test]
async fn two_master_keys_that_start_together_make_one_set_of_keys() {
    let book = Book::new().await;
    let pool = &book.app;
    let loaded = join_all((0..6).map(|n| {
        let master = MasterKey::generate(&SeededEntropy::new(n % 2));
        Keyring::load(pool.clone(), master, Arc::new(SeededEntropy::new(n + 10)))
    }))
    .await;
    assert_eq!(loaded.iter().filter(|loaded| loaded.is_ok()).count(), 3);
    let masters: Vec<String> = sqlx::query_scalar("SELECT DISTINCT master_key FROM sealing_keys")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(masters.len(), 1);
}

#[tokio::test]
async fn lost_service_keys_are_never_replaced() {
    let book = Book::new().await;
    let pool = &book.app;
    let keyring = load(pool, 1).await.unwrap();
    destroy(book.owner(), "s:index").await;
    let refusal = load(pool, 2).await.unwrap_err();
    assert!(matches!(&refusal, KeyringError::MissingServiceKeys { ids } if ids == "s:index"));

    insert(book.owner(), &keyring.new_person(ADA).1).await;
    destroy(book.owner(), "s:operators").await;
    destroy(book.owner(), "s:service").await;
    let refusal = load(pool, 3).await.unwrap_err();
    assert!(matches!(refusal, KeyringError::MissingServiceKeys { .. }), "{refusal}");
    assert_eq!(ids(pool).await.len(), 1);
}

#[tokio::test]
async fn erasing_a_person_makes_their_values_gone() {
    let book = Book::new().await;
    let pool = &book.app;
    let here = load(pool, 1).await.unwrap();
    let (key, row) = here.new_person(ADA);
    assert!(here.person(ADA).await.unwrap().is_none(), "not before its row is written");
    insert(book.owner(), &row).await;
    let month = here.month(start()).await.unwrap();
    let email = here.seal(&key, PLACE, b"ada@example.org");
    let source = here.seal(&here.both(&key, &month), "User/1/1", b"192.0.2.1");
    assert!(source.0.starts_with(&format!("s1.p:{ADA}+m:2026-05.")), "{}", source.0);

    let there = load(pool, 2).await.unwrap();
    let forgetful = load(pool, 3).await.unwrap().remembering(Duration::ZERO);
    for keyring in [&here, &there, &forgetful] {
        let email = keyring.open(&email, PLACE).await.unwrap();
        assert_eq!(email.text(), Some("ada@example.org"));
        let source = keyring.open(&source, "User/1/1").await.unwrap();
        assert_eq!(source.text(), Some("192.0.2.1"));
    }

    destroy(book.owner(), &row.id).await;
    for sealed in [(&email, PLACE), (&source, "User/1/1")] {
        assert_eq!(forgetful.open(sealed.0, sealed.1).await.unwrap(), Opened::Gone);
        // Whoever still remembers the key may use it for a minute, unless told.
        assert_ne!(there.open(sealed.0, sealed.1).await.unwrap(), Opened::Gone);
    }
    there.forget(ADA);
    assert_eq!(there.open(&email, PLACE).await.unwrap(), Opened::Gone);
    assert_eq!(there.open(&source, "User/1/1").await.unwrap(), Opened::Gone);
    assert!(there.person(ADA).await.unwrap().is_none());
}

#[tokio::test]
async fn the_end_of_a_month_makes_its_values_gone_and_leaves_the_persons() {
    let book = Book::new().await;
    let pool = &book.app;
    let keyring = load(pool, 1).await.unwrap().remembering(Duration::ZERO);
    let (key, row) = keyring.new_person(ADA);
    insert(book.owner(), &row).await;
    let month = keyring.month(start()).await.unwrap();
    let next = keyring.month(start() + TimeDelta::days(31)).await.unwrap();
    let email = keyring.seal(&key, PLACE, b"ada@example.org");
    let source = keyring.seal(&keyring.both(&key, &month), PLACE, b"192.0.2.1");
    let typed = keyring.seal(&month, PLACE, b"nobody@example.org");
    let later = keyring.seal(&next, PLACE, b"later@example.org");

    destroy(book.owner(), "m:2026-05").await;
    assert_eq!(keyring.open(&source, PLACE).await.unwrap(), Opened::Gone);
    assert_eq!(keyring.open(&typed, PLACE).await.unwrap(), Opened::Gone);
    assert_eq!(keyring.open(&email, PLACE).await.unwrap().text(), Some("ada@example.org"));
    assert_eq!(keyring.open(&later, PLACE).await.unwrap().text(), Some("later@example.org"));
}

#[tokio::test]
async fn what_was_changed_or_moved_is_an_error_and_never_another_value() {
    let book = Book::new().await;
    let pool = &book.app;
    let keyring = load(pool, 1).await.unwrap().remembering(Duration::ZERO);
    let (ada, ada_row) = keyring.new_person(ADA);
    let (_, bob_row) = keyring.new_person(BOB);
    insert(book.owner(), &ada_row).await;
    insert(book.owner(), &bob_row).await;
    let sealed = keyring.seal(&ada, PLACE, b"ada@example.org");

    let swapped = domain::Sealed(sealed.0.replace(&ADA.to_string(), &BOB.to_string()));
    let mut cut = sealed.clone();
    cut.0.truncate(cut.0.len() - 2);
    for (sealed, place) in [(&sealed, "User/1/username"), (&swapped, PLACE), (&cut, PLACE)] {
        let refusal = keyring.open(sealed, place).await.unwrap_err();
        assert!(matches!(refusal, KeyringError::Tampered { .. }), "{refusal}");
    }
    let unknown = UserId(Uuid::from_u128(3));
    let unknown = domain::Sealed(sealed.0.replace(&ADA.to_string(), &unknown.to_string()));
    assert_eq!(keyring.open(&unknown, PLACE).await.unwrap(), Opened::Gone);

    // Bob's key in Ada's row: a wrapped key is bound to its id.
    sqlx::query("UPDATE sealing_keys SET wrapped = $1 WHERE id = $2")
        .bind(&bob_row.wrapped)
        .bind(&ada_row.id)
        .execute(book.owner())
        .await
        .unwrap();
    let refusal = keyring.open(&sealed, PLACE).await.unwrap_err();
    assert!(matches!(refusal, KeyringError::DamagedKey { .. }), "{refusal}");
}

#[tokio::test]
async fn the_application_may_neither_change_nor_destroy_keys() {
    let book = Book::new().await;
    let pool = &book.app;
    load(pool, 1).await.unwrap();
    for statement in [
        "UPDATE sealing_keys SET wrapped = ''",
        "DELETE FROM sealing_keys",
        "TRUNCATE sealing_keys",
    ] {
        let refusal = sqlx::query(statement).execute(pool).await.unwrap_err();
        let code = refusal.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refusal}");
    }
}
