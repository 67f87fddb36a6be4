//! Which lines pass a filter, by the events themselves: what a page asks the read table for, without the table.

use std::collections::BTreeSet;

use domain::Index;
use sqlx::PgConnection;

use super::{ActorKind, Filter, Row, Sources};

impl Filter {
    /// Whether a line passes, as the events have it. That nobody who is erased is found by an address is
    /// [`without_erased`]'s.
    #[must_use]
    pub fn passes(&self, row: &Row) -> bool {
        let Self {
            user,
            actor_user,
            actor_kind,
            session,
            sources,
            place: _,
            outcome,
            event_types,
            from,
            to,
            up_to,
            visible_to,
        } = self;
        let kind = |kind: &ActorKind| {
            let name = match kind {
                ActorKind::Anonymous => "anonymous",
                ActorKind::System => "system",
                ActorKind::Cli => "cli",
            };
            row.actor_user_id.is_none() && row.actor.split(':').next() == Some(name)
        };
        let is_of = |own: &Option<Index>, indexes: &[Index]| {
            own.as_ref().is_some_and(|own| indexes.contains(own))
        };
        let from_there = |sources: &Sources| match sources {
            Sources::Addresses(indexes) => is_of(&row.address, indexes),
            Sources::Networks(indexes) => is_of(&row.network, indexes),
        };
        [user, visible_to].into_iter().flatten().all(|user| row.user_id == Some(*user))
            && actor_user.is_none_or(|actor| row.actor_user_id == Some(actor))
            && actor_kind.as_ref().is_none_or(kind)
            && session.is_none_or(|session| row.session_id == Some(session))
            && sources.as_ref().is_none_or(from_there)
            && outcome.as_ref().is_none_or(|outcome| row.outcome.as_ref() == Some(outcome))
            && (event_types.is_empty() || event_types.contains(&row.event_type))
            && from.is_none_or(|from| row.at >= from)
            && to.is_none_or(|to| row.at < to)
            && up_to.is_none_or(|up_to| row.position <= up_to)
    }
}

/// Leaves out the lines of people whose key is destroyed, where lines are looked for by an address: its hash
/// outlives the person, who would still be found by a place that is guessed.
pub async fn without_erased(
    conn: &mut PgConnection,
    filter: &Filter,
    mut rows: Vec<Row>,
) -> Result<Vec<Row>, sqlx::Error> {
    if filter.sources.is_none() || rows.is_empty() {
        return Ok(rows);
    }
    let keys: BTreeSet<String> = rows.iter().filter_map(key_of).map(str::to_owned).collect();
    let there: Vec<String> = sqlx::query_scalar("SELECT id FROM sealing_keys WHERE id = ANY($1)")
        .bind(keys.into_iter().collect::<Vec<_>>())
        .fetch_all(conn)
        .await?;
    let there: BTreeSet<String> = there.into_iter().collect();
    rows.retain(|row| key_of(row).is_none_or(|key| there.contains(key)));
    Ok(rows)
}

/// The key of a person under which the address of a line is sealed, if it is one of a person.
fn key_of(row: &Row) -> Option<&str> {
    let sealed = row.source.as_ref()?.0.strip_prefix("s1.")?;
    let key = sealed.split('.').next()?.split('+').next()?;
    key.starts_with("p:").then_some(key)
}
