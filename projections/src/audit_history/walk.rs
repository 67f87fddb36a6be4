//! The way along an index: every filter stays on one, in the order of the book.

use domain::{SessionId, UserId};
use sqlx::{Postgres, QueryBuilder};

use super::{ActorKind, AuditHistory, Filter, Order, Sources};
use crate::{projection::Generation, view::table};

/// The positions that are looked at, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) first: i64,
    pub(super) last: i64,
}

/// The index along which lines are read: that of what is rarest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Session(SessionId),
    User(UserId),
    Actor(UserId),
    Addresses,
    Networks,
    Outcome,
    ActorKind(ActorKind),
    Types,
    All,
}

/// How many letters of a hash, and of an outcome, stand in the indexes.
const HASH_LETTERS: usize = 12;
const OUTCOME_LETTERS: usize = 40;
/// So many lines of each key are looked at, however many keys there are.
const LEAST_SHARE: i64 = 64;

// Each walk says "of this one, between these positions" in pairs, for which no other index will
// do. With `user_id = …` the planner takes the order as given by positions alone, and may read
// the book through in search of somebody who is rarely seen.

/// Asks for the lines along the filter's index that pass all of it, in order.
pub(super) fn select<'a>(
    query: &mut QueryBuilder<'a, Postgres>,
    filter: &'a Filter,
    order: Order,
    span: Span,
    limit: i64,
) {
    let walk = Walk::of(filter);
    let Some(keys) = walk.several(filter) else {
        query.push("SELECT h.* FROM ");
        along(query, filter, walk, None, span);
        narrow(query, filter, walk);
        in_order(query, walk, order);
        query.push(" LIMIT ").push_bind(limit);
        return;
    };
    // Each key up to the limit: one condition over all of them could only be met by sorting what they
    // have together.
    each(query, keys);
    query.push("SELECT h.* FROM ");
    along(query, filter, walk, Some("t.key"), span);
    narrow(query, filter, walk);
    in_order(query, walk, order);
    query.push(" LIMIT ").push_bind(limit).push(") h");
    query.push(" ORDER BY h.position").push(order.direction()).push(" LIMIT ").push_bind(limit);
}

/// Asks for lines that lie along the filter's index, in no order and whether or not they pass the rest of it.
pub(super) fn lying<'a>(
    query: &mut QueryBuilder<'a, Postgres>,
    filter: &'a Filter,
    span: Span,
    limit: i64,
) {
    let walk = Walk::of(filter);
    let keys = walk.several(filter);
    let key = keys.is_some().then_some("t.key");
    if let Some(keys) = keys {
        each(query, keys);
    }
    query.push("SELECT h.* FROM ");
    along(query, filter, walk, key, span);
    in_order(query, walk, Order::Newest);
    query.push(" LIMIT ").push_bind(limit);
    if key.is_some() {
        query.push(") h LIMIT ").push_bind(limit);
    }
}

/// Asks for the position up to which so many lines lie along the filter's index; where it has several keys,
/// each has its share of them, and it is the nearest. None where there are fewer.
pub(super) fn nth<'a>(
    query: &mut QueryBuilder<'a, Postgres>,
    filter: &'a Filter,
    order: Order,
    span: Span,
    lines: i64,
) {
    let walk = Walk::of(filter);
    let keys = walk.several(filter);
    let key = keys.is_some().then_some("t.key");
    let mut share = lines;
    if let Some(keys) = keys {
        share = (lines / i64::try_from(keys.len()).unwrap_or(i64::MAX).max(1)).max(LEAST_SHARE);
        let nearest = match order {
            Order::Newest => "SELECT max(h.position) FROM (",
            Order::Oldest => "SELECT min(h.position) FROM (",
        };
        query.push(nearest);
        each(query, keys);
    }
    query.push("SELECT h.position FROM ");
    along(query, filter, walk, key, span);
    in_order(query, walk, order);
    query.push(" OFFSET ").push_bind(share - 1).push(" LIMIT 1");
    if key.is_some() {
        query.push(") h) h");
    }
}

/// Whether anything must hold beside what the walk says.
pub(super) fn is_narrowed(filter: &Filter) -> bool {
    let mut rest = QueryBuilder::new("");
    narrow(&mut rest, filter, Walk::of(filter));
    !rest.sql().is_empty()
}

/// For each of the keys what follows.
fn each(query: &mut QueryBuilder<'_, Postgres>, mut keys: Vec<String>) {
    keys.sort_unstable();
    keys.dedup();
    query.push("SELECT h.* FROM unnest(").push_bind(keys).push("::text[]) AS t (key)");
    query.push(" CROSS JOIN LATERAL (");
}

/// The entries of the filter's key, or of this one, between two positions.
fn along<'a>(
    query: &mut QueryBuilder<'a, Postgres>,
    filter: &'a Filter,
    walk: Walk,
    key: Option<&str>,
    span: Span,
) {
    query.push(table::<AuditHistory>("audit_history", Generation::Live)).push(" h WHERE (");
    for (compare, position) in [(" >= (", span.first), (" <= (", span.last)] {
        if compare == " <= (" {
            query.push(" AND (");
        }
        walk.push_column(query);
        query.push("h.position)").push(compare);
        match key {
            Some(key) => drop(query.push(key).push(", ")),
            None => walk.push_value(query, filter),
        }
        query.push_bind(position).push(")");
    }
    walk.push_condition(query, filter);
}

fn in_order(query: &mut QueryBuilder<'_, Postgres>, walk: Walk, order: Order) {
    query.push(" ORDER BY ");
    if walk.push_key(query) {
        query.push(order.direction()).push(", ");
    }
    query.push("h.position").push(order.direction());
}

impl Walk {
    pub(super) fn of(filter: &Filter) -> Self {
        let user = filter.user.or(filter.visible_to);
        if let Some(session) = filter.session {
            Self::Session(session)
        } else if let Some(user) = user {
            Self::User(user)
        } else if let Some(actor) = filter.actor_user {
            Self::Actor(actor)
        } else if let Some(sources) = &filter.sources {
            match sources {
                Sources::Addresses(_) => Self::Addresses,
                Sources::Networks(_) => Self::Networks,
            }
        } else if filter.outcome.is_some() {
            Self::Outcome
        } else if let Some(kind) = filter.actor_kind {
            Self::ActorKind(kind)
        } else if filter.event_types.is_empty() {
            Self::All
        } else {
            Self::Types
        }
    }

    /// The keys, as the index has them, where there may be several.
    fn several(self, filter: &Filter) -> Option<Vec<String>> {
        match (self, &filter.sources) {
            (Self::Types, _) => Some(filter.event_types.clone()),
            (
                Self::Addresses | Self::Networks,
                Some(Sources::Addresses(indexes) | Sources::Networks(indexes)),
            ) => Some(indexes.iter().map(|index| beginning(&index.0, HASH_LETTERS)).collect()),
            _ => None,
        }
    }

    /// The first column of the index; `false` where that is the position.
    fn push_key(self, query: &mut QueryBuilder<'_, Postgres>) -> bool {
        query.push(match self {
            Self::Session(_) => "h.session_id",
            Self::User(_) => "h.user_id",
            Self::Actor(_) => "h.actor_user_id",
            // These as the indexes have them.
            Self::Addresses => "left(h.address, 12)",
            Self::Networks => "left(h.network, 12)",
            Self::Outcome => "left(h.outcome, 40)",
            Self::ActorKind(_) => "split_part(h.actor, ':', 1)",
            Self::Types => "h.event_type",
            Self::All => return false,
        });
        true
    }

    fn push_column(self, query: &mut QueryBuilder<'_, Postgres>) {
        if self.push_key(query) {
            query.push(", ");
        }
    }

    fn push_value(self, query: &mut QueryBuilder<'_, Postgres>, filter: &Filter) {
        match self {
            Self::Session(session) => query.push_bind(session.0).push(", "),
            Self::User(user) | Self::Actor(user) => query.push_bind(user.0).push(", "),
            Self::Outcome => {
                let outcome = filter.outcome.as_deref().unwrap_or_default();
                query.push_bind(beginning(outcome, OUTCOME_LETTERS)).push(", ")
            }
            Self::ActorKind(kind) => query.push(kind.stored()).push(", "),
            Self::Addresses | Self::Networks | Self::Types | Self::All => query,
        };
    }

    /// What an index has beside its columns: which rows it holds, and the whole of what stands in it
    /// by its beginning.
    fn push_condition<'a>(self, query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter) {
        match self {
            Self::Addresses => drop(query.push(" AND h.address IS NOT NULL")),
            Self::Networks => drop(query.push(" AND h.network IS NOT NULL")),
            Self::Outcome => drop(query.push(" AND h.outcome IS NOT NULL")),
            Self::ActorKind(_) => drop(query.push(" AND h.actor_user_id IS NULL")),
            Self::Session(_) | Self::User(_) | Self::Actor(_) | Self::Types | Self::All => {}
        }
        match self {
            Self::Addresses | Self::Networks => narrow_sources(query, filter),
            Self::Outcome => narrow_outcome(query, filter),
            _ => {}
        }
    }
}

fn beginning(text: &str, letters: usize) -> String {
    text.chars().take(letters).collect()
}

impl ActorKind {
    fn stored(self) -> &'static str {
        match self {
            Self::Anonymous => "'anonymous'",
            Self::System => "'system'",
            Self::Cli => "'cli'",
        }
    }
}

fn narrow_sources<'a>(query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter) {
    let (column, indexes) = match &filter.sources {
        None => return,
        Some(Sources::Addresses(indexes)) => ("h.address", indexes),
        Some(Sources::Networks(indexes)) => ("h.network", indexes),
    };
    let indexes: Vec<&str> = indexes.iter().map(|index| index.0.as_str()).collect();
    query.push(" AND (").push(column).push(" = ANY(").push_bind(indexes).push(")) IS TRUE");
    query.push(UNLESS_ERASED);
}

/// The hash of an address outlives the person, so whoever is erased would still be found by a place
/// that is guessed. Their lines are passed by from the commit on that destroys their key, which no other
/// table tells as soon. As a scalar it is looked up for each line and never made of all keys.
const UNLESS_ERASED: &str = "
   AND (h.source LIKE 's1.p:%' AND (SELECT true FROM sealing_keys k
            WHERE k.id = split_part(split_part(h.source, '.', 2), '+', 1)) IS NULL) IS NOT TRUE";

fn narrow_outcome<'a>(query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter) {
    if let Some(outcome) = &filter.outcome {
        query.push(" AND (h.outcome = ").push_bind(outcome).push(") IS TRUE");
    }
}

/// What must hold beside what the walk says. `IS TRUE` keeps it from another index, whose rows would
/// have to be sorted.
pub(super) fn narrow<'a>(query: &mut QueryBuilder<'a, Postgres>, filter: &'a Filter, walk: Walk) {
    for user in [filter.user, filter.visible_to].into_iter().flatten() {
        match walk {
            Walk::User(walked) if walked == user => {}
            // Of somebody else as well: nothing is.
            Walk::User(_) => drop(query.push(" AND false")),
            _ => drop(query.push(" AND (h.user_id = ").push_bind(user.0).push(") IS TRUE")),
        }
    }
    if let Some(actor) = filter.actor_user
        && walk != Walk::Actor(actor)
    {
        query.push(" AND (h.actor_user_id = ").push_bind(actor.0).push(") IS TRUE");
    }
    if !matches!(walk, Walk::Addresses | Walk::Networks) {
        narrow_sources(query, filter);
    }
    if walk != Walk::Outcome {
        narrow_outcome(query, filter);
    }
    if let Some(kind) = filter.actor_kind
        && walk != Walk::ActorKind(kind)
    {
        query.push(" AND (h.actor_user_id IS NULL) IS TRUE");
        query.push(" AND (split_part(h.actor, ':', 1) = ").push(kind.stored());
        query.push(") IS TRUE");
    }
    if walk != Walk::Types && !filter.event_types.is_empty() {
        query.push(" AND (h.event_type = ANY(").push_bind(&filter.event_types);
        query.push(")) IS TRUE");
    }
    if let Some(from) = filter.from {
        query.push(" AND h.at >= ").push_bind(from);
    }
    if let Some(to) = filter.to {
        query.push(" AND h.at < ").push_bind(to);
    }
}
