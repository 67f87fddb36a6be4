//! A load balancer as small as can be: it asks each backend for `/readyz` ten times a second, sends
//! requests to those that are ready, in turn, and tries nothing twice. What a rolling upgrade loses is
//! seen through it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// How often each backend is asked whether it is ready.
const ASK: Duration = Duration::from_millis(100);
/// An idle connection is let go sooner than the server would (README, "In production").
const IDLE: Duration = Duration::from_secs(5);

pub struct ReadyProxy {
    pub url: String,
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

struct Inner {
    backends: Mutex<Vec<Arc<Backend>>>,
    turn: AtomicUsize,
    client: Client<HttpConnector, Body>,
    failures: Mutex<Vec<String>>,
}

pub struct Backend {
    pub port: u16,
    ready: AtomicBool,
    /// Requests that were sent to it.
    pub requests: AtomicU64,
    /// What `/readyz` answered, each change of it.
    seen: Mutex<Vec<u16>>,
    /// What it has said to wait for.
    waited_for: Mutex<BTreeSet<String>>,
    asking: Mutex<Option<JoinHandle<()>>>,
}

impl ReadyProxy {
    pub async fn start() -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .retry_canceled_requests(false)
            .build(HttpConnector::new());
        let inner = Arc::new(Inner {
            backends: Mutex::default(),
            turn: AtomicUsize::new(0),
            client,
            failures: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(inner.clone());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, inner, serving }
    }

    /// Begins to ask a backend, which may not be there yet.
    pub fn follow(&self, port: u16) -> Arc<Backend> {
        let backend = Arc::new(Backend {
            port,
            ready: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            seen: Mutex::default(),
            waited_for: Mutex::default(),
            asking: Mutex::default(),
        });
        *backend.asking.lock().unwrap() = Some(tokio::spawn(backend.clone().ask()));
        self.inner.backends.lock().unwrap().push(backend.clone());
        backend
    }

    /// Forgets a backend that has gone.
    pub fn forget(&self, backend: &Arc<Backend>) {
        assert!(!backend.is_ready(), "a backend that is ready is forgotten");
        backend.stop_asking();
        self.inner.backends.lock().unwrap().retain(|known| !Arc::ptr_eq(known, backend));
    }

    /// What it could not forward.
    pub fn failures(&self) -> Vec<String> {
        self.inner.failures.lock().unwrap().clone()
    }
}

impl Drop for ReadyProxy {
    fn drop(&mut self) {
        self.serving.abort();
        for backend in self.inner.backends.lock().unwrap().iter() {
            backend.stop_asking();
        }
    }
}

impl Backend {
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::SeqCst)
    }

    /// What `/readyz` has answered so far, without what only repeats the answer before.
    pub fn seen(&self) -> Vec<u16> {
        self.seen.lock().unwrap().clone()
    }

    /// The checks that it has waited for.
    pub fn waited_for(&self) -> BTreeSet<String> {
        self.waited_for.lock().unwrap().clone()
    }

    async fn ask(self: Arc<Self>) {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(2))
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        let mut ticks = tokio::time::interval(ASK);
        let mut silent = 0;
        loop {
            ticks.tick().await;
            let answer = http.get(&url).send().await;
            // What refuses is out at once, and what is slow once or twice is not.
            silent = match &answer {
                Err(error) if error.is_timeout() => silent + 1,
                _ => 0,
            };
            if !matches!(silent, 1 | 2) {
                let ready = answer.as_ref().is_ok_and(|answer| answer.status() == 200);
                self.ready.store(ready, Ordering::SeqCst);
            }
            let Ok(answer) = answer else { continue };
            self.note(answer.status().as_u16());
            let Ok(report) = answer.json::<Value>().await else { continue };
            let checks = report["checks"].as_array().into_iter().flatten();
            let waiting = checks.filter(|check| check["state"] == "waiting");
            let names = waiting.filter_map(|check| check["name"].as_str().map(str::to_owned));
            self.waited_for.lock().unwrap().extend(names);
        }
    }

    fn note(&self, status: u16) {
        let mut seen = self.seen.lock().unwrap();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
    }

    fn stop_asking(&self) {
        if let Some(asking) = self.asking.lock().unwrap().take() {
            asking.abort();
        }
    }
}

async fn forward(State(inner): State<Arc<Inner>>, mut request: Request) -> Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let fail = |status: StatusCode, cause: String| {
        inner.failures.lock().unwrap().push(format!("{asked}: {cause}"));
        (status, cause).into_response()
    };
    let ready: Vec<_> = {
        let backends = inner.backends.lock().unwrap();
        backends.iter().filter(|backend| backend.is_ready()).cloned().collect()
    };
    if ready.is_empty() {
        return fail(StatusCode::SERVICE_UNAVAILABLE, "no backend is ready".to_owned());
    }
    let turn = inner.turn.fetch_add(1, Ordering::Relaxed);
    let backend = &ready[turn % ready.len()];
    backend.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = format!("http://127.0.0.1:{}{path}", backend.port).parse().unwrap();
    *request.uri_mut() = uri;
    // Its connection is not the client's.
    request.headers_mut().remove("connection");
    match inner.client.request(request).await {
        Ok(answer) => answer.map(Body::new),
        Err(cause) => fail(StatusCode::BAD_GATEWAY, format!("{}: {cause:?}", backend.port)),
    }
}
