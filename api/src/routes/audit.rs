//! The history: all of it for auditors, their own for everybody.

use axum::{Json as JsonAnswer, extract::State};
use chrono::{DateTime, Utc};
use domain::{SessionId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    extract::Query,
    history::{self, ActorFilter, Cursor, Doer, Filter, Line, Order, Person},
    identity::Identity,
    problem::{ApiError, ApiResult},
    state::App,
};

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_history))
}

/// The kinds of events that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
pub enum EventType {
    UserRegistered,
    UserProfileChanged,
    UserPasswordChanged,
    UserPasswordRehashed,
    UserRoleGranted,
    UserRoleRevoked,
    UserDisabled,
    UserEnabled,
    UserSessionsEnded,
    SessionStarted,
    SessionRefreshed,
    SessionEnded,
    SignInFailed,
    SignInThrottled,
    SignInAttemptsBlocked,
    SignInFailuresCleared,
}

/// What comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Newest,
    Oldest,
}

/// What is looked for; all that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct HistoryQuery {
    /// The account that it concerns.
    #[param(nullable = false)]
    user: Option<Uuid>,
    /// The account that did it, or `anonymous`, `system` or `cli`.
    #[param(
        nullable = false,
        pattern = "^(anonymous|system|cli|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
    )]
    actor: Option<String>,
    #[param(nullable = false)]
    session: Option<Uuid>,
    #[serde(rename = "type")]
    #[param(nullable = false, inline)]
    event_type: Option<EventType>,
    /// From then on, by the time when it happened (RFC 3339).
    #[param(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Before then.
    #[param(nullable = false)]
    to: Option<DateTime<Utc>>,
    #[param(nullable = false, inline)]
    order: Option<Direction>,
    /// `next` or `previous` of an answer, as it is.
    #[param(nullable = false, pattern = "^(after|before)-[1-9][0-9]{0,17}$")]
    cursor: Option<String>,
    #[param(nullable = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
}

/// A page of the history.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    lines: Vec<LineView>,
    /// The cursor of the page after this one.
    #[schema(required, example = "after-117")]
    next: Option<String>,
    /// The cursor of the page before this one.
    #[schema(required)]
    previous: Option<String>,
}

/// One line of the book.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Line)]
pub struct LineView {
    /// Its number in the book.
    #[schema(minimum = 1)]
    position: i64,
    /// When it happened.
    at: DateTime<Utc>,
    #[serde(rename = "type")]
    #[schema(example = "SessionStarted")]
    event_type: String,
    /// Why or how: the reason of an end or a failure, the method of a sign-in, the role.
    #[schema(required, example = "password")]
    outcome: Option<String>,
    /// Whom it concerns.
    #[schema(required)]
    person: Option<PersonView>,
    actor: ActorView,
    #[schema(required)]
    session: Option<Uuid>,
    #[schema(required, example = "192.0.2.7")]
    address: Option<String>,
    #[schema(required)]
    user_agent: Option<String>,
    /// What was typed to sign in, where it is nobody's; for auditors.
    #[schema(required)]
    identifier: Option<String>,
    request_id: String,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Person)]
pub struct PersonView {
    id: Uuid,
    /// The username, where it may be shown and was not erased.
    #[schema(required, example = "ada")]
    label: Option<String>,
}

/// Who did it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Actor)]
pub struct ActorView {
    kind: ActorKind,
    /// The account, for `user`.
    #[schema(required)]
    id: Option<Uuid>,
    /// The username, or the operating system's user of the command line.
    #[schema(required)]
    label: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    User,
    /// Nobody who was signed in.
    Anonymous,
    /// Entrybook itself.
    System,
    /// The command line.
    Cli,
}

impl From<Person> for PersonView {
    fn from(person: Person) -> Self {
        Self { id: person.id.0, label: person.label }
    }
}

impl From<Doer> for ActorView {
    fn from(actor: Doer) -> Self {
        let (kind, id, label) = match actor {
            Doer::User(person) => (ActorKind::User, Some(person.id.0), person.label),
            Doer::Anonymous => (ActorKind::Anonymous, None, None),
            Doer::System => (ActorKind::System, None, None),
            Doer::Cli(label) => (ActorKind::Cli, None, label),
        };
        Self { kind, id, label }
    }
}

impl From<Line> for LineView {
    fn from(line: Line) -> Self {
        Self {
            position: line.position,
            at: line.at,
            event_type: line.event_type,
            outcome: line.outcome,
            person: line.person.map(PersonView::from),
            actor: line.actor.into(),
            session: line.session.map(|session| session.0),
            address: line.address,
            user_agent: line.user_agent,
            identifier: line.identifier,
            request_id: line.request_id,
        }
    }
}

impl HistoryQuery {
    fn cursor(&self) -> ApiResult<Option<Cursor>> {
        let cursor = self.cursor.as_deref().map(str::parse).transpose();
        cursor.map_err(|error| ApiError::invalid_field("cursor", error))
    }

    fn actor(&self) -> ApiResult<Option<ActorFilter>> {
        let Some(text) = &self.actor else { return Ok(None) };
        let read = ActorFilter::read(text);
        read.map(Some).ok_or_else(|| {
            ApiError::invalid_field(
                "actor",
                "give the id of an account, or anonymous, system or cli",
            )
        })
    }

    fn limit(&self) -> ApiResult<i64> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(i64::from(limit)),
            _ => Err(ApiError::invalid_field("limit", "a page has 1 to 200 lines")),
        }
    }
}

/// The history: auditors see all of it, everybody else what concerns themselves.
#[utoipa::path(
    get, path = "/audit", tag = "audit", params(HistoryQuery), security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "A page of the history", body = History),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
    )
)]
async fn read_history(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<HistoryQuery>,
) -> ApiResult<JsonAnswer<History>> {
    let (actor, cursor, limit) = (query.actor()?, query.cursor()?, query.limit()?);
    for (name, time) in [("from", query.from), ("to", query.to)] {
        if time.is_some_and(|time| !history::is_rfc_3339(time)) {
            return Err(ApiError::invalid_field(name, "give a time of the years 0 to 9999"));
        }
    }
    let mut filter = Filter {
        user: query.user.map(UserId),
        session: query.session.map(SessionId),
        event_types: query
            .event_type
            .map(|event_type| format!("{event_type:?}"))
            .into_iter()
            .collect(),
        from: query.from,
        to: query.to,
        ..Filter::default()
    };
    if let Some(actor) = actor {
        actor.narrow(&mut filter);
    }
    let order = match query.order.unwrap_or_default() {
        Direction::Newest => Order::Newest,
        Direction::Oldest => Order::Oldest,
    };
    let page = history::page(&app, &identity, filter, order, cursor, limit).await?;
    Ok(JsonAnswer(History {
        lines: page.lines.into_iter().map(LineView::from).collect(),
        next: page.next.map(|cursor| cursor.to_string()),
        previous: page.previous.map(|cursor| cursor.to_string()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_can_be_asked_for() {
        for name in ui::EVENT_TYPES {
            let read = serde_json::from_value::<EventType>(name.into());
            assert_eq!(
                read.map(|event_type| format!("{event_type:?}")).ok().as_deref(),
                Some(name)
            );
        }
    }
}
