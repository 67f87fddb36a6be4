//! A page of the history for whoever asks: what they may see, opened and labelled.
//!
//! Auditors see all of it; everybody else what concerns themselves, and there neither the names nor
//! the addresses of others who acted on their account.

use std::{collections::BTreeMap, str::FromStr};

use chrono::{DateTime, Datelike, Utc};
use commands::{CLI_ACTOR, Origin};
use domain::{Actor, Identifier, Role, SessionId, UserId};
use futures_util::{StreamExt, TryStreamExt, stream};
use projections::{
    Reach, audit_history,
    claims::{self, Claim},
    users,
};

use crate::{
    context::Context,
    identity::{Identity, lacks},
    problem::ApiResult,
    readings::{self, Reading},
    sources::{self, Seen},
    state::{App, Wait},
};

pub use projections::audit_history::{ActorKind, Count, Filter, Order};

/// People that are looked up side by side.
const LOOKUPS: usize = 4;

/// A line of the book.
#[derive(Debug, Clone)]
pub struct Line {
    pub position: i64,
    pub at: DateTime<Utc>,
    pub event_type: String,
    pub outcome: Option<String>,
    pub person: Option<Person>,
    pub actor: Doer,
    pub session: Option<SessionId>,
    pub address: Option<String>,
    pub user_agent: Option<String>,
    /// What was typed to sign in, where it is nobody's; what a reader of the history looked for.
    pub identifier: Option<String>,
    pub request_id: String,
}

/// Somebody's account, with the username where it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: UserId,
    pub label: Option<String>,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doer {
    User(Person),
    Anonymous,
    System,
    /// The command line, with the operating system's user where it may be shown.
    Cli(Option<String>),
    /// This version can't read who it was.
    Unknown,
}

/// Who is looked for as the actor of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorFilter {
    User(UserId),
    Kind(ActorKind),
}

impl ActorFilter {
    /// Reads `anonymous`, `system`, `cli` or the id of an account.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        match text {
            "anonymous" => Some(Self::Kind(ActorKind::Anonymous)),
            "system" => Some(Self::Kind(ActorKind::System)),
            "cli" => Some(Self::Kind(ActorKind::Cli)),
            text if text.len() == 36 => text.parse().ok().map(Self::User),
            _ => None,
        }
    }

    /// Asks for this actor alone.
    pub fn narrow(self, filter: &mut Filter) {
        match self {
            Self::User(id) => filter.actor_user = Some(id),
            Self::Kind(kind) => filter.actor_kind = Some(kind),
        }
    }
}

/// Where a page begins: after or before a line, in the direction of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    After(i64),
    Before(i64),
}

/// A text that is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor; take `next` or `previous` of an answer as it is")]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (side, position) = text.split_once('-').ok_or(NoCursor)?;
        let plain = position.bytes().all(|byte| byte.is_ascii_digit());
        let position =
            position.parse().ok().filter(|position| plain && *position > 0).ok_or(NoCursor)?;
        match side {
            "after" => Ok(Self::After(position)),
            "before" => Ok(Self::Before(position)),
            _ => Err(NoCursor),
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::After(position) => write!(f, "after-{position}"),
            Self::Before(position) => write!(f, "before-{position}"),
        }
    }
}

/// A page, and the ways on from it.
#[derive(Debug, Clone)]
pub struct Page {
    pub lines: Vec<Line>,
    pub next: Option<Cursor>,
    pub previous: Option<Cursor>,
    /// Whether it is not full although more may follow, because so many lines were looked through.
    pub broke_off: bool,
}

/// Whether a time is one that RFC 3339 can write: of the years 0 to 9999. PostgreSQL takes no others.
#[must_use]
pub fn is_rfc_3339(time: DateTime<Utc>) -> bool {
    (0..=9999).contains(&time.year())
}

/// Which lines of those that pass make a page.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub order: Order,
    pub cursor: Option<Cursor>,
    pub limit: i64,
}

/// One page of what `viewer` may see, up to the line to which the history reached beforehand. That an
/// auditor looks at what is not their own is written down first.
pub async fn page(
    app: &App,
    viewer: &Identity,
    origin: &Origin,
    mut filter: Filter,
    reach: Reach,
    Part { order, cursor, limit }: Part,
) -> ApiResult<Page> {
    filter.up_to = Some(reach.reached);
    if !viewer.is(Role::Auditor) {
        filter.visible_to = Some(viewer.user_id);
    }
    app.needs("audit_history").await?;
    if filter.visible_to.is_none() && filter.user != Some(viewer.user_id) {
        // Whichever page it is: who turns pages looks for the same.
        app.reading(viewer, origin, Reading::Searched, readings::asked(&filter)).await?;
    }
    let backwards = match order {
        Order::Newest => Order::Oldest,
        Order::Oldest => Order::Newest,
    };
    let (order, position) = match cursor {
        None => (order, None),
        Some(Cursor::After(position)) => (order, Some(position)),
        Some(Cursor::Before(position)) => (backwards, Some(position)),
    };
    let found = audit_history::page(app.pool(), &filter, order, position, limit).await?;
    let mut rows = found.rows;
    let is_backwards = matches!(cursor, Some(Cursor::Before(_)));
    if is_backwards {
        rows.reverse();
    }
    // Back to where the page came from: beside its nearest line, or, where it has none, beside the cursor.
    let (first, last) = (rows.first(), rows.last());
    let back = match (cursor, if is_backwards { last } else { first }) {
        (None, _) => None,
        (Some(_), Some(row)) => Some(row.position),
        (Some(Cursor::After(position) | Cursor::Before(position)), None) => match order {
            // `order` is that of the walk, and the way back leads over the cursor's own line.
            Order::Newest => position.checked_sub(1).filter(|position| *position > 0),
            Order::Oldest => position.checked_add(1),
        },
    };
    let (next, previous) = if is_backwards { (back, found.next) } else { (found.next, back) };
    let (next, previous) = (next.map(Cursor::After), previous.map(Cursor::Before));
    let lines = describe(app, viewer, rows).await?;
    Ok(Page { lines, next, previous, broke_off: found.broke_off })
}

/// How many lines `viewer` may see of those that pass, up to the line to which the history reached
/// beforehand. Where that was not all of the book there may be more of them.
pub async fn count(
    app: &App,
    viewer: &Identity,
    mut filter: Filter,
    reach: Reach,
) -> ApiResult<Count> {
    filter.up_to = Some(reach.reached);
    if !viewer.is(Role::Auditor) {
        filter.visible_to = Some(viewer.user_id);
    }
    let count = audit_history::count(app.pool(), &filter).await?;
    Ok(Count { exact: count.exact && reach.is_whole(), ..count })
}

/// How far the history shows the book, with what `viewer` has just written. It is asked for before lines
/// are, and is where they and their number end.
pub async fn reach(app: &App, viewer: &Identity, wait: Wait) -> ApiResult<Reach> {
    app.needs("audit_history").await?;
    app.see_own_writes(viewer.user_id, "audit_history").await;
    app.reach("audit_history", wait).await
}

/// Narrows a filter, whose time is given, to what came from an address or a network. For auditors: on
/// somebody's own lines it would tell from where others have acted on their account.
pub async fn narrow_to(
    app: &App,
    viewer: &Identity,
    place: &str,
    filter: &mut Filter,
) -> ApiResult<Seen> {
    if !viewer.is(Role::Auditor) {
        return Err(lacks(Role::Auditor));
    }
    app.needs("audit_history").await?;
    Ok(sources::narrow(app.book(), place, filter).await?)
}

/// Whom a text means, and who else it has meant.
#[derive(Debug, Default)]
pub struct Meant {
    /// Who holds it, or the only one who ever did.
    pub who: Option<UserId>,
    /// Who ever held it, in the order in which they took it.
    pub holders: Vec<(UserId, Claim)>,
}

/// Whom an id, or an e-mail address or username of now or of before, means.
pub async fn meant(app: &App, auditor: &Identity, origin: &Origin, text: &str) -> ApiResult<Meant> {
    if let Ok(id) = text.parse() {
        return Ok(Meant { who: Some(id), holders: Vec::new() });
    }
    let identifier = Identifier::typed(text);
    let now = app.book().find_account(&identifier).await?;
    let index = app.book().keyring().index(identifier.kind(), &identifier.folded());
    app.needs("claims").await?;
    let holders = claims::holders(app.pool(), &index).await?;
    let only = match holders.split_first() {
        Some(((first, _), others)) if others.iter().all(|(other, _)| other == first) => {
            Some(*first)
        }
        _ => None,
    };
    let who = now.or(only);
    // One account is what is read next, and that is written down then. That there are several, or none,
    // is an answer in itself.
    if who.is_none() || holders.iter().any(|(holder, _)| Some(*holder) != who) {
        let asked = readings::holders_of(app.book(), &identifier);
        app.reading(auditor, origin, Reading::Searched, asked).await?;
    }
    Ok(Meant { who, holders })
}

/// Who has ever held an e-mail address or a username, for an auditor.
pub async fn holders(
    app: &App,
    auditor: &Identity,
    context: &Context,
    identifier: &str,
) -> ApiResult<Vec<(Person, Claim)>> {
    app.needs("claims").await?;
    let identifier = Identifier::typed(identifier);
    let index = app.book().keyring().index(identifier.kind(), &identifier.folded());
    let origin = context.user(auditor.user_id);
    let asked = readings::holders_of(app.book(), &identifier);
    app.reading(auditor, &origin, Reading::Searched, asked).await?;
    app.see_own_writes(auditor.user_id, "claims").await;
    let held = claims::holders(app.pool(), &index).await?;
    named(app, held).await
}

/// The same with the usernames of now.
pub async fn named(app: &App, held: Vec<(UserId, Claim)>) -> ApiResult<Vec<(Person, Claim)>> {
    let labels = labels(app, held.iter().map(|(user, _)| *user).collect()).await?;
    let person = |id: UserId| Person { id, label: labels.get(&id).cloned().flatten() };
    Ok(held.into_iter().map(|(user, claim)| (person(user), claim)).collect())
}

/// Rows as `viewer` may see them.
pub async fn describe(
    app: &App,
    viewer: &Identity,
    rows: Vec<audit_history::Row>,
) -> ApiResult<Vec<Line>> {
    let everything = viewer.is(Role::Auditor);
    let people = rows.iter().flat_map(|row| [row.user_id, row.actor_user_id]).flatten();
    let people: Vec<UserId> = people.filter(|id| everything || *id == viewer.user_id).collect();
    let labels = labels(app, people).await?;
    let person = |id: UserId| Person { id, label: labels.get(&id).cloned().flatten() };
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let actor = row.actor.parse::<Actor>().ok();
        let somebody_else = match &actor {
            Some(Actor::User(id)) => *id != viewer.user_id,
            Some(Actor::Cli(_)) | None => true,
            Some(Actor::Anonymous | Actor::System) => false,
        };
        let source = match &row.source {
            Some(sealed) if everything || !somebody_else => {
                app.book().open_source(sealed, &row.aggregate_type, &row.aggregate_id).await?
            }
            _ => None,
        };
        let identifier = match &row.identifier {
            Some(sealed) if everything => {
                app.book().open_text(sealed, &row.identifier_place()).await?
            }
            _ => None,
        };
        let actor = match actor {
            Some(Actor::User(id)) => Doer::User(person(id)),
            Some(Actor::Anonymous) => Doer::Anonymous,
            Some(Actor::System) => Doer::System,
            Some(Actor::Cli(sealed)) if everything => {
                Doer::Cli(app.book().open_text(&sealed, CLI_ACTOR).await?)
            }
            Some(Actor::Cli(_)) => Doer::Cli(None),
            None => Doer::Unknown,
        };
        let (address, user_agent) =
            source.map(|source| (source.address, source.user_agent)).unwrap_or_default();
        lines.push(Line {
            position: row.position,
            at: row.at,
            event_type: row.event_type,
            outcome: row.outcome,
            person: row.user_id.map(person),
            actor,
            session: row.session_id,
            address,
            user_agent,
            identifier,
            request_id: row.request_id,
        });
    }
    Ok(lines)
}

/// The usernames of these people, as far as they are known and not erased.
async fn labels(app: &App, mut people: Vec<UserId>) -> ApiResult<BTreeMap<UserId, Option<String>>> {
    people.sort_unstable();
    people.dedup();
    let listed = app.projector().is_built("users").await?;
    stream::iter(people)
        .map(|id| async move {
            if !listed {
                // Until the list of accounts is complete, it would leave out who is not in it yet.
                return Ok((id, app.book().account(id).await?.map(|account| account.username)));
            }
            let username = users::get(app.pool(), id).await?.and_then(|row| row.username);
            let label = match username {
                Some(username) => {
                    app.book().open_text(&username.sealed, &format!("User/{id}/username")).await?
                }
                None => None,
            };
            ApiResult::Ok((id, label))
        })
        .buffer_unordered(LOOKUPS)
        .try_collect()
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_as_they_were_given() {
        for cursor in [Cursor::After(1), Cursor::Before(i64::MAX)] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for text in [
            "",
            "1",
            "after",
            "after-",
            "after-0",
            "after--1",
            "after-+1",
            "since-1",
            "after-9223372036854775808",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text}");
        }
    }
}
