//! `entrybook log witness` as it runs: whatever it is sent, and whenever it is killed, it cosigns one
//! history of a log and no other.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::proof::{
    AddCheckpoint, Checkpoint, CosignatureVerifier, Hash, Missing, Node, Nodes, NoteSigner,
    ProveError, Tree, hash_of,
};
use sha2::Digest;

use crate::support::{
    raw::{Raw, exchange, status},
    scratch,
    server::{Setup, client, eventually, free_port},
};

/// A witness that runs. Dropping it kills it.
pub struct Witness {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

/// The directory of a witness, its port, and its key.
pub struct Place {
    pub dir: PathBuf,
    pub port: u16,
    pub key: CosignatureVerifier,
}

/// The verb, with nothing of this process's own settings.
fn command(arguments: &[&str], beside: &Path) -> Command {
    let mut command = Setup::private(&beside.join("nothing")).command(arguments);
    command.current_dir(beside);
    command
}

impl Place {
    /// Makes the witness: its key is known before it runs.
    pub fn make(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let dir = dir.join("witness");
        let path = dir.to_str().unwrap();
        let arguments =
            ["log", "witness", "--show-key", "--name", "witness.example/w1", "--state", path];
        let printed = command(&arguments, dir.parent().unwrap()).output().unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let key = String::from_utf8(printed.stdout).unwrap();
        Self { key: CosignatureVerifier::new(key.trim()).unwrap(), dir, port: free_port() }
    }

    /// What the server of a log is told.
    pub fn setting(&self) -> String {
        format!("{} http://127.0.0.1:{}", self.key, self.port)
    }

    fn launch(&self, keys: &[String]) -> Witness {
        let listen = format!("127.0.0.1:{}", self.port);
        let path = self.dir.to_str().unwrap();
        let mut arguments = vec!["log", "witness", "--listen", &listen, "--state", path];
        arguments.extend(keys.iter().flat_map(|key| ["--log-key", key]));
        let log = self.dir.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = command(&arguments, self.dir.parent().unwrap())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Witness { child, port: self.port, log }
    }

    /// Starts it, to watch the logs of these keys.
    pub async fn start(&self, keys: &[String]) -> Witness {
        let mut witness = self.launch(keys);
        let http = client();
        let url = witness.url("/healthz");
        eventually("the witness answers", async || {
            let ended = witness.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", witness.said());
            http.get(&url).send().await.ok().filter(|answer| answer.status() == 200)
        })
        .await;
        witness
    }

    /// What it remembers of a log.
    pub fn memory(&self, origin: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(format!("{}.checkpoint", id_of(origin)))).ok()
    }

    pub fn remembered(&self, origin: &str) -> Option<Checkpoint> {
        self.memory(origin).map(|note| Checkpoint::read(&note).unwrap())
    }
}

impl Witness {
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: no goodbye.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn id_of(origin: &str) -> String {
    sha2::Sha256::digest(origin).iter().map(|byte| format!("{byte:02x}")).collect()
}

const ORIGIN: &str = "example.org/log";

fn key(seed: u8) -> NoteSigner {
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

    fn prove(&self, size: u64, old: u64) -> Vec<Hash> {
        let mut nodes = Nodes::default();
        loop {
            match nodes.prove_consistency(size, old) {
                Err(ProveError::Missing(Missing(missing))) => nodes.extend(
                    self.nodes
                        .iter()
                        .filter(|node| missing.contains(&(node.level, node.index)))
                        .copied(),
                ),
                proof => return proof.unwrap(),
            }
        }
    }

    fn note(&self, size: u64, seed: u8) -> Vec<u8> {
        let root = self.roots[size as usize];
        Checkpoint { origin: ORIGIN.into(), size, root }.sign(&[&key(seed)]).unwrap()
    }

    fn add(&self, old: u64, size: u64) -> AddCheckpoint {
        AddCheckpoint { old, proof: self.prove(size, old), checkpoint: self.note(size, 1) }
    }
}

/// The status, the content type and the body.
async fn send(witness: &Witness, body: Vec<u8>) -> (u16, String, String) {
    let sent = client().post(witness.url("/add-checkpoint")).body(body).send().await.unwrap();
    let kind = sent.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    (sent.status().as_u16(), kind.unwrap_or_default(), sent.text().await.unwrap())
}

async fn add(witness: &Witness, request: &AddCheckpoint) -> (u16, String, String) {
    send(witness, request.to_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_cosigns_one_history_whatever_it_is_sent() {
    let scratch = scratch();
    let place = Place::make(scratch.path());
    let keys = [key(1).verifier_key()];
    let witness = place.start(&keys).await;
    let (log, fork) = (Log::grown(600, 600), Log::grown(600, 100));
    let said = witness.said();
    assert!(said.contains(&place.key.to_string()) && said.contains(ORIGIN), "{said}");

    // The first one, and the next: cosigned, and what was answered verifies under the checkpoint.
    for (old, size) in [(0, 300), (300, 300), (300, 301), (301, 500)] {
        let request = log.add(old, size);
        let (status, _, line) = add(&witness, &request).await;
        assert_eq!(status, 200, "{old} to {size}: {line}");
        let cosigned = [&request.checkpoint[..], line.as_bytes()].concat();
        assert_eq!(place.key.find(&cosigned).unwrap().line, line);
    }

    // Rollback, in each way of putting it.
    let conflict = (409, "text/x.tlog.size".to_owned(), "500\n".to_owned());
    assert_eq!(add(&witness, &log.add(0, 300)).await, conflict);
    assert_eq!(add(&witness, &log.add(300, 400)).await, conflict);
    assert_eq!(add(&witness, &log.add(0, 600)).await, conflict, "from none on there is no proof");
    let back = AddCheckpoint { old: 500, proof: Vec::new(), checkpoint: log.note(300, 1) };
    assert_eq!(add(&witness, &back).await.0, 400);

    // A fork, with a proof of its own, with that of the true log, and with none.
    assert_eq!(add(&witness, &fork.add(500, 600)).await.0, 422);
    assert_eq!(add(&witness, &fork.add(500, 500)).await.0, 422);
    for proof in [log.prove(600, 500), Vec::new()] {
        let request = AddCheckpoint { proof, ..fork.add(500, 600) };
        assert_eq!(add(&witness, &request).await.0, 422);
    }
    // A wrong proof of the true one: a bit, a hash more, a hash less, another order.
    let good = log.add(500, 600);
    for change in 0..4 {
        let mut wrong = good.clone();
        match change {
            0 => wrong.proof[0].0[7] ^= 1,
            1 => wrong.proof.push(Hash::default()),
            2 => drop(wrong.proof.pop()),
            _ => wrong.proof.reverse(),
        }
        let answer = add(&witness, &wrong).await;
        assert_eq!(answer.0, 422, "change {change}: {answer:?}");
    }

    // Who signed it.
    let text = String::from_utf8(good.to_bytes()).unwrap();
    let stranger = text.replacen("example.org/log\n600", "example.com/log\n600", 1);
    assert_eq!(send(&witness, stranger.into_bytes()).await.0, 404);
    let unsigned = AddCheckpoint { checkpoint: log.note(600, 2), ..good.clone() };
    assert_eq!(add(&witness, &unsigned).await.0, 403);
    let forged = AddCheckpoint { checkpoint: fork.note(600, 1), ..good.clone() };
    let forged = String::from_utf8(forged.to_bytes()).unwrap();
    let root = fork.roots[600].to_string();
    let forged = forged.replacen(&root, &log.roots[600].to_string(), 1);
    assert_eq!(send(&witness, forged.into_bytes()).await.0, 403);

    // Garbage.
    let many = format!("{}\n", Hash::default()).repeat(64);
    let (head, note) = text.split_once("\n\n").unwrap();
    for garbage in [
        Vec::new(),
        b"\n\n\n\n".to_vec(),
        vec![0; 5_000],
        head.as_bytes().to_vec(),
        format!("old 500\n{many}\n{note}").into_bytes(),
        format!("old 0500\n\n{note}").into_bytes(),
        format!("{head}\n\n{}", note.trim_end()).into_bytes(),
        format!("{head}\n\n{note}x").into_bytes(),
        [text.as_bytes(), b"\xff"].concat(),
    ] {
        let answer = send(&witness, garbage.clone()).await;
        assert_eq!(answer.0, 400, "{:?}: {answer:?}", String::from_utf8_lossy(&garbage));
    }
    let get = async |path: &str| client().get(witness.url(path)).send().await.unwrap();
    assert_eq!(get("/add-checkpoint").await.status(), 405);
    assert_eq!(get("/..%2fwitness.key").await.status(), 404);
    assert_eq!(get(&format!("/{}/checkpoint", id_of("other"))).await.status(), 404);

    // All of that has changed nothing: what it shows is what it cosigned last, and the log goes on.
    let shown = get(&format!("/{}/checkpoint", id_of(ORIGIN))).await;
    assert_eq!(shown.status(), 200);
    let shown = shown.bytes().await.unwrap();
    assert_eq!(Checkpoint::verify(&shown, ORIGIN, &keys).unwrap().size, 500);
    place.key.find(&shown).unwrap();
    assert_eq!(add(&witness, &good).await.0, 200);
    assert_eq!(place.remembered(ORIGIN).unwrap().size, 600);
    // What it says of the fork, it says once.
    assert_eq!(witness.said().matches("different histories").count(), 1, "{}", witness.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_slow_requests_are_cut_off_and_nobody_waits_for_them() {
    let scratch = scratch();
    let place = Place::make(scratch.path());
    let witness = place.start(&[key(1).verifier_key()]).await;
    let (log, port) = (Log::grown(50, 50), witness.port);
    const HEAD: &str = "POST /add-checkpoint HTTP/1.1\r\nHost: localhost\r\n";

    let large = "x".repeat(129 * 1024);
    let request =
        format!("{HEAD}Content-Length: {}\r\nConnection: close\r\n\r\n{large}", large.len());
    assert_eq!(status(&exchange(port, request).await), 413);
    let pause = Duration::from_millis(200);
    let bodies: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn(async move {
                let mut raw = Raw::connect(port).await;
                raw.write(format!("{HEAD}Content-Length: 1000\r\n\r\n")).await;
                raw.trickle("o".repeat(1000), pause).await
            })
        })
        .collect();
    let heads: Vec<_> = (0..20)
        .map(|_| {
            let head = HEAD.repeat(20);
            tokio::spawn(async move { Raw::connect(port).await.trickle(head, pause).await })
        })
        .collect();
    for size in 1..50 {
        assert_eq!(add(&witness, &log.add(size - 1, size)).await.0, 200);
    }
    for body in bodies {
        let answer = body.await.unwrap();
        assert_eq!(status(&answer), 408, "{answer}");
    }
    for head in heads {
        let answer = head.await.unwrap();
        assert!(matches!(status(&answer), 0 | 408), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_it_is_killed_a_witness_knows_what_it_has_cosigned() {
    let scratch = scratch();
    let place = Place::make(scratch.path());
    let keys = [key(1).verifier_key()];
    let (log, fork) = (Arc::new(Log::grown(3_000, 3_000)), Log::grown(3_000, 0));
    let mut last = 0;
    for round in 0..12 {
        let witness = place.start(&keys).await;
        // What was answered is remembered: a fork of it is refused, whatever the size it goes on from.
        let size = place.remembered(ORIGIN).map_or(0, |checkpoint| checkpoint.size);
        assert!(size >= last, "round {round}: {last} lines were cosigned, {size} are remembered");
        if size > 0 {
            assert_eq!(add(&witness, &fork.add(size, size)).await.0, 422);
            assert_eq!(add(&witness, &fork.add(0, size)).await.0, 409);
        }
        let (answered, stop) = (Arc::new(AtomicU64::new(size)), Arc::new(AtomicBool::new(false)));
        let load = {
            let (log, answered, stop) = (log.clone(), answered.clone(), stop.clone());
            let url = witness.url("/add-checkpoint");
            tokio::spawn(async move {
                let http = client();
                let mut old = size;
                while !stop.load(Ordering::Relaxed) && old + 1 < 3_000 {
                    let body = log.add(old, old + 1).to_bytes();
                    match http.post(&url).body(body).send().await {
                        Ok(answer) if answer.status() == 200 => {
                            old += 1;
                            answered.store(old, Ordering::Relaxed);
                        }
                        Ok(other) => panic!("{other:?}"),
                        // It was killed.
                        Err(_) => break,
                    }
                }
            })
        };
        let goal = size + 5 + round * 3;
        eventually("some checkpoints are cosigned", async || {
            (answered.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
        witness.kill();
        stop.store(true, Ordering::Relaxed);
        load.await.unwrap();
        last = answered.load(Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_that_can_not_be_one_says_what_to_do() {
    let scratch = scratch();
    let place = Place::make(scratch.path());
    let keys = [key(1).verifier_key()];
    let ends = |place: &Place, arguments: &[&str]| {
        let path = place.dir.to_str().unwrap();
        let mut all = vec!["log", "witness", "--listen", "127.0.0.1:0", "--state", path];
        all.extend(arguments);
        let output = command(&all, scratch.path()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let log_key = ["--log-key", &keys[0]];
    let running = place.start(&keys).await;
    let said = ends(&place, &log_key);
    assert!(said.contains("another witness runs on"), "{said}");
    running.kill();

    assert!(ends(&place, &[]).contains("--log-key"), "it must have something to watch");
    let said = ends(&place, &["--log-key", "nothing"]);
    assert!(said.contains("entrybook log key"), "{said}");
    let own = place.key.to_string();
    assert!(ends(&place, &["--log-key", &own]).contains("no verifier key of a log"));
    let said = ends(&place, &[&log_key[..], &["--name", "other"]].concat());
    assert!(said.contains("is called witness.example/w1"), "{said}");

    let witness = place.start(&keys).await;
    let log = Log::grown(7, 7);
    assert_eq!(add(&witness, &log.add(0, 7)).await.0, 200);
    witness.kill();
    let memory = place.dir.join(format!("{}.checkpoint", id_of(ORIGIN)));
    let note = std::fs::read(&memory).unwrap();
    std::fs::write(&memory, &note[..note.len() - 10]).unwrap();
    let said = ends(&place, &log_key);
    assert!(said.contains("Put the file back from your backup"), "{said}");
    std::fs::write(&memory, &note).unwrap();
    std::fs::remove_file(place.dir.join("witness.key")).unwrap();
    let said = ends(&place, &log_key);
    assert!(said.contains("holds no key of a witness"), "{said}");
}
