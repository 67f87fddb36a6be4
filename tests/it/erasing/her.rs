//! Somebody who is to be erased, and what can be read and found of her.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use commands::{
    By, CLI_ACTOR, NewAccount, NewProfile, Origin, SignedIn,
    keyring::{KeyringError, Opened},
    store::SNAPSHOT_EVERY,
};
use domain::{Email, FullName, Identifier, Password, Role, Sealed, UserId, Username};
use sqlx::PgPool;

use crate::book::Desk;

pub fn her_origin(desk: &Desk) -> Origin {
    Origin {
        address: "198.51.100.77".parse().ok(),
        user_agent: Some("Analytical/1843".into()),
        ..desk.origin()
    }
}

/// A life with everything that personal data can be in, under names that appear nowhere else.
pub async fn live(desk: &Desk) -> SignedIn {
    let new = NewAccount {
        full_name: FullName::parse("Augusta Ada Kingsley").unwrap(),
        email: Email::parse("augusta@first.example.net").unwrap(),
        username: Username::parse("augusta1815").unwrap(),
        password: Password::choose("a first password of hers").unwrap(),
        roles: [Role::User].into(),
    };
    let origin = her_origin(desk);
    let mut her = desk.book.register(new, true, &origin).await.unwrap();
    let id = her.account.id;
    let wrong = Password::present("a slip of her tongue").unwrap();
    let _ = desk.book.sign_in(&Identifier::typed("augusta1815"), wrong, false, &origin).await;
    for number in 0..=SNAPSHOT_EVERY {
        let change = NewProfile {
            full_name: Some(FullName::parse(&format!("Countess Number {number}")).unwrap()),
            username: Some(Username::parse(&format!("countess{number}")).unwrap()),
            email: Some(Email::parse(&format!("countess{number}@second.example.net")).unwrap()),
        };
        let own = origin.with(By::User(id));
        let current = Password::present("a first password of hers").ok();
        // Twenty names in an hour are enough for anybody else.
        desk.clock.advance(TimeDelta::minutes(4));
        desk.book.change_profile(id, change, current, &own).await.unwrap();
        her = desk.book.refresh(her.refresh.expose(), &origin).await.unwrap();
    }
    let current = Password::present("a first password of hers").unwrap();
    let next = Password::choose("a second password of hers").unwrap();
    let own = origin.with(By::User(id));
    desk.book.change_password(id, Some(her.kept()), current, next, &own).await.unwrap();
    her
}

pub const HERS: [&str; 14] = [
    "Augusta Ada Kingsley",
    "Kingsley",
    "augusta@first.example.net",
    "first.example.net",
    "augusta1815",
    "a first password of hers",
    "a second password of hers",
    "a slip of her tongue",
    "198.51.100.77",
    "Analytical/1843",
    "Countess Number",
    "countess7",
    "countess32@second.example.net",
    "argon2",
];

/// Of these the ones that stand in the database, sealed.
pub const READABLE: [&str; 9] = [
    "Augusta Ada Kingsley",
    "augusta@first.example.net",
    "augusta1815",
    "198.51.100.77",
    "Analytical/1843",
    "Countess Number",
    "countess7",
    "countess32@second.example.net",
    "augustine",
];

/// All that whoever has the dump and the master key can read: each sealed text in it, with its place. A
/// text that neither opens anywhere nor has lost its key fails the test.
pub async fn readable(desk: &Desk, dump: &str) -> Vec<(String, String)> {
    let events: Vec<(String, String)> = sqlx::query_as(
        "SELECT aggregate_type || '/' || aggregate_id, payload::text || ' ' || metadata::text FROM events",
    )
    .fetch_all(&desk.pool)
    .await
    .unwrap();
    // Wherever else it stands, it came from an event.
    let mut streams = BTreeMap::new();
    for (stream, text) in &events {
        streams.extend(sealed_texts(text).into_iter().map(|sealed| (sealed, stream)));
    }
    let fields = ["source", "email", "username", "full_name", "password", "identifier", "filter"];
    let mut readable = Vec::new();
    for sealed in sealed_texts(dump) {
        let mut opened = None;
        let stream = streams.get(&sealed).unwrap_or_else(|| panic!("no event has {sealed}"));
        let places = fields.map(|field| format!("{stream}/{field}"));
        for place in places.into_iter().chain([CLI_ACTOR.to_owned()]) {
            match desk.book.keyring().open(&Sealed(sealed.clone()), &place).await {
                Ok(Opened::Gone) => opened = Some(None),
                Ok(plain) => {
                    opened = Some(Some((place.clone(), plain.text().unwrap().to_owned())));
                }
                Err(KeyringError::Tampered { .. }) => continue,
                Err(other) => panic!("{sealed}: {other}"),
            }
            break;
        }
        readable.extend(opened.unwrap_or_else(|| panic!("nobody knows the place of {sealed}")));
    }
    readable
}

/// The sealed texts of a dump, each once, those within a `bytea` too.
fn sealed_texts(dump: &str) -> BTreeSet<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:+".contains(c);
    let mut texts = BTreeSet::new();
    let mut look = |text: &str| {
        for word in text.split(|c| !plain(c)) {
            if word.starts_with("s1.") && word.split('.').count() == 3 {
                texts.insert(word.to_owned());
            }
        }
    };
    look(dump);
    for hex in dump.split("\\x").skip(1) {
        let digits: Vec<u32> = hex.chars().map_while(|digit| digit.to_digit(16)).collect();
        let bytes: Vec<u8> =
            digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
        look(&String::from_utf8_lossy(&bytes));
    }
    texts
}

/// The hashes of her e-mail addresses and usernames, present and former, as her events have them.
pub async fn her_hashes(pool: &PgPool, id: UserId) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT DISTINCT hash #>> '{}' FROM events, jsonb_path_query(payload, '$.**.index') AS hash
          WHERE aggregate_type = 'User' AND aggregate_id = $1",
    )
    .bind(id.to_string())
    .fetch_all(pool)
    .await
    .unwrap()
}

/// The read tables, and the table of identifiers, in which any of these hashes stands.
pub async fn tables_with(pool: &PgPool, hashes: &[String]) -> Vec<String> {
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT schemaname::text, tablename::text FROM pg_tables
          WHERE schemaname = 'ledger' OR tablename = 'identifiers' ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(tables.len() > 5, "{tables:?}");
    let mut holding = Vec::new();
    for (schema, table) in tables {
        let held: bool = sqlx::query_scalar(&format!(
            "SELECT EXISTS (SELECT FROM {schema}.{table} t, unnest($1::text[]) AS sought (it)
                             WHERE strpos(t::text, sought.it) > 0)"
        ))
        .bind(hashes)
        .fetch_one(pool)
        .await
        .unwrap();
        if held {
            holding.push(table);
        }
    }
    holding
}
