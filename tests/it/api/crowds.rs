//! Many connections, bodies that never come, and accounts that change without end: who does that keeps nobody out.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpSocket;

use crate::support::{
    http::Api,
    raw::{Raw, exchange, status},
    server::{Tokens, eventually},
    shared::{Running, UNTHROTTLED},
};

const SLOW: &str = "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 1000\r\n\r\n{";

async fn start(settings: &[(&str, &str)]) -> Running {
    let settings: Vec<_> = UNTHROTTLED.iter().chain(settings).copied().collect();
    Running::start(&settings).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// Connections on which a body has begun and never goes on.
async fn slow_bodies(port: u16, count: usize) -> Vec<Raw> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut raw = Raw::connect(port).await;
        assert!(raw.write(SLOW).await);
        raw.is_read().await;
        held.push(raw);
    }
    held
}

async fn from(address: &str, port: u16) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    Raw::of(socket.connect(([127, 0, 0, 1], port).into()).await.unwrap())
}

async fn number(api: &Api, name: &str) -> u64 {
    let text = api.get("/metrics").send().await.is(200).text();
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| {
            panic!("no {name} in {text}");
        });
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn is_served(api: &Api, who: &Tokens) {
    api.me(&who.access).await.is(200);
    let checked = api.get("/api/v1/auth/verify").bearer(&who.access).send().await;
    assert!(checked.status < 300, "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_keep_nobody_out() {
    let running = start(&[("ENTRYBOOK_MAX_REQUESTS", "4")]).await;
    let api = running.api();
    let ada = api.register("ada").await;
    let held = slow_bodies(running.server.port(), 40).await;
    for _ in 0..20 {
        is_served(&api, &ada).await;
    }
    api.sign_in("ada").await;
    // They are waited for, and told so in the end.
    for raw in held {
        let answer = raw.read_to_end().await;
        assert_eq!(status(&answer), 408, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_for_who_comes() {
    let running = start(&[("ENTRYBOOK_MAX_CONNECTIONS", "32")]).await;
    let port = running.server.port();
    let ada = running.api().register("ada").await;
    // One that has been of use, some with half a head, and many with nothing at all.
    let mut used = Raw::connect(port).await;
    used.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    used.is_answered().await;
    let mut idle = vec![used];
    for n in 0..200 {
        let mut raw = Raw::connect(port).await;
        if n % 3 == 0 {
            let _ = raw.write("GET / HTTP/1.1\r\nHost: loc").await;
        }
        idle.push(raw);
        if n % 20 == 0 {
            // Each time on connections of their own.
            is_served(&running.api(), &ada).await;
            assert_eq!(status(&exchange(port, get("/readyz")).await), 200);
        }
    }
    let api = running.api();
    assert!(number(&api, "entrybook_http_connections").await <= 32 + 64);
    assert!(number(&api, "entrybook_http_connections_closed_for_room_total").await >= 160);
    assert_eq!(number(&api, "entrybook_http_connections_turned_away_total").await, 0);
    let answer = idle.remove(0).read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "what was answered is there: {answer}");
    assert_eq!(idle.remove(0).read_to_end().await, "", "the first was closed");
}

/// Connections on which something is being answered, for as long as they are held.
async fn followers(port: u16, auditor: &Tokens, address: &str, count: usize) -> Vec<Raw> {
    let token = &auditor.access;
    let mut held = Vec::new();
    for _ in 0..count {
        let mut raw = from(address, port).await;
        let head = format!(
            "GET /api/v1/audit/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        assert!(raw.write(head).await);
        raw.is_answered().await;
        held.push(raw);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_busy_the_probes_are_answered() {
    let running = start(&[("ENTRYBOOK_MAX_CONNECTIONS", "8")]).await;
    let port = running.server.port();
    let admin = running.api().admin().await;
    running.database.settled().await;
    let held = followers(port, &admin, "127.0.0.1", 8).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = exchange(port, get(path)).await;
        assert_eq!(status(&answer), 200, "{path}: {answer}");
    }
    let keeping = get("/api/v1/health").replace("Connection: close\r\n", "");
    let answer = exchange(port, keeping).await;
    assert_eq!(status(&answer), 503, "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.contains("retry-after: 1") && head.contains("connection: close"), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], "/problems/overloaded", "{problem}");
    // As soon as one of them is done.
    drop(held);
    eventually("there is room again", async || {
        (status(&exchange(port, get("/api/v1/health")).await) == 200).then_some(())
    })
    .await;
    is_served(&running.api(), &admin).await;
}

/// Neither on the connections that there are: issue 10 has them hold permits, and they could hold these next.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_make_room_as_well() {
    let running = start(&[("ENTRYBOOK_MAX_CONNECTIONS", "8")]).await;
    let port = running.server.port();
    let ada = running.api().register("ada").await;
    let mut held = slow_bodies(port, 40).await;
    for _ in 0..5 {
        is_served(&running.api(), &ada).await;
    }
    assert_eq!(held.remove(0).read_to_end().await, "", "the first of them is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_takes_no_more_than_its_share() {
    let running = start(&[
        ("ENTRYBOOK_CONNECTIONS_PER_ADDRESS", "4"),
        ("ENTRYBOOK_TRUSTED_PROXIES", "127.0.0.3"),
    ])
    .await;
    let port = running.server.port();
    let admin = running.api().admin().await;
    running.database.settled().await;
    let answered = async |address: &str| {
        let mut raw = from(address, port).await;
        raw.write(get("/api/v1/health")).await;
        status(&raw.read_to_end().await)
    };
    let _busy = followers(port, &admin, "127.0.0.2", 4).await;
    assert_eq!(answered("127.0.0.2").await, 503);
    assert_eq!(answered("127.0.0.1").await, 200);
    let _proxied = followers(port, &admin, "127.0.0.3", 8).await;
    assert_eq!(answered("127.0.0.3").await, 200);
}

/// The worst that accounts can have done before there were budgets: streams of many thousand events that change again
/// and again. The tokens of everybody else are answered for all the time, in bounded memory.
#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_have_changed_without_end_keep_nobody_out() {
    const CHANGES: i64 = 40_000;
    const MEMORY: u64 = 96 << 20;
    let running = start(&[("ENTRYBOOK_PUBLIC_URL", "http://localhost:8080")]).await;
    let api = running.api();
    let bystander = api.register("bystander").await;
    let mut attackers = Vec::new();
    for name in ["eve", "mallory", "trudy"] {
        attackers.push(api.register(name).await);
    }
    for attacker in &attackers {
        running.many_changes(&attacker.user_id, CHANGES).await;
    }
    running.database.settled().await;
    // A replica that is new reads these streams from their beginning.
    let replica = running.setup.replica().start().await;
    let api = Api::new(replica.url(""));
    eventually("it answers for tokens", async || {
        (api.get("/api/v1/auth/verify").bearer(&bystander.access).send().await.status == 204)
            .then_some(())
    })
    .await;
    let attack = async {
        for _ in 0..30 {
            for attacker in &attackers {
                running.many_changes(&attacker.user_id, 0).await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        for attacker in &attackers {
            eventually("they are cut off", async || {
                let answer = api.get("/api/v1/auth/verify").bearer(&attacker.access).send().await;
                assert!([204, 401, 503].contains(&answer.status), "{answer:?}");
                (answer.status == 401).then_some(())
            })
            .await;
        }
    };
    let checking = async {
        loop {
            is_served(&api, &bystander).await;
        }
    };
    tokio::select! {
        () = attack => {}
        () = checking => {}
    }
    let peak = replica.peak_memory();
    assert!(peak < MEMORY, "{} MiB", peak >> 20);
}
