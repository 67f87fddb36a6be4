//! How far the order of the book and the read tables are behind, while appends come at a steady rate.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    appending::{Appender, Sample},
    book::Book,
    cluster::Database,
    measure, rebuilding,
};

const PER_SECOND: u32 = 1_000;
const WRITERS: u32 = 8;
/// How often the checkpoints are looked at: no lag is measured more exactly than this.
const LOOK: Duration = Duration::from_millis(2);
/// A rebuild of a long history takes longer than there is more to learn, and what was seen is kept in
/// memory until it is made up.
const LONGEST: Duration = Duration::from_secs(120);
/// In which everything must have come to the last append.
const PATIENCE: Duration = Duration::from_secs(60);

/// Times in milliseconds, from an append's return to when something covers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lag {
    pub(crate) of: String,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// How long appends go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum While {
    Seconds(u64),
    /// All projections are rebuilt, by a process beside this one; two minutes at most.
    Rebuilding,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Lags {
    /// The book, and what else was done.
    pub(crate) on: String,
    /// What the rebuild took that was going on, all of it.
    pub(crate) rebuild_seconds: Option<f64>,
    pub(crate) appends: u64,
    /// What was reached of the rate that was asked for.
    pub(crate) per_second: f64,
    pub(crate) append_p50: f64,
    pub(crate) append_p99: f64,
    pub(crate) lags: Vec<Lag>,
}

/// When something was seen to have come to a position.
type Seen = Vec<(i64, Instant)>;
type AllSeen = Arc<Mutex<HashMap<String, Seen>>>;

/// The whole service at work in this process, as in a server: appends, sequencer, projections.
pub(crate) async fn measure(database: &Database, on: &str, goes_on: While) -> Result<Lags> {
    let now = chrono::DateTime::from_timestamp(1_780_000_000, 0).unwrap_or_default();
    let book = Book::open(database, 16, now).await?;
    book.sequencer.drain().await?;
    book.projector.catch_up().await?;
    database.settle().await?;
    let cancel = CancellationToken::new();
    let mut background = JoinSet::new();
    let appended = book.entrybook.appended();
    background.spawn({
        let (sequencer, wake, cancel) = (book.sequencer.clone(), appended.clone(), cancel.clone());
        async move { sequencer.run(wake, cancel).await }
    });
    background.spawn({
        let (projector, cancel) = (book.projector.clone(), cancel.clone());
        async move { projector.run(cancel).await }
    });
    let seen = AllSeen::default();
    background.spawn(watch_head(&book, seen.clone(), cancel.clone()));
    background.spawn(watch_checkpoints(database.clone(), seen.clone(), cancel.clone()));

    let sample = Arc::new(Sample::of(database).await?);
    let appender = Appender::new(&book.pool, sample);
    let began = Instant::now() + Duration::from_millis(500);
    let stop = CancellationToken::new();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (appender, wake, stop) = (appender.clone(), appended.clone(), stop.clone());
        writers.spawn(async move {
            let mut done = Vec::new();
            for number in 0.. {
                // Each at its time, whether or not the one before was slow.
                let due = began + Duration::from_secs(1) * (number * WRITERS + writer) / PER_SECOND;
                tokio::time::sleep_until(due.into()).await;
                if stop.is_cancelled() {
                    break;
                }
                let started = Instant::now();
                let receipt = appender.append().await?;
                let returned = Instant::now();
                wake.notify_one();
                done.push((receipt.event_id, started, returned));
            }
            Ok::<_, anyhow::Error>(done)
        });
    }
    let measuring = async {
        let mut appends = Vec::new();
        while let Some(done) = writers.join_next().await {
            appends.extend(done??);
        }
        let took = began.elapsed().as_secs_f64();
        let ids: Vec<i64> = appends.iter().map(|(id, ..)| *id).collect();
        let positions = positions(&book.pool, &ids).await?;
        let last = positions.values().copied().max().unwrap_or_default();
        covered(&seen, last).await?;
        cancel.cancel();
        background.join_all().await;
        Ok::<_, anyhow::Error>((appends, positions, took))
    };
    let ((appends, positions, took), rebuild_seconds) =
        tokio::try_join!(measuring, go_on(database, goes_on, began, &stop))?;

    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    let mut names: Vec<&String> = seen.keys().collect();
    names.sort();
    let mut lags = Vec::new();
    for name in names {
        let Some(seen) = seen.get(name) else { continue };
        let mut times = Vec::with_capacity(appends.len());
        for (id, _, returned) in &appends {
            let position = positions.get(id).copied().unwrap_or(i64::MAX);
            let covered = seen.partition_point(|(reached, _)| *reached < position);
            let Some((_, at)) = seen.get(covered) else {
                bail!("{name} never came to position {position}");
            };
            times.push(measure::millis(at.saturating_duration_since(*returned)));
        }
        lags.push(Lag {
            of: name.clone(),
            p50: measure::median(&times),
            p99: measure::quantile(&times, 0.99),
            most: measure::quantile(&times, 1.0),
        });
    }
    let took_each: Vec<f64> = appends
        .iter()
        .map(|(_, started, returned)| measure::millis(*returned - *started))
        .collect();
    book.pool.close().await;
    Ok(Lags {
        on: on.to_owned(),
        rebuild_seconds,
        appends: appends.len() as u64,
        per_second: appends.len() as f64 / took,
        append_p50: measure::median(&took_each),
        append_p99: measure::quantile(&took_each, 0.99),
        lags,
    })
}

/// Says when appends are to stop. Tells how long the rebuild took, if there was one.
async fn go_on(
    database: &Database,
    goes_on: While,
    began: Instant,
    stop: &CancellationToken,
) -> Result<Option<f64>> {
    tokio::time::sleep_until(began.into()).await;
    match goes_on {
        While::Seconds(seconds) => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            stop.cancel();
            Ok(None)
        }
        While::Rebuilding => {
            let rebuild = rebuilding::run(database, &[]);
            tokio::pin!(rebuild);
            let in_time = tokio::time::timeout(LONGEST, &mut rebuild).await;
            stop.cancel();
            let (told, _) = match in_time {
                Ok(rebuilt) => rebuilt?,
                Err(_) => rebuild.await?,
            };
            Ok(Some(told.seconds))
        }
    }
}

/// Where in the journal these events are, as soon as they all are there: another transaction may hold
/// the horizon back.
async fn positions(pool: &PgPool, ids: &[i64]) -> Result<HashMap<i64, i64>> {
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let positions: HashMap<i64, i64> = sqlx::query_as::<_, (i64, i64)>(
            "SELECT event_id, position FROM journal
              WHERE event_id = ANY($1) AND position > (SELECT position FROM sequencer) - $2",
        )
        .bind(ids)
        .bind(2 * ids.len() as i64)
        .fetch_all(pool)
        .await?
        .into_iter()
        .collect();
        if positions.len() == ids.len() {
            return Ok(positions);
        }
        if began.elapsed() > PATIENCE {
            bail!("not every append is in the journal a minute after the last one");
        }
    }
}

/// Waits until everything was seen to have come to a position.
async fn covered(seen: &Mutex<HashMap<String, Seen>>, position: i64) -> Result<()> {
    let began = Instant::now();
    loop {
        let behind = {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let come = |name: &str| seen.get(name).and_then(|seen| seen.last());
            let mut names = vec!["journal"];
            names.extend(projections::all().iter().map(|one| one.name()));
            names.into_iter().find(|name| come(name).is_none_or(|(reached, _)| *reached < position))
        };
        let Some(behind) = behind else { return Ok(()) };
        if began.elapsed() > PATIENCE {
            bail!("{behind} has not come to position {position} a minute after the last append");
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn note(seen: &Mutex<HashMap<String, Seen>>, name: &str, position: i64) {
    let now = Instant::now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.entry(name.to_owned()).or_default();
    if seen.last().is_none_or(|(reached, _)| *reached < position) {
        seen.push((position, now));
    }
}

fn watch_head(
    book: &Book,
    seen: AllSeen,
    cancel: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let mut head = book.sequencer.head();
    async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = head.changed() => if changed.is_err() { return },
            }
            let position = head.borrow_and_update().position;
            note(&seen, "journal", position);
        }
    }
}

/// What the database says, and not what this process believes.
async fn watch_checkpoints(database: Database, seen: AllSeen, cancel: CancellationToken) {
    let Ok(mut owner) = database.owner().await else { return };
    while !cancel.is_cancelled() {
        let rows: Result<Vec<(String, i64)>, _> =
            sqlx::query_as("SELECT name, position FROM projections").fetch_all(&mut owner).await;
        for (name, position) in rows.unwrap_or_default() {
            if projections::named(&name).is_some() {
                note(&seen, &name, position);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
