use crate::support::reading::verify_identifiers;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::projections::{Destroyed, Projector, Revocations, Sequencer};
use commands::{
    By, ChangeProfileError, CommandError, NewProfile, Origin, RefreshError, SignInError, SignedIn,
    keyring::Keyring,
};
use domain::{Email, EndReason, Identifier, Password, Role, Sealed, UserId, UserRefusal, Username};
use tokio_util::sync::CancellationToken;

use super::{
    book_of, code, count, dumped, found,
    her::{HERS, READABLE, her_hashes, her_origin, live, readable, tables_with},
    settled,
};
use crate::{book::Desk, support::server::eventually};

async fn sign_in(desk: &Desk, name: &str) -> Result<SignedIn, SignInError> {
    let password = Password::present(&format!("the password of {name}")).unwrap();
    desk.book.sign_in(&Identifier::typed(name), password, false, &desk.origin()).await
}

pub(super) fn admin(id: UserId) -> Origin {
    Origin {
        by: By::User(id),
        address: "203.0.113.99".parse().ok(),
        user_agent: Some("Admin/9.0".into()),
        request_id: "admin-request".into(),
    }
}

fn key_of(id: UserId) -> String {
    format!("SELECT count(*) FROM sealing_keys WHERE id = 'p:{id}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_erased_person_is_in_a_dump_and_the_book_is_whole() {
    let desk = Desk::open().await;
    let her = live(&desk).await;
    let id = her.account.id;
    let bob = desk.register("bob").await.account.id;
    // Whatever read tables there are hold what they hold of her.
    let sequencer = Sequencer::new(desk.pool.clone());
    let projector = Projector::new(
        crate::support::reading::source_of(&desk.pool),
        ::projections::all(),
        sequencer.head(),
    );
    projector.ensure().await.unwrap();
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();
    let url = desk.url();
    // What she failed at, without being known: names that are nobody's, and once her own. That is as often
    // as her network may.
    let origin = her_origin(&desk);
    for number in 1..=99 {
        let typed = Identifier::typed(&format!("augustine{number}"));
        let wrong = Password::present("another slip").unwrap();
        let _ = desk.book.sign_in(&typed, wrong, false, &origin).await;
    }
    let wrong = Password::present("another slip").unwrap();
    let _ = desk.book.sign_in(&Identifier::typed("countess32"), wrong, false, &origin).await;
    let throttled = "SELECT count(*) FROM events WHERE event_type = 'SignInThrottled'
                        AND aggregate_id LIKE 'address:%'";
    assert_eq!(count(&desk.pool, throttled).await, 1);
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();

    let events = count(&desk.pool, "SELECT count(*) FROM events").await;
    let before = book_of(&desk.pool, events).await;
    assert_eq!(
        count(&desk.pool, "SELECT count(*) FROM snapshots").await,
        2,
        "hers, and a session's"
    );
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM identifiers").await, 4);
    // What is sealed opens before, so that what follows is the erasure's doing.
    let sealed: Vec<(String, String)> = sqlx::query_as(
        "SELECT aggregate_type || '/' || aggregate_id || '/source', metadata ->> 'source' FROM events
          WHERE metadata ? 'source' AND metadata ->> 'source' LIKE '%p:' || $1 || '%'",
    )
    .bind(id.to_string())
    .fetch_all(&desk.pool)
    .await
    .unwrap();
    assert!(sealed.len() > 60, "{}", sealed.len());
    let opened = async |keyring: &Keyring| {
        let mut opened = 0;
        for (place, source) in &sealed {
            let source = keyring.open(&Sealed(source.clone()), place).await.unwrap();
            opened += usize::from(source.text().is_some());
        }
        opened
    };
    assert_eq!(opened(desk.book.keyring()).await, sealed.len());
    let before_it = readable(&desk, &dumped(&url).await).await;
    for value in READABLE {
        assert!(
            before_it.iter().any(|(_, text)| text.contains(value)),
            "{value} can be read before"
        );
    }
    let hashes = her_hashes(&desk.pool, id).await;
    assert!(hashes.len() > 66, "{}", hashes.len());
    let holding = tables_with(desk.owner(), &hashes).await;
    assert!(
        holding.len() >= 2 && holding.iter().any(|table| table.starts_with("claims")),
        "{holding:?}"
    );

    desk.book.erase(id, &admin(bob)).await.unwrap().unwrap();
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();

    let dump = dumped(&url).await;
    assert_eq!(found(&dump, &HERS), [""; 0]);
    // The scan can find: what was planted, in any form, and what is left of her.
    sqlx::raw_sql(
        "CREATE TABLE planted AS SELECT 'xx Analytical/1843'::bytea AS a, 'countess7'::text AS b,
             encode('..Augusta Ada Kingsley..'::bytea, 'base64') AS c",
    )
    .execute(desk.owner())
    .await
    .unwrap();
    let planted = dumped(&url).await;
    assert_eq!(
        found(&planted, &HERS),
        ["Augusta Ada Kingsley", "Kingsley", "Analytical/1843", "countess7"]
    );
    assert_eq!(found(&dump, &[&id.to_string(), "UserErased"]).len(), 2);

    // Whoever has the master key opens whatever can still be opened. Of her that is what she typed and
    // where she came from when it was nobody's name, which goes with the month.
    let left = readable(&desk, &dump).await;
    let hers: Vec<_> =
        left.iter().filter(|(_, text)| READABLE.iter().any(|value| text.contains(value))).collect();
    assert_eq!(hers.len(), 2 * 99, "{hers:?}");
    for (place, text) in hers {
        assert!(place.starts_with("SignInGuard/identifier:"), "{place}: {text}");
        let is_expected = match place.rsplit('/').next() {
            Some("source") => text.contains("198.51.100.77") && text.contains("Analytical/1843"),
            Some("identifier") => text.starts_with("augustine"),
            _ => false,
        };
        assert!(is_expected, "{place}: {text}");
    }
    // The hashes of her names are in the events, and in no read table.
    assert_eq!(tables_with(desk.owner(), &hashes).await, [""; 0]);
    // Nobody opens anything of it, with the master key either.
    assert_eq!(opened(desk.book.keyring()).await, 0);
    assert_eq!(count(&desk.pool, &key_of(id)).await, 0);
    assert_eq!(count(&desk.pool, &key_of(bob)).await, 1);
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM identifiers").await, 2, "Bob's");
    assert_eq!(
        count(&desk.pool, "SELECT count(*) FROM snapshots WHERE aggregate_type = 'User'").await,
        0
    );
    let row = ::projections::users::get(&desk.pool, id).await.unwrap().unwrap();
    assert!(row.erased && row.email.is_none() && row.username.is_none() && row.full_name.is_none());
    assert!(verify_identifiers(&desk.pool).await.unwrap().is_equal());

    // The book says so, and all before it is as it was.
    assert_eq!(book_of(&desk.pool, events).await, before);
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM events").await, events + 1);
    let user = desk.book.user(id).await.unwrap();
    assert!(user.erased && user.profile.is_none());
    assert!(desk.book.account(id).await.unwrap().is_none());
}

#[tokio::test]
async fn who_is_erased_is_out_and_their_names_are_free() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await;
    let id = ada.account.id;
    desk.book.erase(id, &desk.origin()).await.unwrap().unwrap();
    assert!(matches!(sign_in(&desk, "ada").await, Err(SignInError::WrongCredentials)));
    let refused = desk.book.refresh(ada.refresh.expose(), &desk.origin()).await.unwrap_err();
    assert!(matches!(refused, RefreshError::Ended(EndReason::AccountErased)), "{refused:?}");
    let ended = desk.book.session(ada.session_id).await.unwrap().ended;
    assert_eq!(ended, Some(EndReason::AccountErased), "an end needs no key");
    let rename = NewProfile { username: Username::parse("ada2").ok(), ..NewProfile::default() };
    let refused = desk.book.change_profile(id, rename, None, &desk.origin()).await.unwrap_err();
    assert!(matches!(refused, ChangeProfileError::NotFound), "{refused:?}");
    for refused in [
        desk.book.grant_role(id, Role::Admin, &desk.origin()).await,
        desk.book.enable(id, &desk.origin()).await,
        desk.book.reset_password(id, Password::choose("a password").unwrap(), &desk.origin()).await,
    ] {
        assert!(
            matches!(
                refused,
                Err(CommandError::NotFound | CommandError::Refused(UserRefusal::Erased))
            ),
            "{refused:?}"
        );
    }

    // A second time nothing is written; of nobody there is nothing to erase.
    let events = count(&desk.pool, "SELECT count(*) FROM events").await;
    assert_eq!(desk.book.erase(id, &desk.origin()).await.unwrap(), None);
    let nobody = UserId("01890000-0000-7000-8000-000000000000".parse().unwrap());
    let refused = desk.book.erase(nobody, &desk.origin()).await.unwrap_err();
    assert!(matches!(refused, CommandError::NotFound), "{refused:?}");
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM events").await, events);

    // Somebody else may have the names, and is nobody's heir.
    let next = desk.register("ada").await;
    assert_ne!(next.account.id, id);
    sign_in(&desk, "ada").await.unwrap();
    desk.book.erase(id, &desk.origin()).await.unwrap();
    sign_in(&desk, "ada").await.unwrap();
    assert!(verify_identifiers(&desk.pool).await.unwrap().is_equal());
}

/// Whose address it is decides, not on whose stream it stands.
#[tokio::test]
async fn what_an_admin_did_to_others_goes_with_the_admin() {
    let desk = Desk::open().await;
    let (ada, eve) = (desk.register("ada").await, desk.register("eve").await);
    desk.book.grant_role(ada.account.id, Role::Auditor, &admin(eve.account.id)).await.unwrap();
    let source = async || {
        let sealed: String = sqlx::query_scalar(
            "SELECT metadata ->> 'source' FROM events WHERE event_type = 'UserRoleGranted'",
        )
        .fetch_one(&desk.pool)
        .await
        .unwrap();
        let id = ada.account.id.to_string();
        desk.book.open_source(&Sealed(sealed), "User", &id).await.unwrap()
    };
    assert_eq!(source().await.unwrap().address.as_deref(), Some("203.0.113.99"));
    desk.book.erase(ada.account.id, &desk.origin()).await.unwrap();
    assert!(source().await.is_some(), "it is Eve's");
    desk.book.erase(eve.account.id, &desk.origin()).await.unwrap();
    assert_eq!(source().await, None);
}

/// Whatever goes on at the same moment, nothing is claimed afterwards, nothing can be read, and nothing
/// fails but as it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_races_with_an_erasure_loses() {
    for round in 0..8 {
        let desk = Desk::open().await;
        let name = format!("ada{round}");
        let ada = desk.register(&name).await;
        let (id, stop) = (ada.account.id, Arc::new(AtomicBool::new(false)));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..3 {
            let (book, origin, over) = (desk.book.clone(), desk.origin(), stop.clone());
            let name = name.clone();
            tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let password = if number == 0 { "wrong" } else { "the password of" };
                    let password = Password::present(&format!("{password} {name}")).unwrap();
                    let typed = Identifier::typed(&name);
                    match book.sign_in(&typed, password, false, &origin).await {
                        Ok(_)
                        | Err(SignInError::WrongCredentials | SignInError::Throttled { .. }) => {}
                        Err(SignInError::Storage(error)) if error.is_temporary() => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
            let (book, origin, over) = (desk.book.clone(), desk.origin(), stop.clone());
            let current = Password::present(&format!("the password of ada{round}")).unwrap();
            tasks.spawn(async move {
                for change in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let change = format!("ada{round}-{number}-{change}");
                    let change = NewProfile {
                        email: Email::parse(&format!("{change}@example.org")).ok(),
                        username: Username::parse(&change).ok(),
                        full_name: None,
                    };
                    let own = origin.with(By::User(id));
                    match book.change_profile(id, change, Some(current.clone()), &own).await {
                        // An account asks for few names in an hour.
                        Ok(_)
                        | Err(
                            ChangeProfileError::NotFound
                            | ChangeProfileError::Throttled { .. }
                            | ChangeProfileError::TooManyNames { .. },
                        ) => {}
                        // Others changed the same account all the time.
                        Err(ChangeProfileError::Storage(error)) if error.is_temporary() => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            });
        }
        let (book, origin, stopped) = (desk.book.clone(), desk.origin(), stop.clone());
        tasks.spawn(async move {
            let mut token = ada.refresh.expose().to_owned();
            while !stopped.load(Ordering::Relaxed) {
                match book.refresh(&token, &origin).await {
                    Ok(next) => token = next.refresh.expose().to_owned(),
                    Err(RefreshError::Ended(EndReason::AccountErased)) => return,
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        let erasing: Vec<_> = (0..2)
            .map(|_| {
                let (book, origin) = (desk.book.clone(), desk.origin());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(150 + 20 * round)).await;
                    loop {
                        match book.erase(id, &origin).await {
                            Ok(receipt) => return receipt.is_some(),
                            // Others came first sixteen times.
                            Err(CommandError::Storage(error)) if error.is_temporary() => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                })
            })
            .collect();
        let mut erased = 0;
        for one in erasing {
            erased += usize::from(one.await.unwrap());
        }
        assert_eq!(erased, 1, "of two who erase one does");
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.store(true, Ordering::Relaxed);
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }

        let last: Vec<String> = sqlx::query_scalar(
            "SELECT event_type FROM events WHERE aggregate_id = $1 AND aggregate_type = 'User'
              ORDER BY sequence DESC LIMIT 1",
        )
        .bind(id.to_string())
        .fetch_all(&desk.pool)
        .await
        .unwrap();
        assert_eq!(last, ["UserErased"], "nothing comes after it");
        assert_eq!(count(&desk.pool, "SELECT count(*) FROM identifiers").await, 0);
        assert_eq!(count(&desk.pool, &key_of(id)).await, 0);
        assert!(desk.book.keyring().person(id).await.unwrap().is_none(), "it is not remembered");
        assert!(verify_identifiers(&desk.pool).await.unwrap().is_equal());
        // Nothing that is sealed under her key opens, whenever it was written.
        let sources: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT aggregate_type, aggregate_id, metadata ->> 'source' FROM events
              WHERE metadata ->> 'source' LIKE 's1.p:%'",
        )
        .fetch_all(&desk.pool)
        .await
        .unwrap();
        for (stream, stream_id, source) in sources {
            let opened = desk.book.open_source(&Sealed(source), &stream, &stream_id).await.unwrap();
            assert_eq!(opened, None);
        }
    }
}

#[tokio::test]
async fn a_key_is_destroyed_by_what_the_book_says_and_by_nothing_else() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let month: String = sqlx::query_scalar("SELECT id FROM sealing_keys WHERE id LIKE 'm:%'")
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    let hers = format!("p:{ada}");
    let permit = desk.book.keyring().permit();
    for key in [hers.as_str(), month.as_str(), "s:index", "s:service", "p:", "m:", "", "x"] {
        let refused = sqlx::query("SELECT destroy_key($1, $2)")
            .bind(key)
            .bind(permit.as_slice())
            .execute(&desk.pool)
            .await;
        let refused = refused.unwrap_err();
        assert_eq!(code(&refused), "42501", "{key}: {refused}");
        assert!(refused.to_string().contains("is not to be destroyed"), "{refused}");
    }
    let open: bool = sqlx::query_scalar(
        "SELECT has_function_privilege('public', 'destroy_key(text, bytea)', 'EXECUTE')",
    )
    .fetch_one(&desk.pool)
    .await
    .unwrap();
    assert!(!open, "nobody but the application");

    // All or nothing: without the key's end there is no erasure.
    let grant = |word: &str, to: &str| {
        format!("{word} EXECUTE ON FUNCTION destroy_key(text, bytea) {to} entrybook_app")
    };
    sqlx::raw_sql(&grant("REVOKE", "FROM")).execute(desk.owner()).await.unwrap();
    let events = count(&desk.pool, "SELECT count(*) FROM events").await;
    desk.book.erase(ada, &desk.origin()).await.unwrap_err();
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM events").await, events);
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM identifiers").await, 2);
    sign_in(&desk, "ada").await.unwrap();
    sqlx::raw_sql(&grant("GRANT", "TO")).execute(desk.owner()).await.unwrap();

    let copy: (Vec<u8>, String) =
        sqlx::query_as("SELECT wrapped, master_key FROM sealing_keys WHERE id = $1")
            .bind(format!("p:{ada}"))
            .fetch_one(&desk.pool)
            .await
            .unwrap();
    desk.book.erase(ada, &desk.origin()).await.unwrap().unwrap();
    // An old copy doesn't come back, not by the owner of the table either.
    for pool in [&desk.pool, desk.owner()] {
        let refused = sqlx::query(
            "INSERT INTO sealing_keys (id, wrapped, master_key, permit) VALUES ($1, $2, $3, $4)",
        )
        .bind(format!("p:{ada}"))
        .bind(&copy.0)
        .bind(&copy.1)
        .bind(permit.as_slice())
        .execute(pool)
        .await
        .unwrap_err();
        assert_eq!(code(&refused), "23001", "{refused}");
    }
    // Nor under its name by way of another row, nor as a replica writes.
    for statement in [
        format!("UPDATE sealing_keys SET id = 'p:{ada}' WHERE id = '{month}'"),
        format!(
            "SET session_replication_role = replica;
             INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ('p:{ada}', 'x', 'x')"
        ),
    ] {
        let refused = sqlx::raw_sql(&statement).execute(desk.owner()).await.unwrap_err();
        assert_eq!(code(&refused), "23001", "{statement}: {refused}");
    }
    let again: bool = sqlx::query_scalar("SELECT destroy_key($1, $2)")
        .bind(format!("p:{ada}"))
        .bind(permit.as_slice())
        .fetch_one(&desk.pool)
        .await
        .unwrap();
    assert!(!again, "there is nothing left of it");
}

/// The event without the rest: what a restored part of a backup leaves.
#[tokio::test]
async fn what_was_broken_off_is_finished() {
    let desk = Desk::open().await;
    let her = live(&desk).await;
    let id = her.account.id;
    let sequence: i64 =
        sqlx::query_scalar("SELECT max(sequence) FROM events WHERE aggregate_id = $1")
            .bind(id.to_string())
            .fetch_one(&desk.pool)
            .await
            .unwrap();
    sqlx::query(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
           VALUES ('User', $1, $2, 'UserErased', '1', '{"UserErased": {}}',
                   '{"actor": "system", "request_id": "x", "at": "2026-01-01T00:00:00.000000Z"}')"#,
    )
    .bind(id.to_string())
    .bind(sequence + 1)
    .execute(&desk.pool)
    .await
    .unwrap();
    assert_eq!(count(&desk.pool, &key_of(id)).await, 1);
    assert!(matches!(
        desk.book
            .sign_in(
                &Identifier::typed("countess32"),
                Password::present("a second password of hers").unwrap(),
                false,
                &desk.origin()
            )
            .await,
        Err(SignInError::WrongCredentials)
    ));
    desk.book.finish_erasure(id).await.unwrap();
    assert_eq!(count(&desk.pool, &key_of(id)).await, 0);
    assert_eq!(count(&desk.pool, "SELECT count(*) FROM identifiers").await, 0);
    assert!(desk.book.keyring().person(id).await.unwrap().is_none());
    desk.book.finish_erasure(id).await.unwrap();
    // Of somebody who is not erased it destroys nothing.
    let bob = desk.register("bob").await.account.id;
    desk.book.finish_erasure(bob).await.unwrap();
    assert_eq!(count(&desk.pool, &key_of(bob)).await, 1);
    sign_in(&desk, "bob").await.unwrap();
}

/// The feed of each replica tells it at once, however the keys were destroyed.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_learns_of_keys_that_are_destroyed() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let sequencer = Sequencer::new(desk.pool.clone());
    let revocations = Revocations::new(
        crate::support::reading::source_of(&desk.pool),
        sequencer.head(),
        Duration::from_secs(900),
    );
    let mut destroyed = revocations.destroyed();
    let cancel = CancellationToken::new();
    let projector = Projector::new(
        crate::support::reading::source_of(&desk.pool),
        ::projections::all(),
        sequencer.head(),
    );
    projector.ensure().await.unwrap();
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();
    let following = {
        let (revocations, cancel) = (revocations.clone(), cancel.clone());
        let now = commands::clock::Clock::now(desk.clock.as_ref());
        tokio::spawn(async move { revocations.run(now, cancel).await })
    };
    eventually("it is ready", async || revocations.is_ready().then_some(())).await;
    desk.book.erase(ada, &desk.origin()).await.unwrap();
    // Before it has its place in the book.
    assert_eq!(destroyed.recv().await.unwrap(), Destroyed::Person(ada));
    desk.clock.advance(chrono::TimeDelta::days(70));
    let origin = Origin::system("test".into());
    let month = desk.book.forget_next_month(chrono::TimeDelta::days(1), &origin).await.unwrap();
    let month = month.unwrap().to_string();
    settled(&desk, &sequencer).await;
    eventually("the month is told", async || match destroyed.recv().await.unwrap() {
        Destroyed::Month(told) => {
            assert_eq!(told, month);
            Some(())
        }
        Destroyed::Person(told) => {
            assert_eq!(told, ada, "until it is settled it is told again");
            None
        }
        Destroyed::SigningKey(told) => panic!("nobody retired {told}"),
    })
    .await;
    cancel.cancel();
    following.await.unwrap();
}

/// A backup brings back what it holds; the book says what to destroy again.
#[tokio::test]
async fn a_key_from_a_backup_opens_what_it_opened_until_it_is_destroyed_again() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    let row: (String, Vec<u8>, String) =
        sqlx::query_as("SELECT id, wrapped, master_key FROM sealing_keys WHERE id = $1")
            .bind(format!("p:{ada}"))
            .fetch_one(&desk.pool)
            .await
            .unwrap();
    desk.book.erase(ada, &desk.origin()).await.unwrap();
    // A restore makes its triggers after the rows are there.
    sqlx::raw_sql("ALTER TABLE sealing_keys DISABLE TRIGGER forfeit")
        .execute(desk.owner())
        .await
        .unwrap();
    sqlx::query("INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ($1, $2, $3)")
        .bind(&row.0)
        .bind(&row.1)
        .bind(&row.2)
        .execute(desk.owner())
        .await
        .unwrap();
    assert!(
        desk.book.keyring().person(ada).await.unwrap().is_some(),
        "that is what a backup holds"
    );
    desk.book.erase(ada, &desk.origin()).await.unwrap();
    assert!(desk.book.keyring().person(ada).await.unwrap().is_none());
    assert_eq!(count(&desk.pool, &key_of(ada)).await, 0);
}
