//! The book of a database.

use super::super::super::{audit, exit::Interrupted, require_database};
use super::report::{Answer, ROTATED, Report, followed, lines_of, sort};
use crate::bootstrap::{Database, master_key_of, previous_master_key_of};
use crate::config::Config;
use crate::log::Refusal;
use chrono::TimeDelta;
use commands::StorageError;
use commands::keyring::{Keyring, KeyringError, MasterKeys};
use indicatif::HumanCount;
use projections::book_audit::{AuditError, BookReport, CONNECTIONS, Given, Progress, audit_book};
use projections::destroyed_keys::key_faults;
use projections::{BookSource, journal, not_authentic};
use proof::{EventAuthenticator, Finding};
use sqlx::PgPool;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(200);
/// A server signs within seconds. What is not signed for longer is told.
const SIGNED_WITHIN: TimeDelta = TimeDelta::minutes(10);

pub(super) async fn verify(
    config: &Config,
    keys: Vec<String>,
    notes: Vec<Vec<u8>>,
) -> anyhow::Result<Report> {
    require_database(config)?;
    let database = Database::open_or_join(config).await?;
    let verified = async {
        // Nothing is brought up to date: it is looked at as it is.
        let options = database.url().options().clone();
        let pool = commands::database::connect(options, CONNECTIONS).await;
        let pool = pool.map_err(|error| match error {
            StorageError::Unavailable(cause) => {
                anyhow::Error::from(database.unavailable(cause.to_string()))
            }
            other => other.into(),
        })?;
        let verified = tokio::select! {
            verified = with_authenticity(config, &pool, Given { keys, notes, authenticator: None }) => verified,
            _ = tokio::signal::ctrl_c() => Err(Interrupted.into()),
        };
        pool.close().await;
        verified
    }
    .await;
    let closed = database.close().await;
    let report = verified?;
    closed?;
    Ok(report)
}

/// Verifies, and holds each event against its code where the master key is at hand.
async fn with_authenticity(
    config: &Config,
    pool: &PgPool,
    mut given: Given,
) -> anyhow::Result<Report> {
    // Who verifies may do without the master key: it says so, and the rest holds.
    let authenticator = authenticator(config, pool).await?;
    given.authenticator = authenticator.as_ref().ok().cloned();
    let mut report = audited(pool, given).await?;
    let authenticator = match authenticator {
        Ok(authenticator) => authenticator,
        Err(why) => {
            let says = format!("Whether the service wrote each event was not checked: {why}.");
            report.remarks.push(says);
            return Ok(report);
        }
    };
    let head = journal::head(pool).await?.position;
    let source = BookSource::new(pool.clone(), authenticator);
    let found = not_authentic::search(&source, head).await?;
    for one in &found.first {
        let says = format!(
            "event {} of {} at line {} was not written by the service, and has no effect: it claims to be {}",
            one.sequence, one.stream, one.position, one.event_type
        );
        report.integrity.wrong("not_authentic", says);
    }
    report.integrity.and_more(found.count.saturating_sub(found.first.len() as u64));
    Ok(report)
}

/// By which it is known what the service wrote; or why it can't be. Nothing is written: who verifies may have a login that
/// only reads.
async fn authenticator(
    config: &Config,
    pool: &PgPool,
) -> anyhow::Result<Result<EventAuthenticator, String>> {
    let keys =
        master_key_of(config).and_then(|master| Ok((master, previous_master_key_of(config)?)));
    let Ok((Some(master), previous)) = keys else {
        let why = "that needs the master key of this database (ENTRYBOOK_MASTER_KEY_FILE)";
        return Ok(Err(why.to_owned()));
    };
    match Keyring::read_authenticator(pool, MasterKeys::new(master, previous)).await {
        Ok(Some(authenticator)) => Ok(Ok(authenticator)),
        Ok(None) => Ok(Err(
            "nothing is signed yet of where codes begin; the next start of a server signs it"
                .to_owned(),
        )),
        Err(KeyringError::Database(error)) if commands::is_temporary(&error) => Err(error.into()),
        Err(error) => Ok(Err(error.to_string())),
    }
}

async fn audited(pool: &PgPool, given: Given) -> anyhow::Result<Report> {
    let (begun, has_notes) = (Instant::now(), !given.notes.is_empty());
    let audited = watched(pool, given).await?;
    let followed = followed(&audited.followed);
    let mut report = report(audited, has_notes, begun.elapsed());
    if let Some(refusal) = Refusal::of_any(pool).await? {
        let says = format!(
            "the log {} has signed nothing since {}: {}",
            refusal.origin,
            refusal.since.format("%Y-%m-%d %H:%M:%S UTC"),
            refusal.text
        );
        report.completeness.wrong("log_stopped", says);
    }
    let faults = key_faults(pool).await?;
    for fault in &faults.first {
        let (kind, says) = super::super::super::key_faults::told(fault);
        report.integrity.wrong(kind, says);
    }
    report.integrity.and_more(faults.in_all.saturating_sub(faults.first.len() as u64));
    report.remarks.extend(followed);
    Ok(report)
}

async fn watched(pool: &PgPool, given: Given) -> anyhow::Result<BookReport> {
    let progress = Arc::new(Progress::default());
    let bar = audit::bar(0, audit::LINES);
    let telling = async {
        loop {
            tokio::time::sleep(TICK).await;
            bar.set_length(progress.total.load(Ordering::Relaxed));
            bar.set_position(progress.lines.load(Ordering::Relaxed));
        }
    };
    let audited = tokio::select! {
        audited = audit_book(pool, given, progress.clone()) => audited,
        () = telling => return Err(anyhow::anyhow!("it was watched to no end")),
    };
    bar.finish_and_clear();
    let audited = match audited {
        Err(AuditError::Database(error)) if is_of_an_older_version(&error) => {
            return Err(missing_table(pool, error).await);
        }
        other => other?,
    };
    Ok(audited)
}

/// Says what a table that is not there means: a book from before there was a log, or one that somebody has taken a table
/// from.
async fn missing_table(pool: &PgPool, error: sqlx::Error) -> anyhow::Error {
    let pending = commands::database::pending_migrations(pool).await;
    let begun = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT FROM projections WHERE name = 'transparency' AND position > 0)",
    )
    .fetch_one(pool)
    .await;
    if pending.is_ok_and(|pending| pending.is_empty()) && begun.unwrap_or(false) {
        return anyhow::Error::from(error).context(
            "A table of the transparency log is gone that this database had: somebody has dropped it. What was signed is kept, and the \
             table can be made again from the book. Run: entrybook projections rebuild transparency --repair; then this again",
        );
    }
    anyhow::Error::from(error)
        .context("This database has no transparency log yet. Run: entrybook migrate")
}

/// A table is not there.
fn is_of_an_older_version(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42P01")
}

fn report(audited: BookReport, has_notes: bool, took: Duration) -> Report {
    let is_proved = audited.is_proved();
    let lines = audited.verdict.lines + audited.not_hashed;
    let (mut integrity, mut completeness) = (Answer::sound(), Answer::sound());
    let verdict = &audited.verdict;
    sort(&verdict.findings, verdict.wrong, &mut integrity, &mut completeness, Finding::to_string);
    for refused in &audited.refused {
        let size = refused.size.map_or_else(
            || "a checkpoint that was given".to_owned(),
            |size| format!("the checkpoint of {}", lines_of(size)),
        );
        let says = format!(
            "{size} of the log {} is not believed: {}. {ROTATED}",
            refused.origin, refused.cause
        );
        integrity.wrong("checkpoint_not_believed", says);
    }
    integrity.and_more(audited.refused_in_all.saturating_sub(audited.refused.len() as u64));
    for event in &audited.unlisted {
        let says = format!(
            "event {} of {} ({}) is in no line of the book: it was written past the order of the book",
            event.sequence, event.stream, event.event_type
        );
        integrity.wrong("unlisted", says);
    }
    integrity.and_more(audited.unlisted_in_all.saturating_sub(audited.unlisted.len() as u64));
    if audited.misplaced > 0 {
        let (many, stand) =
            (lines_of(audited.misplaced), if audited.misplaced == 1 { "stands" } else { "stand" });
        let says =
            format!("{many} {stand} before the first line, or behind the last that was given out");
        integrity.wrong("misplaced", says);
    }
    let kept = audited.kept;
    if kept.missing + kept.wrong > 0 {
        integrity.wrong(
            "kept_hashes",
            format!(
                "the lines have the roots that were signed, yet of the hashes that are kept of them {} are missing and {} are others: the \
                 table transparency was changed. The book is right; mend it: entrybook projections rebuild transparency --repair",
                HumanCount(kept.missing),
                HumanCount(kept.wrong)
            ),
        );
    }
    if !is_proved {
        completeness.wrong(
            "not_signed",
            "no checkpoint says anything of it: nothing was signed yet, or what was signed is gone, or none of the keys is the log's",
        );
    }
    // What was done to these lines is said among what is wrong.
    let unreadable = audited.unreadable.iter();
    if let Some(age) = audited.unproved_for.filter(|age| is_proved && *age > SIGNED_WITHIN) {
        let minutes = HumanCount(age.num_minutes().unsigned_abs());
        completeness.wrong(
            "not_signed_for_long",
            format!(
                "no checkpoint proves the lines behind line {}, and the first of them is {minutes} minutes older than the last: if `entrybook \
                 log status` does not tell why nothing was signed, then what was signed is gone",
                HumanCount(audited.verdict.proved)
            ),
        );
    }
    for (origin, size) in &audited.without_key {
        if is_proved && *size > audited.verdict.proved {
            let says = format!(
                "no key of the log {origin} is known, and it has signed {}: give its key",
                lines_of(*size)
            );
            completeness.wrong("key_not_known", says);
        }
    }
    let mut remarks: Vec<String> = unreadable
        .map(|line| format!("Line {} can't be hashed: {}.", line.position, line.cause))
        .collect();
    if audited.not_hashed > 0 {
        remarks.push(format!(
            "{} {} in the tree yet and {} not looked at: it is behind the book. `entrybook projections status` tells how far it \
             is, and why where it is stopped.",
            lines_of(audited.not_hashed),
            if audited.not_hashed == 1 { "is not" } else { "are not" },
            if audited.not_hashed == 1 { "was" } else { "were" }
        ));
    }
    if audited.trusts_database {
        remarks.push(
            "The keys and checkpoints are those that this database names, so it vouches for itself. Give --key with what `entrybook log key` \
             printed when the log began, and --checkpoint with what somebody else has kept."
                .to_owned(),
        );
    }
    if !audited.trusts_database && !has_notes {
        remarks.push(
            "That nothing is missing behind the last checkpoint of the table rests on the database: --checkpoint with one that somebody else \
             has kept tells of an end that was cut off with everything that tells of it."
                .to_owned(),
        );
    }
    for origin in audited.without_key.keys() {
        remarks.push(format!(
            "No key of the log {origin} is known, so its checkpoints were not looked at."
        ));
    }
    let origins = audited.keys.iter().filter_map(|key| key.split('+').next().map(str::to_owned));
    let mut origins: Vec<String> = origins.collect();
    origins.sort_unstable();
    origins.dedup();
    Report {
        of: "database".to_owned(),
        origins,
        lines,
        left_out: 0,
        proved: audited.verdict.proved,
        unproved: lines.saturating_sub(audited.verdict.proved),
        checkpoints: audited.checkpoints,
        keys: audited.keys,
        trusts_database: audited.trusts_database,
        signed: is_proved,
        integrity,
        completeness,
        seconds: took.as_secs_f64(),
        remarks,
    }
}
