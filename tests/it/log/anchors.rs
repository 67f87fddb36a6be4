//! Checkpoints, told to others: witnesses, a file, an address. What they keep tells on a book that was
//! set back, where nobody here remembers.

use std::{
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::proof::{Checkpoint, CosignatureSigner};
use axum::{
    Router,
    body::Bytes,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use sqlx::PgPool;

use super::{
    backup::{dump, restore},
    client::{all_is_signed, events, fast, keys, log_ends, newest, origin_of, warning},
    witness::Place,
};
use crate::support::{
    database::TestDatabase,
    http::Api,
    scratch,
    server::{Server, Setup, eventually, free_port},
};

pub(super) fn api(server: &Server) -> Api {
    Api::new(server.url(""))
}

pub(super) async fn register(server: &Server, names: &[&str]) {
    for name in names {
        server.register(name).await;
    }
}

/// What was written from C2SP's words alone says so too.
fn verified_elsewhere(note: &[u8], keys: &[String]) -> String {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../proof/vectors/checkpoint.py");
    let mut python = Command::new("python3")
        .arg(program)
        .args(keys)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(note).unwrap();
    let output = python.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{}", String::from_utf8_lossy(note));
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a checkpoint over all lines, cosigned by these witnesses.
pub(super) async fn cosigned(
    server: &Server,
    pool: &PgPool,
    witnesses: &[&Place],
) -> (Vec<u8>, Checkpoint) {
    let lines = events(pool).await;
    eventually(&format!("{lines} lines are cosigned"), async || {
        let (note, checkpoint) = newest(&api(server)).await?;
        let by_all = witnesses.iter().all(|witness| witness.key.find(&note).is_ok());
        (by_all && checkpoint.size >= lines).then_some((note, checkpoint))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_checkpoint_is_cosigned_and_a_witness_that_was_away_catches_up() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let places = [Place::make(&scratch.path().join("a")), Place::make(&scratch.path().join("b"))];
    let setting = format!("{}, {}", places[0].setting(), places[1].setting());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .with("ENTRYBOOK_LOG_WITNESSES", &setting);
    let server = setup.start().await;
    let log_keys = keys(&api(&server)).await;
    let origin = origin_of(&log_keys[0]).to_owned();

    // No witness is there: it signs, and people sign in.
    register(&server, &["ada"]).await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    assert!(places[0].key.find(&note).is_err());

    let first = places[0].start(&log_keys).await;
    cosigned(&server, database.pool(), &[&places[0]]).await;
    let second = places[1].start(&log_keys).await;
    let (note, checkpoint) = cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;
    let again = Place::make(&scratch.path().join("a"));
    assert_eq!(again.key.to_string(), places[0].key.to_string(), "told while it runs");
    eventually("it is told who has cosigned", async || {
        let status = log_ends(&setup, &["status"], 0).await;
        status.contains("\nwitnesses witness.example/w1").then_some(())
    })
    .await;
    let all = [log_keys.clone(), places.iter().map(|place| place.key.to_string()).collect()];
    let said = verified_elsewhere(&note, &all.concat());
    assert_eq!(said.matches(" cosigned it at ").count(), 2, "{said}");
    assert!(said.contains(&format!("{origin}: {} lines", checkpoint.size)), "{said}");
    println!("{said}");

    // Each new one, with the proof that it continues the last.
    for name in ["ben", "cleo", "dan"] {
        register(&server, &[name]).await;
        let (_, checkpoint) = cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;
        assert!(places[0].remembered(&origin).unwrap().size >= checkpoint.size);
    }

    // One is killed while the log grows; the other goes on, and it catches up when it is there again.
    first.kill();
    register(&server, &["eva", "finn", "gus"]).await;
    cosigned(&server, database.pool(), &[&places[1]]).await;
    let before = places[0].remembered(&origin).unwrap();
    let first = places[0].start(&log_keys).await;
    let (_, now) = cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;
    assert!(now.size > before.size);

    // A server that was killed knows what was cosigned; one that has lost that is told by the witness.
    server.kill();
    let server = setup.start().await;
    register(&server, &["hal"]).await;
    cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;
    assert!(server.stop().await.success());
    sqlx::raw_sql("DELETE FROM cosignatures").execute(database.pool()).await.unwrap();
    let server = setup.start().await;
    cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;

    // Of a new key the witnesses know nothing until they are told; nobody waits for them.
    log_ends(&setup, &["rotate", "--after", "0s"], 0).await;
    let both = eventually("the server knows both keys", async || {
        Some(keys(&api(&server)).await).filter(|keys| keys.len() == 2)
    })
    .await;
    eventually("the new key signs", async || {
        register(&server, &[&crate::support::shared::unique("ida")]).await;
        let (note, _) = newest(&api(&server)).await?;
        Checkpoint::verify(&note, &origin, &both[1..]).ok()
    })
    .await;
    eventually("the log says what to do", async || {
        server.log().contains("it trusts other keys of the log").then_some(())
    })
    .await;
    assert_eq!(warning(&api(&server)).await, None);
    drop((first, second));
    let _first = places[0].start(&both).await;
    let _second = places[1].start(&both).await;
    let (note, _) = cosigned(&server, database.pool(), &[&places[0], &places[1]]).await;
    verified_elsewhere(&note, &[both[1].clone(), places[0].key.to_string()]);
}

/// The refusal that is expected of a server on a restored database.
pub(super) async fn found_out(server: &Server) -> String {
    // Before that it may say that it waits for somebody who remembers.
    let told = eventually("it is found out", async || {
        warning(&api(server)).await.filter(|told| told.contains("restored from an older backup"))
    })
    .await;
    assert!(told.contains("entrybook log begin --origin"), "{told}");
    assert!(!told.contains("witness.example"), "anybody may read it: {told}");
    told
}

/// The size of the newest checkpoint that is stored.
async fn stored(pool: &PgPool) -> i64 {
    let size = sqlx::query_scalar("SELECT max(size) FROM checkpoints").fetch_one(pool).await;
    size.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_found_out_by_the_witness_where_nobody_else_remembers() {
    let (database, restored) = (TestDatabase::create().await, TestDatabase::create().await);
    let scratch = scratch();
    let (place, file) = (Place::make(scratch.path()), scratch.path().join("backup.sql"));
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_WITNESSES", &place.setting());
    let server = setup.start().await;
    let log_keys = keys(&api(&server)).await;
    let witness = place.start(&log_keys).await;
    register(&server, &["ada"]).await;
    cosigned(&server, database.pool(), &[&place]).await;
    dump(&database.url(), &file).await;
    register(&server, &["ben", "cleo", "dan", "eva", "finn", "gus"]).await;
    let (_, seen) = cosigned(&server, database.pool(), &[&place]).await;
    assert!(server.stop().await.success());

    // Another machine, with nothing of the data directory: only the witness knows better. It is asked
    // before anything is signed.
    restore(&restored.url(), &file).await;
    let size = stored(restored.pool()).await;
    let setup = Setup {
        database_url: Some(restored.url()),
        data_dir: scratch.path().join("elsewhere"),
        ..setup.replica()
    };
    let server = setup.start().await;
    let told = found_out(&server).await;
    assert!(told.contains(&format!("one of {} lines", seen.size)), "{told}");
    assert!(told.contains(&seen.root.to_string()), "{told}");

    // Nothing more is signed, by whichever replica, and people sign in.
    register(&server, &["hal"]).await;
    server.sign_in("ada").await;
    let other = Setup { data_dir: scratch.path().join("third"), ..setup.replica() }.start().await;
    register(&other, &["ida", "jon", "kim"]).await;
    assert_eq!(found_out(&other).await, told);
    assert_eq!(stored(restored.pool()).await, size);
    assert_eq!(
        place.remembered(&seen.origin).unwrap(),
        seen,
        "the witness keeps to what it has seen"
    );
    assert!(server.stop().await.success());
    assert!(other.stop().await.success());
    witness.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_that_has_grown_past_the_witness_is_found_out_by_its_root() {
    let (database, restored) = (TestDatabase::create().await, TestDatabase::create().await);
    let scratch = scratch();
    let (place, file) = (Place::make(scratch.path()), scratch.path().join("backup.sql"));
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_WITNESSES", &place.setting());
    let server = setup.start().await;
    let log_keys = keys(&api(&server)).await;
    let witness = place.start(&log_keys).await;
    register(&server, &["ada"]).await;
    cosigned(&server, database.pool(), &[&place]).await;
    dump(&database.url(), &file).await;
    register(&server, &["ben"]).await;
    let (_, seen) = cosigned(&server, database.pool(), &[&place]).await;
    assert!(server.stop().await.success());
    // It is away while the restored book grows.
    witness.kill();
    restore(&restored.url(), &file).await;
    let setup = Setup {
        database_url: Some(restored.url()),
        data_dir: scratch.path().join("elsewhere"),
        ..setup.replica()
    };
    let server = setup.start().await;
    register(&server, &["cleo", "dan", "eva", "finn", "gus", "hal"]).await;
    let size = stored(restored.pool()).await;
    let told = eventually("it waits for the witness", async || warning(&api(&server)).await).await;
    println!("{told}");
    assert!(told.contains("remembers nothing") && told.contains("log resume"), "{told}");
    assert!(!told.contains("witness.example"), "anybody may read it: {told}");
    eventually("the log says who was asked", async || {
        server.log().contains("witness.example/w1 at http://").then_some(())
    })
    .await;
    assert!(super::client::remembered(&setup.data_dir).is_empty(), "nobody knows it yet");
    let status = log_ends(&setup, &["status"], 0).await;
    assert!(status.contains("memory    nothing in ") && status.contains("log resume"), "{status}");
    assert_eq!(stored(restored.pool()).await, size, "nothing was signed");

    // Somebody who says that it is the newest that there is, and is wrong.
    let said = log_ends(&setup, &["resume"], 0).await;
    assert!(said.contains(&format!("that the {size} lines were signed")), "{said}");
    let (_, forked) = all_is_signed(&api(&server), restored.pool()).await;
    assert!(forked.size > seen.size, "{forked:?} and {seen:?}");
    assert_eq!(warning(&api(&server)).await, None);
    let status = log_ends(&setup, &["status"], 0).await;
    assert!(status.contains("lines, in "), "{status}");

    let _witness = place.start(&log_keys).await;
    let told = found_out(&server).await;
    assert!(
        told.contains(&format!("with {} lines and the root {}", seen.size, seen.root)),
        "{told}"
    );
    assert_eq!(place.remembered(&seen.origin).unwrap(), seen);
    // The choice that is left: a log of another name, which the witness watches once it is told its key.
    log_ends(&setup, &["begin", "--origin", "localhost:8080/log2"], 0).await;
    let new = eventually("the new log signs", async || {
        let keys = keys(&api(&server)).await;
        (origin_of(&keys[0]) == "localhost:8080/log2").then_some(())?;
        newest(&api(&server)).await?;
        Some(keys)
    })
    .await;
    eventually("the log says what to do", async || {
        server.log().contains("it doesn't know the log").then_some(())
    })
    .await;
    drop(_witness);
    let _witness = place.start(&[log_keys, new].concat()).await;
    // Asked in vain so often, it is asked again after minutes only.
    assert!(server.stop().await.success());
    let server = setup.start().await;
    cosigned(&server, restored.pool(), &[&place]).await;
    assert_eq!(warning(&api(&server)).await, None);
}

/// Somebody at the address of a witness, who answers what he likes.
struct Impostor {
    place: Place,
    asked: Arc<AtomicUsize>,
}

impl Impostor {
    /// `answers` to `add-checkpoint`, and `shown` when it is asked for its checkpoint.
    async fn start(dir: &Path, answers: Vec<(u16, &'static str, Vec<u8>)>, shown: Vec<u8>) -> Self {
        let place = Place::make(dir);
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let router = Router::new()
            .route(
                "/add-checkpoint",
                post(move |_: Bytes| {
                    let number = counted.fetch_add(1, Ordering::Relaxed);
                    let (status, kind, body) = answers[number % answers.len()].clone();
                    let status = StatusCode::from_u16(status).unwrap();
                    async move { (status, [(header::CONTENT_TYPE, kind)], body).into_response() }
                }),
            )
            .route("/{log}/checkpoint", get(move || std::future::ready(shown.clone())));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", place.port)).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { place, asked }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_stops_the_log_or_cosigns_it_by_his_bare_word() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let size = "text/x.tlog.size";
    // A note that says much, signed by nobody who counts.
    let stranger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    let note = Checkpoint {
        origin: "localhost:8080/log".into(),
        size: 1_000_000,
        root: ::proof::Hash([1; 32]),
    };
    let note = note.sign(&[&stranger]).unwrap();
    let other = CosignatureSigner::from_seed("witness.example/w1", &[8; 32]).unwrap();
    let time = std::num::NonZeroU64::new(1_767_000_000).unwrap();
    let line = other.cosign(&note, time).unwrap();
    let shown = [&note[..], line.as_bytes()].concat();
    let impostor = Impostor::start(
        scratch.path(),
        vec![
            (409, size, b"1000000\n".to_vec()),
            (422, "text/plain", b"no\n".to_vec()),
            (200, "text/plain", line.into_bytes()),
            (200, "text/plain", b"garbage".to_vec()),
            (200, "text/plain", vec![b'x'; 200_000]),
            (409, size, b"many\n".to_vec()),
            (302, "text/plain", Vec::new()),
            (500, "text/plain", b"\x1b[2Jno\n".to_vec()),
        ],
        shown,
    )
    .await;
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_WITNESSES", &impostor.place.setting());
    let server = setup.start().await;
    eventually("each answer was given", async || {
        (impostor.asked.load(Ordering::Relaxed) > 5).then_some(())
    })
    .await;
    register(&server, &["ada"]).await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    assert_eq!(String::from_utf8(note).unwrap().matches('\u{2014}').count(), 1);
    assert_eq!(warning(&api(&server)).await, None);
    assert!(server.log().contains("signed neither by the log nor by itself"), "{}", server.log());
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM cosignatures")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

/// What it shows bears its own signature, and is of nobody's log.
#[tokio::test(flavor = "multi_thread")]
async fn a_witness_stops_no_log_by_what_it_has_signed_itself() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let stranger = ::proof::NoteSigner::from_seed("localhost:8080/log", &[9; 32]).unwrap();
    let note = Checkpoint {
        origin: "localhost:8080/log".into(),
        size: 1_000_000,
        root: ::proof::Hash([1; 32]),
    };
    let note = note.sign(&[&stranger]).unwrap();
    let own = CosignatureSigner::from_seed("witness.example/w2", &[8; 32]).unwrap();
    let time = std::num::NonZeroU64::new(1_767_000_000).unwrap();
    let shown = [&note[..], own.cosign(&note, time).unwrap().as_bytes()].concat();
    let answers = vec![(409, "text/x.tlog.size", b"1000000\n".to_vec())];
    let mut impostor = Impostor::start(scratch.path(), answers, shown).await;
    impostor.place.key = own.verifier().clone();
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_WITNESSES", &impostor.place.setting());
    let server = setup.start().await;
    eventually("the log says what it shows", async || {
        server.log().contains("no key of this log has signed").then_some(())
    })
    .await;
    register(&server, &["ada"]).await;
    all_is_signed(&api(&server), database.pool()).await;
    assert_eq!(warning(&api(&server)).await, None);
}

/// The checkpoints of an anchor file.
fn of_file(path: &Path, keys: &[String]) -> Vec<Checkpoint> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut blocks = text.split("\n\n").filter(|block| !block.is_empty());
    let mut found = Vec::new();
    while let (Some(text), Some(signatures)) = (blocks.next(), blocks.next()) {
        let note = format!("{text}\n\n{}\n", signatures.trim_end());
        found.push(Checkpoint::verify(note.as_bytes(), origin_of(&keys[0]), keys).unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_an_address_get_what_was_signed_and_the_file_tells_on_a_restored_backup() {
    let (database, restored) = (TestDatabase::create().await, TestDatabase::create().await);
    let scratch = scratch();
    let (file, backup) = (scratch.path().join("anchors.txt"), scratch.path().join("backup.sql"));
    let posted = Arc::new(Mutex::new(Vec::<Vec<u8>>::new()));
    let refusals = Arc::new(AtomicUsize::new(0));
    let port = free_port();
    {
        let (posted, refusals) = (posted.clone(), refusals.clone());
        let take = post(move |body: Bytes| {
            // The first ones are not taken: they come again.
            let status = if refusals.fetch_add(1, Ordering::Relaxed) < 2 {
                StatusCode::SERVICE_UNAVAILABLE
            } else {
                posted.lock().unwrap().push(body.to_vec());
                StatusCode::NO_CONTENT
            };
            async move { status }
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let router = Router::new().route("/archive/of-a-secret-name", take);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    }
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .known_as("http://localhost:8080")
        .with("ENTRYBOOK_LOG_ANCHOR_FILE", file.to_str().unwrap())
        .with(
            "ENTRYBOOK_LOG_ANCHOR_URL",
            &format!("http://127.0.0.1:{port}/archive/of-a-secret-name"),
        );
    let server = setup.start().await;
    let log_keys = keys(&api(&server)).await;
    let anchored = async |server: &Server, pool: &PgPool| {
        let (note, newest) = all_is_signed(&api(server), pool).await;
        eventually("it is in the file", async || {
            of_file(&file, &log_keys).contains(&newest).then_some(())
        })
        .await;
        eventually("it was posted", async || posted.lock().unwrap().contains(&note).then_some(()))
            .await;
        newest
    };
    for name in ["ada", "ben", "cleo"] {
        register(&server, &[name]).await;
        anchored(&server, database.pool()).await;
    }
    assert!(refusals.load(Ordering::Relaxed) > 2);
    // Such an address often is a secret, and whoever reads logs knows which one it is by its host.
    let said = server.log();
    assert!(said.contains("the address at 127.0.0.1 has not taken"), "{said}");
    assert!(!said.contains("of-a-secret-name"), "{said}");
    server.kill();
    let server = setup.start().await;
    anchored(&server, database.pool()).await;
    dump(&database.url(), &backup).await;
    register(&server, &["dan", "eva", "finn", "gus"]).await;
    let newest = anchored(&server, database.pool()).await;
    assert!(server.stop().await.success());
    // In order, and each once.
    let sizes: Vec<_> =
        of_file(&file, &log_keys).iter().map(|checkpoint| checkpoint.size).collect();
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");

    restore(&restored.url(), &backup).await;
    let size = stored(restored.pool()).await;
    let setup = Setup {
        database_url: Some(restored.url()),
        data_dir: scratch.path().join("elsewhere"),
        ..setup.replica()
    };
    let server = setup.start().await;
    let told = found_out(&server).await;
    assert!(told.contains(&format!("one of {} lines", newest.size)), "{told}");
    assert_eq!(stored(restored.pool()).await, size);
    assert_eq!(of_file(&file, &log_keys).last(), Some(&newest));
}

/// A server that speaks TLS with a certificate of its own authority.
struct Archive {
    child: Child,
    port: u16,
}

impl Drop for Archive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Archive {
    fn start(dir: &Path) -> Self {
        let openssl = |arguments: &str| {
            let done = Command::new("openssl")
                .args(arguments.split(' '))
                .current_dir(dir)
                .output()
                .unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost").unwrap();
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem",
        );
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout tls.key -out tls.csr",
        );
        openssl(
            "x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.pem",
        );
        let port = free_port();
        let program = r#"
import http.server, ssl, sys
class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        open("posted", "ab").write(self.rfile.read(int(self.headers["content-length"])) + b"\n")
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Take)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("tls.pem", "tls.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;
        let child = Command::new("python3")
            .args(["-c", program, &port.to_string()])
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, port }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_an_authority_of_its_own_is_believed_when_that_is_given() {
    let (database, scratch) = (TestDatabase::create().await, scratch());
    let archive = Archive::start(scratch.path());
    let setup = fast(Setup::on(&database.url(), &scratch.path().join("data")))
        .with("ENTRYBOOK_LOG_ANCHOR_URL", &format!("https://localhost:{}/x", archive.port));
    let server = setup.start().await;
    eventually("it is not believed", async || server.log().contains("UnknownIssuer").then_some(()))
        .await;
    assert!(server.stop().await.success());
    assert!(!scratch.path().join("posted").exists());

    let wrong =
        setup.clone().with("ENTRYBOOK_LOG_CA_FILE", scratch.path().join("names").to_str().unwrap());
    let said = wrong.command(&["serve"]).output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert!(text.contains("ENTRYBOOK_LOG_CA_FILE") && text.contains("no certificate"), "{text}");

    let setup =
        setup.with("ENTRYBOOK_LOG_CA_FILE", scratch.path().join("ca.pem").to_str().unwrap());
    let server = setup.start().await;
    let (note, _) = all_is_signed(&api(&server), database.pool()).await;
    eventually("it was posted", async || {
        let posted = std::fs::read(scratch.path().join("posted")).unwrap_or_default();
        posted.windows(note.len()).any(|part| part == note).then_some(())
    })
    .await;
}
