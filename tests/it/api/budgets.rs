//! Nobody who is let in fills the book: what a person may append has a budget, and what changes nothing appends
//! nothing.

use std::time::Instant;

use serde_json::json;
use sqlx::{ConnectOptions, Connection};

use crate::support::{
    http::{Answer, Api, password_of},
    server::{Setup, Tokens, eventually},
    shared::Running,
};

/// What a person may do of each kind at once, and then in a second, where nothing is set.
const AT_ONCE: f64 = 60.0;
const EACH_SECOND: f64 = 0.1;

/// The most that may have been let through since.
fn most(since: Instant) -> i64 {
    (AT_ONCE + since.elapsed().as_secs_f64() * EACH_SECOND).ceil() as i64
}

async fn rename(api: &Api, tokens: &Tokens, name: &str) -> Answer {
    let body = json!({"full_name": name});
    api.patch("/api/v1/auth/me").bearer(&tokens.access).json(body).send().await
}

async fn end_others(api: &Api, tokens: &Tokens) -> Answer {
    api.delete("/api/v1/sessions").bearer(&tokens.access).send().await
}

/// How many events of a type there are, of this person's doing.
async fn count(running: &Running, event_type: &str, user: &str) -> i64 {
    let condition =
        "event_type = $1 AND (aggregate_id = $2 OR payload -> event_type ->> 'user_id' = $2)";
    running.events_where(condition, &[event_type, user]).await
}

/// What somebody in a loop was answered: how often 200, and how often 429.
#[derive(Debug, Default)]
struct Answers {
    done: i64,
    refused: i64,
}

impl Answers {
    fn add(&mut self, answer: &Answer) {
        match answer.status {
            200 => self.done += 1,
            _ => {
                let problem = answer.problem(429, "over-budget");
                let wait = answer.header("retry-after");
                assert!((1..=10).contains(&wait.parse::<u32>().unwrap()), "{wait}");
                assert!(problem["detail"].as_str().unwrap().contains(wait), "{problem}");
                self.refused += 1;
            }
        }
    }
}

/// The attack of issue 10, by three accounts at once, and somebody beside them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_loops_is_refused_and_nobody_else_notices() {
    let running = Running::start(&[]).await;
    let began = Instant::now();
    let attack = async |name: &str| {
        let api = running.api();
        let mut tokens = api.register(name).await;
        let (mut changes, mut cuts, mut refreshes) = Default::default();
        for round in 0..150 {
            Answers::add(&mut changes, &rename(&api, &tokens, &format!("{name} {round}")).await);
            Answers::add(&mut cuts, &end_others(&api, &tokens).await);
            let refreshed = api.refresh(&tokens.refresh).await;
            Answers::add(&mut refreshes, &refreshed);
            if refreshed.status == 200 {
                tokens = refreshed.tokens(200);
            }
        }
        (tokens.user_id, changes, cuts, refreshes)
    };
    let bystander = async {
        let api = running.api();
        api.register("ben").await;
        for round in 0..5 {
            let ben = api.sign_in("ben").await;
            rename(&api, &ben, &format!("Ben {round}")).await.is(200);
            api.me(&ben.access).await.is(200);
            api.refresh(&ben.refresh).await.is(200);
        }
    };
    let (one, two, three, ()) =
        tokio::join!(attack("mallory"), attack("oscar"), attack("trudy"), bystander);
    for (user, changes, cuts, refreshes) in [one, two, three] {
        println!("changes {changes:?}, cuts {cuts:?}, refreshes {refreshes:?}");
        for (event_type, answers) in
            [("UserProfileChanged", &changes), ("SessionRefreshed", &refreshes)]
        {
            assert!(answers.refused > 0, "{answers:?}");
            assert_eq!(count(&running, event_type, &user).await, answers.done);
            assert!(answers.done <= most(began), "{answers:?} in {:?}", began.elapsed());
        }
        // There was never another session, so at most the first request could not be sure of that.
        assert_eq!(cuts.refused, 0, "{cuts:?}");
        let appended = count(&running, "UserSessionsEnded", &user).await;
        assert!(appended <= 1, "{appended}");
    }
    let metrics = running.api().get("/metrics").send().await.is(200).text();
    let refusals = r#"entrybook_over_budget_total{budget="changes",of="person"} "#;
    let line = metrics.lines().find(|line| line.starts_with(refusals)).unwrap();
    assert!(!line.ends_with(" 0"), "{line}");
}

/// A thief with a session uses up whatever a session can; its owner throws them out all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_thief_who_uses_up_the_budgets_is_thrown_out() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let thief = api.register("ada").await;
    let mut spent = thief.clone();
    eventually("nothing is left for a session to do", async || {
        let mut left = rename(&api, &thief, &format!("{:?}", Instant::now())).await.status == 200;
        let refreshed = api.refresh(&spent.refresh).await;
        if refreshed.status == 200 {
            left = true;
            spent = refreshed.tokens(200);
        }
        (!left).then_some(())
    })
    .await;
    rename(&api, &thief, "once more").await.problem(429, "over-budget");

    let ada = api.sign_in("ada").await;
    end_others(&api, &ada).await.is(200);
    api.me(&spent.access).await.problem(401, "invalid-token");
    let new = "another password altogether";
    let change = json!({"current_password": password_of("ada"), "new_password": new});
    api.post("/api/v1/auth/password").bearer(&ada.access).json(change).send().await.is(204);
    let other = api.sign_in_with("ada", new).await;
    let path = format!("/api/v1/sessions/{}", other.session_id);
    api.delete(&path).bearer(&ada.access).send().await.is(204);
    api.me(&other.access).await.problem(401, "invalid-token");
    let none = json!({});
    api.post("/api/v1/auth/logout").bearer(&ada.access).json(none).send().await.is(204);
}

/// A line is left out only where there is certainly nothing to end.
#[tokio::test(flavor = "multi_thread")]
async fn ending_other_sessions_appends_nothing_where_there_is_none() {
    let running = Running::start(&[]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let cuts = async || count(&running, "UserSessionsEnded", &ada.user_id).await;

    // Of a session that no table shows nobody knows, and it ends.
    let hidden = api.sign_in("ada").await;
    running.database.settled().await;
    let deleted = sqlx::query("DELETE FROM ledger.sessions_v2 WHERE session_id = $1::uuid")
        .bind(&hidden.session_id)
        .execute(running.database.pool())
        .await
        .unwrap();
    assert_eq!(deleted.rows_affected(), 1);
    end_others(&api, &ada).await.is(200);
    api.me(&hidden.access).await.problem(401, "invalid-token");
    assert_eq!(cuts().await, 1);

    let events = async {
        running.database.settled().await;
        running.events().await
    };
    let events = events.await;
    for _ in 0..50 {
        let answer = end_others(&api, &ada).await.is(200).json();
        assert_eq!(answer["ended"], 0, "{answer}");
    }
    assert_eq!(running.events().await, events);

    // A session that was opened since is ended, whether or not it has its line.
    let mut held = running.database.connect_options().connect().await.unwrap();
    for settled in [true, false] {
        let later = api.sign_in("ada").await;
        if settled {
            running.database.settled().await;
        } else {
            // A transaction that is open holds back the lines of all that come after it.
            sqlx::raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut held).await.unwrap();
        }
        let later = if settled { later } else { api.sign_in("ada").await };
        end_others(&api, &ada).await.is(200);
        api.me(&later.access).await.problem(401, "invalid-token");
        api.me(&ada.access).await.is(200);
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut held).await.unwrap();
    held.close().await.unwrap();
    assert_eq!(cuts().await, 3);
}

/// Each replica counts for itself: two of them let through twice as much, and no more.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_let_through_twice_as_much() {
    let database = crate::support::database::TestDatabase::create().await;
    let scratch = crate::support::scratch();
    let one =
        Setup::on(&database.url(), &scratch.path().join("one")).known_as("http://localhost:8080");
    let two = Setup { data_dir: scratch.path().join("two"), ..one.replica() };
    let (first, second) = tokio::join!(one.start(), two.start());
    let began = Instant::now();
    let ada = first.register("ada").await;
    let mut done = 0;
    for server in [&first, &second] {
        let api = Api::new(server.url(""));
        let mut answers = Answers::default();
        for round in 0..100 {
            answers.add(&rename(&api, &ada, &format!("{} {round}", server.port())).await);
        }
        assert!(answers.refused > 0, "{answers:?}");
        done += answers.done;
    }
    println!("{done} of 200 in {:?}", began.elapsed());
    assert!(done <= 2 * most(began), "{done} in {:?}", began.elapsed());
}

/// What changes nothing appends nothing, also once the budget is used up.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_appends_nothing_and_costs_nothing() {
    let running = Running::start(&[("ENTRYBOOK_CHANGES_PER_HOUR", "6")]).await;
    let api = running.api();
    let (ada, admin) = (api.register("ada").await, api.admin().await);
    rename(&api, &ada, "Ada").await.is(200);
    rename(&api, &ada, "Countess").await.problem(429, "over-budget");
    let account = format!("/api/v1/admin/users/{}", ada.user_id);
    let administer = async |what: &str, body: serde_json::Value| {
        let path = format!("{account}/{what}");
        api.post(&path).bearer(&admin.access).json(body).send().await
    };
    administer("roles", json!({"grant": ["auditor"]})).await.is(200);
    let before = running.events().await;
    for _ in 0..20 {
        rename(&api, &ada, "Ada").await.is(200);
        let same = json!({"email": "ada@example.org", "username": "ada"});
        api.patch("/api/v1/auth/me").bearer(&ada.access).json(same).send().await.is(200);
        administer("roles", json!({"grant": ["auditor", "user"], "revoke": ["admin"]}))
            .await
            .is(200);
        administer("enable", json!({})).await.is(200);
    }
    assert_eq!(running.events().await, before);
    // An admin has ten times as much, and then it ends too.
    for round in 1..=12 {
        let which = if round % 2 == 1 { "disable" } else { "enable" };
        let answer = administer(which, json!({})).await;
        if answer.status == 429 {
            answer.problem(429, "over-budget");
            assert!(round >= 8, "{round}");
            return;
        }
        answer.is(200);
    }
    panic!("an admin may do what they like");
}
