//! One pass over the book that fills the tables of any number of projections.
//!
//! Lines are read and decoded in a task of their own, a few pages ahead. Rows are kept in memory and
//! written once each with COPY; when a projection holds too many, they are written and forgotten.
//! Rows and checkpoint commit together, so a build that was broken off goes on from there, and what
//! it needs of memory does not grow with the book.

use std::time::{Duration, Instant};

use domain::stream;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    book_source::BookSource,
    builds::{Phase, Watch},
    journal::{self, JournalError, RecordedEvent},
    projection::{Entry, Folding, Generation, Projection, Start},
    rebuild::RebuildError,
    tables,
};

/// So many lines are read with one statement, and no more than rows are kept in memory …
const PAGE: i64 = 2_000;
/// … and so many pages wait to be decoded, and to be folded.
const PAGES_AHEAD: usize = 1;
/// What a crash costs at most, where the rows are few and the lines many.
const WRITE_EVERY: Duration = Duration::from_secs(30);
/// So many rows are written in one transaction.
const ROWS_AT_ONCE: usize = 5_000;
/// So many lines are decoded or folded before others may have the thread.
const AT_ONCE: usize = 250;

/// One projection's share of a pass.
pub(crate) struct Part {
    pub(crate) projection: &'static dyn Projection,
    pub(crate) generation: Generation,
    folding: Box<dyn Folding>,
    /// The last line whose row is written …
    pub(crate) checkpoint: i64,
    /// … and when that was.
    written: Instant,
    /// The last line folded.
    pub(crate) position: i64,
}

impl Part {
    /// Goes on after the line up to which its tables are written. Where these hold rows, some may be
    /// ahead of it: a flush may have been broken off.
    pub(crate) async fn open(
        conn: &mut PgConnection,
        projection: &'static dyn Projection,
        generation: Generation,
        checkpoint: i64,
    ) -> Result<Self, sqlx::Error> {
        let empty = checkpoint == 0 && tables::are_empty(conn, projection, generation).await?;
        let start = if empty { Start::Exact } else { Start::Careful };
        let folding = projection.folding(generation, start);
        let written = Instant::now();
        Ok(Self { projection, generation, folding, checkpoint, written, position: checkpoint })
    }

    /// Writes what is folded, in transactions of bounded size: each holds back the order of the book
    /// while it lasts. The last moves the checkpoint.
    pub(crate) async fn flush(&mut self, conn: &mut PgConnection) -> Result<(), RebuildError> {
        if self.checkpoint == self.position {
            return Ok(());
        }
        loop {
            let mut transaction = conn.begin().await?;
            // After a crash of the database the last of these may be gone, and the checkpoint with them.
            sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *transaction).await?;
            let more = self.folding.write(&mut transaction, ROWS_AT_ONCE).await?;
            if !more {
                self.move_checkpoint(&mut transaction).await?;
            }
            transaction.commit().await?;
            if !more {
                break;
            }
        }
        self.checkpoint = self.position;
        self.written = Instant::now();
        Ok(())
    }

    async fn move_checkpoint(&self, conn: &mut PgConnection) -> Result<(), RebuildError> {
        let moved = sqlx::query(match self.generation {
            Generation::New => {
                "UPDATE builds SET position = $3
                  WHERE name = $1 AND version = $2 AND position = $4 AND state = 'running'"
            }
            Generation::Live => {
                "UPDATE projections
                    SET position = $3, state = 'building', detail = NULL, stopped = NULL,
                        updated_at = clock_timestamp()
                  WHERE name = $1 AND version = $2 AND position = $4 AND NOT built"
            }
        })
        .bind(self.projection.name())
        .bind(self.projection.version())
        .bind(self.position)
        .bind(self.checkpoint)
        .execute(conn)
        .await?;
        if moved.rows_affected() != 1 {
            return Err(RebuildError::Displaced(self.projection.name()));
        }
        Ok(())
    }

    async fn absorb(
        &mut self,
        conn: &mut PgConnection,
        entries: &[Entry],
    ) -> Result<(), RebuildError> {
        let seen = entries.partition_point(|entry| entry.recorded.position <= self.position);
        let entries = entries.get(seen..).unwrap_or_default();
        if let Some(last) = entries.last() {
            self.folding.absorb(conn, entries).await?;
            self.position = last.recorded.position;
        }
        Ok(())
    }
}

/// Folds the lines up to `target` into all parts, and writes them.
pub(crate) async fn fold_until(
    conn: &mut PgConnection,
    pool: &BookSource,
    parts: &mut [Part],
    target: i64,
    phase: Phase,
    watch: &mut Watch<'_>,
) -> Result<(), RebuildError> {
    let Some(start) = parts.iter().map(|part| part.position).min().filter(|at| *at < target) else {
        return Ok(());
    };
    watch.enter(phase);
    let page = PAGE.min(i64::try_from(watch.rows_in_memory).unwrap_or(PAGE)).max(1);
    let (_reading, mut pages) = read_ahead(pool.clone(), parts, page, start, target);
    let mut position = start;
    while let Some(entries) = pages.recv().await {
        let entries = entries?;
        for part in &mut *parts {
            part.absorb(conn, &entries).await?;
            tokio::task::yield_now().await;
            if part.folding.kept() >= watch.rows_in_memory || part.written.elapsed() > WRITE_EVERY {
                let began = Instant::now();
                part.flush(conn).await?;
                watch.copied(began.elapsed());
            }
        }
        position = entries.last().map_or(position, |last| last.recorded.position);
        watch.folded(position, target).await?;
    }
    // The lines are there, so an end before them is no end.
    if position != target {
        return Err(JournalError::Gap { expected: position + 1, found: target }.into());
    }
    watch.enter(Phase::Copying);
    for part in &mut *parts {
        watch.during(part.flush(conn)).await?;
    }
    Ok(())
}

/// Lines that were read and decoded, or why they were not.
type Page = Result<Vec<Entry>, JournalError>;

/// Reads and decodes the lines after `start` up to `target`, each in a task of its own. The pages end
/// there, or with an error.
fn read_ahead(
    pool: BookSource,
    parts: &[Part],
    page: i64,
    start: i64,
    target: i64,
) -> ([AbortOnDropHandle<()>; 2], mpsc::Receiver<Page>) {
    let projections: Vec<_> = parts.iter().map(|part| part.projection).collect();
    let concerned = |aggregate_type: &str| {
        projections.iter().any(|projection| projection.concerns(aggregate_type))
    };
    let passed_by: Vec<&str> = [stream::USER, stream::SESSION, stream::SIGN_IN_GUARD]
        .into_iter()
        .filter(|aggregate_type| !concerned(aggregate_type))
        .collect();
    let decoding: Vec<_> = projections.into_iter().filter(|one| one.decodes()).collect();
    let (read, mut undecoded) = mpsc::channel::<Result<Vec<RecordedEvent>, _>>(PAGES_AHEAD);
    let authenticator = pool.authenticator().clone();
    let reading = tokio::spawn(async move {
        let mut conn = match pool.acquire().await {
            Ok(conn) => conn,
            Err(cause) => return drop(read.send(Err(cause.into())).await),
        };
        let mut position = start;
        while position < target {
            let limit = page.min(target - position);
            let lines = journal::read_page(&mut conn, position, limit, &passed_by).await;
            let last = lines.as_ref().ok().and_then(|lines| lines.last()).map(|line| line.position);
            if read.send(lines).await.is_err() {
                return;
            }
            match last {
                Some(last) => position = last,
                None => return,
            }
        }
    });
    let (decoded, pages) = mpsc::channel(PAGES_AHEAD);
    let decoding = tokio::spawn(async move {
        while let Some(lines) = undecoded.recv().await {
            let entry = |line| Entry::new(line, &authenticator);
            let page: Page = lines.map(|lines| lines.into_iter().map(entry).collect());
            for entries in page.iter().flat_map(|entries| entries.chunks(AT_ONCE)) {
                for entry in entries {
                    if decoding.iter().any(|one| one.concerns(&entry.recorded.aggregate_type)) {
                        // An error waits for who asks.
                        let _ = entry.line();
                    }
                }
                // Requests are served by the same threads.
                tokio::task::yield_now().await;
            }
            if decoded.send(page).await.is_err() {
                return;
            }
        }
    });
    ([reading, decoding].map(AbortOnDropHandle::new), pages)
}
