//! How it was: a person at any moment, with a time line to step along, and who was signed in then.

use std::collections::BTreeMap;

use axum::{extract::State, http::StatusCode, response::Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{Role, SessionId, UserId};
use projections::audit_history;
use serde::Deserialize;
use ui::{
    PersonRef, Problem, SessionView,
    pages::{
        AccountThen, PeopleThen, PersonThen, StateChange, StateDifference, StateForm, StatePage,
        StateProblems, StateShown,
    },
};

use super::{
    PageResult, Visit,
    history::{behind_by, named, row},
    html, role_of,
};
use crate::{
    extract::Query,
    history::{self, Filter, Meant, Order, is_rfc_3339},
    identity::Identity,
    problem::ApiResult,
    replay::{self, AsOf, Session, Then, What},
    routes::{RoleName, audit::state},
    state::App,
};

/// Events of the time line before the moment, and after it.
const BEFORE: i64 = 10;
const AFTER: i64 = 5;
const PEOPLE: i64 = 20;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct StateQuery {
    user: String,
    at: String,
    against: String,
    after: String,
}

pub(super) async fn show(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<StateQuery>,
) -> PageResult {
    let auditor = visit.with_role(&app, Role::Auditor)?;
    let (chrome, _) = visit.framed(&app, auditor).await?;
    let mut page = StatePage {
        chrome,
        form: StateForm { user: query.user, at: query.at, against: query.against },
        problems: StateProblems::default(),
        holders: Vec::new(),
        shown: None,
    };
    let (at, against) = {
        let (form, problems) = (&page.form, &mut page.problems);
        let at = moment(&app, &form.at, &mut problems.at);
        (at, moment(&app, &form.against, &mut problems.against))
    };
    if page.problems.at.is_some() || page.problems.against.is_some() {
        return refused(&page);
    }
    let typed = page.form.user.trim().to_owned();
    if typed.is_empty() {
        let Some(time) = time_of(at) else {
            page.problems.user = Some(Problem::Missing);
            return refused(&page);
        };
        let after = query.after.parse().ok();
        let people = people(&app, &visit, auditor, (time, after)).await?;
        page.shown = Some(StateShown::People(people));
        return Ok(html(StatusCode::OK, &page)?);
    }
    let origin = visit.context.user(auditor.user_id);
    let Meant { who, holders } = history::meant(&app, auditor, &origin, &typed).await?;
    let several = holders.iter().any(|(holder, _)| Some(*holder) != who);
    if several {
        page.holders = named(&app, holders).await?;
    }
    let Some(user) = who else {
        if several {
            return Ok(html(StatusCode::OK, &page)?);
        }
        page.problems.user = Some(Problem::NeverHeld);
        return refused(&page);
    };
    // From here on by the id: what is linked to names nobody.
    page.form.user = user.to_string();
    let person = person(&app, &visit, auditor, (user, at, against)).await?;
    page.shown = Some(StateShown::Person(Box::new(person)));
    Ok(html(StatusCode::OK, &page)?)
}

fn refused(page: &StatePage) -> PageResult {
    let response: ApiResult<Response> = html(StatusCode::UNPROCESSABLE_ENTITY, page);
    Ok(response?)
}

/// A time or a line; nothing where the text is empty, or can't be taken.
fn moment(app: &App, text: &str, problem: &mut Option<Problem>) -> Option<AsOf> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let is_line = text.bytes().all(|byte| byte.is_ascii_digit());
    let read = if is_line {
        text.parse().ok().filter(|line| *line > 0).map(AsOf::Position)
    } else {
        ui::parse_filter_time(text).filter(|time| is_rfc_3339(*time)).map(AsOf::Time)
    };
    match read {
        None => *problem = Some(Problem::Moment),
        Some(AsOf::Position(line)) if line > head(app) => *problem = Some(Problem::NotYet),
        Some(AsOf::Time(time)) if time > app.now() => *problem = Some(Problem::NotYet),
        Some(_) => {}
    }
    read.filter(|_| problem.is_none())
}

fn head(app: &App) -> i64 {
    app.sequencer().head().borrow().position
}

/// The time of a moment; nothing where it is a line. Now is a time as well.
fn time_of(at: Option<AsOf>) -> Option<Option<DateTime<Utc>>> {
    match at {
        None => Some(None),
        Some(AsOf::Time(time)) => Some(Some(time)),
        Some(AsOf::Position(_)) => None,
    }
}

fn line(position: i64) -> u64 {
    u64::try_from(position).unwrap_or(0)
}

async fn person(
    app: &App,
    visit: &Visit,
    auditor: &Identity,
    (user, at, against): (UserId, Option<AsOf>, Option<AsOf>),
) -> ApiResult<PersonThen> {
    let told = state::read(app, auditor, &visit.context, user, (at, against)).await?;
    let state::Told { then, other, reach } = told;
    let of_user = Filter { user: Some(user), ..Filter::default() };
    let here = match at {
        // Where a line was asked for, it is that one, whoever it is about.
        Some(AsOf::Position(position)) => position,
        // Of a time it is the last of their lines by then, be it one that changes no state.
        Some(AsOf::Time(_)) | None => {
            let by_then = Filter { to: Some(just_after(then.at)), ..of_user.clone() };
            let last = audit_history::page(app.pool(), &by_then, Order::Newest, None, 1).await?;
            last.rows.first().map_or(0, |row| row.position).max(then.position)
        }
    };
    let page = async |order, cursor, limit| {
        audit_history::page(app.pool(), &of_user, order, cursor, limit).await
    };
    let before = page(Order::Newest, Some(here.saturating_add(1)), BEFORE).await?.rows;
    let after = page(Order::Oldest, Some(here), AFTER).await?.rows;
    let first = page(Order::Oldest, None, 1).await?.rows;
    let position = |row: Option<&audit_history::Row>| row.map(|row| line(row.position));
    let previous = position(before.iter().find(|row| row.position < here));
    let (next, first) = (position(after.first()), position(first.first()));
    let around = after.into_iter().rev().chain(before).collect();
    let steps = history::describe(app, auditor, around).await?;
    let changes = other.as_ref().map(|other| (other.at, changes(other, &then)));
    let label = then.account.as_ref().and_then(|account| account.username.clone());
    Ok(PersonThen {
        person: PersonRef { id: user.to_string(), label },
        at: then.at,
        line: line(here),
        head: line(head(app)),
        behind: behind_by(reach),
        account: then.account.map(|account| AccountThen {
            email: account.email,
            username: account.username,
            full_name: account.full_name,
            roles: account.roles.into_iter().map(RoleName::from).map(role_of).collect(),
            disabled: account.disabled,
            erased: account.erased,
            registered: account.registered_at,
            version: account.version,
        }),
        session_count: u64::try_from(then.live.len()).unwrap_or(u64::MAX),
        sessions: then.sessions.into_iter().map(session).collect(),
        changes,
        steps: steps.into_iter().map(row).collect(),
        previous,
        next,
        first: first.filter(|first| Some(*first) != previous && *first < line(here)),
    })
}

/// Filters end before their time. PostgreSQL has microseconds.
fn just_after(time: DateTime<Utc>) -> DateTime<Utc> {
    time.checked_add_signed(TimeDelta::microseconds(1)).unwrap_or(time)
}

fn session(session: Session) -> SessionView {
    SessionView {
        id: session.id.to_string(),
        user_agent: session.user_agent,
        address: session.address,
        first_seen: session.started_at,
        last_seen: session.last_seen_at,
        expires: Some(session.expires_at),
        current: false,
    }
}

/// What differs, with sessions by where they came from and their ids.
fn changes(other: &Then, then: &Then) -> Vec<StateChange> {
    let known: BTreeMap<SessionId, &Session> =
        other.sessions.iter().chain(&then.sessions).map(|session| (session.id, session)).collect();
    let told = |what: What, text: Option<String>| match (what, text) {
        (What::Session, Some(id)) => {
            let session = id.parse().ok().and_then(|id: SessionId| known.get(&id));
            let address = session.and_then(|session| session.address.as_deref());
            Some(address.map_or(id.clone(), |address| format!("{address} ({id})")))
        }
        (_, text) => text,
    };
    replay::changes(other, then)
        .into_iter()
        .map(|change| StateChange {
            what: match change.what {
                What::Registered => StateDifference::Registered,
                What::Email => StateDifference::Email,
                What::Username => StateDifference::Username,
                What::FullName => StateDifference::FullName,
                What::Role => StateDifference::Role,
                What::Disabled => StateDifference::Disabled,
                What::Erased => StateDifference::Erased,
                What::Session => StateDifference::Session,
            },
            from: told(change.what, change.from),
            to: told(change.what, change.to),
        })
        .collect()
}

async fn people(
    app: &App,
    visit: &Visit,
    auditor: &Identity,
    (at, after): (Option<DateTime<Utc>>, Option<UserId>),
) -> ApiResult<PeopleThen> {
    let page = (after, PEOPLE);
    let (people, next, _) = state::read_people(app, auditor, &visit.context, at, page).await?;
    let person = |then: Then| {
        let label = then.account.and_then(|account| account.username);
        let person = PersonRef { id: then.user.to_string(), label };
        (person, then.sessions.into_iter().map(session).collect())
    };
    Ok(PeopleThen {
        at: at.unwrap_or_else(|| app.now()),
        people: people.into_iter().map(person).collect(),
        next: next.map(|user| user.to_string()),
    })
}
