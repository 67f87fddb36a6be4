//! The transparency log: the checkpoints of the book, signed, and what is proved by them.
//!
//! The tree is a projection (`projections::transparency`), the keys are `commands::log_keys`. Here is
//! who signs (`signing`: one replica at a time, never on the path of a sign-in), the memory of it
//! outside of the database (`memory`), and what keeps it from signing (`refusal`). What was signed is
//! stored before anybody is shown it, and nothing is shown that was not signed.
//!
//! [`Log`] is made once for a process, by `bootstrap`, and answers from the database: any replica,
//! and any verb, tells the same.

pub mod anchors;
pub mod checkup;
mod footing;
mod hand_over;
mod memory;
mod reading;
mod refusal;
mod signing;
mod status;

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicUsize},
};

use chrono::TimeDelta;
use commands::{
    Entrybook, Origin, StorageError,
    keyring::KeyringError,
    log_keys::{LogKey, LogKeys, LogKeysError},
};
use domain::ServiceEvent;
use projections::transparency::{self, TransparencyError};
use proof::{CheckpointError, InclusionProof, NoteSigner};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use self::{
    anchors::{AnchorSettings, Heard},
    footing::Footing,
    memory::Memory,
    reading::Recent,
};
pub use self::{
    memory::Remembered,
    reading::Signed,
    refusal::{Refusal, Refuser},
    signing::{Outcome, remember, run},
    status::{Numbers, Status, Witnessed},
};
use crate::problem::{ApiError, Kind};

/// The stream of the service in which the log's own events are.
const STREAM: &str = "log";
/// Requests that read the log at once: it is open to everybody, and signing in needs connections too.
const READERS: usize = 4;

/// Why the log could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Keys(#[from] LogKeysError),
    #[error("the keys of the transparency log can't be used: {0}")]
    KeysUnusable(String),
    #[error("what was signed is not to be read in the memory outside of the database: {0}")]
    Memory(String),
    #[error(
        "the checkpoint of {size} lines in the database is not as the log {origin} has signed it: its row was changed, or put there, \
         or its key is gone"
    )]
    Unsigned { origin: String, size: i64 },
    #[error("all keys of the transparency log are retired; make one with `entrybook log rotate`")]
    NoKey,
    #[error(
        "the key of the transparency log was handed over to {key}, which log_keys of this database does not have"
    )]
    HandedOver { key: String },
    #[error("the tree of the transparency log could not be read: {0}")]
    Tree(#[from] TransparencyError),
    #[error("a checkpoint of the transparency log can't be used: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the transparency log could not be read: {0}")]
    Database(#[from] sqlx::Error),
}

impl LogError {
    /// Whether the keys are at fault, and not the way to them: then waiting won't mend it.
    fn is_of_keys(&self) -> bool {
        match self {
            Self::Keys(LogKeysError::Keyring(KeyringError::Database(_))) => false,
            Self::Keys(LogKeysError::Damaged { .. } | LogKeysError::Keyring(_))
            | Self::KeysUnusable(_)
            | Self::Checkpoint(_) => true,
            Self::Keys(
                LogKeysError::InvalidOrigin(_)
                | LogKeysError::Taken { .. }
                | LogKeysError::NotBegun
                | LogKeysError::Pending { .. }
                | LogKeysError::Database(_),
            )
            | Self::Memory(_)
            | Self::Unsigned { .. }
            | Self::NoKey
            | Self::HandedOver { .. }
            | Self::Tree(_)
            | Self::Storage(_)
            | Self::Database(_) => false,
        }
    }

    /// What anybody may read of it.
    #[must_use]
    pub fn warning(&self) -> &'static str {
        if self.is_of_keys() {
            "a key of the transparency log can't be read, so that nothing is signed until its row of log_keys is restored from a backup; the \
             log of this server says which. Signing in goes on"
        } else {
            "the transparency log cannot be looked at"
        }
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Keys(LogKeysError::NotBegun) => Self {
                retry_after: Some(5),
                ..Self::new(
                    Kind::Unavailable,
                    "The transparency log has not begun yet. Try again in a moment.",
                )
            },
            LogError::Database(error)
            | LogError::Keys(LogKeysError::Database(error))
            | LogError::Tree(TransparencyError::Database(error)) => error.into(),
            LogError::Storage(error) => error.into(),
            // Nothing is wrong with what was asked for, nor with the rest of the service.
            error @ (LogError::Keys(_)
            | LogError::KeysUnusable(_)
            | LogError::Memory(_)
            | LogError::Unsigned { .. }
            | LogError::NoKey
            | LogError::HandedOver { .. }
            | LogError::Tree(_)
            | LogError::Checkpoint(_)) => Self {
                retry_after: Some(60),
                cause: Some(Arc::new(error)),
                ..Self::new(
                    Kind::Unavailable,
                    "The transparency log can't be used as it is; /readyz and the log of the server say why. Nothing else of the \
                     service depends on it.",
                )
            },
        }
    }
}

/// The log. Clones share everything.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    book: Entrybook,
    /// For what goes on without a request: those can't use it up.
    background: PgPool,
    known: RwLock<Option<Arc<Known>>>,
    /// Why the keys can't be read, if they can't.
    problem: RwLock<Option<String>>,
    anchors: AnchorSettings,
    memory: Memory,
    footing: Footing,
    heard: Heard,
    recent: Recent,
    cosigned: Recent,
    readers: Arc<Semaphore>,
    /// How many notes of the book that are no hand-overs were named.
    ignored_hand_overs: AtomicUsize,
}

/// The keys of the present log.
struct Known {
    keys: LogKeys,
    verifier_keys: Vec<String>,
}

impl Known {
    fn of(keys: LogKeys) -> Result<Self, LogError> {
        let line = |key: &LogKey| Ok::<_, LogError>(signer_of(key)?.verifier_key());
        let verifier_keys = keys.iter().map(line).collect::<Result<_, _>>()?;
        Ok(Self { keys, verifier_keys })
    }

    fn origin(&self) -> &str {
        self.keys.origin()
    }
}

fn signer_of(key: &LogKey) -> Result<NoteSigner, LogError> {
    Ok(NoteSigner::from_seed(&key.origin, key.seed())?)
}

/// The key that an event tells of.
fn key_told(event: ServiceEvent) -> Option<String> {
    if let ServiceEvent::LogBegun { key, .. } | ServiceEvent::LogKeyAdded { key, .. } = event {
        Some(key)
    } else {
        None
    }
}

impl Log {
    /// The log of this book; its memory outside of the database is in this directory, and with those who
    /// anchor it.
    pub async fn open(
        book: Entrybook,
        background: PgPool,
        directory: &Path,
        anchors: AnchorSettings,
    ) -> Result<Self, LogError> {
        let log = Self(Arc::new(Inner {
            known: RwLock::default(),
            problem: RwLock::default(),
            memory: Memory::new(directory),
            footing: Footing::default(),
            heard: Heard::default(),
            anchors,
            recent: Recent::default(),
            cosigned: Recent::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            ignored_hand_overs: AtomicUsize::new(0),
            background,
            book,
        }));
        match log.refresh().await {
            // Nobody who signs in needs it.
            Err(error) if error.is_of_keys() => {
                tracing::error!(
                    "the transparency log can't be used, and nothing is signed: {error}"
                );
            }
            read => read?,
        }
        Ok(log)
    }

    /// Begins the log under this name where none has begun, and sees to it that the book says of each
    /// key when it came, even where a process ended before it could.
    pub async fn ensure(&self, origin: &str, by: &Origin) -> Result<(), LogError> {
        let begun = match LogKeys::read_or_begin(&self.0.book, origin).await.map_err(LogError::from)
        {
            Ok((keys, begun)) => self.know(keys).map(|()| begun),
            Err(error) => Err(error),
        };
        let begun = match begun {
            // It was told when it was opened.
            Err(error) if error.is_of_keys() => return Ok(()),
            begun => begun?,
        };
        if begun {
            tracing::info!("the transparency log {origin} begins");
        }
        self.tell_keys(by).await
    }

    /// Begins a new log in place of the present one, which signs nothing more.
    pub async fn begin(&self, origin: &str, by: &Origin) -> Result<(), LogError> {
        self.know(LogKeys::begin(&self.0.book, origin).await?)?;
        self.tell_keys(by).await
    }

    /// Makes a new key, which signs after that time; the key, and the line by which others know it.
    pub async fn rotate(
        &self,
        after: TimeDelta,
        by: &Origin,
    ) -> Result<(LogKey, String), LogError> {
        self.know(LogKeys::rotate(&self.0.book, after).await?)?;
        self.tell_keys(by).await?;
        self.keys()?.pop().ok_or(LogError::NoKey)
    }

    /// Writes into the book what it doesn't say yet of the present log's keys.
    async fn tell_keys(&self, by: &Origin) -> Result<(), LogError> {
        let known = self.known()?;
        // Replicas that start together: one of them tells.
        let mut turn = self.0.book.pool().begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('entrybook/log_keys/told', 0))")
            .execute(&mut *turn)
            .await?;
        let events = self.0.book.service_events(STREAM, &mut turn).await?;
        let told: Vec<String> = events.into_iter().filter_map(key_told).collect();
        for (key, line) in known.keys.iter().zip(&known.verifier_keys) {
            if told.contains(line) {
                continue;
            }
            let (origin, line) = (known.origin().to_owned(), line.clone());
            let event = if key.id == known.keys.first_id() {
                ServiceEvent::LogBegun { origin, key: line }
            } else {
                ServiceEvent::LogKeyAdded { origin, key: line }
            };
            self.0.book.record(STREAM, event, by).await?;
        }
        turn.commit().await?;
        Ok(())
    }

    /// Reads the keys anew: another process may have made one.
    pub async fn refresh(&self) -> Result<(), LogError> {
        let read = self.read_keys().await;
        let mut problem = self.0.problem.write().unwrap_or_else(PoisonError::into_inner);
        match &read {
            Ok(()) => *problem = None,
            Err(error) if error.is_of_keys() => *problem = Some(error.to_string()),
            Err(_) => {}
        }
        read
    }

    async fn read_keys(&self) -> Result<(), LogError> {
        let mut connection = self.0.background.acquire().await?;
        match LogKeys::read(&mut connection, self.0.book.keyring()).await? {
            Some(keys) => self.know(keys),
            None => Ok(()),
        }
    }

    /// Tasks read the keys side by side: what was read before another key was made is not put in place of
    /// what was read after.
    fn know(&self, keys: LogKeys) -> Result<(), LogError> {
        let read = Arc::new(Known::of(keys)?);
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_none_or(|known| known.keys.made_at() <= read.keys.made_at()) {
            *known = Some(read);
        }
        Ok(())
    }

    fn known(&self) -> Result<Arc<Known>, LogError> {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone().ok_or_else(|| match self.keys_problem() {
            Some(problem) => LogError::KeysUnusable(problem),
            None => LogKeysError::NotBegun.into(),
        })
    }

    /// Why the keys can't be read, if they can't.
    fn keys_problem(&self) -> Option<String> {
        self.0.problem.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The name of the log.
    pub fn origin(&self) -> Result<String, LogError> {
        Ok(self.known()?.origin().to_owned())
    }

    /// The keys that its checkpoints and manifests are verified with, the oldest first; none before it
    /// has begun.
    #[must_use]
    pub fn verifier_keys(&self) -> Vec<String> {
        self.known().map(|known| known.verifier_keys.clone()).unwrap_or_default()
    }

    /// The keys, with the times from which they sign.
    pub fn keys(&self) -> Result<Vec<(LogKey, String)>, LogError> {
        let known = self.known()?;
        Ok(known.keys.iter().cloned().zip(known.verifier_keys.iter().cloned()).collect())
    }

    /// The keys of all logs that this book ever had, each with the line by which others know it.
    pub async fn keys_of_all_logs(&self) -> Result<Vec<(LogKey, String)>, LogError> {
        let mut connection = self.0.background.acquire().await?;
        let keys = LogKeys::of_all_logs(&mut connection, self.0.book.keyring()).await?;
        let line = |key: LogKey| signer_of(&key).map(|signer| (key, signer.verifier_key()));
        keys.into_iter().map(line).collect()
    }

    /// The newest checkpoint, with the cosignatures that it has got so far. It is as the log signed it, or
    /// an error.
    pub async fn latest(&self) -> Result<Option<Signed>, LogError> {
        match self.newest(self.0.book.pool()).await {
            // Another process may have made the key.
            Err(LogError::Unsigned { .. }) => {
                self.refresh().await?;
                self.newest(self.0.book.pool()).await
            }
            read => read,
        }
    }

    async fn newest(&self, pool: &PgPool) -> Result<Option<Signed>, LogError> {
        reading::newest(&mut *pool.acquire().await?, &*self.known()?).await
    }

    /// That a line of the book is in a checkpoint; nothing if it isn't yet.
    pub async fn proof(&self, position: u64) -> Result<Option<InclusionProof>, LogError> {
        match self.for_proof(position).await? {
            Some(signed) => self.proof_in(&signed, position).await,
            None => Ok(None),
        }
    }

    /// The same in this checkpoint.
    pub async fn proof_in(
        &self,
        signed: &Signed,
        position: u64,
    ) -> Result<Option<InclusionProof>, LogError> {
        let Some(index) = position.checked_sub(1).filter(|index| *index < signed.size) else {
            return Ok(None);
        };
        let mut connection = self.0.book.pool().acquire().await?;
        let hashes = transparency::prove_inclusion(&mut connection, signed.size, index).await?;
        let checkpoint = signed.with_cosignatures();
        Ok(Some(InclusionProof { index, hashes, checkpoint, extra: None }))
    }

    /// A turn for a request that reads the log.
    pub(crate) fn readers(&self) -> Arc<Semaphore> {
        self.0.readers.clone()
    }
}
