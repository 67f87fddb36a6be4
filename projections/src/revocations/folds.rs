//! The accounts that changed, folded from their own streams, which are newer than any view.
//!
//! How long a stream is, its owner decides. What is read at once is bounded, over all accounts together; an account
//! with a long stream takes turns with the others, and what was read of it is not read again.

use std::collections::{HashMap, VecDeque};

use domain::{Cut, EndReason, Event, User, UserId, stream};
use futures_util::TryStreamExt;
use proof::EventFields;
use sqlx::Row;

use super::Standing;
use crate::book_source::BookSource;

/// How many accounts are folded in one round …
const ACCOUNTS: usize = 500;
/// … and how many events are read for them, all together.
const EVENTS: usize = 5_000;

/// Where each account's fold stands, and which accounts are behind what is known to be in their streams.
#[derive(Debug, Default)]
pub(super) struct Folds {
    accounts: HashMap<UserId, Fold>,
    /// Those that are behind, each once.
    behind: VecDeque<UserId>,
}

impl Folds {
    /// Takes note that the stream of an account has an event with this number. Tells whether its fold is behind that.
    pub(super) fn want(&mut self, user: UserId, sequence: i64) -> bool {
        let fold = self.accounts.entry(user).or_default();
        let is_queued = fold.is_behind();
        fold.wanted = fold.wanted.max(sequence);
        if fold.is_behind() && !is_queued {
            self.behind.push_back(user);
        }
        fold.is_behind()
    }

    /// The same where it is not known how long the stream is.
    pub(super) fn want_all(&mut self, user: UserId) {
        self.want(user, i64::MAX);
    }

    pub(super) fn are_up_to_date(&self) -> bool {
        self.behind.is_empty()
    }

    /// Drops the folds of accounts that nobody needs any more.
    pub(super) fn retain(&mut self, is_needed: impl Fn(UserId) -> bool) {
        self.accounts.retain(|user, fold| fold.is_behind() || is_needed(*user));
    }

    /// Reads on, within the bounds, and returns the accounts that are up to date now. After an error the next round
    /// goes on where this one ended.
    pub(super) async fn read_on(
        &mut self,
        source: &BookSource,
    ) -> Result<Vec<(UserId, Standing)>, sqlx::Error> {
        let turn: Vec<UserId> = self.behind.iter().take(ACCOUNTS).copied().collect();
        if turn.is_empty() {
            return Ok(Vec::new());
        }
        let each = EVENTS / turn.len();
        let read = |user| self.accounts.get(user).map_or(0, |fold| fold.read);
        let after: Vec<i64> = turn.iter().map(read).collect();
        let mut found: HashMap<UserId, usize> = HashMap::with_capacity(turn.len());
        let mut rows = sqlx::query(
            "SELECT e.*
               FROM unnest($2::text[], $3::bigint[]) AS turn (id, after)
              CROSS JOIN LATERAL (
                    SELECT id, aggregate_id, sequence, event_type, event_version,
                           payload::text AS payload, metadata::text AS metadata
                      FROM events
                     WHERE aggregate_type = $1 AND aggregate_id = turn.id AND sequence > turn.after
                     ORDER BY sequence
                     LIMIT $4) AS e
              ORDER BY aggregate_id, sequence",
        )
        .bind(stream::USER)
        .bind(turn.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(after)
        .bind(i64::try_from(each).unwrap_or(i64::MAX))
        .fetch(source.pool());
        while let Some(row) = rows.try_next().await? {
            let id: String = row.try_get("aggregate_id")?;
            let Ok(user) = id.parse::<UserId>() else { continue };
            let fields = EventFields {
                stream_type: stream::USER,
                stream_id: &id,
                sequence: row.try_get("sequence")?,
                event_type: row.try_get("event_type")?,
                event_version: row.try_get("event_version")?,
                payload: row.try_get("payload")?,
            };
            let (event_id, metadata) = (row.try_get("id")?, row.try_get("metadata")?);
            let is_authentic = source.authenticator().is_authentic(event_id, &fields, metadata);
            let fold = self.accounts.entry(user).or_default();
            fold.read = fields.sequence;
            if is_authentic {
                fold.apply(user, &fields);
            }
            *found.entry(user).or_default() += 1;
        }
        drop(rows);
        self.behind.drain(..turn.len());
        let mut up_to_date = Vec::with_capacity(turn.len());
        for user in turn {
            let fold = self.accounts.entry(user).or_default();
            if found.get(&user).copied().unwrap_or(0) < each {
                // The stream has no more; that it has less than was said can only be where events were taken out.
                fold.wanted = fold.authentic;
            }
            if fold.is_behind() {
                self.behind.push_back(user);
            } else {
                // Numbers that somebody else has taken do not hide what the service writes next.
                fold.read = fold.authentic;
                up_to_date.push((user, fold.standing()));
            }
        }
        Ok(up_to_date)
    }
}

/// An account on its way through its stream.
#[derive(Debug, Default)]
struct Fold {
    /// Without its profile, which bears on no token.
    user: User,
    /// The version from which on nothing is known for certain, because an event can't be read here.
    unreadable: Option<u64>,
    /// The number of the last event that was read.
    read: i64,
    /// The number of the last one that the service wrote.
    authentic: i64,
    /// The number up to which the stream is to be read.
    wanted: i64,
}

impl Fold {
    fn is_behind(&self) -> bool {
        self.authentic < self.wanted
    }

    fn apply(&mut self, id: UserId, fields: &EventFields<'_>) {
        let EventFields { event_type, event_version, payload, sequence, .. } = *fields;
        self.authentic = sequence;
        match Event::from_stored_text(stream::USER, event_type, event_version, payload) {
            Ok(Event::User(event)) => {
                self.user.apply(event);
                self.user.profile = None;
            }
            Ok(
                Event::Session(_) | Event::SignInGuard(_) | Event::Service(_) | Event::Reading(_),
            ) => {}
            Err(cause) => {
                tracing::error!(
                    user = %id, sequence, %cause,
                    "number {sequence} of account {id} can't be read, so its older tokens are \
                     refused here: {cause}"
                );
                self.user.version += 1;
                self.unreadable = Some(self.user.version);
            }
        }
    }

    fn standing(&self) -> Standing {
        let mut standing = Standing::from(&self.user);
        if let Some(version) = self.unreadable {
            standing.cut = Some(Cut::after(standing.cut, version, None, EndReason::EndedByAdmin));
        }
        standing
    }
}
