//! Clients that take their time: cut off, while others are served.

use std::time::Duration;

use crate::support::{
    raw::{Raw, status},
    server::eventually,
    shared::Running,
};

const HEAD: &str =
    "POST /api/v1/auth/register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_trickles_is_cut_off_and_nobody_waits_for_them() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("ada").await;
    let events = running.events().await;
    let port = running.server.port();
    let pause = Duration::from_millis(200);

    let heads = (0..20).map(|_| {
        tokio::spawn(async move { Raw::connect(port).await.trickle(HEAD.repeat(20), pause).await })
    });
    let heads: Vec<_> = heads.collect();
    let bodies = (0..20).map(|_| {
        tokio::spawn(async move {
            let mut raw = Raw::connect(port).await;
            raw.write(format!("{HEAD}Content-Length: 1000\r\n\r\n")).await;
            raw.trickle(" ".repeat(1000), pause).await
        })
    });
    let bodies: Vec<_> = bodies.collect();
    let silent: Vec<_> = (0..20)
        .map(|_| tokio::spawn(async move { Raw::connect(port).await.read_to_end().await }))
        .collect();

    // Meanwhile it works for everybody else.
    for _ in 0..5 {
        api.sign_in("ada").await;
    }
    for body in bodies {
        let answer = body.await.unwrap();
        assert_eq!(status(&answer), 408, "{answer}");
        assert!(answer.contains("/problems/request-timeout"), "{answer}");
    }
    for head in heads {
        let answer = head.await.unwrap();
        assert!(matches!(status(&answer), 0 | 408), "{answer}");
    }
    for connection in silent {
        assert_eq!(status(&connection.await.unwrap()), 0);
    }
    assert_eq!(running.events().await, events + 5, "five sign-ins, and nothing else");
}

/// Nobody guesses for free by not waiting for the answer.
#[tokio::test]
async fn whoever_hangs_up_is_counted_all_the_same() {
    // One thread hashes, and many are in front of those who hang up.
    let running = Running::start(&[
        ("ENTRYBOOK_HASH_THREADS", "1"),
        ("ENTRYBOOK_HASH_QUEUE", "1000"),
        ("ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES", "1000"),
    ])
    .await;
    let api = running.api();
    let events = running.events().await;
    let in_front = (0..150).map(|n| {
        let api = api.clone();
        tokio::spawn(async move {
            api.try_sign_in(&format!("stranger{n}"), "not the password").await.is(401)
        })
    });
    let in_front: Vec<_> = in_front.collect();
    let queue_is = async |at_least: u32| {
        eventually("the queue is that long", async || {
            let numbers = api.get("/metrics").send().await.text();
            let line = numbers
                .lines()
                .find(|line| line.starts_with("entrybook_hash_queue_length "))?
                .to_owned();
            (line.rsplit(' ').next()?.parse::<u32>().ok()? >= at_least).then_some(())
        })
        .await;
    };
    // Long before the last of them is hashed.
    queue_is(10).await;
    let mut gone = Vec::new();
    for n in 0..3 {
        let body = format!(r#"{{"identifier":"hasty{n}","password":"not the password"}}"#);
        let mut raw = Raw::connect(running.server.port()).await;
        let length = body.len();
        let head =
            "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        assert!(raw.write(format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}")).await);
        raw.is_read().await;
        gone.push(raw);
    }
    // A moment for what was read to be understood; their turn to be hashed comes much later.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(gone);
    for waiting in in_front {
        waiting.await.unwrap();
    }
    eventually("each guess is counted, though nobody waited for the answer", async || {
        (running.events().await == events + 153).then_some(())
    })
    .await;
}
