//! How it was: the book folded up to a place or a time, by the folds of the read tables themselves.
//!
//! The history says which lines are a person's; what they say is read in the book. A line that it
//! leaves out is missed by the next of its stream, for each stream counts its own; whether the end of
//! one is there, a verification of the read tables tells.
//!
//! Times are not in the order of the book. As of a time, a stream is read up to its first line that
//! happened later, so that what is seen is always something that has been.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::{Event, SessionId, User, UserId};
use proof::EventAuthenticator;
use uuid::Uuid;

use crate::{
    audit_history,
    book_source::BookSource,
    journal::{self, JournalError, RecordedEvent},
    projection::{CannotApply, Entry, Page},
    sessions::{self, Sessions, session_of_stream},
    users::{self, Users, user_of_stream},
    view::View,
};

/// So many lines are read at once.
const PAGE: i64 = 1_000;
/// Of so many sessions.
const SESSIONS: usize = 100;

/// A place in the book, or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    Position(i64),
    Time(DateTime<Utc>),
}

/// Why it can't be told how it was.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(
        "the history shows the book up to line {reached} so far, and line {asked} is asked for"
    )]
    Ahead { asked: i64, reached: i64 },
    #[error(
        "the history leaves out number {missing} of {stream}, or the book does, before line \
         {position}; run `entrybook projections verify audit_history`"
    )]
    LeftOut { stream: String, missing: i64, position: i64 },
    #[error(transparent)]
    Event(#[from] CannotApply),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<sqlx::Error> for ReplayError {
    fn from(cause: sqlx::Error) -> Self {
        Self::Journal(cause.into())
    }
}

/// A person as they were.
#[derive(Debug, Clone)]
pub struct State {
    pub user_id: UserId,
    /// The time by which it is told whether a session had expired: that of the line, where a line was
    /// asked for.
    pub at: DateTime<Utc>,
    /// The last line that has a part in it; 0 where there was none yet.
    pub position: i64,
    /// None before they registered.
    pub account: Option<users::Row>,
    /// The sessions that had begun and not ended, in the order of their beginning.
    pub sessions: Vec<sessions::Row>,
    /// How many had begun by then, those that had ended among them; nothing where only those were looked
    /// at that may have been good.
    pub begun: Option<usize>,
    /// What the account itself says of its sessions.
    user: User,
}

impl State {
    /// Whether a session was good at that moment. What the account had ended was over at once,
    /// whether or not its end had been written down.
    #[must_use]
    pub fn is_live(&self, session: &sessions::Row) -> bool {
        session.ended_at.is_none()
            && session.expires_at > self.at
            && self.user.keeps(session.session_id, session.user_version)
    }

    /// The sessions that were good at that moment, the last begun first.
    pub fn live(&self) -> impl Iterator<Item = &sessions::Row> {
        self.sessions.iter().rev().filter(|session| self.is_live(session))
    }
}

/// Accounts and sessions, folded from lines; those of each stream in their order.
#[derive(Debug, Default)]
pub struct Replay {
    /// Streams are read up to their first line that happened later.
    until: Option<DateTime<Utc>>,
    past: HashSet<Uuid>,
    accounts: HashMap<UserId, (users::Row, User)>,
    sessions: HashMap<SessionId, (sessions::Row, i64)>,
    /// Sessions that have ended and are not kept: how far each is read.
    ended: HashMap<SessionId, i64>,
    forgets_ended: bool,
    position: i64,
}

impl Replay {
    #[must_use]
    pub fn new(until: Option<DateTime<Utc>>) -> Self {
        Self { until, ..Self::default() }
    }

    /// Keeps of a session that has ended no more than how far it is read: an account may have had a
    /// million of them.
    fn forgetting_ended(until: Option<DateTime<Utc>>) -> Self {
        Self { forgets_ended: true, ..Self::new(until) }
    }

    /// Folds the next line in. Those of other streams are passed by, and those that the service did not write.
    pub fn absorb(
        &mut self,
        recorded: RecordedEvent,
        authenticator: &EventAuthenticator,
    ) -> Result<(), ReplayError> {
        let (of_user, of_session) = (
            Users::concerns(&recorded.aggregate_type),
            Sessions::concerns(&recorded.aggregate_type),
        );
        if !of_user && !of_session {
            return Ok(());
        }
        let entry = Entry::new(recorded, authenticator);
        let Some(line) = entry.line()? else { return Ok(()) };
        let stream = if of_user {
            user_of_stream(line.recorded)?.0
        } else {
            session_of_stream(line.recorded)?.0
        };
        if self.until.is_some_and(|until| line.metadata.at > until) {
            self.past.insert(stream);
        }
        if self.past.contains(&stream) {
            return Ok(());
        }
        let sequence = line.recorded.number();
        let next_is = |next: i64| {
            if sequence == next {
                return Ok(());
            }
            Err(ReplayError::LeftOut {
                stream: format!("{} {}", line.recorded.aggregate_type, line.recorded.aggregate_id),
                missing: next,
                position: line.recorded.position,
            })
        };
        if let Event::User(event) = line.event {
            let id = UserId(stream);
            let (row, user) = self.accounts.remove(&id).unzip();
            let known = row.as_ref().map_or(0, |row: &users::Row| row.version);
            next_is(i64::try_from(known).unwrap_or(i64::MAX).saturating_add(1))?;
            let mut user = user.unwrap_or_default();
            user.apply(event.clone());
            self.accounts.insert(id, (Users::fold(row, &line)?, user));
        } else {
            let id = SessionId(stream);
            let known = self.sessions.get(&id).map(|(_, known)| known).or(self.ended.get(&id));
            next_is(known.copied().unwrap_or(0).saturating_add(1))?;
            if let Some(known) = self.ended.get_mut(&id) {
                *known = sequence;
            } else {
                let row = self.sessions.remove(&id).map(|(row, _)| row);
                let row = Sessions::fold(row, &line)?;
                if self.forgets_ended && row.ended_at.is_some() {
                    self.ended.insert(id, sequence);
                } else {
                    self.sessions.insert(id, (row, sequence));
                }
            }
        }
        self.position = self.position.max(line.recorded.position);
        Ok(())
    }

    /// All accounts and sessions that there are, by their ids.
    #[must_use]
    pub fn rows(&self) -> (BTreeMap<UserId, users::Row>, BTreeMap<SessionId, sessions::Row>) {
        let accounts = self.accounts.iter().map(|(id, (row, _))| (*id, row.clone()));
        let sessions = self.sessions.iter().map(|(id, (row, _))| (*id, row.clone()));
        (accounts.collect(), sessions.collect())
    }

    /// Everybody who was signed in then, by their ids.
    #[must_use]
    pub fn signed_in(mut self, at: DateTime<Utc>) -> Vec<State> {
        let people: BTreeSet<UserId> =
            self.sessions.values().map(|(session, _)| session.user_id).collect();
        let mut states: BTreeMap<UserId, State> =
            people.into_iter().map(|id| (id, self.state(id, at))).collect();
        for (_, (session, _)) in self.sessions.drain() {
            if let Some(state) = states.get_mut(&session.user_id)
                && session.ended_at.is_none()
            {
                state.sessions.push(session);
            }
        }
        let mut states: Vec<State> = states.into_values().collect();
        states.iter_mut().for_each(in_order);
        states.retain(|state| state.live().next().is_some());
        states
    }

    /// The one person of whom there are sessions.
    fn into_state(mut self, user_id: UserId, at: DateTime<Utc>) -> State {
        let mut state = self.state(user_id, at);
        state.sessions = self.sessions.into_values().map(|(session, _)| session).collect();
        in_order(&mut state);
        state
    }

    /// One person, without their sessions.
    fn state(&mut self, user_id: UserId, at: DateTime<Utc>) -> State {
        let (account, user) = self.accounts.remove(&user_id).unzip();
        let user = user.unwrap_or_default();
        let sessions = Vec::new();
        State { user_id, at, position: self.position, account, sessions, begun: None, user }
    }
}

fn in_order(state: &mut State) {
    state.sessions.sort_unstable_by_key(|session| (session.started_at, session.session_id));
}

/// How it was with one person.
pub async fn state(pool: &BookSource, user: UserId, as_of: AsOf) -> Result<State, ReplayError> {
    let (last, at) = match as_of {
        AsOf::Position(position) => match audit_history::time_of_line(pool, position).await? {
            Some(at) => (position, at),
            None => {
                let reached = audit_history::reached(pool).await?;
                return Err(ReplayError::Ahead { asked: position, reached });
            }
        },
        AsOf::Time(at) => (audit_history::last_by(pool, at).await?, at),
    };
    let until = match as_of {
        AsOf::Position(_) => None,
        AsOf::Time(at) => Some(at),
    };
    let mut replay = Replay::forgetting_ended(until);
    fold(pool, Lines::Of(user), last, &mut replay).await?;
    let begun = Some(replay.sessions.len() + replay.ended.len());
    Ok(State { begun, ..replay.into_state(user, at) })
}

/// Who may have been signed in at a time, by their ids, after one of them: those who were have a session that
/// [was good](State::live).
///
/// The table of sessions says which may have been. What it says of a session is of today; how it was
/// then is folded.
pub async fn signed_in(
    pool: &BookSource,
    at: DateTime<Utc>,
    after: Option<UserId>,
    limit: i64,
) -> Result<Page<State>, ReplayError> {
    let people = sessions::may_have_been_good(pool, at, after, limit.saturating_add(1)).await?;
    let last = audit_history::last_by(pool, at).await?;
    let Page { rows: people, more } = Page::of(people, limit);
    let mut rows = Vec::with_capacity(people.len());
    for (user, sessions) in people {
        let mut replay = Replay::forgetting_ended(Some(at));
        fold(pool, Lines::OfAccount(user), last, &mut replay).await?;
        for sessions in sessions.chunks(SESSIONS) {
            fold(pool, Lines::OfSessions(sessions), last, &mut replay).await?;
        }
        rows.push(replay.into_state(user, at));
    }
    Ok(Page { rows, more })
}

/// What the history says is read of the book.
#[derive(Clone, Copy)]
enum Lines<'a> {
    /// Of the account and all its sessions.
    Of(UserId),
    OfAccount(UserId),
    OfSessions(&'a [SessionId]),
}

/// Folds lines in, up to one of them.
async fn fold(
    pool: &BookSource,
    lines: Lines<'_>,
    last: i64,
    replay: &mut Replay,
) -> Result<(), ReplayError> {
    let mut after = 0;
    loop {
        let between = (after, last);
        let positions = match lines {
            Lines::Of(user) => audit_history::lines_of(pool, user, between, PAGE).await?,
            Lines::OfAccount(user) => {
                audit_history::lines_of_account(pool, user, between, PAGE).await?
            }
            Lines::OfSessions(sessions) => {
                audit_history::lines_of_sessions(pool, sessions, between, PAGE).await?
            }
        };
        let Some(end) = positions.last() else { return Ok(()) };
        after = *end;
        let lines = journal::read_at(&mut *pool.acquire().await?, &positions).await?;
        for recorded in lines {
            replay.absorb(recorded, pool.authenticator())?;
        }
    }
}

/// The whole book folded, with no look at a read table; line by line, so it takes its time.
pub async fn whole(pool: &BookSource, as_of: AsOf) -> Result<Replay, ReplayError> {
    let (last, until) = match as_of {
        AsOf::Position(position) => (position, None),
        AsOf::Time(at) => (i64::MAX, Some(at)),
    };
    let mut replay = Replay::new(until);
    let mut after = 0_i64;
    while after < last {
        let mut connection = pool.acquire().await?;
        let limit = PAGE.saturating_mul(10).min(last.saturating_sub(after));
        let lines = journal::read_page(&mut connection, after, limit, &[]).await?;
        let Some(end) = lines.last() else { break };
        after = end.position;
        for recorded in lines {
            replay.absorb(recorded, pool.authenticator())?;
        }
    }
    Ok(replay)
}
