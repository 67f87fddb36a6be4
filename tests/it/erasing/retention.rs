use chrono::{DateTime, TimeDelta, Utc};
use commands::{By, Origin, SignInError, SignedIn, keyring::KeyringError};
use domain::{Identifier, Password, Sealed, ServiceEvent};
use sqlx::PgPool;

use super::{code, count};
use crate::{
    book::Desk,
    support::{
        database::TestDatabase,
        scratch,
        server::{Setup, eventually},
    },
};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn system() -> Origin {
    Origin::system("retention".into())
}

async fn months(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM sealing_keys WHERE id LIKE 'm:%' ORDER BY id")
        .fetch_all(pool)
        .await
        .unwrap()
}

async fn forgotten(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT payload #>> '{MonthForgotten,month}' FROM events WHERE event_type = 'MonthForgotten'
          ORDER BY id",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn sign_in(desk: &Desk, name: &str) -> SignedIn {
    let password = Password::present(&format!("the password of {name}")).unwrap();
    desk.book.sign_in(&Identifier::typed(name), password, false, &desk.origin()).await.unwrap()
}

/// Forgets all that is due, one by one.
async fn forget(desk: &Desk, retention: TimeDelta) -> Vec<String> {
    let mut gone = Vec::new();
    while let Some(month) = desk.book.forget_next_month(retention, &system()).await.unwrap() {
        gone.push(month.to_string());
    }
    gone
}

#[tokio::test]
async fn the_sources_of_old_months_are_forgotten_and_nothing_else() {
    let desk = Desk::open().await;
    desk.clock.set(at("2025-01-31T23:59:59Z"));
    let ada = desk.register("ada").await;
    let id = ada.account.id;
    let _ = desk
        .book
        .sign_in(
            &Identifier::typed("a slip of the tongue"),
            Password::present("anything").unwrap(),
            false,
            &desk.origin(),
        )
        .await;
    desk.clock.set(at("2025-02-01T00:00:00Z"));
    sign_in(&desk, "ada").await;
    desk.clock.set(at("2025-03-15T12:00:00Z"));
    sign_in(&desk, "ada").await;
    assert_eq!(months(&desk.pool).await, ["m:2025-01", "m:2025-02", "m:2025-03"]);
    let sources = async || {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT aggregate_type, aggregate_id, metadata ->> 'source' FROM events
              WHERE metadata ? 'source' ORDER BY id",
        )
        .fetch_all(&desk.pool)
        .await
        .unwrap();
        let mut opened = Vec::new();
        for (stream, stream_id, source) in rows {
            let source = desk.book.open_source(&Sealed(source), &stream, &stream_id).await.unwrap();
            opened.push(source.is_some());
        }
        opened
    };
    // Registered and signed in, a name that is nobody's; signed in in February, and in March.
    assert_eq!(sources().await, [true; 5]);

    // January is over for 42 and a half days, February for 14 and a half.
    assert_eq!(forget(&desk, TimeDelta::days(43)).await, [""; 0]);
    assert_eq!(forget(&desk, TimeDelta::hours(42 * 24 + 12)).await, ["2025-01"]);
    assert_eq!(sources().await, [false, false, false, true, true]);
    let typed: String = sqlx::query_scalar(
        "SELECT payload #>> '{SignInFailed,identifier}' FROM events WHERE event_type = 'SignInFailed'",
    )
    .fetch_one(&desk.pool)
    .await
    .unwrap();
    let guard: String =
        sqlx::query_scalar("SELECT aggregate_id FROM events WHERE event_type = 'SignInFailed'")
            .fetch_one(&desk.pool)
            .await
            .unwrap();
    let place = format!("SignInGuard/{guard}/identifier");
    assert_eq!(desk.book.open_text(&Sealed(typed), &place).await.unwrap(), None);
    let account = desk.book.account(id).await.unwrap().unwrap();
    assert_eq!(account.email, "ada@example.org", "the person's own stays");
    assert_eq!(forgotten(&desk.pool).await, ["2025-01"]);

    // The present month never, however short the retention; nor those to come.
    assert_eq!(forget(&desk, TimeDelta::zero()).await, ["2025-02"]);
    assert_eq!(forget(&desk, TimeDelta::days(-400)).await, [""; 0]);
    desk.clock.set(at("2025-05-01T00:00:00Z"));
    sign_in(&desk, "ada").await;
    desk.clock.set(at("2025-03-31T23:59:59.999999Z"));
    assert_eq!(forget(&desk, TimeDelta::zero()).await, [""; 0]);
    assert_eq!(months(&desk.pool).await, ["m:2025-03", "m:2025-05"]);
}

/// There are few enough addresses to try them all: no hash of one may outlive its month.
#[tokio::test]
async fn a_network_that_was_slowed_down_is_known_for_its_month_alone() {
    let desk = Desk::open().await;
    let guess = async |many: usize| {
        for number in 0..many {
            let name = Identifier::typed(&format!("nobody{number}"));
            let wrong = Password::present("a guess").unwrap();
            let _ = desk.book.sign_in(&name, wrong, false, &desk.origin()).await;
        }
    };
    let slowed = async || -> Vec<String> {
        sqlx::query_scalar(
            "SELECT DISTINCT aggregate_id FROM events
              WHERE event_type = 'SignInThrottled' AND aggregate_id LIKE 'address:%' ORDER BY 1",
        )
        .fetch_all(&desk.pool)
        .await
        .unwrap()
    };
    let subject = async |at| {
        let month = desk.book.keyring().month(at).await.unwrap();
        format!("address:{}", desk.book.keyring().guard_address_index(&month, "192.0.2.7").0)
    };
    let (january, february) = (at("2025-01-31T23:59:00Z"), at("2025-02-01T00:05:00Z"));
    desk.clock.set(january);
    guess(99).await;
    assert_eq!(slowed().await, [""; 0]);
    guess(1).await;
    assert_eq!(slowed().await, [subject(january).await]);
    let (name, guess_at_it) =
        (Identifier::typed("somebody"), Password::present("a guess").unwrap());
    let throttled = desk.book.sign_in(&name, guess_at_it, false, &desk.origin()).await;
    assert!(matches!(throttled, Err(SignInError::Throttled { .. })));
    // In the next month the same network has another name. What the server has counted of it goes on: there is room for one
    // when it is over, and that earns the next throttle.
    desk.clock.set(at("2025-02-01T00:04:59Z"));
    guess(100).await;
    assert_eq!(slowed().await, [subject(january).await]);
    desk.clock.set(february);
    guess(1).await;
    let both = [subject(january).await, subject(february).await];
    assert_ne!(both[0], both[1]);
    let mut told = slowed().await;
    told.sort_by_key(|stream| both.iter().position(|known| known == stream));
    assert_eq!(told, both);
    desk.clock.set(at("2025-06-10T00:00:00Z"));
    assert_eq!(forget(&desk, TimeDelta::days(30)).await, ["2025-01", "2025-02"]);
    let gone = desk.book.keyring().month(january).await.unwrap_err();
    assert!(
        matches!(gone, KeyringError::MonthIsForgotten { .. }),
        "nobody can make its hashes: {gone}"
    );
    // A clock that stands there still lets people in and guards their accounts.
    desk.clock.set(january);
    desk.register("ada").await;
    sign_in(&desk, "ada").await;
    guess(101).await;
    assert_eq!(slowed().await.len(), 2);
}

/// A clock that runs ahead must not destroy what is not over.
#[tokio::test]
async fn a_clock_that_is_ahead_does_not_decide_alone() {
    let desk = Desk::open().await;
    let now: DateTime<Utc> =
        sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(&desk.pool).await.unwrap();
    desk.clock.set(now);
    desk.register("ada").await;
    desk.clock.set(at("2099-01-15T00:00:00Z"));
    sign_in(&desk, "ada").await;
    let before = months(&desk.pool).await;
    assert_eq!(before.len(), 2);
    assert_eq!(forget(&desk, TimeDelta::days(1)).await, [""; 0]);
    assert_eq!(months(&desk.pool).await, before);
}

#[tokio::test]
async fn a_month_that_was_forgotten_gets_no_key_again() {
    let desk = Desk::open().await;
    desk.clock.set(at("2025-01-10T00:00:00Z"));
    let ada = desk.register("ada").await;
    desk.clock.set(at("2025-06-10T00:00:00Z"));
    assert_eq!(forget(&desk, TimeDelta::days(30)).await, ["2025-01"]);

    let refused = desk.book.keyring().month(at("2025-01-31T00:00:00Z")).await.unwrap_err();
    assert!(matches!(refused, KeyringError::MonthIsForgotten { .. }), "{refused}");
    assert!(refused.to_string().contains("2025-01"), "{refused}");
    for (pool, expected) in [(&desk.pool, "42501"), (desk.owner(), "23001")] {
        let refused = sqlx::raw_sql(
            "INSERT INTO sealing_keys (id, wrapped, master_key) VALUES ('m:2025-01', '', 'x')",
        )
        .execute(pool)
        .await
        .unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    // A machine whose clock is far behind: people still get in, and where from is not kept.
    desk.clock.set(at("2025-01-20T00:00:00Z"));
    sign_in(&desk, "ada").await;
    let _ = desk
        .book
        .sign_in(
            &Identifier::typed("nobody"),
            Password::present("anything").unwrap(),
            false,
            &desk.origin().with(By::Anonymous),
        )
        .await;
    let kept = "SELECT count(*) FROM events WHERE metadata ->> 'at' LIKE '2025-01-20%' AND metadata ? 'source'";
    assert_eq!(count(&desk.pool, kept).await, 0);
    let written = "SELECT count(*) FROM events WHERE metadata ->> 'at' LIKE '2025-01-20%'";
    assert!(count(&desk.pool, written).await >= 2);
    assert_eq!(months(&desk.pool).await, [""; 0]);
    assert!(desk.book.account(ada.account.id).await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_broken_off_after_the_event_is_finished_without_another() {
    let desk = Desk::open().await;
    desk.clock.set(at("2025-01-10T00:00:00Z"));
    desk.register("ada").await;
    desk.clock.set(at("2025-06-10T00:00:00Z"));
    let event = ServiceEvent::MonthForgotten { month: "2025-01".into() };
    desk.book.record("month:2025-01", event, &system()).await.unwrap();
    assert_eq!(months(&desk.pool).await, ["m:2025-01"]);
    assert_eq!(forget(&desk, TimeDelta::days(30)).await, ["2025-01"]);
    assert_eq!(months(&desk.pool).await, [""; 0]);
    assert_eq!(forgotten(&desk.pool).await, ["2025-01"], "it is told once");
    assert_eq!(forget(&desk, TimeDelta::days(30)).await, [""; 0]);
}

/// Two replicas at once, as after a lock was lost.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_forget_at_once_do_no_harm() {
    let desk = Desk::open().await;
    for month in 1..=6 {
        desk.clock.set(at(&format!("2025-{month:02}-10T00:00:00Z")));
        desk.register(&format!("ada{month}")).await;
    }
    desk.clock.set(at("2025-09-10T00:00:00Z"));
    let day = TimeDelta::days(1);
    let (one, other) = tokio::join!(forget(&desk, day), forget(&desk, day));
    assert!(one.len() + other.len() >= 6, "{one:?} {other:?}");
    assert_eq!(months(&desk.pool).await, [""; 0]);
    let mut told = forgotten(&desk.pool).await;
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 6);
}

/// The server does it by itself, at its start; without the setting it keeps everything.
#[tokio::test]
async fn a_server_forgets_on_schedule() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = Setup::on(&database.url(), &scratch.path().join("data"));
    setup.start().await.stop().await;
    for month in ["m:2023-12", "m:2024-01"] {
        sqlx::query(
            "INSERT INTO sealing_keys (id, wrapped, master_key)
             SELECT $1, 'x', master_key FROM sealing_keys WHERE id = 's:index'",
        )
        .bind(month)
        .execute(database.pool())
        .await
        .unwrap();
    }
    let server = setup.start().await;
    server.register("ada").await;
    server.stop().await;
    let kept = months(database.pool()).await;
    assert_eq!(kept[..2], ["m:2023-12", "m:2024-01"]);
    assert_eq!(forgotten(database.pool()).await, [""; 0]);

    let server = setup.clone().with("ENTRYBOOK_RETENTION", "60d").start().await;
    eventually("both are forgotten", async || {
        (months(database.pool()).await == kept[2..]).then_some(())
    })
    .await;
    assert_eq!(forgotten(database.pool()).await, ["2023-12", "2024-01"]);
    let admin = server.admin().await;
    eventually("the history says it", async || {
        let page = server.get("/api/v1/audit?type=MonthForgotten", &admin.access).await.unwrap();
        let page: serde_json::Value = page.json().await.unwrap();
        (page["lines"].as_array()?.len() == 2).then_some(())
    })
    .await;
    server.sign_in("ada").await;
}
