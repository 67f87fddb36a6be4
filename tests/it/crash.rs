//! Killing the server and its PostgreSQL under load: what was answered is in the book, once, and every
//! read table says what the book says.

use std::{
    collections::HashMap,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sqlx::{PgPool, Row, postgres::PgPoolOptions};

use crate::support::server::{Server, Setup, Tokens, eventually};

/// What the clients were answered.
#[derive(Clone, Default)]
struct Answered {
    accounts: Vec<String>,
    /// Hashes of refresh tokens, of registrations, sign-ins and refreshes alike: each is in one event.
    tokens: Vec<String>,
    ended: Vec<String>,
    /// Names whose registration got no answer: it may count or not.
    unanswered: Vec<String>,
}

fn seen(answered: &Mutex<Answered>) -> Answered {
    answered.lock().unwrap().clone()
}

struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Answered>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

const CLIENTS: usize = 6;

impl Load {
    fn start(server: &Server, round: usize, answered: &Arc<Mutex<Answered>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|client| {
                let base = server.url("");
                let (http, stop, answered) = (server.http.clone(), stop.clone(), answered.clone());
                tokio::spawn(async move {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        let name = format!("r{round}c{client}n{n}");
                        // A broken connection is what this test is about: the client goes on.
                        let _ = one_life(&http, &base, &name, &answered).await;
                    }
                })
            })
            .collect();
        Self { stop, answered: answered.clone(), clients }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let answered = self.answered.lock().unwrap();
        assert!(!answered.accounts.is_empty(), "the load did something");
    }
}

fn hash(token: &str) -> String {
    // What stands in the events: SHA-256 of the token's text (commands::tokens).
    let digest = <sha2::Sha256 as sha2::Digest>::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Registers, signs in, refreshes twice, and signs out every other time.
async fn one_life(
    http: &reqwest::Client,
    base: &str,
    name: &str,
    answered: &Mutex<Answered>,
) -> reqwest::Result<()> {
    let post = async |path: &str, body: Value| {
        let answer = http.post(format!("{base}{path}")).json(&body).send().await?;
        let status = answer.status().as_u16();
        Ok::<_, reqwest::Error>((status, answer.bytes().await?))
    };
    let password = format!("the password of {name}");
    let body =
        json!({"email": format!("{name}@example.org"), "username": name, "password": password});
    let registered = match post("/api/v1/auth/register", body).await {
        Ok((201, body)) => Tokens::read(serde_json::from_slice(&body).unwrap()).unwrap(),
        other => {
            answered.lock().unwrap().unanswered.push(name.to_owned());
            // Nobody is there: no need to ask again at full speed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return other.map(|_| ());
        }
    };
    {
        let mut answered = answered.lock().unwrap();
        answered.accounts.push(registered.user_id.clone());
        answered.tokens.push(hash(&registered.refresh));
    }
    let (status, body) =
        post("/api/v1/auth/login", json!({"identifier": name, "password": password})).await?;
    if status != 200 {
        return Ok(());
    }
    let mut tokens = Tokens::read(serde_json::from_slice(&body).unwrap()).unwrap();
    answered.lock().unwrap().tokens.push(hash(&tokens.refresh));
    for _ in 0..2 {
        let (status, body) =
            post("/api/v1/auth/refresh", json!({"refresh_token": tokens.refresh})).await?;
        if status != 200 {
            return Ok(());
        }
        tokens = Tokens::read(serde_json::from_slice(&body).unwrap()).unwrap();
        answered.lock().unwrap().tokens.push(hash(&tokens.refresh));
    }
    if name.len().is_multiple_of(2) {
        let (status, _) =
            post("/api/v1/auth/logout", json!({"refresh_token": tokens.refresh})).await?;
        if status == 204 {
            answered.lock().unwrap().ended.push(tokens.session_id);
        }
    }
    Ok(())
}

/// A connection of the test's own to the private PostgreSQL.
async fn book(data_dir: &Path) -> PgPool {
    let parts = postgres::join(data_dir).unwrap().expect("the private PostgreSQL was made");
    PgPoolOptions::new().max_connections(4).connect(&parts.url()).await.unwrap()
}

/// The book and every read table hold what was answered, and agree.
async fn check(pool: &PgPool, answered: &Answered) {
    eventually("every projection has caught up", async || {
        let status = projections::status(pool, &projections::all()).await.unwrap();
        let unsettled: i64 = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM events) - (SELECT count(*) FROM journal)",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        (unsettled == 0 && status.iter().all(|view| view.lag_events == 0)).then_some(())
    })
    .await;

    let journal = projections::check_journal(pool).await.unwrap();
    assert!(journal.is_sound(), "{journal:?}");
    for view in projections::all() {
        // The server that was killed may have been at a build, and PostgreSQL notices a moment later that it is gone.
        let name = view.name();
        let verified = eventually(&format!("nobody builds {name}"), async || {
            match crate::support::reading::verify(pool, view).await {
                Err(projections::RebuildError::UnderWay(_)) => None,
                verified => Some(verified.unwrap()),
            }
        })
        .await;
        assert!(verified.is_equal(), "{verified:?}");
    }
    let identifiers = crate::support::reading::verify_identifiers(pool).await.unwrap();
    assert!(identifiers.is_equal(), "{identifiers:?}");

    let registered: HashMap<String, i64> = counted(
        pool,
        "SELECT aggregate_id, count(*) FROM events WHERE event_type = 'UserRegistered' GROUP BY 1",
    )
    .await;
    for account in &answered.accounts {
        assert_eq!(registered.get(account), Some(&1), "account {account}");
    }
    let tokens: HashMap<String, i64> = counted(
        pool,
        "SELECT coalesce(payload->'SessionStarted'->>'refresh', payload->'SessionRefreshed'->>'refresh'), count(*)
           FROM events WHERE event_type IN ('SessionStarted', 'SessionRefreshed') GROUP BY 1",
    )
    .await;
    for token in &answered.tokens {
        assert_eq!(tokens.get(token), Some(&1), "refresh token {token}");
    }
    let ended: HashMap<String, i64> = counted(
        pool,
        "SELECT aggregate_id, count(*) FROM events WHERE event_type = 'SessionEnded' GROUP BY 1",
    )
    .await;
    for session in &answered.ended {
        assert_eq!(ended.get(session), Some(&1), "session {session}");
    }
    assert!(ended.values().all(|times| *times == 1), "a session ends once");
}

async fn counted(pool: &PgPool, query: &str) -> HashMap<String, i64> {
    let rows = sqlx::query(query).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// A name whose registration got no answer is either a whole account or free.
async fn no_name_is_held_by_nobody(server: &Server, unanswered: &[String]) {
    for name in unanswered.iter().rev().take(20) {
        let password = format!("the password of {name}");
        let body = json!({"identifier": name, "password": password});
        let answer = server.post("/api/v1/auth/login", body).await.unwrap();
        match answer.status().as_u16() {
            200 => {}
            401 => {
                server.register(name).await;
            }
            other => panic!("{other} for {name}: {}", answer.text().await.unwrap()),
        }
    }
}

fn load_settings(setup: Setup) -> Setup {
    // Every client comes from one address here, and hashing is not what is tested.
    setup
        .with("ENTRYBOOK_REGISTRATIONS_PER_HOUR", "1000000")
        .with("ENTRYBOOK_CHANGES_PER_HOUR", "1000000")
        .with("ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR", "1000000")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_when_the_server_is_killed() {
    let scratch = crate::support::scratch();
    let setup = load_settings(Setup::private(&scratch.path().join("data")));
    let answered = Arc::new(Mutex::new(Answered::default()));
    for round in 0..10 {
        let server = setup.start().await;
        let pool = book(&setup.data_dir).await;
        check(&pool, &seen(&answered)).await;
        pool.close().await;
        let load = Load::start(&server, round, &answered);
        let before = answered.lock().unwrap().tokens.len();
        eventually("the load has done something", async || {
            (answered.lock().unwrap().tokens.len() > before + 30).then_some(())
        })
        .await;
        server.kill();
        load.stop().await;
    }
    let server = setup.start().await;
    let pool = book(&setup.data_dir).await;
    check(&pool, &seen(&answered)).await;
    let unanswered = answered.lock().unwrap().unanswered.clone();
    no_name_is_held_by_nobody(&server, &unanswered).await;
    pool.close().await;
    assert!(server.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_answered_is_lost_when_postgresql_is_stopped_at_once() {
    let scratch = crate::support::scratch();
    let setup = load_settings(Setup::private(&scratch.path().join("data")));
    let server = setup.start().await;
    let answered = Arc::new(Mutex::new(Answered::default()));
    for round in 0..5 {
        let load = Load::start(&server, round, &answered);
        let before = answered.lock().unwrap().tokens.len();
        eventually("the load has done something", async || {
            (answered.lock().unwrap().tokens.len() > before + 30).then_some(())
        })
        .await;
        stop_postgresql_at_once(&setup.data_dir);
        load.stop().await;
        server.ready().await;
        let pool = book(&setup.data_dir).await;
        check(&pool, &seen(&answered)).await;
        pool.close().await;
    }
    let unanswered = answered.lock().unwrap().unanswered.clone();
    no_name_is_held_by_nobody(&server, &unanswered).await;
    assert!(server.stop().await.success());
}

/// `pg_ctl stop -m immediate`: PostgreSQL dies without a checkpoint.
fn stop_postgresql_at_once(data_dir: &Path) {
    let cluster = data_dir.join("postgres/cluster");
    let owner = std::fs::metadata(&cluster).unwrap();
    let bin = std::fs::read_link(format!("/proc/{}/exe", postmaster(&cluster))).unwrap();
    let mut command = Command::new(bin.with_file_name("pg_ctl"));
    std::os::unix::process::CommandExt::uid(
        &mut command,
        std::os::unix::fs::MetadataExt::uid(&owner),
    );
    std::os::unix::process::CommandExt::gid(
        &mut command,
        std::os::unix::fs::MetadataExt::gid(&owner),
    );
    let stopped = command
        .args(["stop", "-s", "-m", "immediate", "-D"])
        .arg(&cluster)
        .current_dir("/")
        .status()
        .unwrap();
    assert!(stopped.success());
}

/// The first line of `postmaster.pid` is the server's process.
fn postmaster(cluster: &Path) -> String {
    let pid = std::fs::read_to_string(cluster.join("postmaster.pid")).unwrap();
    pid.lines().next().unwrap().to_owned()
}
