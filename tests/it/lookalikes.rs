//! No two accounts have usernames that can be taken for each other: issue 10, number 17.

use std::collections::HashMap;

use commands::{
    ChangeProfileError, NewAccount, NewProfile, RegisterError, UserAggregate, store::Loaded,
};
use domain::{
    Email, Identifier, IdentifierKind, Password, Role, SealedIdentifier, UserEvent, UserId,
    Username,
};
use serde_json::json;
use sqlx::PgPool;

use crate::{
    book::{Desk, account},
    support::{
        http::{email_of, password_of},
        server::eventually,
        shared::Running,
    },
};

async fn register(desk: &Desk, number: u32, username: &str) -> Result<UserId, RegisterError> {
    let email = Email::parse(&format!("person{number}@example.org")).unwrap();
    let new =
        NewAccount { email, username: Username::parse(username).unwrap(), ..account("somebody") };
    Ok(desk.book.register(new, false, &desk.origin()).await?.account.id)
}

fn is_taken(result: Result<UserId, RegisterError>) -> bool {
    matches!(result, Err(RegisterError::IdentifierTaken(IdentifierKind::Username)))
}

async fn rename(desk: &Desk, id: UserId, to: &str) -> Result<(), ChangeProfileError> {
    let new = NewProfile { username: Username::parse(to).ok(), ..NewProfile::default() };
    let current = Password::present("the password of somebody").ok();
    desk.book.change_profile(id, new, current, &desk.origin()).await.map(drop)
}

async fn claims(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM username_lookalikes").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn a_username_that_looks_like_anothers_is_taken() {
    let desk = Desk::open().await;
    let paypal = register(&desk, 1, "paypal1").await.unwrap();
    for (number, like) in (2..).zip(["раураӏ1", "paypall", "paypaI1", "PAYPAL1", "pаypаl1"])
    {
        let Ok(name) = Username::parse(like) else { continue };
        assert!(is_taken(register(&desk, number, name.as_str()).await), "{like}");
    }
    let ben = register(&desk, 20, "ben").await.unwrap();
    let refused = rename(&desk, ben, "paypal1".replace('1', "I").as_str()).await.unwrap_err();
    assert!(matches!(refused, ChangeProfileError::IdentifierTaken(IdentifierKind::Username)));
    // Of one's own names they may look alike, and what is given back is free.
    rename(&desk, paypal, "paypall").await.unwrap();
    rename(&desk, paypal, "ada").await.unwrap();
    rename(&desk, ben, "PayPaI1").await.unwrap();
    assert!(is_taken(register(&desk, 21, "paypal1").await));
    desk.book.erase(ben, &desk.origin()).await.unwrap();
    register(&desk, 22, "paypal1").await.unwrap();
    let kept: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT DISTINCT user_id FROM username_lookalikes WHERE user_id = $1")
            .bind(ben.0)
            .fetch_all(&desk.pool)
            .await
            .unwrap();
    assert!(kept.is_empty(), "nothing of an erased person is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_registrations_of_names_that_look_alike_one_succeeds() {
    let desk = Desk::open().await;
    let names = ["modern10", "modem10", "modernl0", "modernIO", "mоdernlо", "MODERN10", "modem1O"];
    let tries = (0..).zip(names).filter_map(|(number, name)| {
        let new = NewAccount {
            email: Email::parse(&format!("person{number}@example.org")).unwrap(),
            username: Username::parse(name).ok()?,
            ..account("somebody")
        };
        let (book, origin) = (desk.book.clone(), desk.origin());
        Some(tokio::spawn(async move { book.create_account(new, &origin).await.map(drop) }))
    });
    let tries: Vec<_> = tries.collect();
    assert!(tries.len() > 4);
    let mut made = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(()) => made += 1,
            Err(RegisterError::IdentifierTaken(IdentifierKind::Username)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(made, 1);
}

/// An account as an older binary made it: with a name that is refused today, and without a claim.
async fn made_before(desk: &Desk, username: &str) -> UserId {
    let id = UserId(uuid::Uuid::from_u128(7));
    let keyring = desk.book.keyring();
    let (person, key) = keyring.new_person(id);
    let sealed = |field: &str, text: &str| {
        keyring.seal(&person, &format!("User/{id}/{field}"), text.as_bytes())
    };
    let hash =
        desk.book.hasher().hash(Password::choose("the password of old").unwrap()).await.unwrap();
    let identifier = |kind, field, text: &str| SealedIdentifier {
        sealed: sealed(field, text),
        index: keyring.index(kind, &Identifier::typed(text).folded()),
    };
    let event = UserEvent::Registered {
        email: identifier(IdentifierKind::Email, "email", "old@example.org"),
        username: identifier(IdentifierKind::Username, "username", username),
        full_name: Some(sealed("full_name", "Old\u{202e}Name")),
        password: sealed("password", &hash),
        roles: [Role::User].into(),
    };
    let mut stream = Loaded::<UserAggregate>::new_stream(id.to_string());
    stream.with_key(key);
    let metadata = HashMap::from([
        ("actor".to_owned(), "system".to_owned()),
        ("request_id".to_owned(), "r".to_owned()),
        ("at".to_owned(), "2025-10-09T08:53:20Z".to_owned()),
    ]);
    desk.book.store().append(&stream, &[event], &metadata).await.unwrap();
    id
}

#[tokio::test]
async fn a_name_that_was_taken_under_an_older_rule_goes_on_and_is_protected() {
    let desk = Desk::open().await;
    let name = "adm\u{34f}in";
    let id = made_before(&desk, name).await;
    let account = desk.book.account(id).await.unwrap().unwrap();
    assert_eq!(
        (account.username.as_str(), account.full_name.as_deref()),
        (name, Some("Old\u{202e}Name"))
    );
    let sign_in = async || {
        let password = Password::present("the password of old").unwrap();
        desk.book.sign_in(&Identifier::typed(name), password, false, &desk.origin()).await
    };
    assert_eq!(sign_in().await.unwrap().account.id, id);
    assert_eq!(claims(&desk.pool).await, 0);
    desk.book.claim_lookalikes(id).await.unwrap();
    let held = claims(&desk.pool).await;
    assert!(held > 0);
    desk.book.claim_lookalikes(id).await.unwrap();
    assert_eq!(claims(&desk.pool).await, held, "doing it again changes nothing");
    assert!(is_taken(register(&desk, 1, "admin").await));
    assert_eq!(sign_in().await.unwrap().account.id, id);
    // What is not its own is left to whom it belongs.
    let ben = register(&desk, 2, "ben").await.unwrap();
    desk.book.claim_lookalikes(ben).await.unwrap();
    desk.book.erase(id, &desk.origin()).await.unwrap();
    register(&desk, 3, "admin").await.unwrap();
}

#[tokio::test]
async fn accounts_of_before_the_upgrade_are_protected_by_who_follows_the_book() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("modern").await;
    let pool = running.database.pool();
    // As after an upgrade: no claims, and nobody has looked yet.
    for statement in [
        "TRUNCATE username_lookalikes",
        "UPDATE projections SET position = 0 WHERE name = 'process:claim_lookalikes'",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
    // Whoever is at it goes on from where it was, and so another replica takes over.
    let setup = running.setup.replica();
    let (database, _scratch) = running.stop().await;
    let pool = database.pool();
    let server = setup.start().await;
    eventually("what they look like is claimed", async || (claims(pool).await >= 2).then_some(()))
        .await;
    let body = json!({
        "email": email_of("eve"), "username": "modem", "password": password_of("eve"),
    });
    let refused = server.post("/api/v1/auth/register", body).await.unwrap();
    assert_eq!(refused.status(), 409);
    // Over HTTP as in the book: names that look like nothing are none.
    for username in ["admin\u{34f}", "admin\u{fe0f}", "\u{3164}\u{3164}\u{3164}"] {
        let body = json!({
            "email": email_of("eve"), "username": username, "password": password_of("eve"),
        });
        let refused = server.post("/api/v1/auth/register", body).await.unwrap();
        assert_eq!(refused.status(), 422, "{username:?}");
    }
}
