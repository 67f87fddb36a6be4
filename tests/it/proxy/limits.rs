//! What one address may take of nginx: issue 10, number 12.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

use crate::support::{
    raw::{Raw, exchange, status},
    tools,
};

use super::Front;

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn answered_from(address: &str, port: u16) -> u16 {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
    let mut raw = Raw::of(socket.connect(([127, 0, 0, 1], port).into()).await.unwrap());
    raw.write(HEALTH).await;
    status(&raw.read_to_end().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_take_the_share_of_their_own_address_alone() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let port = front.nginx.port;
    let slow = "POST /api/v1/audit/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 1000\r\n\r\n{";
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(port).await;
        assert!(raw.write(slow).await);
        raw.is_read().await;
        held.push(raw);
    }
    let refused = exchange(port, HEALTH).await;
    assert_eq!(status(&refused), 429, "{refused}");
    let head = refused.to_lowercase();
    for told in ["application/problem+json", "retry-after: 2", "x-content-type-options: nosniff"] {
        assert!(head.contains(told), "{told}: {refused}");
    }
    assert_eq!(answered_from("127.0.0.2", port).await, 200);
    drop(held);
    crate::support::server::eventually("its share is free again", async || {
        (status(&exchange(port, HEALTH).await) == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_tried_a_few_times_in_a_second_and_no_more() {
    if !tools::with("nginx") {
        return;
    }
    let front = Front::start().await;
    let port = front.nginx.port;
    // Refused by Entrybook before anything is hashed, so they come fast.
    let post = "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut refused = 0;
    for number in 0..400 {
        let answer = exchange(port, post).await;
        refused += u32::from(status(&answer) == 429);
        assert!(number >= 100 || status(&answer) != 429, "after {number}: {answer}");
    }
    assert!(refused > 0, "all of 400 were passed on");
    // Nothing else is held back by it.
    assert_eq!(status(&exchange(port, HEALTH).await), 200);
}
