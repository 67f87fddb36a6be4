//! `entrybook audit verify`.

mod book;
mod file;
mod notes;
mod reading;
mod report;

use super::super::{Exit, Out, exit::Interrupted, usage, verifier_keys};
use crate::config::Config;
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    about = "Prove that the history is the one that was signed, and that it is all there",
    long_about = "Hashes every line anew and holds it against what was signed: the signatures, the roots of the tree, and every checkpoint that \
        is known. It says which line is wrong and how: edited, inserted, moved, deleted, cut off at the end, rewritten after it was signed, \
        signed with another key. Whether the lines are right, and whether they are all there, are two answers.\n\n\
        FILE is what `entrybook audit export` has written; it needs no database and no network. Without FILE it is the database, beside \
        a running server or without one; it changes nothing, and needs no master key.\n\n\
        A database can't vouch for itself. Who has kept the log's key from the day it began (`entrybook log key`) and checkpoints from \
        elsewhere (a witness, an anchor, a mail) gives them with --key and --checkpoint, and trusts nobody. After a rotation of the key, give \
        the new one as well: an older one proves it only where a checkpoint that it has signed covers the line that names it.",
    after_help = "Examples:\n  entrybook audit verify\n  entrybook audit verify --key example.org/log+1234abcd+AR… --checkpoint kept.txt\n  \
        entrybook audit verify history.jsonl --key log.keys\n  entrybook audit verify --json | jq .integrity",
    after_long_help = "Exit codes:\n  0  everything is as it was signed, and all there\n  \
        6  something is not as it was signed\n  \
        7  nothing is known to be wrong, but lines are missing, the file was cut off or is older than a checkpoint, a checkpoint can't be held \
        against it, nothing signed says anything of it, or the log of the database has stopped signing\n  \
        2  wrong usage, such as a key that is none; see `entrybook --help` for the others\n\n\
        With --json, standard output has one object: \"of\" (database, jsonl, csv, ocsf), \"origins\", \"lines\", \"left_out\", \"proved\" (the last line that a checkpoint \
        proves), \"unproved\" (lines behind it), \"checkpoints\" (how many were held against it), \"keys\", \"trusts_database\", \"signed\" (whether anything signed says anything of the lines), \"integrity\" and \"completeness\" (each {\"sound\", \"in_all\", \
        \"findings\" [{\"kind\", \"says\", and where}]}), \"seconds\", \"remarks\" (sentences).\n\n\
        Examples:\n  entrybook audit verify\n  entrybook audit verify --key example.org/log+1234abcd+AR… --checkpoint kept.txt\n  \
        entrybook audit verify history.jsonl --key log.keys\n  entrybook audit verify --json | jq .integrity"
)]
pub(super) struct Arguments {
    /// What `entrybook audit export` has written; the database, where none is named
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// A verifier key of the log, or a file with one on each line; may be given several times
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// A file with checkpoints that somebody else has kept; may be given several times
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// Answer in JSON: see --help
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    config: &Config,
    arguments: &Arguments,
    out: &mut Out,
) -> anyhow::Result<Exit> {
    let keys = verifier_keys::given(&arguments.keys)?;
    let mut notes = Vec::new();
    for path in &arguments.checkpoints {
        let found = notes::split(&read(path)?);
        if found.is_empty() {
            return Err(usage(format!(
                "--checkpoint {}: there is no checkpoint in it.",
                path.display()
            )));
        }
        notes.extend(found);
    }
    let report = match &arguments.file {
        Some(path) => tokio::select! {
            report = file::verify(path, keys, notes) => report?,
            _ = tokio::signal::ctrl_c() => return Err(Interrupted.into()),
        },
        None => book::verify(config, keys, notes).await?,
    };
    if arguments.json {
        out.json(&report)?;
    } else {
        for line in report.lines() {
            out.line(line)?;
        }
    }
    Ok(report.exit())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("{} could not be read", path.display()))
}
