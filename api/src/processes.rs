//! What goes on without a request: the book is put in order and posted, sessions that an account no
//! longer keeps are ended, and those that have expired.
//!
//! A password that is changed ends the other sessions at once: tokens and refreshes are refused from
//! that commit on. What is left to do is to write their ends down, each in its own stream. One
//! replica does that, the one that holds an advisory lock; were two to do it, or one to do it twice
//! after a crash, ending a session again changes nothing. How far the journal has been seen is kept
//! in the registry of projections, so nothing is passed over.

use std::{collections::HashMap, time::Duration};

use commands::{CommandError, Origin, StorageError};
use domain::{Cut, EndReason, Event, SessionEvent, SessionId, UserEvent, UserId, stream};
use futures_util::StreamExt;
use projections::{CannotApply, Follower, Heartbeat, Identity, RecordedEvent, sessions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{log, lookalikes, retention, service_events, state::App};

/// The name under which the process keeps its place in the journal.
const NAME: &str = "process:end_sessions";
/// How often a replica asks whether it is its turn.
const TURN: Duration = Duration::from_secs(5);
const SWEEP: Duration = Duration::from_secs(30);
const SIGNING_KEYS: Duration = Duration::from_secs(60);
/// Sessions that are ended in one go.
const BATCH: i64 = 200;
/// Of these, side by side.
const ENDED_AT_ONCE: usize = 8;
/// Accounts whose last cut is remembered, for sign-ins that raced with it.
const CUTS: usize = 10_000;

/// Spawns everything that goes on in the background, until the token is cancelled. After the process was cut off from the
/// database it begins again: an answer that is waited for may never come.
pub fn spawn(app: &App, tracker: &TaskTracker, cancel: &CancellationToken) {
    {
        let (app, cancel) = (app.clone(), cancel.clone());
        tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = app.sequencer().run(app.book().appended(), cancel.clone()) => break,
                    () = app.lease_news().back_again() => {}
                }
            }
        });
    }
    {
        let (app, cancel) = (app.clone(), cancel.clone());
        tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = app.projector().run(cancel.clone()) => break,
                    () = app.lease_news().back_again() => {}
                }
            }
        });
    }
    {
        let (app, cancel) = (app.clone(), cancel.clone());
        tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = app.revocations().run(app.now(), cancel.clone()) => break,
                    () = app.lease_news().back_again() => {}
                }
            }
        });
    }
    {
        let (heartbeat, cancel) = (heartbeat(app), cancel.clone());
        tracker.spawn(async move { heartbeat.run(cancel).await });
    }
    {
        let (app, cancel) = (app.clone(), cancel.clone());
        tracker.spawn(async move { app.rebuilds().run(cancel).await });
    }
    let tasks = [
        Task::BlockedAttempts,
        Task::SigningKeys,
        Task::Sessions,
        Task::Retention,
        Task::DestroyedKeys,
        Task::SignLog,
        Task::RememberLog,
        Task::AnchorLog,
        Task::Lookalikes,
    ];
    for task in tasks {
        let (app, cancel) = (app.clone(), cancel.clone());
        tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = task.run(&app) => break,
                    () = app.lease_news().back_again() => {}
                }
            }
        });
    }
}

/// Registers this replica, so that nobody drops the tables it uses.
fn heartbeat(app: &App) -> Heartbeat {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    let identity = Identity {
        id: app.replica(),
        host: host.unwrap_or_else(|| "an unnamed host".to_owned()),
        binary: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Heartbeat::new(app.background().clone(), app.projector().clone(), &projections::all(), identity)
}

#[derive(Debug, Clone, Copy)]
enum Task {
    BlockedAttempts,
    SigningKeys,
    Sessions,
    Retention,
    DestroyedKeys,
    SignLog,
    RememberLog,
    AnchorLog,
    Lookalikes,
}

impl Task {
    async fn run(self, app: &App) {
        match self {
            Self::BlockedAttempts => loop {
                tokio::time::sleep(app.book().settings().blocked_window).await;
                app.book().post_blocked().await;
            },
            Self::SigningKeys => loop {
                if let Err(error) = app.book().tokens().refresh_keys().await {
                    tracing::warn!("the signing keys could not be looked at: {error}");
                }
                service_events::signing_keys(app.book()).await;
                tokio::time::sleep(SIGNING_KEYS).await;
            },
            Self::Retention => retention::forget_months(app).await,
            Self::DestroyedKeys => retention::forget_keys(app).await,
            Self::SignLog => log::run(app).await,
            Self::RememberLog => log::remember(app).await,
            Self::AnchorLog => log::anchors::run(app).await,
            Self::Lookalikes => lookalikes::run(app).await,
            Self::Sessions => loop {
                match turn(app.background(), NAME).await {
                    Ok(Some(mut lock)) => {
                        let _ = end_sessions(app, &mut lock).await.inspect_err(warn);
                        let _ = lock.close().await;
                    }
                    Ok(None) => {}
                    Err(error) => warn(&error.into()),
                }
                app.lease_news().takeover_or(TURN).await;
            },
        }
    }
}

/// Why the process has to begin again.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Command(StorageError),
    /// A read table stands still, or is far behind; `/readyz` says why.
    #[error("the projection sessions does not show yet what is to be ended")]
    Behind,
    /// Passing it by might leave sessions in the history that nobody has. A replica that can read it
    /// takes over.
    #[error("what it asks for can't be known: {0}")]
    Unreadable(CannotApply),
}

fn warn(error: &Interrupted) {
    tracing::warn!("the process that ends sessions was interrupted and begins again: {error}");
}

/// The connection that holds the lock, if no other replica does. It is the pool's no more, so that
/// the lock goes with it whatever ends the process. One that stands still loses it to who keeps a lease
/// (`commands::leases`).
pub(crate) async fn turn(pool: &PgPool, name: &str) -> Result<Option<PgConnection>, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let held: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1))")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    if !held {
        return Ok(None);
    }
    let mut connection = connection.detach();
    projections::end_with_us(&mut connection).await?;
    Ok(Some(connection))
}

/// Follows the journal and sweeps, as long as the lock is held.
async fn end_sessions(app: &App, lock: &mut PgConnection) -> Result<(), Interrupted> {
    let position = place(lock, NAME).await?;
    let mut process = Process { app: app.clone(), cuts: HashMap::new() };
    // Wherever the journal stops it.
    process.sweep().await?;
    let mut follower = Follower::new(app.background().clone(), app.sequencer().head(), position);
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            events = follower.next_batch() => {
                for event in &events {
                    process.after(event).await?;
                }
                keep_place(lock, NAME, follower.position()).await?;
            }
            _ = sweep.tick() => {
                // It also finds out when the connection, and the lock with it, is lost.
                keep_place(lock, NAME, follower.position()).await?;
                process.sweep().await?;
            }
        }
    }
}

/// The processes, and the line up to which each has done what is asked for.
pub async fn positions(pool: &PgPool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT substr(name, length('process:') + 1), position FROM projections
          WHERE name LIKE 'process:%' ORDER BY name",
    )
    .fetch_all(pool)
    .await
}

/// The line up to which a process has come.
pub(crate) async fn place(connection: &mut PgConnection, name: &str) -> Result<i64, sqlx::Error> {
    sqlx::query("INSERT INTO projections (name, version) VALUES ($1, 1) ON CONFLICT DO NOTHING")
        .bind(name)
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar("SELECT position FROM projections WHERE name = $1 AND version = 1")
        .bind(name)
        .fetch_one(connection)
        .await
}

pub(crate) async fn keep_place(
    connection: &mut PgConnection,
    name: &str,
    position: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE projections SET position = $2, updated_at = clock_timestamp()
          WHERE name = $1 AND version = 1 AND position < $2",
    )
    .bind(name)
    .bind(position)
    .execute(connection)
    .await?;
    Ok(())
}

struct Process {
    app: App,
    /// What the accounts of late have cut, and why.
    cuts: HashMap<UserId, Cut>,
}

impl Process {
    /// What one line of the book asks for.
    async fn after(&mut self, recorded: &RecordedEvent) -> Result<(), Interrupted> {
        if ![stream::USER, stream::SESSION].contains(&recorded.aggregate_type.as_str()) {
            return Ok(());
        }
        let event = recorded.event(self.app.book().keyring().events());
        let Some(event) = event.map_err(Interrupted::Unreadable)? else { return Ok(()) };
        match event {
            Event::User(UserEvent::PasswordChanged { kept_session, .. }) => {
                self.cut(recorded, kept_session, EndReason::PasswordChanged).await
            }
            Event::User(UserEvent::SessionsEnded { kept_session }) => {
                self.cut(recorded, kept_session, EndReason::EndedOthers).await
            }
            Event::User(UserEvent::Disabled {}) => {
                self.cut(recorded, None, EndReason::AccountDisabled).await
            }
            Event::User(UserEvent::Erased {}) => {
                if let Ok(user) = recorded.aggregate_id.parse::<UserId>() {
                    self.finish_erasure(user).await?;
                }
                self.cut(recorded, None, EndReason::AccountErased).await
            }
            Event::Session(SessionEvent::Started { user_id, user_version, .. }) => {
                // A sign-in that verified the old password while it was being changed.
                let late = self.cuts.get(&user_id).filter(|cut| user_version < cut.version);
                let session = recorded.aggregate_id.parse::<SessionId>();
                if let (Some(cut), Ok(session)) = (late, session)
                    && !cut.keeps(session, user_version)
                {
                    self.end(user_id, &[session], cut.reason).await?;
                }
                Ok(())
            }
            Event::User(
                UserEvent::Registered { .. }
                | UserEvent::ProfileChanged { .. }
                | UserEvent::PasswordRehashed { .. }
                | UserEvent::RoleGranted { .. }
                | UserEvent::RoleRevoked { .. }
                | UserEvent::Enabled {},
            )
            | Event::Session(SessionEvent::Refreshed { .. } | SessionEvent::Ended { .. })
            | Event::SignInGuard(_)
            | Event::Service(_)
            | Event::Reading(_) => Ok(()),
        }
    }

    /// Destroys what is still there of an erased person. What can never be done is passed over, so that
    /// the sessions of others go on being ended.
    async fn finish_erasure(&self, user: UserId) -> Result<(), Interrupted> {
        match self.app.book().finish_erasure(user).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_temporary() => Err(Interrupted::Command(error)),
            Err(error) => {
                tracing::error!(
                    %user,
                    "it can't be known whether anything is left of {user}, who was erased; look with \
                     `entrybook users erase {user} --yes`: {error}"
                );
                Ok(())
            }
        }
    }

    /// Ends the sessions that an event of the account has cut.
    async fn cut(
        &mut self,
        recorded: &RecordedEvent,
        kept: Option<SessionId>,
        reason: EndReason,
    ) -> Result<(), Interrupted> {
        let Ok(user) = recorded.aggregate_id.parse::<UserId>() else { return Ok(()) };
        // The version of an account is how many events it has.
        let version = u64::try_from(recorded.number()).unwrap_or(0);
        if self.cuts.len() >= CUTS {
            self.cuts.clear();
        }
        let cut = Cut::after(self.cuts.get(&user).copied(), version, kept, reason);
        self.cuts.insert(user, cut);
        let mut seen = projections::Receipt { tx: recorded.tx, event_id: recorded.id };
        loop {
            if !self.app.projector().wait_for(seen, "sessions", TURN).await {
                return Err(Interrupted::Behind);
            }
            let mut sessions =
                sessions::opened_before(self.app.pool(), user, version, BATCH).await?;
            sessions.retain(|session| Some(*session) != kept);
            if sessions.is_empty() {
                return Ok(());
            }
            match self.end(user, &sessions, reason).await? {
                Some(receipt) => {
                    seen = projections::Receipt { tx: receipt.tx, event_id: receipt.event_id }
                }
                None => return Ok(()),
            }
        }
    }

    /// Ends what has expired, a batch at a time.
    async fn sweep(&self) -> Result<(), Interrupted> {
        loop {
            let expired = sessions::expired(self.app.pool(), self.app.now(), BATCH).await?;
            let full = expired.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX);
            let mut last = None;
            let mut ends = futures_util::stream::iter(expired)
                .map(|(session, user)| self.end_one(user, session, EndReason::Expired))
                .buffer_unordered(ENDED_AT_ONCE);
            while let Some(ended) = ends.next().await {
                last = last.max(ended?);
            }
            // Before the table shows these as ended, it would give the same ones again.
            match last {
                Some(receipt) if full && self.shown(receipt).await => {}
                _ => return Ok(()),
            }
        }
    }

    /// Whether the read table of sessions shows a write, after a while at most.
    async fn shown(&self, receipt: commands::Receipt) -> bool {
        let receipt = projections::Receipt { tx: receipt.tx, event_id: receipt.event_id };
        self.app.projector().wait_for(receipt, "sessions", TURN).await
    }

    /// The receipt of the last one that had not ended before. A database that is away interrupts the
    /// process, to begin again where it was; what can never be done is passed over.
    async fn end(
        &self,
        user: UserId,
        sessions: &[SessionId],
        reason: EndReason,
    ) -> Result<Option<commands::Receipt>, Interrupted> {
        let mut last = None;
        for session in sessions {
            last = last.max(self.end_one(user, *session, reason).await?);
        }
        Ok(last)
    }

    async fn end_one(
        &self,
        user: UserId,
        session: SessionId,
        reason: EndReason,
    ) -> Result<Option<commands::Receipt>, Interrupted> {
        let book = self.app.book();
        let origin = Origin::system(book.ids().uuid_v7().to_string());
        let ended = match book.end_session(user, session, reason, &origin).await {
            Ok(receipt) => receipt,
            Err(CommandError::Storage(error)) if error.is_temporary() => {
                return Err(Interrupted::Command(error));
            }
            Err(error) => {
                tracing::error!(%user, %session, "the session {session} of {user} could not be ended: {error}");
                None
            }
        };
        self.app.apply_changes();
        Ok(ended)
    }
}
