//! What every handler is given: the commands, the views, the metrics, and what this process knows
//! without asking the database.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use commands::{Entrybook, LocalChange, Receipt, leases::News};
use domain::{User, UserId};
use projections::{BookSource, Projector, Reach, Revocations, Sequencer};
use sqlx::PgPool;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{
    bodies::Bodies,
    connections::{Connections, Limits},
    csrf::CsrfKey,
    export::Exports,
    log::Log,
    metrics::Metrics,
    problem::{ApiError, ApiResult},
    readiness::Readiness,
    readings::Readings,
    rebuilds::Rebuilds,
    settings::HttpSettings,
    standing::Standing,
    tail::Tails,
};

/// What an [`App`] is made of.
pub struct Parts {
    pub book: Entrybook,
    /// Connections that requests cannot use up, for looking at how we are.
    pub background: PgPool,
    pub sequencer: Sequencer,
    pub projector: Projector,
    pub revocations: Revocations,
    pub log: Log,
    pub settings: HttpSettings,
    /// Of other processes that stand still, and of how this one is cut off.
    pub lease_news: News,
}

/// The state of the HTTP side. Clones share everything.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    parts: Parts,
    csrf: CsrfKey,
    metrics: Metrics,
    readiness: Readiness,
    readings: Readings,
    exports: Exports,
    rebuilds: Rebuilds,
    standing: Standing,
    tails: Tails,
    replica: Uuid,
    requests: Arc<Semaphore>,
    bodies: Bodies,
    connections: Connections,
    commands: TaskTracker,
    command_permits: Arc<Semaphore>,
    changes: Mutex<broadcast::Receiver<LocalChange>>,
    written: Mutex<HashMap<UserId, (Receipt, DateTime<Utc>)>>,
}

/// How long a page waits for what its person has just done.
const OWN_WRITES_WAIT: Duration = Duration::from_secs(1);
/// How long lines that are read from a projection wait for it to show all of the book; they tell how
/// far it is …
const BEHIND_WAIT: Duration = Duration::from_secs(2);
/// … and how long what would otherwise be refused.
const NEEDED_WAIT: Duration = Duration::from_secs(5);
/// For how long that is remembered …
const OWN_WRITES_KEPT: TimeDelta = TimeDelta::seconds(30);
/// … and of how many people, before the old ones are dropped.
const OWN_WRITES_PEOPLE: usize = 4096;

/// Whether to wait for a projection that is behind the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    No,
    ForAll,
}

impl App {
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let secret = parts.book.keyring().service_secret("csrf");
        Self(Arc::new(Inner {
            csrf: CsrfKey::new(secret),
            metrics: Metrics::new(),
            readiness: Readiness::default(),
            readings: Readings::default(),
            exports: Exports::default(),
            rebuilds: Rebuilds::default(),
            standing: Standing::default(),
            tails: Tails::default(),
            replica: parts.book.ids().uuid_v7(),
            requests: Arc::new(Semaphore::new(parts.settings.max_concurrent_requests)),
            commands: TaskTracker::new(),
            bodies: Bodies::default(),
            connections: Connections::new(Limits {
                most: parts.settings.max_connections,
                per_address: parts.settings.connections_per_address,
                trusted: parts.settings.trusted_proxies.clone(),
            }),
            command_permits: Arc::new(Semaphore::new(parts.settings.max_concurrent_requests)),
            changes: Mutex::new(parts.book.subscribe()),
            written: Mutex::default(),
            parts,
        }))
    }

    #[must_use]
    pub fn book(&self) -> &Entrybook {
        &self.0.parts.book
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        self.0.parts.book.pool()
    }

    /// For what must be seen while requests have taken every connection of [`pool`](Self::pool).
    #[must_use]
    pub fn background(&self) -> &PgPool {
        &self.0.parts.background
    }

    /// What the folds read, through the connections of requests.
    #[must_use]
    pub fn source(&self) -> BookSource {
        BookSource::new(self.pool().clone(), self.book().keyring().events().clone())
    }

    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.0.parts.book.clock().now()
    }

    #[must_use]
    pub fn lease_news(&self) -> &News {
        &self.0.parts.lease_news
    }

    #[must_use]
    pub fn sequencer(&self) -> &Sequencer {
        &self.0.parts.sequencer
    }

    #[must_use]
    pub fn projector(&self) -> &Projector {
        &self.0.parts.projector
    }

    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.0.parts.revocations
    }

    /// The transparency log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.0.parts.log
    }

    #[must_use]
    pub fn settings(&self) -> &HttpSettings {
        &self.0.parts.settings
    }

    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// The exports that are being sent.
    pub(crate) fn exports(&self) -> &Exports {
        &self.0.exports
    }

    pub(crate) fn readings(&self) -> &Readings {
        &self.0.readings
    }

    /// The id of this server, from its start to its end.
    #[must_use]
    pub fn replica(&self) -> Uuid {
        self.0.replica
    }

    pub(crate) fn rebuilds(&self) -> &Rebuilds {
        &self.0.rebuilds
    }

    pub(crate) fn standing(&self) -> &Standing {
        &self.0.standing
    }

    pub(crate) fn tails(&self) -> &Tails {
        &self.0.tails
    }

    pub(crate) fn csrf(&self) -> &CsrfKey {
        &self.0.csrf
    }

    pub(crate) fn requests(&self) -> Arc<Semaphore> {
        self.0.requests.clone()
    }

    /// The bodies of requests that are not let in yet.
    pub(crate) fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// Commands that are still running; the server waits for them before it ends.
    pub(crate) fn running_commands(&self) -> &TaskTracker {
        &self.0.commands
    }

    /// Runs a command to its end, even if its client goes away meanwhile: nobody escapes being
    /// counted by hanging up. What it changes for tokens counts when this returns.
    ///
    /// No more of them run than requests may be in flight: one whose client has gone still counts.
    pub async fn command<T, F>(&self, command: impl FnOnce(Entrybook) -> F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let Ok(permit) = self.0.command_permits.clone().try_acquire_owned() else {
            return Err(ApiError::overloaded());
        };
        let app = self.clone();
        let running = command(self.book().clone());
        let task = self.0.commands.spawn(async move {
            let done = running.await;
            app.apply_changes();
            drop(permit);
            done
        });
        task.await.map_err(ApiError::internal)
    }

    /// Tells the revocations of what commands of this process have changed so far.
    pub fn apply_changes(&self) {
        let mut changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match changes.try_recv() {
                Ok(LocalChange::SessionEnded { session, user: _ }) => {
                    self.revocations().note_session_ended(session)
                }
                Ok(LocalChange::UserChanged {
                    user,
                    version,
                    cut,
                    roles_version,
                    roles,
                    disabled,
                }) => {
                    let state =
                        User { version, cut, roles_version, roles, disabled, ..User::default() };
                    self.revocations().note_user(user, &state);
                }
                // What was missed comes with the journal.
                Err(broadcast::error::TryRecvError::Lagged(_)) => {}
                Err(
                    broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed,
                ) => return,
            }
        }
    }

    /// Refuses what reads a projection, until its tables have been complete once: a half-built table
    /// would show a part as if it were the whole.
    pub async fn needs(&self, projection: &str) -> ApiResult<()> {
        if self.projector().is_built(projection).await? {
            return Ok(());
        }
        Err(ApiError::projection_building(projection))
    }

    /// How far a projection shows the book, which is told beside what is read from it: as it is, or
    /// after waiting a moment for all that is in the book now.
    pub async fn reach(&self, projection: &str, wait: Wait) -> ApiResult<Reach> {
        let patience = match wait {
            Wait::No => Duration::ZERO,
            Wait::ForAll => BEHIND_WAIT,
        };
        Ok(self.projector().reach(self.pool(), projection, None, patience).await?)
    }

    /// Refuses what would be answered wrongly by a projection that does not show a line yet, or the
    /// end of the book where none is named. It may come to it within a moment.
    pub async fn needs_line(&self, projection: &str, line: Option<i64>) -> ApiResult<Reach> {
        let reach = self.projector().reach(self.pool(), projection, line, NEEDED_WAIT).await?;
        let needed = line.unwrap_or(reach.head);
        if reach.reached < needed {
            return Err(ApiError::projection_behind(projection, reach.reached, needed));
        }
        Ok(reach)
    }

    /// Remembers what a person has written, so that what they read next includes it.
    pub fn wrote(&self, user: UserId, receipt: impl Into<Option<Receipt>>) {
        let Some(receipt) = receipt.into() else { return };
        let now = self.now();
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.len() >= OWN_WRITES_PEOPLE {
            written.retain(|_, (_, at)| now - *at < OWN_WRITES_KEPT);
        }
        if written.len() < OWN_WRITES_PEOPLE || written.contains_key(&user) {
            let last = written.entry(user).or_insert((receipt, now));
            *last = (last.0.max(receipt), now);
        }
    }

    /// Waits until a projection has what this person has written here lately, within bounds: rather
    /// a list that is a moment old than none.
    pub async fn see_own_writes(&self, user: UserId, projection: &str) {
        let receipt = {
            let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.get(&user).map(|(receipt, _)| *receipt)
        };
        let Some(Receipt { tx, event_id }) = receipt else { return };
        let receipt = projections::Receipt { tx, event_id };
        if !self.projector().wait_for(receipt, projection, OWN_WRITES_WAIT).await {
            tracing::debug!(
                projection,
                "the projection {projection} is behind what a person has just written"
            );
        }
    }
}
