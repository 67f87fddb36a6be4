//! Anchors: what was signed is told to others, who will not forget it. Witnesses cosign each new
//! checkpoint; a file gets it appended, an address gets it posted.
//!
//! One replica does it, the one that holds an advisory lock, and nothing waits for it: an anchor that is
//! away is tried again, and gets the newest checkpoint then. What others know also tells when the book was
//! set back, or is another one, where nobody here remembers ([`evidence`]).

mod client;
mod evidence;
mod file;
mod post;
mod witness;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use axum::http::Uri;
use futures_util::future::{join, join_all};
use projections::transparency::TransparencyError;
use proof::{Checkpoint, CheckpointError, CosignatureVerifier};
use sqlx::{Connection, PgConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{LogError, Refuser, Signed};
use crate::{processes, state::App};
use client::Client;
pub use client::ClientError;
pub(super) use evidence::Heard;

/// The name of its lock.
const NAME: &str = "process:anchor_log";
/// How long it waits before it asks for the lock again, or begins again.
const TURN: Duration = Duration::from_secs(2);
/// How long is waited for those who may know better, before the first checkpoint is signed.
const ASKED: Duration = Duration::from_secs(3);
/// How often it is looked what is new.
const SOONEST_LOOK: Duration = Duration::from_millis(100);
const LATEST_LOOK: Duration = Duration::from_secs(5);
/// How long after a failure an anchor is left alone; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// How often a failure that goes on is told.
const TOLD: Duration = Duration::from_secs(600);

/// Where checkpoints are anchored.
#[derive(Debug, Clone, Default)]
pub struct AnchorSettings {
    pub witnesses: Vec<WitnessAddress>,
    pub file: Option<PathBuf>,
    pub url: Option<Uri>,
    /// Whom to trust beside the usual authorities, when anchors are reached by https.
    pub ca_file: Option<PathBuf>,
}

/// A witness, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessAddress {
    pub key: CosignatureVerifier,
    /// What `/add-checkpoint` follows, without a slash at its end.
    pub url: String,
}

impl AnchorSettings {
    fn is_empty(&self) -> bool {
        self.witnesses.is_empty() && self.file.is_none() && self.url.is_none()
    }

    /// The witnesses, as their cosignatures are kept.
    pub(super) fn shorts(&self) -> Vec<String> {
        let mut shorts: Vec<_> = self.witnesses.iter().map(|one| one.key.short()).collect();
        shorts.sort_unstable();
        shorts.dedup();
        shorts
    }

    /// Whether one of them can tell what was signed, beside whoever signs.
    pub(super) fn remember(&self) -> bool {
        !self.witnesses.is_empty() || self.file.is_some()
    }

    /// Reads what they name, so that what can't work is told at the start.
    pub fn check(&self) -> Result<(), ClientError> {
        Client::new(self.ca_file.as_deref()).map(|_| ())
    }
}

/// Why a checkpoint is not anchored yet.
#[derive(Debug, thiserror::Error)]
enum AnchorError {
    #[error(transparent)]
    Away(#[from] ClientError),
    #[error("it doesn't know the log: start it with --log-key and what `entrybook log key` prints")]
    UnknownLog,
    #[error(
        "it trusts other keys of the log: start it with --log-key for each key that `entrybook log key` prints"
    )]
    UnknownKey,
    #[error("what it answered is not to be believed: {0}")]
    Cosignature(CheckpointError),
    #[error("it answered {status}: {text}")]
    Answered { status: u16, text: String },
    #[error("it refuses the checkpoint, and shows none that it contradicts ({0})")]
    Unproved(String),
    #[error("{0}")]
    Shown(String),
    #[error("it did not answer within {} seconds", ASKED.as_secs())]
    Silent,
    #[error("it knows what can't be: the log signs nothing more")]
    Contradicted,
    #[error("{0}")]
    File(std::io::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the tree of the log could not be read: {0}")]
    Tree(#[from] TransparencyError),
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// One place where checkpoints are kept.
#[async_trait]
trait Anchor: Send {
    /// For the log of this process; it may name a host.
    fn name(&self) -> String;

    /// Takes the newest checkpoint. Doing it again changes nothing.
    async fn take(&mut self, signed: &Signed) -> Result<(), AnchorError>;
}

/// What each witness shows of a log, for whoever looks into it.
pub(super) async fn shown(
    settings: &AnchorSettings,
    origin: &str,
    keys: &[String],
) -> Vec<(WitnessAddress, Result<Checkpoint, String>)> {
    let client = Client::new(settings.ca_file.as_deref()).map_err(|error| error.to_string());
    let asked = settings.witnesses.iter().map(async |address| {
        let shown = match &client {
            Ok(client) => witness::shown(client, address, origin, keys).await,
            Err(error) => Err(error.clone()),
        };
        (address.clone(), shown)
    });
    join_all(asked).await
}

/// What those who keep checkpoints have answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One has shown a checkpoint that the book agrees with, and none has shown another.
    pub(super) agrees: bool,
    /// Why the others said nothing that counts, for the log of this process: it names them.
    pub(super) failures: Vec<String>,
}

/// Asks what was anchored, before this replica signs anything: it may remember nothing itself. Who doesn't
/// answer soon is not waited for.
pub(super) async fn ask(app: &App) -> Answers {
    let settings = &app.settings().anchors;
    let client = match Client::new(settings.ca_file.as_deref()) {
        Ok(client) => client,
        Err(error) => return Answers { agrees: false, failures: vec![error.to_string()] },
    };
    let witnesses = settings.witnesses.iter().map(async |address| {
        let witness = witness::Witness::new(app, &client, address);
        (witness.name(), soon(witness.ask()).await)
    });
    let file = async {
        let file = file::AnchorFile::new(app, settings.file.as_deref()?);
        let shown = soon(file.ask()).await;
        Some((file.name(), shown.map(|shown| shown.is_some_and(|(_, agrees)| agrees))))
    };
    let (witnesses, file) = join(join_all(witnesses), file).await;
    let (mut heard, mut contradicted) = (Answers::default(), false);
    for (name, answer) in witnesses.into_iter().chain(file) {
        match answer {
            Ok(true) => heard.agrees = true,
            Ok(false) => {
                heard.failures.push(format!("{name}: nothing that can be told of the book"))
            }
            Err(error) => {
                if matches!(error, AnchorError::Contradicted) {
                    tracing::warn!("{name} contradicts the book: {error}");
                    contradicted = true;
                }
                heard.failures.push(format!("{name}: {error}"));
            }
        }
    }
    heard.agrees &= !contradicted;
    heard
}

async fn soon<T>(asking: impl Future<Output = Result<T, AnchorError>>) -> Result<T, AnchorError> {
    tokio::time::timeout(ASKED, asking).await.unwrap_or(Err(AnchorError::Silent))
}

/// Anchors, whenever it is this replica's turn.
pub async fn run(app: &App) {
    let settings = &app.settings().anchors;
    if settings.is_empty() {
        return;
    }
    let client = match Client::new(settings.ca_file.as_deref()) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!("the checkpoints of the log are anchored nowhere: {error}");
            return;
        }
    };
    loop {
        match processes::turn(app.background(), NAME).await {
            Ok(Some(mut lock)) => {
                if let Err(error) = follow(app, &client, &mut lock).await {
                    tracing::warn!("the anchors of the log begin again: {error}");
                }
                let _ = lock.close().await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("nobody knows whose turn it is to anchor the log: {error}")
            }
        }
        app.lease_news().takeover_or(TURN).await;
    }
}

/// Gives each anchor what is signed, as long as the lock is held.
async fn follow(app: &App, client: &Client, lock: &mut PgConnection) -> Result<(), LogError> {
    let (tell, newest) = watch::channel(None);
    let anchors =
        join_all(anchors(app, client).into_iter().map(|anchor| keep_up(anchor, newest.clone())));
    tokio::select! {
        _ = anchors => Ok(()),
        ended = look(app, lock, &tell) => ended,
    }
}

fn anchors(app: &App, client: &Client) -> Vec<Box<dyn Anchor>> {
    let settings = &app.settings().anchors;
    let mut anchors: Vec<Box<dyn Anchor>> = Vec::new();
    for address in &settings.witnesses {
        anchors.push(Box::new(witness::Witness::new(app, client, address)));
    }
    if let Some(path) = &settings.file {
        anchors.push(Box::new(file::AnchorFile::new(app, path)));
    }
    if let Some(url) = &settings.url {
        anchors.push(Box::new(post::Post::new(client, url)));
    }
    anchors
}

/// Looks what is the newest checkpoint.
async fn look(
    app: &App,
    lock: &mut PgConnection,
    tell: &watch::Sender<Option<Signed>>,
) -> Result<(), LogError> {
    let (mut asked, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        // With the connection the lock is lost.
        lock.ping().await?;
        // Nothing new is signed then, so nobody would be asked again; what they keep may show who has signed it.
        if asked.elapsed() > pause && is_stopped_by_others(app).await? {
            ask(app).await;
            (asked, pause) = (Instant::now(), (pause * 2).min(LONGEST_PAUSE));
        }
        let latest = match app.log().latest().await {
            // Nobody is given it. The signer says what is wrong.
            Err(LogError::Unsigned { .. }) => None,
            latest => latest?,
        };
        let which = |signed: &Option<Signed>| {
            signed.as_ref().map(|signed| (signed.origin.clone(), signed.size))
        };
        tell.send_if_modified(|told| {
            let is_new = which(told) != which(&latest);
            if is_new {
                *told = latest;
            }
            is_new
        });
        // Sooner than the next one is signed, so that the newest is seldom seen without its cosignatures.
        sleep((app.settings().log_interval / 4).clamp(SOONEST_LOOK, LATEST_LOOK)).await;
    }
}

/// Whether what others keep has stopped the log, and it is not known yet who signed that.
async fn is_stopped_by_others(app: &App) -> Result<bool, LogError> {
    if app.log().heard().is_sure() {
        return Ok(false);
    }
    Ok(app.log().refusal().await?.is_some_and(|refusal| refusal.by == Refuser::Witness))
}

/// Gives one anchor the newest checkpoint, again and again until it has it.
async fn keep_up(mut anchor: Box<dyn Anchor>, mut newest: watch::Receiver<Option<Signed>>) {
    let mut pause = FIRST_PAUSE;
    let mut told: Option<(Instant, String)> = None;
    loop {
        let signed = newest.borrow_and_update().clone();
        let taken = match &signed {
            Some(signed) => anchor.take(signed).await,
            None => Ok(()),
        };
        let Err(error) = taken else {
            if told.take().is_some() {
                tracing::info!("{} has the newest checkpoint of the log again", anchor.name());
            }
            pause = FIRST_PAUSE;
            if newest.changed().await.is_err() {
                return;
            }
            continue;
        };
        let error = error.to_string();
        if told.as_ref().is_none_or(|(at, before)| at.elapsed() > TOLD || *before != error) {
            tracing::warn!(
                "{} has not taken the newest checkpoint of the log, and is tried again: {error}",
                anchor.name()
            );
            told = Some((Instant::now(), error));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
