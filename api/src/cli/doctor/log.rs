//! What `doctor` says of the transparency log.

use super::Check;
use crate::config::Config;
use crate::log::checkup::{self, Checkup};
use chrono::{DateTime, Utc};
use commands::keyring::Keyring;
use sqlx::PgPool;
use std::time::Duration;

const NAME: &str = "log";

pub(super) async fn checks(
    config: &Config,
    pool: &PgPool,
    keyring: &Keyring,
    now: DateTime<Utc>,
) -> Vec<Check> {
    match checkup::look(pool, keyring, &config.data_dir, &config.anchors, now).await {
        Ok(Some(found)) => of(&found, now, config.log_interval),
        Ok(None) => {
            vec![Check::warn(NAME, "it has not begun", "`entrybook serve` begins it.")]
        }
        Err(error) => vec![Check::fail(
            NAME,
            error.to_string(),
            "Nothing is signed meanwhile, and signing in goes on. A row of log_keys that was changed is restored from a backup; where there is \
             none, begin a new log: entrybook log begin --origin NAME",
        )],
    }
}

fn of(found: &Checkup, now: DateTime<Utc>, interval: Duration) -> Vec<Check> {
    let mut checks = vec![signing(found, now, interval)];
    checks.push(match &found.memory {
        Ok(()) => Check::ok("log memory", "what is signed can be remembered in the data directory"),
        Err(error) => Check::warn(
            "log memory",
            format!("what is signed can't be remembered in the data directory: {error}"),
            "Let who runs the server write to its folder log: else a database that was restored from an older backup is not found out here.",
        ),
    });
    for (address, shown) in &found.witnesses {
        let short = address.key.short();
        let waits = found.status.witnesses.iter().find(|one| one.witness == short);
        let waits = waits.and_then(|one| one.waits(now, interval));
        checks.push(match (shown, waits) {
            (Err(error), _) => Check::warn(
                "witness",
                format!("{short}: {error}"),
                format!(
                    "See that it runs, with --log-key and what `entrybook log key` prints, and that it is reached at {}.",
                    address.url
                ),
            ),
            (Ok(shown), Some(waits)) => Check::warn(
                "witness",
                format!(
                    "{short} keeps {} lines, and has cosigned nothing for {} minutes",
                    shown.size,
                    waits.as_secs() / 60
                ),
                "The log of the server that anchors says what keeps it from it.",
            ),
            (Ok(shown), None) => Check::ok(
                "witness",
                format!("{short} keeps {} lines of {}", shown.size, signed(found)),
            ),
        });
    }
    match &found.file {
        Some(Ok(())) => checks.push(Check::ok("anchor file", "it can be written")),
        Some(Err(error)) => checks.push(Check::warn(
            "anchor file",
            format!("it can't be written: {error}"),
            "Let who runs the server write to ENTRYBOOK_LOG_ANCHOR_FILE.",
        )),
        None => {}
    }
    checks
}

fn signed(found: &Checkup) -> u64 {
    found.status.numbers().signed
}

fn signing(found: &Checkup, now: DateTime<Utc>, interval: Duration) -> Check {
    let unsigned = found.status.numbers().unsigned;
    if let Some(refusal) = &found.status.refusal {
        return Check::fail(NAME, refusal.text.clone(), "Run on the servers: entrybook log status");
    }
    if !found.can_sign {
        return Check::fail(
            NAME,
            "all its keys are retired",
            "Run: entrybook log rotate --after 0s",
        );
    }
    if let Some(late) = found.status.late(now, interval) {
        return Check::warn(
            NAME,
            format!(
                "lines that wait to be signed: {unsigned}, the first for {} seconds",
                late.as_secs()
            ),
            "Does a server run? Its log, and its /readyz, say why nobody signs.",
        );
    }
    Check::ok(NAME, format!("lines signed: {}, not yet: {unsigned}", signed(found)))
}
