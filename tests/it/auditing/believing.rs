//! Issue 10: what an auditor must not believe. A key that the application's database login put into the log, bytes
//! behind the end of a file, and rows that were made of a changed read table.

use ::proof::{Checkpoint, Hash, NoteSigner, Tree, export::Writer, hash_of};
use serde_json::json;
use sqlx::PgPool;

use super::{Signed, exported, found, text, verify};
use crate::{
    auditing::export::nowhere,
    log::client::{all_is_signed, origin_of},
    support::http::Api,
};

/// Appends an event of the log's own stream as the database role of the application may.
async fn insert_as_application(pool: &PgPool, event_type: &str, payload: serde_json::Value) {
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL ROLE entrybook_app").execute(&mut *transaction).await.unwrap();
    sqlx::query(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         SELECT 'Service', 'log', max(sequence) + 1, $1, '1', $2,
                '{\"actor\":\"system\",\"request_id\":\"forged\",\"at\":\"2026-01-05T08:00:00.000000Z\"}'
           FROM events WHERE aggregate_type = 'Service' AND aggregate_id = 'log'",
    )
    .bind(event_type)
    .bind(payload)
    .execute(&mut *transaction)
    .await
    .unwrap();
    transaction.commit().await.unwrap();
}

/// An export of these leaves, signed by this key.
fn export_of(leaves: &[Vec<u8>], signer: &NoteSigner, origin: &str) -> Vec<u8> {
    let (mut writer, mut file) = Writer::new(origin, None).unwrap();
    let mut tree = Tree::default();
    for run in leaves.chunks(256) {
        let hashes: Vec<Hash> = run.iter().map(|leaf| hash_of(leaf)).collect();
        hashes.iter().for_each(|hash| tree.push(*hash, |_| {}));
        file.extend(writer.run(&hashes, run).unwrap());
    }
    let checkpoint =
        Checkpoint { origin: origin.to_owned(), size: leaves.len() as u64, root: tree.root() };
    file.extend(writer.end(signer, &checkpoint.sign(&[signer]).unwrap(), &[]).unwrap());
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_application_role_put_into_the_log_is_not_trusted() {
    let (signed, server) = Signed::serving().await;
    let (pool, honest) = (signed.database.pool(), signed.key().to_owned());
    let origin = origin_of(&honest).to_owned();
    let forger = NoteSigner::from_seed(&origin, &[9; 32]).unwrap();
    let payload = json!({ "LogKeyAdded": { "origin": origin, "key": forger.verifier_key() } });
    insert_as_application(pool, "LogKeyAdded", payload).await;
    // The honest signer signs the line.
    let api = Api::new(server.url(""));
    let (genuine, _) = all_is_signed(&api, pool).await;
    assert!(server.stop().await.success());
    let whole = exported(&signed, "whole.jsonl", &[]).await;
    let whole = std::fs::read_to_string(whole).unwrap();
    let mut leaves: Vec<Vec<u8>> = whole
        .lines()
        .filter(|line| line.starts_with("{\"event_type\":"))
        .map(|line| line.as_bytes().to_vec())
        .collect();
    // A history that goes on with an admin whom nobody appointed.
    let position = leaves.len() + 1;
    leaves.push(
        format!(
            "{{\"event_type\":\"UserRoleGranted\",\"event_version\":\"1\",\"metadata\":{{\"actor\":\"system\",\"at\":\"2026-01-05T08:00:00.000000Z\",\"request_id\":\"x\"}},\"payload\":{{\"UserRoleGranted\":{{\"role\":\"admin\"}}}},\"position\":{position},\"recorded_at\":\"2026-01-05T08:00:00.001001Z\",\"sequence\":9,\"stream_id\":\"01980000-0000-7000-8000-0000000000a1\",\"stream_type\":\"User\",\"v\":1}}"
        )
        .into_bytes(),
    );
    let forged = signed.file("forged.jsonl", &export_of(&leaves, &forger, &origin));
    let genuine = signed.file("genuine.cp", &genuine);
    let (_nowhere, offline) = nowhere();
    let words = [text(&forged), "--key", &honest, "--checkpoint", text(&genuine)];
    let (code, report) = verify(&offline, &words).await;
    assert_eq!(code, 6, "{report:#}");
    assert_eq!(report["keys"], json!([honest]), "{report:#}");
    // Neither does the database make the key one of the log's.
    let (code, report) = verify(&signed.setup, &["--key", &honest]).await;
    assert_eq!((code, &report["keys"]), (0, &json!([honest])), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_may_stand_behind_the_end_of_an_export() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    for format in ["jsonl", "csv", "ocsf"] {
        let file = exported(&signed, &format!("whole.{format}"), &["--format", format]).await;
        let whole = std::fs::read(&file).unwrap();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let line = |index: usize| lines[index].trim_ascii_end().to_vec();
        for (name, rest) in [
            ("a line without its line feed", line(40)),
            ("the end once more without its line feed", line(lines.len() - 1)),
            ("a line", lines[40].to_vec()),
            ("a byte", b"x".to_vec()),
            ("a NUL", vec![0]),
            ("a MiB of NULs", vec![0; 1 << 20]),
            ("a MiB and some", vec![b'x'; (1 << 20) + 7]),
            ("a line feed", b"\n".to_vec()),
        ] {
            let forged = signed.file("forged", &[&whole[..], &rest].concat());
            let (code, report) = verify(&offline, &[text(&forged), "--key", signed.key()]).await;
            assert_eq!(code, 6, "{format}, {name}: {report:#}");
        }
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{format}: {report:#}");
    }
    // The end line itself has one form.
    let file = exported(&signed, "whole.jsonl2", &[]).await;
    let whole = std::fs::read_to_string(file).unwrap();
    let (before, _) = whole.split_once("{\"end\":").unwrap();
    let end = &whole[before.len()..];
    for (name, other) in [
        ("a space", end.replacen(':', ": ", 1)),
        ("a carriage return", end.replace("}}\n", "}}\r\n")),
        ("an escaped letter", end.replacen("entrybook", "\\u0065ntrybook", 1)),
        ("other members first", {
            let value: serde_json::Value = serde_json::from_str(end).unwrap();
            let (manifest, checkpoint) = (&value["end"]["manifest"], &value["end"]["checkpoint"]);
            format!("{{\"end\":{{\"checkpoint\":{checkpoint},\"manifest\":{manifest}}}}}\n")
        }),
    ] {
        assert_ne!(other, end, "{name}");
        let forged = signed.file("forged", format!("{before}{other}").as_bytes());
        let (code, report) = verify(&offline, &[text(&forged), "--key", signed.key()]).await;
        assert_eq!(code, 6, "{name}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_read_table_changes_no_export() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    let pool = signed.database.pool();
    let table: String = sqlx::query_scalar(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
          WHERE table_name LIKE 'audit_history_v%' ORDER BY length(table_name), table_name LIMIT 1",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let rows = |file: &std::path::Path| {
        let text = std::fs::read_to_string(file).unwrap();
        let rows: Vec<String> = text.split("\r\n").map(str::to_owned).collect();
        let is_row = |row: &&String| !row.is_empty() && !row.starts_with("end,");
        rows[1..].iter().filter(is_row).cloned().collect::<Vec<_>>()
    };
    let before = rows(&exported(&signed, "before.csv", &["--format", "csv"]).await);
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL ROLE entrybook_app").execute(&mut *transaction).await.unwrap();
    for statement in [
        format!("DELETE FROM {table} WHERE position = 41"),
        format!(
            "UPDATE {table} SET event_type = 'SessionStarted', outcome = 'password' WHERE event_type = 'SignInFailed'"
        ),
    ] {
        let done = sqlx::query(&statement).execute(&mut *transaction).await.unwrap();
        assert!(done.rows_affected() > 0, "{statement}");
    }
    transaction.commit().await.unwrap();
    let after = exported(&signed, "after.csv", &["--format", "csv"]).await;
    let (code, report) = verify(&offline, &[text(&after), "--key", signed.key()]).await;
    assert_eq!((code, found(&report)), (0, vec![]), "{report:#}");
    let after = rows(&after);
    assert!(!before.is_empty());
    assert_eq!(after[..before.len()], before[..], "every row is as it was");
    for format in ["csv", "ocsf", "jsonl"] {
        let words = ["--format", format, "--type", "SignInFailed"];
        let failed = exported(&signed, &format!("failed.{format}"), &words).await;
        let failed = std::fs::read_to_string(failed).unwrap();
        let lines = failed.lines().filter(|line| line.contains("SignInFailed"));
        // The filter is named in the end, and in the first line of JSON Lines.
        assert!(lines.count() > 3, "{format} hides lines: {failed}");
    }
}
