//! Exports that have no end, because who reads them may not go on or the book is another, or hold what was erased.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::{Signed, audit, exported, found, text, verify};
use crate::{
    auditing::export::{export, nowhere},
    log::client::{FAST, all_is_signed},
    support::{
        http::Api,
        server::{Tokens, eventually},
        shared::Running,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_book_with_another_root_than_was_signed_gets_no_end() {
    let signed = Signed::ended().await;
    // jsonl has the hashes that are kept of the lines; the rows of the others are made of the events themselves.
    let of_the_tree = |hash: &str| {
        format!("UPDATE ledger.transparency_v1 SET hash = decode('{hash}', 'hex') WHERE node = 39")
    };
    let hash: String = sqlx::query_scalar(
        "SELECT encode(hash, 'hex') FROM ledger.transparency_v1 WHERE node = 39",
    )
    .fetch_one(signed.database.pool())
    .await
    .unwrap();
    let of_the_events = |request: &str| {
        format!(
            "ALTER TABLE events DISABLE TRIGGER append_only;
             UPDATE events SET metadata = metadata || jsonb_build_object('request_id', '{request}')
              WHERE id = (SELECT event_id FROM journal WHERE position = 5);
             ALTER TABLE events ENABLE ALWAYS TRIGGER append_only"
        )
    };
    let request: String = sqlx::query_scalar(
        "SELECT metadata ->> 'request_id' FROM events
          WHERE id = (SELECT event_id FROM journal WHERE position = 5)",
    )
    .fetch_one(signed.database.pool())
    .await
    .unwrap();
    let (there, back) = (of_the_events("another"), of_the_events(&request));
    let (wrong, right) = (of_the_tree(&"07".repeat(32)), of_the_tree(&hash));
    for (format, spoil, mend) in
        [("jsonl", &wrong, &right), ("csv", &there, &back), ("ocsf", &there, &back)]
    {
        let change = async |change: &str| {
            sqlx::raw_sql(change).execute(signed.database.pool()).await.unwrap();
        };
        change(spoil).await;
        let output = audit(&signed.setup, &["export", "--format", format]).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{format}");
        assert!(error.contains("does not have the root that was signed"), "{format}: {error}");
        let file = signed.file("broken", &output.stdout);
        let (_nowhere, offline) = nowhere();
        let (code, report) = verify(&offline, &[text(&file), "--key", signed.key()]).await;
        let kinds: Vec<_> = found(&report).iter().map(|found| found["kind"].clone()).collect();
        assert!(code != 0 && kinds.contains(&"file_cut_off".into()), "{format}: {report:#}");
        change(mend).await;
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
    // By then the server has heard of it, and has forgotten his key.
    eventually("his session is ended", async || {
        let ended = "SELECT EXISTS (SELECT FROM events WHERE event_type = 'SessionEnded')";
        let pool = signed.database.pool();
        sqlx::query_scalar::<_, bool>(ended).fetch_one(pool).await.unwrap().then_some(())
    })
    .await;
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

/// Asks for an export, and takes so little of it that most of it is yet to be made; the rest comes when it is
/// asked for.
async fn begun(port: u16, tokens: &Tokens, format: &str) -> impl AsyncFnOnce() -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let request = format!(
        "GET /api/v1/audit/export?format={format} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        tokens.access
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = vec![0; 1_000];
    stream.read_exact(&mut first).await.unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&first));
    async move || {
        let mut rest = Vec::new();
        // A connection that was reset has ended, too.
        let _ = stream.read_to_end(&mut rest).await;
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_the_session_or_the_role_of_who_asked_for_it() {
    let running = Running::start(&FAST).await;
    let (api, port) = (running.api(), running.setup.port);
    let admin = api.admin().await;
    // More than can be on the way between the two.
    running.many_lines(&admin.user_id, 40_000).await;
    all_is_signed(&api, running.database.pool()).await;
    running.database.settled().await;
    let is_whole = |rest: &str| rest.contains("{\"end\":{\"manifest\":");

    // Nothing happens meanwhile.
    let rest = begun(port, &admin, "jsonl").await;
    assert!(is_whole(&rest().await));

    // The session ends.
    let leaving = api.admin().await;
    let rest = begun(port, &leaving, "jsonl").await;
    api.post("/api/v1/auth/logout").bearer(&leaving.access).send().await.is(204);
    assert!(!is_whole(&rest().await), "the session has ended");

    // The role goes.
    let rest = begun(port, &admin, "jsonl").await;
    let path = format!("/api/v1/admin/users/{}/roles", admin.user_id);
    api.post(&path).bearer(&admin.access).json(json!({"revoke": ["auditor"]})).send().await.is(200);
    assert!(!is_whole(&rest().await), "the role was revoked");
}

/// Who is erased while somebody takes an export has no name from there on.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_on_its_way_tells_no_name_that_was_erased_meanwhile() {
    let running = Running::start(&FAST).await;
    let (api, port) = (running.api(), running.setup.port);
    let admin = api.admin().await;
    let augusta = api.register("augusta").await;
    running.many_lines(&augusta.user_id, 40_000).await;
    all_is_signed(&api, running.database.pool()).await;
    running.database.settled().await;
    let rest = begun(port, &admin, "csv").await;
    let path = format!("/api/v1/admin/users/{}/erase", augusta.user_id);
    let erased = api.post(&path).bearer(&admin.access).json(json!({"username": "augusta"}));
    erased.send().await.is(200);
    let rest = rest().await;
    let rows: Vec<&str> = rest.lines().filter(|row| row.contains("SessionRefreshed")).collect();
    let named = rows.iter().filter(|row| row.contains(",augusta,")).count();
    println!("{named} of {} rows were told with a name", rows.len());
    assert!(named > 0 && rows.len() > 30_000, "{named} of {}", rows.len());
    assert!(rows.iter().skip(named).all(|row| !row.contains("augusta")), "it is told again");
    assert!(rows[rows.len() - 1].contains("(erased)"), "{}", rows[rows.len() - 1]);
}
