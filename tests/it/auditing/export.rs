//! Exports: over HTTP, from the page, and by the command line; each whole, or known not to be.

use std::process::Output;

use ::proof::export::{Completeness, Reader};
use commands::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::{Signed, audit, exported, found, text, verify};
use crate::support::{
    http::{Answer, Api},
    scratch,
    server::{Setup, Tokens},
};

/// Where there is neither a database nor a network.
pub(super) fn nowhere() -> (tempfile::TempDir, Setup) {
    let scratch = scratch();
    let setup = Setup {
        port: 1,
        data_dir: scratch.path().join("nothing"),
        database_url: None,
        extra: Vec::new(),
    };
    (scratch, setup)
}

pub(super) async fn export(api: &Api, query: &str, token: &Tokens) -> Answer {
    api.get(&format!("/api/v1/audit/export?{query}")).bearer(&token.access).send().await
}

#[tokio::test(flavor = "multi_thread")]
async fn json_lines_are_proved_without_a_database_whatever_the_filter() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let ada: String =
        sqlx::query_scalar("SELECT user_id::text FROM identifiers WHERE kind = 'username' LIMIT 1")
            .fetch_one(signed.database.pool())
            .await
            .unwrap();
    let (_nowhere, offline) = nowhere();
    for (query, whole) in [
        ("format=jsonl", true),
        ("format=jsonl&type=SessionRefreshed", false),
        ("format=jsonl&type=SignInFailed", false),
        (&format!("format=jsonl&user={ada}"), false),
        ("format=jsonl&type=UserErased", false),
        ("format=jsonl&from=2000-01-01T00:00:00Z&to=2000-01-02T00:00:00Z", false),
        ("format=jsonl&after=300", false),
        ("format=jsonl&after=4000000", false),
    ] {
        let answer = export(&api, query, &admin).await.is(200);
        assert_eq!(answer.header("content-type"), "application/jsonl");
        let name = answer.header("content-disposition");
        assert!(name.starts_with("attachment; filename=\"entrybook-"), "{name}");
        let mut reader = Reader::new(vec![signed.key().to_owned()], vec![signed.last.1.clone()]);
        for line in answer.body.split_inclusive(|byte| *byte == b'\n') {
            reader.line(line);
        }
        let report = reader.end();
        assert!(report.is_sound(), "{query}: {report:?}");
        assert_eq!(report.left_out == 0, whole, "{query}: {report:?}");
        println!("{query}: {} lines, {} left out", report.verdict.lines, report.left_out);
        // What was asked for stands in the file, unless it is everything.
        let asked = report.header.unwrap().filter;
        assert_eq!(asked.is_none(), whole, "{query}: {asked:?}");

        let file = signed.file("export.jsonl", &answer.body);
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{query}: {report:#}");
    }
    // A place is asked for in the body, so that no proxy writes it down; the file says what it can find.
    let asked = json!({ "format": "jsonl", "address": "127.0.0.1" });
    let answer = api.post("/api/v1/audit/export").bearer(&admin.access).json(asked).send().await;
    let header = answer.is(200).text().lines().next().unwrap().to_owned();
    let header: Value = serde_json::from_str(&header).unwrap();
    let filter = &header["export"]["filter"];
    let month = SystemClock.now().format("%Y-%m").to_string();
    assert_eq!(filter["place"], "127.0.0.1", "{header}");
    assert_eq!(filter["searched"]["last_month"], month, "{header}");
    assert_eq!(filter["searched"]["older_left_out"], false, "{header}");
    // Personal data is sealed in it.
    let body = export(&api, "format=jsonl", &admin).await.text();
    for plain in ["ada", "ada@example.org", "127.0.0.1", "=1+1"] {
        assert!(!body.contains(&format!("\"{plain}\"")), "{plain}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_auditor_gets_nothing_and_who_is_one_is_written_down() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let ben = api.sign_in("ben").await;
    export(&api, "format=jsonl", &ben).await.problem(403, "forbidden");
    api.get("/api/v1/audit/export?format=jsonl").send().await.problem(401, "not-signed-in");
    export(&api, "", &admin).await.refuses(&["format"]);
    export(&api, "format=csv&after=9007199254740992", &admin).await.refuses(&["after"]);
    export(&api, "format=csv&nonsense=1", &admin).await.is(422);

    let written = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events WHERE event_type = 'HistoryExported'")
            .fetch_one(signed.database.pool())
            .await
            .unwrap()
    };
    assert_eq!(written().await, 0);
    let query = format!("format=csv&user={}", ben.user_id);
    export(&api, &query, &admin).await.is(200);
    assert_eq!(written().await, 1);
    let payload: Value = sqlx::query_scalar(
        "SELECT payload -> 'HistoryExported' FROM events WHERE event_type = 'HistoryExported'",
    )
    .fetch_one(signed.database.pool())
    .await
    .unwrap();
    assert_eq!(payload["format"], "csv");
    assert!(payload["up_to"].as_u64().unwrap() >= signed.last.1.size, "{payload}");
    assert!(payload["filter"].as_str().unwrap().starts_with("s1."), "it names a person: {payload}");
    // An admin who is no auditor.
    let words = ["--email", "cleo@example.org", "--username", "cleo", "--role", "admin", "--json"];
    let made = signed.setup.command(&[&["admin", "create"][..], &words].concat()).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let cleo = api.sign_in_with("cleo", made["generated_password"].as_str().unwrap()).await;
    export(&api, "format=jsonl", &cleo).await.problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spreadsheet_takes_nothing_for_a_formula_and_both_tables_end_with_a_manifest() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let (_nowhere, offline) = nowhere();
    let keys = ["--key", signed.key()];

    let answer = export(&api, "format=csv&type=SignInFailed", &admin).await.is(200);
    assert!(answer.header("content-type").starts_with("text/csv"), "{:?}", answer.headers);
    let csv = answer.text();
    println!("{}", csv.lines().take(5).collect::<Vec<_>>().join("\n"));
    assert!(csv.starts_with("position,time,recorded_at,event,outcome,"), "{csv}");
    assert!(csv.contains(",'=1+1,"), "what was typed: {csv}");
    assert!(csv.contains(",\"'=Test,\"\"1\"\"\","), "the user agent: {csv}");
    assert!(!csv.contains(",=") && !csv.contains(",\"="), "{csv}");
    assert!(csv.contains(",ada,") && csv.contains(",127.0.0.1,"), "in the clear: {csv}");

    let answer = export(&api, "format=ocsf", &admin).await.is(200);
    let ocsf = answer.text();
    let events: Vec<Value> = ocsf.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = events.iter().find(|event| event["metadata"]["event_code"] == "SignInFailed");
    let failed = failed.unwrap();
    println!("{failed:#}");
    assert_eq!((&failed["class_uid"], &failed["type_uid"]), (&3002.into(), &300_201.into()));
    assert_eq!(
        (&failed["status_id"], &failed["status_detail"]),
        (&2.into(), &"wrong_password".into())
    );
    assert_eq!(failed["user"]["name"], "ada");
    assert_eq!(failed["src_endpoint"]["ip"], "127.0.0.1");
    for event in &events {
        for name in ["activity_id", "category_uid", "class_uid", "severity_id", "time", "type_uid"]
        {
            assert!(event[name].is_i64(), "{name} of {event}");
        }
        assert_eq!(event["metadata"]["version"], "1.3.0");
        let has_user = event["user"].is_object();
        assert_eq!(has_user, ![0, 3004].contains(&event["class_uid"].as_i64().unwrap()), "{event}");
    }
    assert_eq!(events.len() as u64, {
        let last = events.last().unwrap()["unmapped"]["entrybook_manifest"].as_str().unwrap();
        last.lines().nth(3).unwrap().parse::<u64>().unwrap() + 1
    });

    for (name, whole) in [("table.csv", csv.into_bytes()), ("table.ocsf", ocsf.into_bytes())] {
        let file = signed.file(name, &whole);
        let (code, report) = verify(&offline, &[&[text(&file)][..], &keys].concat()).await;
        assert_eq!((code, found(&report)), (0, vec![]), "{name}: {report:#}");
        // Whatever is done to it, is told.
        let ends = [(whole.len() - 1, 7), (whole.len() / 2, 7), (200, 7)];
        for (length, exit) in ends {
            let file = signed.file(name, &whole[..length]);
            let (code, report) = verify(&offline, &[&[text(&file)][..], &keys].concat()).await;
            assert_eq!(code, exit, "{name} cut off at {length}: {report:#}");
        }
        let edited =
            String::from_utf8(whole.clone()).unwrap().replacen("127.0.0.1", "127.0.0.2", 1);
        let longer = [whole.clone(), b"1,2,3\r\n".to_vec()].concat();
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let third = second + whole[second..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        let shorter = [&whole[..second], &whole[third..]].concat();
        let mut changed = vec![edited.into_bytes(), longer];
        if name == "table.csv" {
            // What passes a filter has no numbers in a row.
            changed.push(shorter);
        } else {
            let file = signed.file(name, &shorter);
            let (code, report) = verify(&offline, &[&[text(&file)][..], &keys].concat()).await;
            let deleted = serde_json::json!({ "kind": "deleted", "first": 2, "last": 2 });
            assert_eq!((code, found(&report)), (7, vec![deleted]), "{name}: {report:#}");
        }
        for changed in changed {
            let file = signed.file(name, &changed);
            let (code, report) = verify(&offline, &[&[text(&file)][..], &keys].concat()).await;
            assert_eq!(code, 6, "{name}: {report:#}");
            assert_eq!(found(&report)[0]["kind"], "file_altered", "{name}: {report:#}");
            let missing = &report["completeness"]["findings"][0]["kind"];
            assert_eq!(missing, "not_known", "{name}: {report:#}");
        }
        let forger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
        let file = signed.file(name, &whole);
        let (code, report) =
            verify(&offline, &[text(&file), "--key", &forger.verifier_key()]).await;
        assert_eq!(code, 6, "{name}: {report:#}");
        let kind = &report["integrity"]["findings"][0]["kind"];
        assert_eq!(kind, "wrong_key", "{name}: {report:#}");
        let missing = &report["completeness"]["findings"][0]["kind"];
        assert_eq!(missing, "not_known", "{name}: {report:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_json_lines_that_was_changed_is_told_how() {
    let signed = Signed::ended().await;
    let (_nowhere, offline) = nowhere();
    let path = exported(&signed, "whole.jsonl", &[]).await;
    let whole = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let at = |position: u64| {
        let mark = format!("\"position\":{position},");
        lines.iter().position(|line| line.contains(&mark)).unwrap()
    };
    let (forty, fifty) = (at(40), at(50));
    let joined = |lines: &[&str]| lines.concat();
    let edited = whole.replacen(lines[forty], &lines[forty].replacen("Z\"", "1Z\"", 1), 1);
    assert_ne!(edited, whole);
    let without: Vec<_> = lines.iter().copied().filter(|line| *line != lines[forty]).collect();
    let mut swapped = lines.clone();
    swapped.swap(forty, fifty);
    let mut inserted = lines.clone();
    let forged = lines[forty].replacen("\"sequence\":", "\"sequence\":1", 1);
    inserted.insert(forty, &forged);
    let forger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    let key = signed.key();
    for (name, file, key, exit, kind) in [
        ("edited", edited, key, 6, "edited"),
        ("deleted", joined(&without), key, 7, "deleted"),
        ("inserted", joined(&inserted), key, 6, "inserted"),
        ("two lines that changed places", joined(&swapped), key, 6, "file_altered"),
        ("the same", joined(&swapped), key, 6, "moved"),
        ("cut off between lines", joined(&lines[..fifty]), key, 7, "file_cut_off"),
        ("cut off within a line", whole[..whole.len() / 2].to_owned(), key, 7, "file_cut_off"),
        ("without its end", joined(&lines[..lines.len() - 1]), key, 7, "file_cut_off"),
        ("empty", String::new(), key, 7, "file_cut_off"),
        ("another key", whole.clone(), &forger.verifier_key(), 6, "wrong_key"),
    ] {
        let file = signed.file("changed.jsonl", file.as_bytes());
        let (code, report) = verify(&offline, &[text(&file), "--key", key]).await;
        let kinds: Vec<_> = found(&report).iter().map(|found| found["kind"].clone()).collect();
        assert_eq!(code, exit, "{name}: {report:#}");
        assert!(kinds.contains(&kind.into()), "{name}: {report:#}");
        let believes_nothing = kind == "wrong_key";
        assert_eq!(kinds.contains(&"not_known".into()), believes_nothing, "{name}: {report:#}");
        println!("{name}: exit {code}: {kinds:?}");
    }
    // One who can't sign can't leave lines out without a word, either: here by the header.
    let filtered = exported(&signed, "part.jsonl", &["--type", "SignInFailed"]).await;
    let filtered = std::fs::read_to_string(filtered).unwrap();
    let (header, rest) = filtered.split_once('\n').unwrap();
    let header = format!("{}}}}}", header.split_once(",\"filter\"").unwrap().0);
    let file = signed.file("changed.jsonl", format!("{header}\n{rest}").as_bytes());
    let (code, report) = verify(&offline, &[text(&file), "--key", key]).await;
    let kinds: Vec<_> = found(&report).iter().map(|found| found["kind"].clone()).collect();
    assert_eq!((code, kinds), (6, vec!["file_altered".into(), "left_out".into()]), "{report:#}");
    // A checkpoint that somebody has kept tells of a book that is shorter, or another.
    let longer = ::proof::Checkpoint { size: 1_000_000, ..signed.last.1.clone() };
    let other = ::proof::Checkpoint { root: ::proof::Hash([7; 32]), ..signed.first.1.clone() };
    let keys = signed.file("keys", format!("{key}\n{}\n", forger.verifier_key()).as_bytes());
    for (checkpoint, exit, kind) in [(longer, 7, "cut_tail"), (other, 6, "forked")] {
        let kept = signed.file("kept.txt", &checkpoint.sign(&[&forger]).unwrap());
        let words = [text(&path), "--key", text(&keys), "--checkpoint", text(&kept)];
        let (code, report) = verify(&offline, &words).await;
        assert_eq!(code, exit, "{report:#}");
        assert_eq!(found(&report)[0]["kind"], kind, "{report:#}");
    }
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = audit(&offline, &["verify", text(&path)]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let other = signed.file("other.txt", b"something else\n");
    let refused = audit(&offline, &["verify", text(&other), "--key", key]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", said(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_downloaded_from_the_page_as_the_filter_says() {
    let (signed, server) = Signed::serving().await;
    let api = Api::new(server.url(""));
    let admin = api.admin().await;
    let page = api.get("/history").header("cookie", cookie(&admin)).send().await.is(200).text();
    assert!(page.contains("formaction=\"/history/export/csv\""), "{page}");
    let mine = api.get("/my-history").header("cookie", cookie(&admin)).send().await.is(200).text();
    assert!(!mine.contains("formaction"), "{mine}");
    let button = page.split("formaction=\"/history/export/csv\"").nth(1).unwrap();
    assert!(button.starts_with(" formmethod=\"post\" name=\"csrf\""), "{button}");
    let token = button.split("value=\"").nth(1).unwrap().split('"').next().unwrap();
    let post = async |format: &str, fields: &[(&str, &str)], who: &Tokens| {
        let asked = api.post(&format!("/history/export/{format}")).header("cookie", cookie(who));
        asked.header("origin", api.url("")).form(fields).send().await
    };
    let fields = [("user", "ada"), ("type", "SignInFailed"), ("from", ""), ("order", "newest")];
    let asked = [&fields[..], &[("csrf", token)]].concat();
    let answer = post("jsonl", &asked, &admin).await.is(200);
    let mut reader = Reader::new(signed.keys.clone(), Vec::new());
    answer.body.split_inclusive(|byte| *byte == b'\n').for_each(|line| reader.line(line));
    let report = reader.end();
    assert_eq!((report.completeness, report.verdict.lines), (Completeness::Whole, 1));
    // What can't be read of the filter is told on the page.
    let wrong = [("from", "yesterday"), ("csrf", token)];
    let refused = post("csv", &wrong, &admin).await.is(422);
    assert!(refused.header("content-type").starts_with("text/html"));
    let ben = api.sign_in("ben").await;
    post("csv", &asked, &ben).await.is(403);
    post("xls", &asked, &admin).await.is(404);
    // Nothing is exported on the strength of a link, or of another site's form.
    let path = "/history/export/csv";
    api.get(path).header("cookie", cookie(&admin)).send().await.is(405);
    assert_eq!(post("csv", &fields, &admin).await.is(303).header("location"), "/history");
}

fn cookie(tokens: &Tokens) -> String {
    format!("entrybook_access={}", tokens.access)
}
