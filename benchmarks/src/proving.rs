//! What the proof of a history, its replay and searches of it cost.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _},
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::{Result, bail};
use commands::history::{self, Written};
use domain::{Identifier, UserId};
use futures_util::TryStreamExt as _;
use projections::{
    audit_history::{self, ActorKind, Filter, Order},
    book_audit::{CONNECTIONS, Given, Progress, audit_book},
    replay::{self, AsOf},
    transparency,
};
use proof::{
    Checkpoint, NoteSigner,
    export::{RUN, Reader, Writer},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    book::{self, Book},
    cluster::Database,
    measure, rebuilding, say,
};

/// Accounts that are replayed: the first, who have done the most.
const PEOPLE: u32 = 50;
/// The lines of a page.
const PAGE: i64 = 50;
/// Pages of each kind.
const PAGES: u32 = 50;

/// One history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Proving {
    pub(crate) events: u64,
    /// All leaves hashed and put into the tree: a rebuild of `transparency`, comparing included, and of it the
    /// reading, hashing and writing alone.
    pub(crate) rebuilt_seconds: f64,
    pub(crate) grown_seconds: f64,
    /// All lines read as they are stored, hashed, and held against the hashes that are kept.
    pub(crate) verified_seconds: f64,
    /// To compare: PostgreSQL hands out the lines on as many connections as there are processors, and nobody
    /// looks at them.
    pub(crate) copied_seconds: f64,
    /// The same as an export that proves itself: written, and verified by one thread.
    pub(crate) exported_seconds: f64,
    pub(crate) file_verified_seconds: f64,
    /// To compare: the file read and hashed as a whole (SHA-256), by one thread.
    pub(crate) file_hashed_seconds: f64,
    /// Medians in microseconds: an account with its sessions at the end of the book, and in its middle …
    pub(crate) replay_at_end: f64,
    pub(crate) replay_in_the_middle: f64,
    /// … the first page of who was signed in then, in the middle …
    pub(crate) signed_in: f64,
    /// … and pages of the history, by what was looked for.
    pub(crate) pages: Vec<(String, f64)>,
}

pub(crate) async fn measure(database: &Database, written: &Written, out: &Path) -> Result<Proving> {
    say(format!("hashing {} events", written.events));
    let tree = rebuilding::measure(database, &["transparency".to_owned()], 1).await?;
    let grown = |(phase, _): &&(String, f64)| phase == "folding" || phase == "copying";
    let grown_seconds = tree.phases.iter().filter(grown).map(|(_, seconds)| seconds).sum();
    database.settle().await?;
    say(format!("verifying {} events", written.events));
    let book = Book::open(database, CONNECTIONS, book::after(written)).await?;
    let given = Given::default();
    let (report, verified_seconds) =
        measure::timed(audit_book(&book.pool, given, Arc::new(Progress::default()))).await?;
    if report.verdict.lines < written.events || report.verdict.wrong > 0 {
        bail!("a sound book was not called sound: {:?}", report.verdict.findings);
    }
    let end = i64::try_from(report.verdict.lines)?;
    let ((), copied_seconds) = measure::timed(copied(&book, end)).await?;
    say(format!("exporting {} events, and verifying that", written.events));
    let file = out.join("export.jsonl");
    let (key, exported_seconds) =
        measure::timed(export(&book, report.verdict.lines, &file)).await?;
    let began = Instant::now();
    verify(&file, key, report.verdict.lines)?;
    let file_verified_seconds = began.elapsed().as_secs_f64();
    let began = Instant::now();
    hash(&file)?;
    let file_hashed_seconds = began.elapsed().as_secs_f64();
    std::fs::remove_file(&file)?;
    say(format!("replaying and searching {} events", written.events));
    let mut people = Vec::new();
    for number in 1..=PEOPLE {
        let name = Identifier::typed(&history::username(number));
        // A short history has fewer.
        people.extend(book.entrybook.find_account(&name).await?);
    }
    let (mut at_end, mut in_the_middle) = (Vec::new(), Vec::new());
    for user in people.iter().copied() {
        for (position, times) in [(end, &mut at_end), (end / 2, &mut in_the_middle)] {
            let began = Instant::now();
            replay::state(&book.source(), user, AsOf::Position(position)).await?;
            times.push(micros(began));
        }
    }
    let mut signed_in = Vec::new();
    let middle = written.began + (written.ended - written.began) / 2;
    for _ in 0..5 {
        let began = Instant::now();
        let page = replay::signed_in(&book.source(), middle, None, 20).await?;
        signed_in.push(micros(began));
        if page.rows.is_empty() {
            bail!("nobody was signed in in the middle of the history");
        }
    }
    let pages = pages(&book, &people).await?;
    book.pool.close().await;
    Ok(Proving {
        events: report.verdict.lines,
        rebuilt_seconds: tree.seconds,
        grown_seconds,
        verified_seconds,
        copied_seconds,
        exported_seconds,
        file_verified_seconds,
        file_hashed_seconds,
        replay_at_end: measure::median(&at_end),
        replay_in_the_middle: measure::median(&in_the_middle),
        signed_in: measure::median(&signed_in),
        pages,
    })
}

/// Has PostgreSQL hand out all lines as verification reads them, a stretch of the book on each connection.
async fn copied(book: &Book, end: i64) -> Result<()> {
    let lanes = std::thread::available_parallelism().map_or(1, |lanes| lanes.get());
    let lanes = i64::try_from(lanes)?.min(i64::from(CONNECTIONS));
    let copies = (0..lanes).map(async |lane| {
        let (after, last) = (end * lane / lanes, end * (lane + 1) / lanes);
        let statement = format!(
            "COPY (SELECT e.tx, e.id, e.aggregate_type, e.aggregate_id, e.sequence, e.event_type, e.event_version,
                          e.payload, e.metadata, e.recorded_at
                     FROM events e, journal first, journal last
                    WHERE first.position = {} AND last.position = {last}
                      AND (e.tx, e.id) >= (first.tx, first.event_id) AND (e.tx, e.id) <= (last.tx, last.event_id)
                    ORDER BY e.tx, e.id) TO STDOUT (FORMAT binary)",
            after + 1
        );
        let mut connection = book.pool.acquire().await?;
        let mut pieces = connection.copy_out_raw(&statement).await?;
        while pieces.try_next().await?.is_some() {}
        anyhow::Ok(())
    });
    futures_util::future::try_join_all(copies).await?;
    Ok(())
}

/// Writes the whole book to a file, signed by a key of its own, which is answered.
async fn export(book: &Book, lines: u64, file: &Path) -> Result<String> {
    let origin = "bench.example.org/log";
    let signer = NoteSigner::from_seed(origin, &[7; 32])?;
    let mut out = BufWriter::new(File::create(file)?);
    let (mut writer, header) = Writer::new(origin, None)?;
    out.write_all(&header)?;
    let mut connection = book.pool.acquire().await?;
    let mut first = 0;
    while first < lines {
        let many = (lines - first).min(RUN as u64);
        let hashes = transparency::leaf_hashes(&mut connection, first, many).await?;
        let leaves = transparency::leaves(&mut connection, first, many).await?;
        out.write_all(&writer.run(&hashes, &leaves)?)?;
        first += many;
    }
    let checkpoint = Checkpoint { origin: origin.to_owned(), size: lines, root: writer.root() };
    let checkpoint = checkpoint.sign(&[&signer])?;
    out.write_all(&writer.end(&signer, &checkpoint, &[])?)?;
    out.flush()?;
    Ok(signer.verifier_key())
}

fn verify(file: &Path, key: String, lines: u64) -> Result<()> {
    let mut reader = Reader::new(vec![key], Vec::new());
    let mut file = BufReader::with_capacity(1 << 20, File::open(file)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        reader.line(&line);
        line.clear();
    }
    let report = reader.end();
    if !report.is_sound() || report.verdict.lines != lines {
        bail!("a sound export was not called sound: {:?}", report.verdict.findings);
    }
    Ok(())
}

fn hash(file: &Path) -> Result<()> {
    let (mut file, mut digest) = (File::open(file)?, Sha256::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => digest.update(piece.get(..read).unwrap_or_default()),
        }
    }
    std::hint::black_box(digest.finalize());
    Ok(())
}

/// Pages of the history: the newest, far back in it, and by what an auditor looks for.
async fn pages(book: &Book, people: &[UserId]) -> Result<Vec<(String, f64)>> {
    let of_type = |name: &str| Filter { event_types: vec![name.to_owned()], ..Filter::default() };
    let head = audit_history::reached(&book.pool).await?;
    let mut pages = Vec::new();
    for (what, filter, cursor) in [
        ("the newest", Filter::default(), None),
        ("in the middle", Filter::default(), Some(head / 2)),
        ("of a kind of event", of_type("SignInFailed"), Some(head / 2)),
        (
            "of an outcome",
            Filter { outcome: Some("wrong_password".to_owned()), ..Filter::default() },
            Some(head / 2),
        ),
        ("of an account", Filter::default(), None),
        (
            "of an account, a kind and a time",
            Filter { from: Some(chrono::DateTime::UNIX_EPOCH), ..of_type("SessionStarted") },
            None,
        ),
        // Frequent both, and nothing is both: it is looked through as much as a page may.
        (
            "of two conditions that never meet",
            Filter { actor_kind: Some(ActorKind::Anonymous), ..of_type("SessionRefreshed") },
            None,
        ),
    ] {
        let mut times = Vec::new();
        for number in 0..PAGES {
            let mut filter = filter.clone();
            if what.starts_with("of an account") {
                let nth = usize::try_from(number)? % people.len().max(1);
                filter.user = people.get(nth).copied();
            }
            let began = Instant::now();
            audit_history::page(&book.pool, &filter, Order::Newest, cursor, PAGE).await?;
            times.push(micros(began));
        }
        pages.push((what.to_owned(), measure::median(&times)));
    }
    Ok(pages)
}

fn micros(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}
