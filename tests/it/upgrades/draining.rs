//! A replica that is told to stop says so before it takes no more requests.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{
    database::TestDatabase,
    http::Api,
    replica::Replica,
    scratch,
    server::{Setup, binary, client, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_turns_away_the_balancer_first_and_nobody_else() {
    let database = TestDatabase::create().await;
    let scratch = scratch();
    let setup = Setup::on(&database.url(), &scratch.path().join("data"))
        // Until the test has seen what it wants to see.
        .with("ENTRYBOOK_SHUTDOWN_DRAIN", "10m");
    let mut replica = Replica::launch(binary(), &setup);
    replica.ready().await;
    let api = Api::new(format!("http://127.0.0.1:{}", replica.port));
    let ada = api.register("ada").await;

    let http = client();
    replica.signal(Signal::SIGTERM);
    let report: Value = eventually("it is not ready any more", async || {
        let answer = http.get(api.url("/readyz")).send().await.unwrap();
        if answer.status() == 503 { answer.json().await.unwrap() } else { None }
    })
    .await;
    assert_eq!(report["ready"], false);
    assert_eq!(report["checks"][0]["name"], "draining", "{report}");
    // On new connections and old ones alike.
    for api in [api.clone(), Api::new(api.url(""))] {
        api.me(&ada.access).await.is(200);
        api.sign_in("ada").await;
    }
    api.get("/healthz").send().await.is(200);

    // Told twice, it does not wait.
    replica.signal(Signal::SIGTERM);
    assert!(replica.ended().await.success(), "{}", replica.log());
}
