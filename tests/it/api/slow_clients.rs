//! Clients that take their time: cut off, while others are served.

use std::time::Duration;

use crate::support::{
    raw::{Raw, status},
    server::eventually,
    shared::Running,
};

const HEAD: &str = "POST /api/v1/auth/register HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn whoever_trickles_is_cut_off_and_nobody_waits_for_them() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("ada").await;
    let events = running.events().await;
    let port = running.server.port();
    let pause = Duration::from_millis(200);

    let heads = (0..20).map(|_| tokio::spawn(async move { Raw::connect(port).await.trickle(HEAD.repeat(20), pause).await }));
    let heads: Vec<_> = heads.collect();
    let bodies = (0..20).map(|_| {
        tokio::spawn(async move {
            let mut raw = Raw::connect(port).await;
            raw.write(format!("{HEAD}Content-Length: 1000\r\n\r\n")).await;
            raw.trickle(" ".repeat(1000), pause).await
        })
    });
    let bodies: Vec<_> = bodies.collect();
    let silent: Vec<_> = (0..20).map(|_| tokio::spawn(async move { Raw::connect(port).await.read_to_end().await })).collect();

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

/// A client that hangs up changes nothing about what it asked for: it is done, or it is not.
#[tokio::test]
async fn whoever_hangs_up_is_counted_all_the_same() {
    let running = Running::start(&[]).await;
    let api = running.api();
    api.register("ada").await;
    let body = r#"{"identifier":"ada","password":"not the password"}"#;
    let request = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let events = running.events().await;
    for _ in 0..3 {
        let mut raw = Raw::connect(running.server.port()).await;
        assert!(raw.write(&request).await);
        // The server has to have read it; then the client is gone.
        tokio::time::sleep(Duration::from_millis(5)).await;
        drop(raw);
    }
    eventually("each guess is counted, though nobody waited for the answer", async || {
        (running.events().await >= events + 3).then_some(())
    })
    .await;
}
