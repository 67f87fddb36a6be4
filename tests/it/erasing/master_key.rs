use std::{collections::BTreeMap, sync::Arc};

use commands::{
    clock::{SeededEntropy, SystemEntropy},
    database,
    keyring::{Keyring, KeyringError, MasterKey, MasterKeys, Opened},
};
use domain::UserId;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgConnection, PgPool};
use uuid::Uuid;

use super::count;
use crate::support::{
    database::TestDatabase,
    scratch,
    server::{MASTER_KEY, Setup, eventually},
};

const PLACE: &str = "User/1/email";
const NEW_KEY: &str = "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

fn master(seed: u64) -> MasterKey {
    MasterKey::generate(&SeededEntropy::new(seed))
}

/// A database, with the rights of the application.
struct Book {
    app: PgPool,
    database: TestDatabase,
}

impl Book {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        database::migrate(&database.connect_options()).await.unwrap();
        Self { app: database::connect(database.connect_options(), 10).await.unwrap(), database }
    }

    async fn load(&self, keys: impl Into<MasterKeys>) -> Result<Keyring, KeyringError> {
        Keyring::load(self.app.clone(), keys, Arc::new(SystemEntropy)).await
    }

    async fn owner(&self) -> PgConnection {
        self.database.connect_options().connect().await.unwrap()
    }

    async fn people(&self, keyring: &Keyring, number: u128) -> Vec<(UserId, domain::Sealed)> {
        let mut people = Vec::new();
        let mut owner = self.owner().await;
        for number in 0..number {
            let user = UserId(Uuid::from_u128(number));
            let (key, row) = keyring.new_person(user);
            sqlx::query("INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ($1, $2, $3)")
                .bind(&row.id)
                .bind(&row.wrapped)
                .bind(&row.master_key)
                .execute(&mut owner)
                .await
                .unwrap();
            people.push((user, keyring.seal(&key, PLACE, format!("person {number}").as_bytes())));
        }
        people
    }
}

/// Whether a keyring that remembers nothing opens all of it.
async fn opens(keyring: Keyring, people: &[(UserId, domain::Sealed)]) -> Result<(), KeyringError> {
    let keyring = keyring.remembering(std::time::Duration::ZERO);
    for (number, (_, sealed)) in people.iter().enumerate() {
        let opened = keyring.open(sealed, PLACE).await?;
        assert_eq!(opened.text(), Some(format!("person {number}").as_str()));
    }
    Ok(())
}

#[tokio::test]
async fn all_keys_are_wrapped_anew_in_steps_that_may_be_broken_off() {
    let book = Book::new().await;
    let old = book.load(master(1)).await.unwrap();
    let people = book.people(&old, 1_200).await;
    let index = old.unknown_index("ada");
    let (old_id, new_id) = (master(1).id().to_owned(), master(2).id().to_owned());
    assert_eq!(old.wrapped_by().await.unwrap(), BTreeMap::from([(old_id.clone(), 1_203)]));

    // Both keys: either opens, the new one wraps.
    let both = || MasterKeys::new(master(2), Some(master(1)));
    let keyring = book.load(both()).await.unwrap();
    assert_eq!(keyring.unknown_index("ada"), index);
    assert_eq!(keyring.new_person(UserId(Uuid::from_u128(9_999))).1.master_key, new_id);
    opens(book.load(both()).await.unwrap(), &people).await.unwrap();

    // Broken off after the first batch.
    let mut rewrap = keyring.rewrap(book.owner().await);
    assert_eq!(rewrap.some().await.unwrap(), Some(500));
    drop(rewrap);
    let halfway = keyring.wrapped_by().await.unwrap();
    assert_eq!(halfway, BTreeMap::from([(old_id.clone(), 703), (new_id.clone(), 500)]));
    // Whoever has both reads all of it; neither starts with one of them alone, and each is told of the other.
    opens(book.load(both()).await.unwrap(), &people).await.unwrap();
    for (alone, id, missing) in [(1, &old_id, &new_id), (2, &new_id, &old_id)] {
        let refused = book.load(master(alone)).await.unwrap_err();
        assert!(
            matches!(&refused, KeyringError::WrongMasterKey { expected, given } if expected == missing && given == id),
            "{refused}"
        );
    }

    // Gone on with; one that was destroyed meanwhile doesn't come back.
    let gone = people[1_100].0;
    let mut rewrap = keyring.rewrap(book.owner().await);
    assert_eq!(rewrap.some().await.unwrap(), Some(500));
    sqlx::query("DELETE FROM sealing_keys WHERE id = $1")
        .bind(format!("p:{gone}"))
        .execute(&mut book.owner().await)
        .await
        .unwrap();
    let mut rest = 0;
    while let Some(some) = rewrap.some().await.unwrap() {
        rest += some;
    }
    assert_eq!(rest, 202);
    let last = rewrap.last().await.unwrap();
    assert_eq!(last.keys(), 0, "nothing signs here");
    last.commit().await.unwrap();
    rewrap.close().await.unwrap();
    assert_eq!(keyring.wrapped_by().await.unwrap(), BTreeMap::from([(new_id, 1_202)]));
    assert!(keyring.person(gone).await.unwrap().is_none());

    // The new one alone opens everything, and the old one nothing.
    let new = book.load(master(2)).await.unwrap();
    assert_eq!(new.unknown_index("ada"), index);
    opens(new, &people[..1_100]).await.unwrap();
    let refused = book.load(master(1)).await.unwrap_err();
    assert!(matches!(refused, KeyringError::WrongMasterKey { .. }), "{refused}");
    let given = MasterKeys::new(master(1), Some(master(3)));
    let refused = book.load(given).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("{} and {}", master(1).id(), master(3).id())), "{refused}");
}

/// Whichever table it is in, and however its id compares with those that were given.
#[tokio::test]
async fn one_key_of_another_master_key_stops_the_start() {
    let book = Book::new().await;
    let keyring = book.load(master(1)).await.unwrap();
    let people = book.people(&keyring, 3).await;
    sqlx::raw_sql(
        "INSERT INTO signing_keys (kid, algorithm, wrapped, master_key, signs_from)
             VALUES ('k', 'EdDSA', 'x', (SELECT master_key FROM sealing_keys LIMIT 1), now());
         INSERT INTO log_keys (id, origin, wrapped, master_key, signs_from)
             VALUES ('k', 'o', 'x', (SELECT master_key FROM sealing_keys LIMIT 1), now())",
    )
    .execute(&mut book.owner().await)
    .await
    .unwrap();
    let given = || MasterKeys::new(master(1), Some(master(2)));
    book.load(master(1)).await.unwrap();
    book.load(given()).await.unwrap();
    let mut ids = [master(1).id().to_owned(), master(2).id().to_owned()];
    ids.sort();
    // Before both, between them, after both.
    let others = ["!".to_owned(), format!("{}!", ids[0]), format!("{}!", ids[1])];
    for row in [
        format!("sealing_keys SET master_key = $1 WHERE id = 'p:{}'", people[1].0),
        "signing_keys SET master_key = $1".to_owned(),
        "log_keys SET master_key = $1".to_owned(),
    ] {
        for other in &others {
            let mut owner = book.owner().await;
            let set = format!("UPDATE {row}");
            sqlx::query(&set).bind(other).execute(&mut owner).await.unwrap();
            for keys in [master(1).into(), given()] {
                let refused = book.load(keys).await.unwrap_err();
                assert!(
                    matches!(&refused, KeyringError::WrongMasterKey { expected, .. } if expected == other),
                    "{row}: {refused}"
                );
                assert!(refused.to_string().contains("ENTRYBOOK_PREVIOUS_MASTER_KEY"), "{refused}");
            }
            sqlx::query(&set).bind(master(1).id()).execute(&mut owner).await.unwrap();
        }
    }
    book.load(master(1)).await.unwrap();
}

#[tokio::test]
async fn a_damaged_key_stops_it_and_is_named() {
    let book = Book::new().await;
    let old = book.load(master(1)).await.unwrap();
    let people = book.people(&old, 3).await;
    sqlx::query("UPDATE sealing_keys SET wrapped = $1 WHERE id = $2")
        .bind(&[0_u8; 72][..])
        .bind(format!("p:{}", people[1].0))
        .execute(&mut book.owner().await)
        .await
        .unwrap();
    let keyring = book.load(MasterKeys::new(master(2), Some(master(1)))).await.unwrap();
    let mut rewrap = keyring.rewrap(book.owner().await);
    let refused = rewrap.some().await.unwrap_err();
    assert!(
        matches!(&refused, KeyringError::DamagedKey { id } if *id == format!("p:{}", people[1].0)),
        "{refused}"
    );
    assert_eq!(keyring.wrapped_by().await.unwrap().len(), 1, "nothing was written");
    assert_ne!(keyring.open(&people[0].1, PLACE).await.unwrap(), Opened::Gone);
}

/// The steps of docs/erasure.md, with a server that people use all the while.
#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_changed_while_a_server_runs() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let old = Setup::on(&database.url(), &scratch.path().join("data"));
    let run = async |setup: &Setup, arguments: &[&str]| {
        let mut command = setup.command(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let server = old.start().await;
    let ada = server.register("ada").await;
    server.stop().await;

    let both = old
        .clone()
        .with("ENTRYBOOK_MASTER_KEY", NEW_KEY)
        .with("ENTRYBOOK_PREVIOUS_MASTER_KEY", MASTER_KEY);
    let server = both.start().await;
    server.sign_in("ada").await;
    let ben = server.register("ben").await;
    let (code, out, said) = run(&both, &["keys", "status", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let (old_id, new_id) = {
        let id = |key| MasterKey::parse(key).unwrap().id().to_owned();
        (id(MASTER_KEY), id(NEW_KEY))
    };
    let status: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status.as_array().unwrap().len(), 2, "{status}");

    let (code, out, said) = run(&both, &["keys", "rewrap", "--json"]).await;
    assert_eq!(code, 0, "{said}");
    let done: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&done["from"], &done["to"]), (&json!([old_id]), &json!(new_id)));
    assert!(
        done["keys"].as_u64().unwrap() >= 7,
        "two people, a month, three of the service, two that sign: {done}"
    );
    for table in ["sealing_keys", "signing_keys", "log_keys"] {
        let left = format!("SELECT count(*) FROM {table} WHERE master_key <> '{new_id}'");
        assert_eq!(count(database.pool(), &left).await, 0, "{table}");
    }
    server.sign_in("ada").await;
    server.sign_in("ben").await;
    let admin = server.admin().await;
    eventually("it is in the history", async || {
        let page = server.get("/api/v1/audit?type=MasterKeyRotated", &admin.access).await.unwrap();
        let page: Value = page.json().await.unwrap();
        (page["lines"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let (code, out, _) = run(&both, &["keys", "rewrap"]).await;
    assert_eq!((code, out.contains("nothing to do")), (0, true), "{out}");
    server.stop().await;

    // The new one alone: tokens from before are still good, what they signed too.
    let new = old.clone().with("ENTRYBOOK_MASTER_KEY", NEW_KEY);
    let server = new.start().await;
    server.sign_in("ada").await;
    let refreshed = server.refresh(&ben.refresh).await.unwrap();
    assert_eq!(refreshed.status(), 200);
    let me = server.get("/api/v1/auth/me", &ada.access).await.unwrap();
    assert_eq!(me.status(), 200);
    server.stop().await;

    // The old one alone stops the start, and so does none; each says what to do.
    let (code, _, said) = run(&old, &["serve"]).await;
    assert_ne!(code, 0, "{said}");
    assert!(said.contains(&old_id) && said.contains(&new_id), "{said}");

    // One key that was left behind, of somebody who is not even asked for: a server would start, and fail
    // at their sign-in.
    let leave =
        format!("UPDATE sealing_keys SET master_key = '{old_id}' WHERE id = 'p:{}'", ben.user_id);
    sqlx::raw_sql(&leave).execute(database.pool()).await.unwrap();
    let (code, _, said) = run(&new, &["serve"]).await;
    assert_ne!(code, 0, "{said}");
    assert!(said.contains(&old_id) && said.contains("ENTRYBOOK_PREVIOUS_MASTER_KEY"), "{said}");
    let (code, out, _) = run(&new, &["doctor"]).await;
    assert_ne!(code, 0, "{out}");
    let said = out.lines().find(|line| line.contains("master key")).unwrap();
    assert!(said.contains("FAIL") || said.contains("fail"), "{out}");
    assert!(out.contains(&old_id), "{out}");
    let mut none = old.clone();
    none.extra.retain(|(key, _)| key != "ENTRYBOOK_MASTER_KEY");
    let (code, _, said) = run(&none, &["serve"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("a master key must be given"), "{said}");
    assert!(
        said.contains("give the key that it was made with"),
        "nobody is told to make another: {said}"
    );
}

/// Who may not change keys is told which login may.
#[tokio::test]
async fn the_applications_login_can_not_change_keys() {
    let book = Book::new().await;
    let old = book.load(master(1)).await.unwrap();
    book.people(&old, 1).await;
    let keyring = book.load(MasterKeys::new(master(2), Some(master(1)))).await.unwrap();
    let app = book.app.acquire().await.unwrap().detach();
    let refused = keyring.rewrap(app).some().await.unwrap_err();
    assert!(refused.to_string().contains("could not be read"), "{refused}");
    assert_eq!(keyring.wrapped_by().await.unwrap().len(), 1, "nothing was written");
}
