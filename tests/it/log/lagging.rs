//! What is told of those who keep checkpoints, and of whatever else a log needs.

use ::proof::InclusionProof;
use serde_json::{Value, json};

use super::{
    client::{all_is_signed, fast, keys, log_ends, newest, origin_of},
    witness::Place,
};
use crate::support::{
    database::TestDatabase,
    http::Api,
    scratch,
    server::{Server, Setup, eventually},
};

fn api(server: &Server) -> Api {
    Api::new(server.url(""))
}

/// What `doctor` says: the checks of these names, with their states.
async fn doctor(setup: &Setup, code: i32, names: &[&str]) -> Vec<(String, String, String)> {
    let mut command = setup.command(&["doctor", "--json"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, member: &str| check[member].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    let named = checks.filter(|check| names.contains(&check["name"].as_str().unwrap()));
    named
        .map(|check| (text(check, "name"), text(check, "status"), text(check, "finding")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_witness_is_behind_is_told_and_proofs_are_of_what_it_has_cosigned() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let (place, file) = (Place::make(scratch.path()), scratch.path().join("anchors.txt"));
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .with("ENTRYBOOK_LOG_WITNESSES", &place.setting())
        .with("ENTRYBOOK_LOG_ANCHOR_FILE", file.to_str().unwrap());
    let server = setup.start().await;
    let log_keys = keys(&api(&server)).await;
    let witness = place.start(&log_keys).await;
    server.register("ada").await;
    let (_, signed) = all_is_signed(&api(&server), database.pool()).await;
    eventually("it is cosigned", async || {
        let (note, newest) = newest(&api(&server)).await?;
        (newest.size >= signed.size && place.key.find(&note).is_ok()).then_some(())
    })
    .await;
    let metric = async |name: &str| {
        let metrics = api(&server).get("/metrics").send().await.is(200).text();
        let labelled = format!("entrybook_{name}{{witness=\"{}\"}} ", place.key.short());
        let line = metrics.lines().find_map(|line| line.strip_prefix(&labelled));
        line.unwrap_or_else(|| panic!("no {labelled} in {metrics}")).parse::<i64>().unwrap()
    };
    eventually("it is not behind", async || {
        (metric("log_witness_lag_lines").await == 0).then_some(())
    })
    .await;
    let names = ["log", "log memory", "witness", "anchor file"];
    let found = doctor(&setup, 0, &names).await;
    println!("{found:?}");
    let states: Vec<_> =
        found.iter().map(|(name, state, _)| (name.as_str(), state.as_str())).collect();
    assert_eq!(states, names.map(|name| (name, "ok")));

    // While it is away, the newest checkpoint has no line of it, and proofs are of one that has.
    witness.kill();
    server.register("ben").await;
    let (note, grown) = all_is_signed(&api(&server), database.pool()).await;
    assert!(place.key.find(&note).is_err());
    let proof = api(&server).get("/log/proof/1").send().await.is(200).text();
    let proof = InclusionProof::parse(&proof).unwrap();
    assert!(place.key.find(&proof.checkpoint).is_ok(), "a proof is kept");
    // Only the newest covers this line.
    let path = format!("/log/proof/{}", grown.size);
    let newest = api(&server).get(&path).send().await.is(200).text();
    let newest = InclusionProof::parse(&newest).unwrap();
    assert!(place.key.find(&newest.checkpoint).is_err());
    eventually("it is behind", async || (metric("log_witness_lag_lines").await > 0).then_some(()))
        .await;
    assert!(metric("log_witness_lag_seconds").await >= 0);
    let found = doctor(&setup, 0, &["witness"]).await;
    println!("{found:?}");
    assert!(found[0].1 == "warn" && found[0].2.contains("can't be reached"), "{found:?}");

    // Nobody signs any more, and doctor says why.
    let refusal = json!({
        "origin": origin_of(&log_keys[0]),
        "by": "witness",
        "text": "it has seen more",
        "since": "2026-01-01T00:00:00Z",
    });
    let stop =
        "UPDATE projections SET state = 'stopped', detail = $1 WHERE name = 'process:sign_log'";
    sqlx::query(stop).bind(refusal.to_string()).execute(database.pool()).await.unwrap();
    let found = doctor(&setup, 5, &["log"]).await;
    assert_eq!(found[0].2, "it has seen more");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_new_log_began_the_keys_of_the_old_one_are_told_still() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080");
    let server = setup.start().await;
    server.register("ada").await;
    all_is_signed(&api(&server), database.pool()).await;
    let old = keys(&api(&server)).await;
    // Not by mistake, while all is well.
    let begin = ["begin", "--origin", "localhost:8080/log2"];
    let refused = log_ends(&setup, &begin, 4).await;
    assert!(refused.contains("no way back") && refused.contains("--yes"), "{refused}");
    assert_eq!(keys(&api(&server)).await, old);
    let begun = log_ends(&setup, &[&begin[..], &["--yes"]].concat(), 0).await;
    assert!(begun.contains("Empty the caches that keep /log/tile/"), "{begun}");
    let new = log_ends(&setup, &["key"], 0).await;
    assert_eq!(new.lines().count(), 1);
    let all = log_ends(&setup, &["key", "--all"], 0).await;
    assert_eq!(all.lines().collect::<Vec<_>>(), [old[0].as_str(), new.trim()]);
    let taken = log_ends(&setup, &["begin", "--origin", "localhost:8080/log", "--yes"], 4).await;
    assert!(taken.contains("such as localhost:8080/log3"), "{taken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_some_may_pass_is_told() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")));
    let server = setup.start().await;
    for table in ["events", "checkpoints"] {
        // As after `DISABLE TRIGGER ALL; …; ENABLE TRIGGER ALL`.
        let weaken = format!("ALTER TABLE {table} ENABLE TRIGGER append_only");
        sqlx::raw_sql(&weaken).execute(database.pool()).await.unwrap();
        let found = doctor(&setup, 5, &["append-only"]).await;
        assert!(found[0].1 == "fail" && found[0].2.ends_with(&format!("on: {table}")), "{found:?}");
        let mend = format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only");
        sqlx::raw_sql(&mend).execute(database.pool()).await.unwrap();
    }
    assert_ne!(doctor(&setup, 0, &["append-only"]).await[0].1, "fail");
    drop(server);
}
