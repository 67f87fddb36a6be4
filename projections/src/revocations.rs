//! What makes an access token void before its time, in memory on every replica.
//!
//! A token is checked without the database. The sessions that ended and the accounts that changed
//! within the longest life of a token are few; each replica holds them, fed by the journal and, at
//! once, by the commands of its own process.
//!
//! The order of the book does not matter here, and lateness does: events that wait for the sequencer
//! behind somebody's open transaction count as soon as they are committed.

mod folds;
mod unsettled;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{Cut, Roles, SessionId, User, UserId, stream};
use proof::EventFields;
use sqlx::Row;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{folds::Folds, unsettled::Look};
use crate::{
    book_source::BookSource,
    follower::Follower,
    head::{Frontier, HeadWatch},
    journal::JournalError,
    sequencer::back_off,
    sessions::{self, Sessions},
    users::{self, Users},
    view::View,
};

/// Clocks of replicas differ; what could matter within this is kept.
const SLACK: Duration = Duration::from_secs(300);
/// How much later than a line after it one may have been recorded. Lines are in the order in which
/// their transactions got their ids, and those that write events take seconds.
const OUT_OF_ORDER: Duration = Duration::from_secs(600);
/// So many lines are read sooner than a place among them is searched for.
const NOT_SEARCHED: i64 = 1_000;
/// A feed that was silent for so long may have missed an end.
const SILENT: Duration = Duration::from_secs(10);
/// How often entries that no token can outlive are dropped.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Whether a token still counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Valid {
        /// The account's roles, where they changed after the token was issued.
        roles: Option<Roles>,
    },
    Revoked,
    /// The account has changed, and how it stands has not been found for too long: its tokens are neither good nor bad.
    Unknown,
}

/// A key that the book says is destroyed: who remembers it must not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destroyed {
    /// A person's, who was erased.
    Person(UserId),
    /// A month's, such as `2026-01`.
    Month(String),
    /// The id of a key that signed access tokens, which was retired.
    SigningKey(String),
}

/// So many are kept for who is slow to take them.
const DESTROYED: usize = 1_024;

/// Which sessions have ended, and how accounts stand that changed. Clones share it.
#[derive(Debug, Clone)]
pub struct Revocations {
    pool: BookSource,
    head: HeadWatch,
    lifetime: Duration,
    known: Arc<RwLock<Known>>,
    destroyed: broadcast::Sender<Destroyed>,
}

#[derive(Debug, Default)]
struct Known {
    ended: HashMap<SessionId, Instant>,
    users: HashMap<UserId, (Standing, Instant)>,
    /// Accounts whose streams are not read to the end yet, and from when on that is too long.
    behind: HashMap<UserId, Instant>,
    /// The last line that was taken in; `None` until the first load is done.
    caught_up: Option<i64>,
    /// When the feed was last found complete.
    heard: Option<Instant>,
    pruned: Option<Instant>,
}

/// What of an account bears on its tokens.
#[derive(Debug, Clone)]
struct Standing {
    version: u64,
    cut: Option<Cut>,
    disabled: bool,
    roles: Roles,
    roles_version: u64,
}

impl From<&User> for Standing {
    fn from(user: &User) -> Self {
        Self {
            version: user.version,
            cut: user.cut,
            disabled: user.disabled,
            roles: user.roles.clone(),
            roles_version: user.roles_version,
        }
    }
}

impl Revocations {
    /// Remembers what ended within `lifetime`, the longest life of an access token.
    #[must_use]
    pub fn new(pool: BookSource, head: HeadWatch, lifetime: Duration) -> Self {
        let destroyed = broadcast::channel(DESTROYED).0;
        Self { pool, head, lifetime, known: Arc::default(), destroyed }
    }

    /// The keys that are destroyed from now on, as soon as they are, by whichever replica; some of
    /// them more than once.
    #[must_use]
    pub fn destroyed(&self) -> broadcast::Receiver<Destroyed> {
        self.destroyed.subscribe()
    }

    /// Whether a token of this session still counts. `user_version` is the version of the account that
    /// the token was issued for.
    #[must_use]
    pub fn check(&self, session: SessionId, user: UserId, user_version: u64) -> Verdict {
        let known = self.known();
        if known.ended.contains_key(&session) {
            return Verdict::Revoked;
        }
        if known.behind.get(&user).is_some_and(|stale_from| *stale_from <= Instant::now()) {
            return Verdict::Unknown;
        }
        let Some((standing, _)) = known.users.get(&user) else {
            return Verdict::Valid { roles: None };
        };
        let cut_off = standing.cut.is_some_and(|cut| !cut.keeps(session, user_version));
        if standing.disabled || cut_off {
            return Verdict::Revoked;
        }
        let newer = standing.roles_version > user_version;
        Verdict::Valid { roles: newer.then(|| standing.roles.clone()) }
    }

    /// Takes note of a session that a command of this process has ended.
    pub fn note_session_ended(&self, session: SessionId) {
        self.known_mut().ended.insert(session, Instant::now());
    }

    /// Takes note of an account as a command of this process has left it.
    pub fn note_user(&self, user: UserId, state: &User) {
        self.known_mut().note(user, state.into());
    }

    /// Whether this replica knows every end that is older than a moment, but for accounts whose tokens are
    /// [`Verdict::Unknown`]. If not, it should not answer for tokens.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let known = self.known();
        known.caught_up.is_some() && known.heard.is_some_and(|heard| heard.elapsed() < SILENT)
    }

    /// The last line of the journal that was taken in; 0 before the first load.
    #[must_use]
    pub fn caught_up_to(&self) -> i64 {
        self.known().caught_up.unwrap_or(0)
    }

    /// Loads, then follows the journal until cancelled. `now` is the time at the start, by the clock
    /// that the events have. Errors are logged and ridden out; [`Revocations::is_ready`] tells.
    pub async fn run(&self, now: DateTime<Utc>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.feed(now) => {}
        }
    }

    async fn feed(&self, now: DateTime<Utc>) {
        let mut failures = 0;
        let mut folds = Folds::default();
        let position = loop {
            match self.load(now, &mut folds).await {
                Ok(position) => break position,
                Err(cause) => {
                    tracing::error!(%cause, "the revoked sessions could not be loaded: {cause}");
                    failures += 1;
                    tokio::time::sleep(back_off(failures)).await;
                }
            }
        };
        failures = 0;
        let mut follower = Follower::new(self.pool.pool().clone(), self.head.clone(), position);
        let mut looked = None;
        loop {
            match self.follow(&mut follower, &mut folds, &mut looked).await {
                Ok(()) => {
                    failures = 0;
                    self.prune(&mut folds);
                    if folds.are_up_to_date() {
                        follower.wait().await;
                    }
                }
                Err(cause) => {
                    tracing::error!(%cause, "the journal could not be followed for revocations: {cause}");
                    failures += 1;
                    looked = None;
                    tokio::time::sleep(back_off(failures)).await;
                }
            }
        }
    }

    /// What the views know of the window, and the position from which the journal tells the rest.
    async fn load(&self, now: DateTime<Utc>, folds: &mut Folds) -> Result<i64, JournalError> {
        let window = TimeDelta::from_std(self.lifetime + SLACK).unwrap_or(TimeDelta::MAX);
        let since = now.checked_sub_signed(window).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let ended =
            self.since::<Sessions>(&sessions::ended_since_sql(), "session_id", since).await?;
        let changed = self.since::<Users>(&users::changed_since_sql(), "user_id", since).await?;
        {
            let mut known = self.known_mut();
            let now = Instant::now();
            known.ended.extend(ended.ids.into_iter().map(|id| (SessionId(id), now)));
            for user in changed.ids.into_iter().map(UserId) {
                folds.want_all(user);
                known.behind.insert(user, now);
            }
        }
        self.before_window(ended.position.min(changed.position), now).await
    }

    /// The line after which the journal has to be read by who knows all up to `position`. A view that
    /// is not built or is stopped may be far behind; what no token can outlive is not read for it.
    async fn before_window(&self, position: i64, now: DateTime<Utc>) -> Result<i64, JournalError> {
        let (head, clock): (i64, DateTime<Utc>) =
            sqlx::query_as("SELECT position, clock_timestamp() FROM sequencer")
                .fetch_one(self.pool.pool())
                .await?;
        let window = TimeDelta::from_std(self.lifetime + SLACK + OUT_OF_ORDER).ok();
        // Lines have the time of the database; whichever clock is behind reaches further back.
        let Some(before) = window.and_then(|window| now.min(clock).checked_sub_signed(window))
        else {
            return Ok(position);
        };
        let mut search = Search { low: position, high: head.saturating_add(1) };
        while let Some(line) = search.next() {
            let is_before: Option<bool> = sqlx::query_scalar(
                "SELECT e.recorded_at < $2
                   FROM journal j JOIN events e ON e.tx = j.tx AND e.id = j.event_id
                  WHERE j.position = $1",
            )
            .bind(line)
            .bind(before)
            .fetch_optional(self.pool.pool())
            .await?;
            // A line that is missing is left to the reader, who names it.
            search.narrow(line, is_before.unwrap_or(false));
        }
        Ok(search.low)
    }

    /// The checkpoint of a view and the ids it has for the window. One statement, so that both are of
    /// one moment; a snapshot held over two could find a table empty that was swapped in between.
    async fn since<V: View>(
        &self,
        ids: &str,
        id: &str,
        since: DateTime<Utc>,
    ) -> Result<Since, JournalError> {
        let rows = sqlx::query(&format!(
            "SELECT p.position, found.{id} AS id
               FROM projections p LEFT JOIN ({ids}) AS found ON true
              WHERE p.name = $2 AND p.version = $3"
        ))
        .bind(since)
        .bind(V::NAME)
        .bind(V::VERSION)
        .fetch_all(self.pool.pool())
        .await?;
        let mut found = Since { position: 0, ids: Vec::with_capacity(rows.len()) };
        for row in rows {
            found.position = row.try_get("position")?;
            found.ids.extend(row.try_get::<Option<Uuid>, _>("id")?);
        }
        Ok(found)
    }

    /// Takes in all that is committed by now, and reads on in the streams of accounts that changed. How long that
    /// takes depends on what is new, and on no account's stream: these are read in pieces.
    async fn follow(
        &self,
        follower: &mut Follower,
        folds: &mut Folds,
        looked: &mut Option<Look>,
    ) -> Result<(), JournalError> {
        let begun = Instant::now();
        // What is found now may have been there since shortly after the feed was last complete. An account that changed
        // stands as it did for as long as everything else may be out of date.
        let stale_from = self.known().heard.map_or(begun, |heard| heard + SILENT);
        let frontier = Frontier::read(&mut *self.pool.acquire().await?).await?;
        while follower.position() < frontier.head.position {
            let events = follower.read().await?;
            if events.is_empty() {
                break;
            }
            let mut changes = Changes::default();
            for event in &events {
                let authentic = || event.is_authentic(self.pool.authenticator());
                changes.add_if(&event.fields(), authentic);
            }
            self.take_in(changes, folds, stale_from);
        }
        let (waiting, look) = unsettled::look(&self.pool, &frontier, looked.as_ref()).await?;
        self.take_in(waiting, folds, stale_from);
        *looked = look;
        self.fold(folds).await?;
        let mut known = self.known_mut();
        known.caught_up = Some(follower.position());
        known.heard = Some(begun);
        Ok(())
    }

    fn take_in(&self, changes: Changes, folds: &mut Folds, stale_from: Instant) {
        for destroyed in changes.destroyed {
            // Nobody listening is no fault.
            let _ = self.destroyed.send(destroyed);
        }
        if changes.ended.is_empty() && changes.users.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut known = self.known_mut();
        known.ended.extend(changes.ended.into_iter().map(|session| (session, now)));
        for (user, sequence) in changes.users {
            if folds.want(user, sequence) {
                known.behind.entry(user).or_insert(stale_from);
            }
        }
    }

    /// Reads on in the streams of accounts that changed, a bounded piece.
    async fn fold(&self, folds: &mut Folds) -> Result<(), JournalError> {
        let up_to_date = folds.read_on(&self.pool).await?;
        let mut known = self.known_mut();
        for (user, standing) in up_to_date {
            known.note(user, standing);
            known.behind.remove(&user);
        }
        Ok(())
    }

    fn prune(&self, folds: &mut Folds) {
        let mut known = self.known_mut();
        let now = Instant::now();
        if known.pruned.is_some_and(|pruned| now - pruned < PRUNE_EVERY) {
            return;
        }
        known.pruned = Some(now);
        let keep = self.lifetime + SLACK;
        known.ended.retain(|_, since| now - *since < keep);
        known.users.retain(|_, (_, since)| now - *since < keep);
        folds.retain(|user| known.users.contains_key(&user));
    }

    // A panic elsewhere can't leave these maps half changed in a way that matters.
    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The search for a line shortly before the window.
struct Search {
    /// Where it began, or a line before the window.
    low: i64,
    /// The end of the journal, or a line in the window.
    high: i64,
}

impl Search {
    /// The line to look at, unless the rest is as soon read.
    fn next(&self) -> Option<i64> {
        let lines = self.high.saturating_sub(self.low);
        (lines > NOT_SEARCHED).then(|| self.low + lines / 2)
    }

    fn narrow(&mut self, line: i64, is_before: bool) {
        if is_before {
            self.low = line;
        } else {
            self.high = line;
        }
    }
}

struct Since {
    position: i64,
    ids: Vec<Uuid>,
}

/// What some events change for tokens.
#[derive(Debug, Default)]
struct Changes {
    ended: HashSet<SessionId>,
    /// With the number of the last event of each.
    users: HashMap<UserId, i64>,
    destroyed: Vec<Destroyed>,
}

impl Changes {
    /// Adds an event if the service wrote it, which is asked of those alone that change something.
    fn add_if(&mut self, event: &EventFields<'_>, is_authentic: impl FnOnce() -> bool) {
        let mut one = Self::default();
        one.add(event);
        let is_empty = one.ended.is_empty() && one.users.is_empty() && one.destroyed.is_empty();
        if !is_empty && is_authentic() {
            self.ended.extend(one.ended);
            for (user, sequence) in one.users {
                let last = self.users.entry(user).or_default();
                *last = sequence.max(*last);
            }
            self.destroyed.extend(one.destroyed);
        }
    }

    /// By names alone: an end that a newer binary wrote in a form unknown here is an end as well.
    fn add(&mut self, event: &EventFields<'_>) {
        let user = || event.stream_id.parse::<UserId>().ok();
        match (event.stream_type, event.event_type) {
            (stream::SESSION, "SessionEnded") => {
                self.ended.extend(event.stream_id.parse::<SessionId>())
            }
            // New accounts and new hashes of the same password change nothing for tokens.
            (stream::USER, "UserRegistered" | "UserPasswordRehashed" | "UserProfileChanged") => {}
            (stream::USER, name) => {
                self.users.extend(user().map(|user| (user, event.sequence)));
                if name == "UserErased" {
                    self.destroyed.extend(user().map(Destroyed::Person));
                }
            }
            (stream::SERVICE, "MonthForgotten") => {
                let month = event.stream_id.strip_prefix("month:");
                self.destroyed.extend(month.map(|month| Destroyed::Month(month.to_owned())));
            }
            (stream::SERVICE, "SigningKeyRetired") => {
                let kid = stream::signing_key_of(event.stream_id);
                self.destroyed.extend(kid.map(|kid| Destroyed::SigningKey(kid.to_owned())));
            }
            _ => {}
        }
    }
}

impl Known {
    fn note(&mut self, user: UserId, standing: Standing) {
        let newer = self.users.get(&user).is_none_or(|(known, _)| standing.version > known.version);
        if newer {
            self.users.insert(user, (standing, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_read_from_shortly_before_the_window() {
        for (position, head, last_before) in [
            (0, 0, 0),
            (0, 999, 0),
            (0, 1_000_000, 0),
            (0, 1_000_000, 1),
            (0, 1_000_000, 400_000),
            (0, 1_000_000, 1_000_000),
            (700_000, 1_000_000, 400_000),
            (1_000_000, 900_000, 900_000),
        ] {
            let mut search = Search { low: position, high: head + 1 };
            let mut looks = 0;
            while let Some(line) = search.next() {
                assert!(position < line && line <= head, "{line}");
                search.narrow(line, line <= last_before);
                looks += 1;
            }
            let (found, known) = (search.low, position.max(last_before));
            assert!(known - NOT_SEARCHED < found && found <= known, "{found} for {known}");
            assert!(looks <= 11, "{looks}");
        }
    }
}
