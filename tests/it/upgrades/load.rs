//! People who sign in, read and sign out all the time, and count what fails them.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::server::{Tokens, eventually};

const CLIENTS: usize = 4;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(15);

/// What the clients were answered, over all loads of a test.
#[derive(Default)]
pub struct Tally {
    requests: AtomicU64,
    /// Answers that are not what they should be, and requests without one.
    failures: Mutex<Vec<String>>,
    answered: Mutex<Answered>,
}

/// What must be in the book.
#[derive(Default)]
struct Answered {
    /// Hashes of refresh tokens: each is in one event.
    tokens: Vec<String>,
    ended: Vec<String>,
}

impl Tally {
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    /// Waits until so many more requests are answered.
    pub async fn goes_on(&self, requests: u64) {
        let target = self.requests() + requests;
        eventually("the load has gone on", async || (self.requests() >= target).then_some(()))
            .await;
    }

    /// Asserts that every write that was answered is in the book, once.
    pub async fn is_in_the_book(&self, pool: &PgPool) {
        let (tokens, ended) = {
            let answered = self.answered.lock().unwrap();
            (answered.tokens.clone(), answered.ended.clone())
        };
        assert!(!tokens.is_empty() && !ended.is_empty());
        let wrong: Vec<String> = sqlx::query_scalar(
            "SELECT wanted.token FROM unnest($1::text[]) AS wanted (token)
               LEFT JOIN (SELECT coalesce(payload->'SessionStarted'->>'refresh',
                                          payload->'SessionRefreshed'->>'refresh') AS token
                            FROM events WHERE event_type IN ('SessionStarted', 'SessionRefreshed')) e
                      ON e.token = wanted.token
              GROUP BY 1 HAVING count(e.token) <> 1",
        )
        .bind(&tokens)
        .fetch_all(pool)
        .await
        .unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "refresh tokens of {} answers", tokens.len());
        let wrong: Vec<String> = sqlx::query_scalar(
            "SELECT wanted.id FROM unnest($1::text[]) AS wanted (id)
               LEFT JOIN events e ON e.aggregate_type = 'Session' AND e.aggregate_id = wanted.id
                     AND e.event_type = 'SessionEnded'
              GROUP BY 1 HAVING count(e.id) <> 1",
        )
        .bind(&ended)
        .fetch_all(pool)
        .await
        .unwrap();
        assert_eq!(wrong, Vec::<String>::new(), "ends of {} sessions", ended.len());
    }
}

/// Clients that go on until they are told to stop. Each has an account, whose name begins with `name`.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub fn start(base: &str, name: &str, tally: &Arc<Tally>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    base: base.to_owned(),
                    http: crate::support::server::client(),
                    tally: tally.clone(),
                    name: format!("{name}-{number}"),
                };
                let stop = stop.clone();
                tokio::spawn(async move {
                    client.register().await;
                    while !stop.load(Ordering::Relaxed) {
                        client.one_visit().await;
                    }
                })
            })
            .collect();
        Self { stop, clients }
    }

    /// Lets the visits end.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

struct Client {
    base: String,
    http: reqwest::Client,
    tally: Arc<Tally>,
    name: String,
}

/// How a request says who asks.
enum As<'a> {
    Nobody,
    Bearer(&'a str),
    Cookie(&'a str),
}

impl Client {
    /// One request, counted. `None`: it failed, and that is written down.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        who: As<'_>,
        body: Option<Value>,
        status: u16,
    ) -> Option<Vec<u8>> {
        tokio::time::sleep(PAUSE).await;
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = match who {
            As::Nobody => request,
            As::Bearer(token) => request.bearer_auth(token),
            As::Cookie(token) => request.header("cookie", format!("entrybook_access={token}")),
        };
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = async {
            let answer = request.send().await?;
            Ok::<_, reqwest::Error>((answer.status().as_u16(), answer.bytes().await?.to_vec()))
        };
        let answer = answer.await;
        self.tally.requests.fetch_add(1, Ordering::Relaxed);
        let failure = match answer {
            Ok((got, body)) if got == status => return Some(body),
            Ok((got, body)) => format!("{path}: {got} {}", String::from_utf8_lossy(&body)),
            Err(cause) => format!("{path}: {cause:?}"),
        };
        self.tally.failures.lock().unwrap().push(failure);
        None
    }

    async fn tokens(&self, path: &str, body: Value, status: u16) -> Option<Tokens> {
        let body = self.ask(Method::POST, path, As::Nobody, Some(body), status).await?;
        let tokens = Tokens::read(serde_json::from_slice(&body).unwrap()).unwrap();
        self.tally.answered.lock().unwrap().tokens.push(hash(&tokens.refresh));
        Some(tokens)
    }

    async fn register(&self) {
        let (name, password) = (&self.name, format!("the password of {}", self.name));
        let body =
            json!({"email": format!("{name}@example.org"), "username": name, "password": password});
        self.tokens("/api/v1/auth/register", body, 201).await;
    }

    async fn one_visit(&self) -> Option<()> {
        let body =
            json!({"identifier": self.name, "password": format!("the password of {}", self.name)});
        let first = self.tokens("/api/v1/auth/login", body, 200).await?;
        self.read(&first.access).await;
        let body = json!({"refresh_token": first.refresh});
        let second = self.tokens("/api/v1/auth/refresh", body, 200).await?;
        self.read(&second.access).await;
        let body = json!({"refresh_token": second.refresh});
        self.ask(Method::POST, "/api/v1/auth/logout", As::Nobody, Some(body), 204).await?;
        self.tally.answered.lock().unwrap().ended.push(second.session_id);
        Some(())
    }

    /// What reads the read tables, from the API and as pages.
    async fn read(&self, access: &str) {
        for path in ["/api/v1/auth/me", "/api/v1/sessions", "/api/v1/audit?limit=50"] {
            self.ask(Method::GET, path, As::Bearer(access), None, 200).await;
        }
        for path in ["/my-history", "/sessions"] {
            self.ask(Method::GET, path, As::Cookie(access), None, 200).await;
        }
    }
}

/// What stands in the events: SHA-256 of the token's text.
fn hash(token: &str) -> String {
    let digest = <sha2::Sha256 as sha2::Digest>::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
