//! `entrybook users erase --receipts`: erasing again, after an older backup was restored, whom the receipts say was erased.

use super::{Out, Refused, usage};
use crate::bootstrap::Services;
use crate::cli::{origin, verifier_keys};
use anyhow::Context;
use commands::StorageError;
use domain::UserId;
use proof::ErasureReceipt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// What came of each receipt.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Who was erased now.
    erased: Vec<UserId>,
    /// Who was erased already.
    erased_before: Vec<UserId>,
    /// Who has no account in this database: they registered after the backup was made.
    unknown: Vec<UserId>,
    /// Files that are no receipt that this log has signed.
    refused: Vec<RefusedFile>,
}

#[derive(Debug, Serialize)]
struct RefusedFile {
    file: PathBuf,
    reason: String,
}

pub(super) struct Arguments<'a> {
    pub(super) directory: &'a Path,
    pub(super) keys: &'a [String],
    pub(super) yes: bool,
    pub(super) json: bool,
}

/// Erases everybody of whom the directory holds a sound receipt. One that is not sound stops nobody else's erasure, and makes the verb
/// exit with 4.
pub(super) async fn run(
    services: &Services,
    arguments: Arguments<'_>,
    out: &mut Out,
) -> anyhow::Result<()> {
    let mut keys = verifier_keys::given(arguments.keys)?;
    keys.extend(services.log.keys_of_all_logs().await?.into_iter().map(|(_, line)| line));
    let mut report = Report::default();
    let people = read(arguments.directory, &keys, &mut report.refused)?;
    if !arguments.yes && !people.is_empty() {
        confirm(people.len()).await?;
    }
    for (id, file) in people {
        match erase(services, id).await {
            Ok(Outcome::Erased) => report.erased.push(id),
            Ok(Outcome::ErasedBefore) => report.erased_before.push(id),
            Ok(Outcome::Unknown) => report.unknown.push(id),
            // The others are erased all the same.
            Err(error) => report
                .refused
                .push(RefusedFile { file, reason: format!("{id} was not erased: {error:#}") }),
        }
    }
    say(&report, arguments.json, out)
}

/// The people of the sound receipts, each with the file that names them.
fn read(
    directory: &Path,
    keys: &[String],
    refused: &mut Vec<RefusedFile>,
) -> anyhow::Result<BTreeMap<UserId, PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| {
        format!("The folder of receipts {} cannot be read", directory.display())
    })?;
    let mut files =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    if files.is_empty() {
        return Err(usage(format!(
            "There is no file whose name ends with .json in {}.",
            directory.display()
        )));
    }
    let mut people = BTreeMap::new();
    for file in files {
        match erased_by(&file, keys) {
            Ok(id) => _ = people.insert(id, file),
            Err(reason) => refused.push(RefusedFile { file, reason }),
        }
    }
    Ok(people)
}

/// Whose erasure the receipt proves.
fn erased_by(file: &Path, keys: &[String]) -> Result<UserId, String> {
    let text = super::read_receipt(file).map_err(|error| format!("{error:#}"))?;
    let receipt: ErasureReceipt =
        serde_json::from_str(&text).map_err(|error| format!("it is no receipt: {error}"))?;
    let erasure = receipt.verify(keys).map_err(|error| {
        format!("it does not hold: {error}. If the log's key was rotated since the backup, give the new one: --key")
    })?;
    erasure.user.parse().map_err(|_| format!("{:?} is no id of an account", erasure.user))
}

enum Outcome {
    Erased,
    ErasedBefore,
    Unknown,
}

async fn erase(services: &Services, id: UserId) -> anyhow::Result<Outcome> {
    let user = services.book.user(id).await.map_err(|error: StorageError| error)?;
    if user.version == 0 {
        return Ok(Outcome::Unknown);
    }
    // Also of somebody whose erasure is in the database: a key of theirs may have come back with a table that was restored alone.
    Ok(if super::erase_account(services, id, &origin(services)).await? {
        Outcome::Erased
    } else {
        Outcome::ErasedBefore
    })
}

/// Asks for the number of people once more.
async fn confirm(people: usize) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        return Err(usage("Nobody can be asked here whether it is meant. If it is, add --yes."));
    }
    let mut terminal = io::stderr();
    writeln!(terminal, "This erases the people of {people} receipts, for good.")?;
    write!(terminal, "To go on, type that number: ")?;
    terminal.flush()?;
    let typed = tokio::task::spawn_blocking(|| {
        let mut typed = String::new();
        io::stdin().lock().read_line(&mut typed).map(|_| typed)
    });
    if typed.await??.trim() != people.to_string() {
        return Err(Refused("That is not the number. Nobody was erased.".to_owned()).into());
    }
    Ok(())
}

fn say(report: &Report, json: bool, out: &mut Out) -> anyhow::Result<()> {
    if json {
        out.json(report)?;
    } else {
        for (people, words) in [
            (&report.erased, "erased now"),
            (&report.erased_before, "erased before"),
            (&report.unknown, "not in this database"),
        ] {
            for id in people {
                out.line(format!("{id}  {words}"))?;
            }
        }
        out.line(format!(
            "Erased now: {}; erased before: {}; not in this database: {}; refused: {}.",
            report.erased.len(),
            report.erased_before.len(),
            report.unknown.len(),
            report.refused.len()
        ))?;
    }
    if report.refused.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = report
        .refused
        .iter()
        .map(|refused| format!("{}: {}", refused.file.display(), refused.reason))
        .collect();
    Err(Refused(reasons.join("\n")).into())
}
