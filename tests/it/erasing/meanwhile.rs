//! What goes on while something is being destroyed or wrapped anew: people sign in, and nothing that is
//! destroyed comes back.

use crate::support::reading::rebuild;
use std::{sync::Arc, time::Duration};

use ::projections::{Options, Phase, Projector, Sequencer};
use chrono::TimeDelta;
use commands::{
    By, NewAccount, Origin, SignInError,
    clock::{SeededEntropy, SystemEntropy},
    keyring::{Keyring, MasterKey, MasterKeys},
};
use domain::{Email, Identifier, Password, Role, UserId, Username};
use entrybook::admins::{Lookup, TakeAwayError, take_away};
use sqlx::{Acquire, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::{count, settled};
use crate::{book::Desk, support::server::eventually};

async fn sign_in(desk: &Desk, name: &str) -> Result<(), SignInError> {
    let password = Password::present(&format!("the password of {name}")).unwrap();
    desk.book.sign_in(&Identifier::typed(name), password, false, &desk.origin()).await.map(drop)
}

/// How many wait for a lock in this database.
async fn waiting(pool: &PgPool) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    count(pool, waiting).await
}

/// The row of a key, held by somebody who takes their time.
async fn held<'a>(
    connection: &'a mut PgConnection,
    id: &str,
) -> sqlx::Transaction<'a, sqlx::Postgres> {
    let mut held = connection.begin().await.unwrap();
    let row = sqlx::query("SELECT FROM sealing_keys WHERE id = $1 FOR UPDATE").bind(id);
    assert_eq!(row.fetch_all(&mut *held).await.unwrap().len(), 1, "{id}");
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_while_a_month_is_forgotten() {
    let desk = Desk::open().await;
    desk.clock.set("2025-01-10T00:00:00Z".parse().unwrap());
    desk.register("ada").await;
    desk.clock.set("2025-06-10T00:00:00Z".parse().unwrap());
    let mut owner = desk.owner().acquire().await.unwrap();
    let holding = held(&mut owner, "m:2025-01").await;
    let book = desk.book.clone();
    let forgetting = tokio::spawn(async move {
        let origin = Origin::system("retention".into());
        book.forget_next_month(TimeDelta::days(30), &origin).await.unwrap()
    });
    eventually("it waits in the middle of its commit", async || {
        (waiting(desk.owner()).await == 1).then_some(())
    })
    .await;
    for number in 0..5 {
        desk.register(&format!("ben{number}")).await;
        sign_in(&desk, "ada").await.unwrap();
    }
    assert!(!forgetting.is_finished());
    assert_eq!(
        count(&desk.pool, "SELECT count(*) FROM events WHERE event_type = 'MonthForgotten'").await,
        0
    );
    holding.rollback().await.unwrap();
    assert_eq!(forgetting.await.unwrap().unwrap().to_string(), "2025-01");
    assert_eq!(
        count(&desk.pool, "SELECT count(*) FROM sealing_keys WHERE id = 'm:2025-01'").await,
        0
    );
}

/// Each batch in turn is held in the middle of its commit, and the last one open.
#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_and_are_erased_while_keys_are_wrapped_anew() {
    let old = || MasterKey::generate(&SeededEntropy::new(1));
    let new = || MasterKey::generate(&SeededEntropy::new(2));
    let desk = Desk::open_with(MasterKeys::new(old(), Some(new()))).await;
    let mut ids = Vec::new();
    for name in ["ada", "ben", "eve", "joe"] {
        ids.push(desk.register(name).await.account.id);
    }
    let [ada, ben, eve, joe] = ids[..] else { unreachable!() };
    let key = |id: UserId| format!("p:{id}");
    let load = async |keys: MasterKeys| {
        Keyring::load(desk.pool.clone(), keys, Arc::new(SystemEntropy)).await.unwrap()
    };
    let wrapping = Arc::new(load(MasterKeys::new(new(), Some(old()))).await);
    let owner = async || desk.owner().acquire().await.unwrap().detach();

    let mut holder = owner().await;
    let holding = held(&mut holder, &key(eve)).await;
    let connection = owner().await;
    let rewrapping = {
        let keyring = wrapping.clone();
        tokio::spawn(async move {
            let mut rewrap = keyring.rewrap(connection);
            let some = rewrap.some().await.unwrap();
            let more = rewrap.some().await.unwrap();
            rewrap.close().await.unwrap();
            (some, more)
        })
    };
    eventually("a batch waits in the middle", async || {
        (waiting(desk.owner()).await == 1).then_some(())
    })
    .await;
    // Nothing is remembered that would hide it.
    desk.book.keyring().forget_all();
    sign_in(&desk, "ada").await.unwrap();
    desk.register("sue").await;
    // Who is erased now is erased before or after, and not undone: their key is in the batch that waits.
    let erasing = {
        let (book, origin) = (desk.book.clone(), desk.origin());
        tokio::spawn(async move { book.erase(ben, &origin).await })
    };
    eventually("so does the erasure, or it is done", async || {
        (erasing.is_finished() || waiting(desk.owner()).await == 2).then_some(())
    })
    .await;
    sign_in(&desk, "ada").await.unwrap();
    holding.rollback().await.unwrap();
    assert!(erasing.await.unwrap().unwrap().is_some());
    let (some, more) = rewrapping.await.unwrap();
    assert!(some.unwrap() >= 7, "{some:?}");
    assert_eq!(more, None);

    // The last batch, open.
    let mut rewrap = wrapping.rewrap(owner().await);
    while rewrap.some().await.unwrap().is_some() {}
    let last = rewrap.last().await.unwrap();
    assert!(last.keys() >= 1);
    sign_in(&desk, "ada").await.unwrap();
    desk.book.erase(joe, &desk.origin().with(By::User(ada))).await.unwrap().unwrap();
    last.commit().await.unwrap();
    rewrap.close().await.unwrap();
    assert_eq!(wrapping.wrapped_by().await.unwrap().len(), 1);
    for (id, there) in [(ada, 1), (ben, 0), (eve, 1), (joe, 0)] {
        let keys = format!("SELECT count(*) FROM sealing_keys WHERE id = '{}'", key(id));
        assert_eq!(count(&desk.pool, &keys).await, there, "{id}");
    }
    let alone = load(new().into()).await;
    assert!(alone.person(eve).await.unwrap().is_some());
    assert!(alone.person(ben).await.unwrap().is_none());
}

/// The new tables were folded from lines before it, and are swapped in after it.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_erased_during_a_rebuild_is_in_no_table_afterwards() {
    let desk = Desk::open().await;
    let ada = desk.register("ada").await.account.id;
    desk.register("ben").await;
    let sequencer = Sequencer::new(desk.pool.clone());
    let projector = Projector::new(
        crate::support::reading::source_of(&desk.pool),
        ::projections::all(),
        sequencer.head(),
    );
    projector.ensure().await.unwrap();
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();
    let (phases, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let erasing = {
        let (book, origin) = (desk.book.clone(), desk.origin());
        tokio::spawn(async move {
            let _phase: Phase = seen.recv().await.unwrap();
            book.erase(ada, &origin).await.unwrap().unwrap();
            go_on.send(()).unwrap();
        })
    };
    let mut told = false;
    let mut tell = move |progress: &::projections::Progress| {
        if !std::mem::replace(&mut told, true) {
            phases.send(progress.phase).unwrap();
            tokio::task::block_in_place(|| wait.recv_timeout(Duration::from_secs(60)).unwrap());
        }
    };
    let chosen =
        ["users", "claims", "audit_history"].map(|name| ::projections::named(name).unwrap());
    let cancel = CancellationToken::new();
    let owner = desk.pool.clone();
    rebuild(&owner, &chosen, Options::default(), &cancel, &mut tell)
        .await
        .map_err(|e| e.cause)
        .unwrap();
    erasing.await.unwrap();
    settled(&desk, &sequencer).await;
    projector.catch_up().await.unwrap();
    let row = ::projections::users::get(&desk.pool, ada).await.unwrap().unwrap();
    assert!(row.erased && row.email.is_none() && row.username.is_none() && row.full_name.is_none());
    let index = desk.book.keyring().index(domain::IdentifierKind::Username, "ada");
    assert_eq!(::projections::claims::holders(&desk.pool, &index).await.unwrap(), []);
    let index = desk.book.keyring().index(domain::IdentifierKind::Username, "ben");
    assert_eq!(::projections::claims::holders(&desk.pool, &index).await.unwrap().len(), 1);
}

/// Somebody who is no admin when their erasure begins, and is made one before it is done, must not be the
/// one who remains.
#[tokio::test(flavor = "multi_thread")]
async fn who_becomes_an_admin_while_they_are_taken_away_does_not_count() {
    let desk = Desk::open().await;
    let sequencer = Sequencer::new(desk.pool.clone());
    let projector = Projector::new(
        crate::support::reading::source_of(&desk.pool),
        ::projections::all(),
        sequencer.head(),
    );
    projector.ensure().await.unwrap();
    let new = NewAccount {
        email: Email::parse("root@example.org").unwrap(),
        username: Username::parse("root").unwrap(),
        full_name: None,
        password: Password::choose("the password of root").unwrap(),
        roles: [Role::User, Role::Admin].into(),
    };
    let root = desk.book.register(new, false, &desk.origin()).await.unwrap().account.id;
    let ben = desk.register("ben").await.account.id;
    // Who may not sign in is no admin who remains.
    let eve = desk.register("eve").await.account.id;
    desk.book.grant_role(eve, Role::Admin, &desk.origin()).await.unwrap();
    desk.book.disable(eve, &desk.origin()).await.unwrap();
    let show = async || {
        settled(&desk, &sequencer).await;
        projector.catch_up().await.unwrap();
    };
    show().await;
    let (book, origin) = (&desk.book, desk.origin());
    for lookup in [Lookup::List, Lookup::Book] {
        let refused = take_away(book, root, &origin, lookup, book.erase(root, &origin)).await;
        assert!(matches!(refused, Err(TakeAwayError::LastAdmin)), "{refused:?}");
    }
    let act = async {
        book.grant_role(ben, Role::Admin, &origin).await?;
        show().await;
        let other = take_away(book, root, &origin, Lookup::List, book.erase(root, &origin)).await;
        assert!(matches!(other, Err(TakeAwayError::Busy)), "{other:?}");
        // Somebody who is none is taken away meanwhile all the same.
        let sue = desk.register("sue").await.account.id;
        let sue = take_away(book, sue, &origin, Lookup::List, book.erase(sue, &origin)).await;
        assert!(matches!(sue, Ok(Some(_))), "{sue:?}");
        book.erase(ben, &origin).await
    };
    assert!(take_away(book, ben, &origin, Lookup::List, act).await.unwrap().is_some());
    assert!(book.user(root).await.unwrap().roles.contains(&Role::Admin));
    show().await;
    let refused = take_away(book, root, &origin, Lookup::List, book.erase(root, &origin)).await;
    assert!(matches!(refused, Err(TakeAwayError::LastAdmin)), "{refused:?}");
}
