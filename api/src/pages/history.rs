//! The history, as a table.

use axum::{extract::State, http::StatusCode};
use commands::Origin;
use domain::{Role, UserId};
use projections::{Reach, claims::Claim};
use serde::Deserialize;
use ui::{
    Actor, EVENT_TYPES, HistoryRow, PersonRef, Problem, READING_TYPES,
    pages::{
        HistoryBehind, HistoryCount, HistoryFilter, HistoryFilterProblems, HistoryPage,
        HistoryScope, HistorySearched, Holder,
    },
};

use super::{PageResult, Visit, html};
use crate::{
    extract::Query,
    history::{self, ActorFilter, Cursor, Doer, Filter, Line, Meant, Order, Part, Person},
    identity::Identity,
    problem::{ApiError, ApiResult},
    readings::in_words,
    sources::{self, Seen, SourcesError},
    state::{App, Wait},
};

mod export;

pub(super) use export::export;

const LINES: i64 = 50;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HistoryQuery {
    user: String,
    actor: String,
    session: String,
    address: String,
    #[serde(rename = "type")]
    event_type: String,
    outcome: String,
    from: String,
    to: String,
    order: String,
    cursor: String,
}

pub(super) async fn show_mine(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<HistoryQuery>,
) -> PageResult {
    let identity = visit.identity(&app)?;
    show(&app, &visit, identity, HistoryScope::Mine, query).await
}

pub(super) async fn show_everyone(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<HistoryQuery>,
) -> PageResult {
    let identity = visit.with_role(&app, Role::Auditor)?;
    show(&app, &visit, identity, HistoryScope::Everyone, query).await
}

async fn show(
    app: &App,
    visit: &Visit,
    identity: &Identity,
    scope: HistoryScope,
    query: HistoryQuery,
) -> PageResult {
    let (chrome, _) = visit.framed(app, identity).await?;
    let origin = visit.context.user(identity.user_id);
    let reader = (identity, &origin);
    let mut asked = Asked::default();
    let (mut filter, seen) = filter(app, reader, &query, scope, &mut asked).await?;
    let Asked { problems, holders } = asked;
    if scope == HistoryScope::Mine {
        filter.user = Some(identity.user_id);
    }
    let newest_first = query.order != "oldest";
    let order = if newest_first { Order::Newest } else { Order::Oldest };
    let cursor: Option<Cursor> = match query.cursor.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| ApiError::invalid_field("cursor", error))?),
    };
    let sound = problems == HistoryFilterProblems::default();
    let (mut count, mut behind) = (None, None);
    let page = if sound {
        let reach = history::reach(app, identity, Wait::ForAll).await?;
        behind = behind_by(reach);
        let counted = cursor.is_none().then(|| filter.clone());
        let part = Part { order, cursor, limit: LINES };
        let page = history::page(app, identity, &origin, filter, reach, part).await?;
        // Whoever turns pages knows it.
        if let Some(filter) = counted {
            count = Some(history::count(app, identity, filter, reach).await?);
        }
        page
    } else {
        history::Page { lines: Vec::new(), next: None, previous: None, broke_off: false }
    };
    let (next, previous) = (page.next.map(|c| c.to_string()), page.previous.map(|c| c.to_string()));
    let (older, newer) = if newest_first { (next, previous) } else { (previous, next) };
    let page = HistoryPage {
        chrome,
        scope,
        filter: HistoryFilter {
            user: query.user,
            actor: query.actor,
            session: query.session,
            address: query.address,
            event_type: query.event_type,
            outcome: query.outcome,
            from: query.from,
            to: query.to,
            newest_first,
        },
        problems,
        rows: page.lines.into_iter().map(row).collect(),
        count: count.map(|count| HistoryCount {
            lines: u64::try_from(count.lines).unwrap_or(0),
            exact: count.exact,
        }),
        searched: seen.filter(|_| sound).map(|seen| HistorySearched {
            months: seen.months.map(|(first, last)| (first.to_string(), last.to_string())),
            left_out: seen.left_out,
        }),
        broke_off: page.broke_off,
        behind,
        holders,
        older,
        newer,
    };
    let status = if sound { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok(html(status, &page)?)
}

/// What is said of the filter, beside the lines that pass it.
#[derive(Default)]
struct Asked {
    problems: HistoryFilterProblems,
    /// Who else held what was typed, with the field.
    holders: Vec<(&'static str, Holder)>,
}

/// What is said where the history does not show all of the book.
pub(super) fn behind_by(reach: Reach) -> Option<HistoryBehind> {
    let line = |position: i64| u64::try_from(position).unwrap_or(0);
    (!reach.is_whole())
        .then(|| HistoryBehind { reached: line(reach.reached), head: line(reach.head) })
}

/// What the filter asks for, and what of it can't be read.
async fn filter(
    app: &App,
    reader: (&Identity, &Origin),
    query: &HistoryQuery,
    scope: HistoryScope,
    Asked { problems, holders }: &mut Asked,
) -> ApiResult<(Filter, Option<Seen>)> {
    let mut filter = Filter::default();
    if scope == HistoryScope::Everyone {
        let mut held = async |field, meant: Meant, otherwise| {
            let Meant { who, holders: several } = meant;
            // Who holds it now is not all whom it has meant.
            let is_one = several.iter().all(|(holder, _)| Some(*holder) == who);
            let problem = match (who, several.is_empty()) {
                (Some(_), _) => None,
                (None, true) => Some(otherwise),
                (None, false) => Some(Problem::SeveralHeld),
            };
            if !is_one {
                let several = named(app, several).await?;
                holders.extend(several.into_iter().map(|holder| (field, holder)));
            }
            ApiResult::Ok((who, problem))
        };
        if let Some(meant) = account(app, reader, &query.user).await? {
            (filter.user, problems.user) = held("user", meant, Problem::UserUnknown).await?;
        }
        match ActorFilter::read(query.actor.trim()) {
            Some(actor) => actor.narrow(&mut filter),
            None => {
                if let Some(meant) = account(app, reader, &query.actor).await? {
                    (filter.actor_user, problems.actor) =
                        held("actor", meant, Problem::Actor).await?;
                }
            }
        }
    }
    filter.session =
        read(&query.session, |text| text.parse().ok(), Problem::Session, &mut problems.session);
    let known = |text: &str| EVENT_TYPES.contains(&text).then(|| text.to_owned());
    let event_type = read(&query.event_type, known, Problem::EventType, &mut problems.event_type);
    filter.event_types = event_type.into_iter().collect();
    let outcome = query.outcome.trim();
    filter.outcome = (!outcome.is_empty()).then(|| outcome.to_owned());
    let time = |text: &str| ui::parse_filter_time(text).filter(|time| history::is_rfc_3339(*time));
    filter.from = read(&query.from, time, Problem::Time, &mut problems.from);
    filter.to = read(&query.to, time, Problem::Time, &mut problems.to);
    if let (Some(from), Some(to)) = (filter.from, filter.to)
        && to < from
    {
        problems.to = Some(Problem::TimeOrder);
    }
    // Last, for it asks for hashes of each month of the time.
    let address = query.address.trim();
    let mut seen = None;
    if scope == HistoryScope::Everyone && !address.is_empty() {
        app.needs("audit_history").await?;
        match sources::narrow(app.book(), address, &mut filter).await {
            Ok(narrowed) => seen = Some(narrowed),
            Err(SourcesError::Keyring(error)) => return Err(error.into()),
            Err(SourcesError::Place(_) | SourcesError::TooMany) => {
                problems.address = Some(Problem::Place);
            }
        }
    }
    Ok((filter, seen))
}

fn read<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Option<T>,
    otherwise: Problem,
    problem: &mut Option<Problem>,
) -> Option<T> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let value = parse(text);
    if value.is_none() {
        *problem = Some(otherwise);
    }
    value
}

/// Whom an id, or an e-mail address or a username of now or of before, means; none where nobody was
/// asked for.
async fn account(
    app: &App,
    (auditor, origin): (&Identity, &Origin),
    text: &str,
) -> ApiResult<Option<Meant>> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(history::meant(app, auditor, origin, text).await?))
}

/// Those who held something, as `ui` has them.
pub(super) async fn named(app: &App, holders: Vec<(UserId, Claim)>) -> ApiResult<Vec<Holder>> {
    let line = |position: i64| u64::try_from(position).unwrap_or(0);
    let holders = history::named(app, holders).await?;
    Ok(holders
        .into_iter()
        .map(|(person, claim)| Holder {
            person: PersonRef { id: person.id.to_string(), label: person.label },
            from: line(claim.from),
            to: claim.to.map(line),
        })
        .collect())
}

/// A line as `ui` has it.
pub(super) fn row(line: Line) -> HistoryRow {
    let person = |person: Person| PersonRef { id: person.id.to_string(), label: person.label };
    let is_reading = READING_TYPES.contains(&line.event_type.as_str());
    let identifier = line.identifier.map(|text| if is_reading { in_words(&text) } else { text });
    HistoryRow {
        position: u64::try_from(line.position).ok(),
        time: line.at,
        event_type: line.event_type,
        detail: line.outcome,
        person: line.person.map(person),
        actor: match line.actor {
            Doer::User(user) => Actor::User(person(user)),
            Doer::Anonymous => Actor::Anonymous,
            Doer::System => Actor::System,
            Doer::Cli(name) => Actor::Cli(name.unwrap_or_default()),
            Doer::Unknown => Actor::Unknown,
        },
        address: line.address,
        user_agent: line.user_agent,
        session: line.session.map(|session| session.to_string()),
        identifier,
    }
}
