//! Exports that have no end, or hold what was erased.

use serde_json::Value;

use super::{Signed, audit, exported, found, text, verify};
use crate::{
    auditing::export::{export, nowhere},
    log::client::all_is_signed,
    support::http::Api,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_book_with_another_root_than_was_signed_gets_no_end() {
    let signed = Signed::ended().await;
    for (format, node) in [("jsonl", 39), ("csv", 1_i64 << 56), ("ocsf", 1 << 56)] {
        let changed = async |from: &str, to: &str| {
            let change = format!(
                "UPDATE ledger.transparency_v1 SET hash = {to} WHERE node = {node} AND hash = {from}"
            );
            sqlx::raw_sql(&change).execute(signed.database.pool()).await.unwrap();
        };
        let hash: String = sqlx::query_scalar(
            "SELECT encode(hash, 'hex') FROM ledger.transparency_v1 WHERE node = $1",
        )
        .bind(node)
        .fetch_one(signed.database.pool())
        .await
        .unwrap();
        let (right, wrong) =
            (format!("decode('{hash}', 'hex')"), "decode(repeat('07', 32), 'hex')");
        changed(&right, wrong).await;
        let output = audit(&signed.setup, &["export", "--format", format]).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{format}");
        assert!(error.contains("does not have the root that was signed"), "{format}: {error}");
        let file = signed.file("broken", &output.stdout);
        let (_nowhere, offline) = nowhere();
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        let kinds: Vec<_> = found(&report).iter().map(|found| found["kind"].clone()).collect();
        assert!(code != 0 && kinds.contains(&"file_cut_off".into()), "{format}: {report:#}");
        changed(wrong, &right).await;
        exported(&signed, &format!("right.{format}"), &["--format", format]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_is_no_address_for_a_siem() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let erased = signed.setup.command(&["users", "erase", "ben", "--yes"]).output().unwrap();
    assert!(erased.status.success(), "{}", String::from_utf8_lossy(&erased.stderr));
    all_is_signed(&api, signed.database.pool()).await;
    let ocsf = export(&api, "format=ocsf", &admin).await.is(200).text();
    let events: Vec<Value> = ocsf.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_erased = |event: &&Value| event["unmapped"]["address"] == "(erased)";
    let gone: Vec<&Value> = events.iter().filter(of_erased).collect();
    assert!(!gone.is_empty(), "{ocsf}");
    assert!(gone.iter().all(|event| event.get("src_endpoint").is_none()));
    assert!(events.iter().any(|event| event["user"]["name"] == "(erased)"));
    assert!(!ocsf.contains("ben@example.org"));
}
