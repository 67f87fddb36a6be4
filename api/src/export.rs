//! Exports of the history: JSON Lines that prove themselves, CSV for spreadsheets, OCSF for SIEMs
//! (docs/export.md).
//!
//! An export goes up to the newest signed checkpoint at its start. It is made page by page, and each
//! page only when the one before it was taken: so it costs the same memory whatever its size, and
//! whoever reads slowly slows nobody else. Every page is read by itself, not in one long snapshot: the
//! book is only added to, so what was read of it stays true. The end is a manifest, signed over all
//! that was written. If anything fails before, there is none, and the file is known to be cut off.

mod bounds;
mod csv;
mod jsonl;
mod manifest;
mod ocsf;
mod opener;
mod resume;
mod sending;
mod table;
mod walker;

use std::{fmt, time::Duration};

use clap::ValueEnum;
use commands::{Entrybook, StorageError, keyring::KeyringError};
use projections::{
    audit_history::{self, Filter},
    journal::JournalError,
    transparency::TransparencyError,
};
use proof::{CheckpointError, NoteSigner, export::WriteError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;

pub(crate) use self::sending::send;
pub use self::{
    bounds::{Exports, Running},
    manifest::{Manifest, ManifestError, only_after},
    resume::CannotResume,
    table::{TableReader, TableReport},
};
use self::{jsonl::Lines, table::Rows};
use crate::{
    log::{Log, LogError, Signed},
    problem::{ApiError, Kind},
    readings,
    sources::Seen,
};

/// After so many pages without a line, whoever waits for the next part gets an empty one.
const PAGES: u32 = 64;
/// How long the history may be behind what is signed before an export begins …
const PATIENCE: Duration = Duration::from_secs(5);
/// … and how often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What the file is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JSON Lines, which `entrybook audit verify` proves without a database or a network
    Jsonl,
    /// CSV for spreadsheets, with personal data in the clear
    Csv,
    /// OCSF events for a SIEM, with personal data in the clear
    Ocsf,
}

impl Format {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf",
        }
    }

    /// What the file's name ends with.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Ocsf => "ocsf.jsonl",
        }
    }

    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl | Self::Ocsf => "application/jsonl",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub format: Format,
    pub filter: Filter,
    /// The filter as the file tells it, with ids in place of names; nothing where it is everything.
    pub named: Option<Value>,
    /// Only lines after this one.
    pub after: u64,
}

impl Asked {
    /// `seen` is how far a search for a place can see, where the filter has one: the other lines are left
    /// out, wherever they came from, and so the file says it.
    #[must_use]
    pub fn new(format: Format, filter: Filter, seen: Option<&Seen>, after: u64) -> Self {
        let mut named = readings::asked(&filter);
        if let Some(named) = named.as_object_mut() {
            if after > 0 {
                named.insert("after".to_owned(), after.into());
            }
            if let Some(Seen { months, left_out }) = seen {
                let (first, last) =
                    months.map(|(first, last)| (first.to_string(), last.to_string())).unzip();
                let searched = serde_json::json!({
                    "first_month": first,
                    "last_month": last,
                    "older_left_out": left_out,
                });
                named.insert("searched".to_owned(), searched);
            }
        }
        let named = readings::text_of(&named).map(|_| named);
        Self { format, filter, named, after }
    }

    /// How many lines there must be where no filter leaves any out, of a book of this size.
    fn all(&self, size: u64) -> Option<u64> {
        walker::is_all(&self.filter).then(|| size.saturating_sub(self.after))
    }

    /// The filter as it is told.
    #[must_use]
    pub fn told(&self) -> Value {
        self.named.clone().unwrap_or_default()
    }
}

/// Why there is no export, or no end of it.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(
        "nothing of the book is signed yet; `entrybook serve` signs it within seconds, and `entrybook log status` tells why it doesn't"
    )]
    NothingSigned,
    #[error(
        "the history shows the lines up to {reached} by now, and {size} are signed, so some would be left out; try again in a moment"
    )]
    Behind { reached: i64, size: u64 },
    #[error(
        "the book does not have the root that was signed of its {size} lines, so this export gets no manifest; run `entrybook audit verify`"
    )]
    OtherRoot { size: u64 },
    #[error(
        "this export was to have {all} lines and has {lines}, so it gets no manifest; run `entrybook audit verify`"
    )]
    Incomplete { lines: u64, all: u64 },
    #[error("what stands at line {position} of the history can't be read: {cause}")]
    Row { position: i64, cause: String },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Tree(#[from] TransparencyError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Signature(#[from] CheckpointError),
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        let later =
            |detail: String| Self { retry_after: Some(2), ..Self::new(Kind::Unavailable, detail) };
        match error {
            ExportError::NothingSigned => {
                later("Nothing of the book is signed yet. Try again in a moment.".to_owned())
            }
            ExportError::Behind { .. } => later(
                "The history is still behind what is signed. Try again in a moment.".to_owned(),
            ),
            ExportError::Log(error) => error.into(),
            ExportError::Storage(error) => error.into(),
            ExportError::Keyring(error) => error.into(),
            ExportError::Database(error)
            | ExportError::Journal(JournalError::Database(error))
            | ExportError::Tree(TransparencyError::Database(error)) => error.into(),
            error => Self::internal(error),
        }
    }
}

/// What an export is made from.
struct Source {
    book: Entrybook,
    pool: PgPool,
    signer: NoteSigner,
    /// The notes by which the keys of the log have followed each other.
    hand_overs: Vec<String>,
    /// The checkpoint that it goes up to.
    signed: Signed,
}

/// An export that is being made.
pub struct Export {
    source: Source,
    asked: Asked,
    /// The last line that was looked at.
    position: u64,
    /// How many bytes were written.
    bytes: u64,
    body: Body,
    step: Step,
}

enum Body {
    Lines(Lines),
    Rows(Rows),
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    Lines,
    End,
    Done,
}

impl Export {
    /// Begins one. It goes up to the newest checkpoint of the log.
    pub async fn begin(book: &Entrybook, log: &Log, asked: Asked) -> Result<Self, ExportError> {
        let signed = log.latest().await?.ok_or(ExportError::NothingSigned)?;
        let pool = book.pool().clone();
        let size = signed.size;
        // Lines that the history doesn't show yet would be left out, and nobody would know.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reached = audit_history::reached(&pool).await?;
            if reached.unsigned_abs() >= size {
                break;
            }
            if Instant::now() >= deadline {
                return Err(ExportError::Behind { reached, size });
            }
            sleep(LOOK).await;
        }
        let (signer, hand_overs) = log.signer_and_hand_overs().await?;
        let source = Source { book: book.clone(), pool, signer, hand_overs, signed };
        let body = match asked.format {
            Format::Jsonl => Body::Lines(Lines::new(&source, &asked)?),
            Format::Csv | Format::Ocsf => Body::Rows(Rows::new(&source, &asked)),
        };
        let position = asked.after.min(size);
        Ok(Self { source, asked, position, bytes: 0, body, step: Step::Begin })
    }

    /// The last line that it may hold.
    #[must_use]
    pub fn up_to(&self) -> u64 {
        self.source.signed.size
    }

    /// The last line that was looked at.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many lines it holds so far.
    #[must_use]
    pub fn lines(&self) -> u64 {
        match &self.body {
            Body::Lines(lines) => lines.written(),
            Body::Rows(rows) => rows.written(),
        }
    }

    /// The next part of the file; nothing behind its end. It is empty where many lines were read and none of them
    /// passes the filter.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ExportError> {
        let mut pages = 0;
        loop {
            pages += 1;
            let part = match self.step {
                Step::Begin => {
                    self.step = Step::Lines;
                    match &mut self.body {
                        Body::Lines(lines) => lines.begin(),
                        Body::Rows(rows) => rows.begin(),
                    }
                }
                Step::Lines => {
                    let (part, position) = match &mut self.body {
                        Body::Lines(lines) => {
                            lines.next(&self.source, &self.asked, self.position).await?
                        }
                        Body::Rows(rows) => {
                            rows.next(&self.source, &self.asked, self.position).await?
                        }
                    };
                    self.position = position;
                    if position >= self.up_to() {
                        self.step = Step::End;
                    }
                    part
                }
                Step::End => {
                    self.step = Step::Done;
                    match &mut self.body {
                        Body::Lines(lines) => lines.end(&self.source, &self.asked).await?,
                        Body::Rows(rows) => rows.end(&self.source, &self.asked).await?,
                    }
                }
                Step::Done => return Ok(None),
            };
            if !part.is_empty() || pages >= PAGES {
                self.bytes += part.len() as u64;
                return Ok(Some(part));
            }
        }
    }
}
