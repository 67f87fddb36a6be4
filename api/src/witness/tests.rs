use std::{fs, os::unix::fs::PermissionsExt, thread};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use chrono::{DateTime, TimeDelta};
use commands::clock::{ManualClock, SeededEntropy};
use http_body_util::BodyExt;
use proof::{Hash, Missing, Node, Nodes, NoteSigner, ProveError, Refusal, Tree, hash_of};
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;

const ORIGIN: &str = "example.org/log";

fn log_key(seed: u8) -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, &[seed; 32]).unwrap()
}

/// A log whose lines are numbers; from `fork` on they are others.
struct Log {
    nodes: Vec<Node>,
    roots: Vec<Hash>,
}

impl Log {
    fn grown(lines: u64, fork: u64) -> Self {
        let (mut tree, mut nodes) = (Tree::default(), Vec::new());
        let mut roots = vec![tree.root()];
        for line in 0..lines {
            let line = if line < fork { line } else { line + 1_000_000 };
            tree.push(hash_of(&line.to_be_bytes()), |node| nodes.push(node));
            roots.push(tree.root());
        }
        Self { nodes, roots }
    }

    /// The request that takes a witness from one size to another.
    fn add(&self, old: u64, size: u64) -> Vec<u8> {
        let mut nodes = Nodes::default();
        let proof = loop {
            match nodes.prove_consistency(size, old) {
                Err(ProveError::Missing(Missing(missing))) => nodes.extend(
                    self.nodes
                        .iter()
                        .filter(|node| missing.contains(&(node.level, node.index)))
                        .copied(),
                ),
                proof => break proof.unwrap(),
            }
        };
        let checkpoint =
            Checkpoint { origin: ORIGIN.into(), size, root: self.roots[size as usize] };
        let checkpoint = checkpoint.sign(&[&log_key(1)]).unwrap();
        AddCheckpoint { old, proof, checkpoint }.to_bytes()
    }
}

struct Place {
    scratch: TempDir,
    clock: Arc<ManualClock>,
}

impl Place {
    fn new() -> Self {
        let start = DateTime::from_timestamp(1_767_000_000, 0).unwrap();
        Self { scratch: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(start)) }
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("witness")
    }

    fn named(&self, name: Option<&str>) -> Result<Witness, WitnessError> {
        let keys = [log_key(1).verifier_key(), log_key(2).verifier_key()];
        Witness::open(&self.dir(), name, &keys, self.clock.clone(), &SeededEntropy::new(7))
    }

    fn open(&self) -> Witness {
        self.named(Some("witness.example")).unwrap()
    }

    fn memory(&self) -> PathBuf {
        self.dir().join(format!("{}.checkpoint", id_of(ORIGIN)))
    }
}

fn conflict(answer: Result<String, Declined>) -> u64 {
    match answer {
        Err(Declined::Refused(Refusal::Conflict(size))) => size,
        other => panic!("{other:?}"),
    }
}

fn is_inconsistent(answer: &Result<String, Declined>) -> bool {
    matches!(answer, Err(Declined::Refused(Refusal::Inconsistent(_))))
}

#[test]
fn what_was_cosigned_is_on_the_disk_and_binds_after_a_restart() {
    let place = Place::new();
    let (log, fork) = (Log::grown(40, 40), Log::grown(40, 5));
    let witness = place.open();
    let key = witness.verifier().clone();
    assert_eq!(witness.logs().collect::<Vec<_>>(), [(ORIGIN, 2, 0)]);
    let line = witness.add(&log.add(0, 10)).unwrap();
    let note = fs::read(place.memory()).unwrap();
    assert!(note.ends_with(line.as_bytes()));
    let found = key.find(&note).unwrap();
    assert_eq!(found.time.get(), 1_767_000_000);
    Checkpoint::verify(&note, ORIGIN, &[log_key(1).verifier_key()]).unwrap();
    drop(witness);

    let witness = place.open();
    assert_eq!(*witness.verifier(), key, "the key is kept");
    assert_eq!(witness.logs().collect::<Vec<_>>(), [(ORIGIN, 2, 10)]);
    assert_eq!(conflict(witness.add(&log.add(0, 20))), 10);
    assert_eq!(conflict(witness.add(&fork.add(0, 40))), 10);
    assert!(is_inconsistent(&witness.add(&fork.add(10, 40))));
    assert!(is_inconsistent(&witness.add(&fork.add(10, 10))));
    // Once more is no harm, with the time of now; nothing need be written for it.
    place.clock.advance(TimeDelta::seconds(60));
    let again = witness.add(&log.add(10, 10)).unwrap();
    assert_ne!(again, line);
    assert_eq!(fs::read(place.memory()).unwrap(), note);
    witness.add(&log.add(10, 40)).unwrap();
    // Nor back.
    assert_eq!(conflict(witness.add(&log.add(10, 20))), 40);
    assert_eq!(witness.last(&id_of(ORIGIN)).unwrap(), fs::read(place.memory()).unwrap());
    assert_eq!(witness.last(&id_of("another")), None);
}

#[test]
fn of_many_at_once_only_those_count_that_follow_each_other() {
    let place = Place::new();
    let (log, fork) = (Log::grown(30, 30), Log::grown(30, 3));
    let witness = place.open();
    witness.add(&log.add(0, 10)).unwrap();
    // All go on from the same size: whoever comes first leaves nothing to the others.
    let cosigned: usize = thread::scope(|scope| {
        let threads: Vec<_> = (11..=30)
            .map(|size| {
                let (witness, request) = (&witness, log.add(10, size));
                scope.spawn(move || usize::from(witness.add(&request).is_ok()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(cosigned, 1);
    let (_, _, size) = witness.logs().next().unwrap();
    assert!(is_inconsistent(&witness.add(&fork.add(size, 30))));
}

#[test]
fn one_directory_is_one_process_s() {
    let place = Place::new();
    let witness = place.open();
    assert!(matches!(place.named(None), Err(WitnessError::InUse(_))));
    drop(witness);
    place.named(None).unwrap();
    assert!(matches!(place.named(Some("other")), Err(WitnessError::OtherName { .. })));
}

#[test]
fn the_key_is_for_its_owner_alone_and_never_made_twice() {
    let place = Place::new();
    let log = Log::grown(5, 5);
    place.open().add(&log.add(0, 5)).unwrap();
    let key = place.dir().join("witness.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(place.dir()).unwrap().permissions().mode() & 0o777, 0o700);
    let text = fs::read_to_string(&key).unwrap();
    fs::write(&key, &text[..40]).unwrap();
    assert!(matches!(place.named(None), Err(WitnessError::Key(_))));
    fs::remove_file(&key).unwrap();
    assert!(matches!(place.named(None), Err(WitnessError::Key(_))), "it has cosigned with one");
    fs::write(&key, text).unwrap();
    place.named(None).unwrap();
}

#[test]
fn a_memory_that_is_not_its_own_stops_the_start() {
    let place = Place::new();
    let log = Log::grown(9, 9);
    let witness = place.open();
    witness.add(&log.add(0, 5)).unwrap();
    let note = fs::read_to_string(place.memory()).unwrap();
    witness.add(&log.add(5, 9)).unwrap();
    let newer = fs::read_to_string(place.memory()).unwrap();
    drop(witness);
    let edited = newer.replacen("\n9\n", "\n5\n", 1);
    let unsigned = newer.rsplit_once("\u{2014}").unwrap().0.to_owned();
    for wrong in [String::new(), newer[..newer.len() / 2].to_owned(), edited, unsigned] {
        fs::write(place.memory(), &wrong).unwrap();
        let error = place.named(None).err().unwrap();
        assert!(matches!(error, WitnessError::Memory { .. }), "{wrong:?}: {error}");
        assert!(error.to_string().contains("Put the file back"), "{error}");
    }
    // An older one that it did sign can't be told from the newest: a witness is not to be restored from a backup.
    fs::write(place.memory(), &note).unwrap();
    place.named(None).unwrap();
    // That of another log under its name.
    let other = NoteSigner::from_seed("other.example/log", &[3; 32]).unwrap().verifier_key();
    let renamed = place.dir().join(format!("{}.checkpoint", id_of("other.example/log")));
    fs::rename(place.memory(), renamed).unwrap();
    let entropy = SeededEntropy::new(7);
    let opened = Witness::open(&place.dir(), None, &[other], place.clock.clone(), &entropy);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("it is of example.org/log"), "{error}");
}

#[test]
fn what_can_not_be_remembered_is_not_cosigned() {
    let place = Place::new();
    let log = Log::grown(9, 9);
    let witness = place.open();
    witness.add(&log.add(0, 5)).unwrap();
    // In the way of the file that is written first.
    let obstacle = place.memory().with_extension("new");
    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(witness.add(&log.add(5, 9)), Err(Declined::Storage(_))));
    assert_eq!(conflict(witness.add(&log.add(9, 9))), 5);
    fs::remove_dir(&obstacle).unwrap();
    witness.add(&log.add(5, 9)).unwrap();
}

#[test]
fn keys_are_told_apart_by_the_log_they_are_of() {
    let other = NoteSigner::from_seed("other.example/log", &[3; 32]).unwrap().verifier_key();
    let first = log_key(1).verifier_key();
    let keys = [first.clone(), other.clone(), format!(" {first} "), log_key(2).verifier_key()];
    let logs = logs_of(&keys).unwrap();
    assert_eq!(logs[ORIGIN], [first, log_key(2).verifier_key()]);
    assert_eq!(logs["other.example/log"], [other]);
    assert!(matches!(logs_of(&["x".into()]), Err(WitnessError::LogKey(_))));
    // A witness is no log.
    let witness = CosignatureSigner::from_seed("w", &[1; 32]).unwrap().verifier().to_string();
    assert!(matches!(logs_of(&[witness]), Err(WitnessError::LogKey(_))));
}

#[tokio::test]
async fn each_refusal_has_the_status_of_the_specification() {
    let place = Place::new();
    let (log, fork) = (Log::grown(20, 20), Log::grown(20, 3));
    let router = routes::router(Arc::new(place.open()));
    let ask = async |method: &str, path: &str, body: Vec<u8>| {
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).map(|kind| kind.to_str().unwrap());
        let kind = kind.unwrap_or_default().to_owned();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, kind, String::from_utf8(body.to_vec()).unwrap())
    };
    let add = async |body: Vec<u8>| ask("POST", "/add-checkpoint", body).await;
    let path = format!("/{}/checkpoint", id_of(ORIGIN));
    assert_eq!(ask("GET", &path, Vec::new()).await.0, StatusCode::NOT_FOUND);

    let (status, _, line) = add(log.add(0, 10)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(line.starts_with("\u{2014} witness.example ") && line.ends_with("=\n"), "{line}");
    let (status, kind, note) = ask("GET", &path, Vec::new()).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/plain; charset=utf-8"));
    assert!(note.ends_with(&line), "{note}");

    let (status, kind, size) = add(log.add(0, 20)).await;
    assert_eq!(
        (status, kind.as_str(), size.as_str()),
        (StatusCode::CONFLICT, "text/x.tlog.size", "10\n")
    );
    assert_eq!(add(fork.add(10, 20)).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(add(b"old 0\n".to_vec()).await.0, StatusCode::BAD_REQUEST);
    let text = String::from_utf8(log.add(10, 20)).unwrap();
    let shrinking = text.replacen("old 10", "old 21", 1);
    assert_eq!(add(shrinking.into_bytes()).await.0, StatusCode::BAD_REQUEST);
    let stranger = text.replacen("example.org/log\n20", "example.com/log\n20", 1);
    assert_eq!(add(stranger.into_bytes()).await.0, StatusCode::NOT_FOUND);
    let forged = text.replacen("\n20\n", "\n19\n", 1);
    assert_eq!(add(forged.into_bytes()).await.0, StatusCode::FORBIDDEN);
    assert_eq!(add(vec![b'x'; 128 * 1024 + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ask("GET", "/add-checkpoint", Vec::new()).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask("GET", "/", Vec::new()).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        ask("GET", "/..%2fwitness.key/checkpoint", Vec::new()).await.0,
        StatusCode::NOT_FOUND
    );
    // And nothing of that has changed anything.
    assert_eq!(add(log.add(10, 20)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_proof_of_a_fork_is_kept_and_shown_to_anybody() {
    let place = Place::new();
    let (log, fork) = (Log::grown(20, 20), Log::grown(20, 3));
    let witness = Arc::new(place.open());
    let router = routes::router(witness.clone());
    let get = async |path: String| {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    };
    let id = id_of(ORIGIN);
    let path = |kind: &str| format!("/{id}/{kind}");
    witness.add(&log.add(0, 10)).unwrap();
    assert_eq!(get(path("fork")).await.0, StatusCode::NOT_FOUND);

    // Of another size, with a proof that does not hold: no proof of a fork, for anybody may send such a proof.
    assert!(is_inconsistent(&witness.add(&fork.add(10, 20))));
    assert_eq!(get(path("fork")).await.0, StatusCode::NOT_FOUND);
    let (status, suspect) = get(path("suspect")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(suspect.contains("\n10\n") && suspect.contains("\n20\n"), "{suspect}");

    // Two roots of one size, whatever size the request goes on from.
    assert_eq!(conflict(witness.add(&fork.add(0, 10))), 10);
    let (status, proof) = get(path("fork")).await;
    assert_eq!(status, StatusCode::OK);
    let (ours, theirs) = proof.split_once("\n\nexample.org").unwrap();
    let keys = [log_key(1).verifier_key()];
    let one = Checkpoint::verify(format!("{ours}\n").as_bytes(), ORIGIN, &keys).unwrap();
    let other = format!("example.org{theirs}");
    let other = Checkpoint::verify(other.as_bytes(), ORIGIN, &keys).unwrap();
    assert_eq!((one.size, other.size), (10, 10));
    assert_ne!(one.root, other.root);

    // It outlives a restart, and what comes later does not replace it.
    let third = Log::grown(20, 5);
    assert!(is_inconsistent(&witness.add(&third.add(10, 10))));
    assert_eq!(get(path("fork")).await.1, proof);
    assert_eq!(fs::read_to_string(place.dir().join(format!("{id}.fork"))).unwrap(), proof);
    let metrics = get("/metrics".to_owned()).await.1;
    for line in [
        "entrybook_witness_checkpoints_total{answer=\"cosigned\"} 1",
        "entrybook_witness_checkpoints_total{answer=\"inconsistent\"} 2",
        "entrybook_witness_checkpoints_total{answer=\"conflict\"} 1",
        "entrybook_witness_cosigned_lines{origin=\"example.org/log\"} 10",
        "entrybook_witness_fork_kept{origin=\"example.org/log\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // A checkpoint that nobody has signed for the log leaves nothing.
    let text = String::from_utf8(fork.add(10, 20)).unwrap().replacen("\n20\n", "\n19\n", 1);
    assert!(witness.add(text.as_bytes()).is_err());
}
