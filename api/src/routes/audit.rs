//! The history: all of it for auditors, their own for everybody.

use axum::{Json as JsonAnswer, extract::State};
use chrono::{DateTime, Utc};
use domain::{SessionId, UserId};
use projections::claims::Claim;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    context::Context,
    extract::{Json, Query},
    history::{self, ActorFilter, Cursor, Doer, Filter, Line, Order, Part, Person},
    identity::{Auditor, Identity},
    problem::{ApiError, ApiResult},
    sources::Seen,
    state::{App, Wait},
};

mod export;
mod line;
pub mod state;
pub mod stream;

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
const MAX_OUTCOME: usize = 200;
/// No e-mail address is longer (RFC 5321, section 4.5.3.1).
const MAX_IDENTIFIER: usize = 320;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(read_history))
        .routes(routes!(search_history))
        .routes(routes!(find_holders))
        .merge(line::router())
        .merge(state::router())
        .merge(stream::router())
        .merge(export::router())
}

/// The kinds of events that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
    UserErased,
    SessionStarted,
    SessionRefreshed,
    SessionEnded,
    SignInFailed,
    SignInThrottled,
    SignInAttemptsBlocked,
    SignInFailuresCleared,
    RegistrationsThrottled,
    ServerStarted,
    ServerStopped,
    SettingsChanged,
    SchemaMigrated,
    SigningKeyAdded,
    SigningKeyRetired,
    LogBegun,
    LogKeyAdded,
    LogKeyHandedOver,
    LogResumed,
    BookRestored,
    ProjectionsRebuildBegun,
    ProjectionsRebuildCancelled,
    ProjectionsRebuilt,
    ProjectionsPruneBegun,
    ProjectionsPruned,
    MasterKeyRotated,
    MonthForgotten,
    HistorySearched,
    HistoryExported,
    HistoryReplayed,
    HistoryFollowed,
    /// Somebody with the database's login has added it. It has no effect.
    EventNotAuthentic,
}

/// What comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Newest,
    Oldest,
}

/// What is looked for; all that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams, ToSchema)]
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
    /// Why or how, as lines have it: `wrong_password`, `expired`, `admin`.
    #[param(nullable = false, max_length = 200)]
    #[schema(max_length = 200)]
    outcome: Option<String>,
    /// For auditors: the address that it came from, or a network, IPv4 from /16 on or IPv6 from /40 to
    /// /48.
    #[param(nullable = false, max_length = 64, example = "192.0.2.0/24")]
    #[schema(max_length = 64, example = "192.0.2.0/24")]
    address: Option<String>,
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
    #[schema(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
    /// Whether to count the lines that pass.
    #[param(nullable = false, default = false)]
    #[schema(default = false)]
    count: Option<bool>,
}

/// A page of the history.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    lines: Vec<LineView>,
    /// How many lines pass, where that was asked for.
    #[schema(required)]
    count: Option<CountView>,
    /// The last line of the book up to which the history shows it: the lines, and their number, are those
    /// up to there.
    #[schema(minimum = 0)]
    reached: i64,
    /// The last line of the book. Where that is more than `reached`, the history is behind.
    #[schema(minimum = 0)]
    head: i64,
    /// How far a search by address can see, where it was one.
    #[schema(required)]
    searched: Option<SearchedView>,
    /// The cursor of the page after this one. It is there also where this one is not full, or has no line at all,
    /// because so many lines were looked through; nothing is left out by going on until it is not.
    #[schema(required, example = "after-117")]
    next: Option<String>,
    /// The cursor of the page before this one.
    #[schema(required)]
    previous: Option<String>,
}

/// How many lines there are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Count)]
pub struct CountView {
    #[schema(minimum = 0)]
    lines: i64,
    /// Whether that is all. If not, there are at least so many: no more are counted, or the history
    /// is behind the book.
    exact: bool,
}

/// How far a search by address can see. Lines hold addresses as hashes under a key of their month, and
/// that key goes when the retention of addresses ends.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Searched)]
pub struct SearchedView {
    /// The first month whose lines were searched, and the last.
    #[schema(required, example = "2026-01")]
    first_month: Option<String>,
    #[schema(required, example = "2026-03")]
    last_month: Option<String>,
    /// Whether lines of an older version were passed by: they are found by their address, and by no
    /// network.
    older_left_out: bool,
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
    /// What was typed to sign in, where it is nobody's; what a reader of the history looked for, as JSON.
    /// For auditors.
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
    /// This version can't read who it was.
    Unknown,
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
            Doer::Unknown => (ActorKind::Unknown, None, None),
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

impl HistoryQuery {
    /// What is asked for, and how far a search for a place can see.
    pub(crate) async fn filter(
        &self,
        app: &App,
        identity: &Identity,
    ) -> ApiResult<(Filter, Option<Seen>)> {
        for (name, time) in [("from", self.from), ("to", self.to)] {
            if time.is_some_and(|time| !history::is_rfc_3339(time)) {
                return Err(ApiError::invalid_field(name, "give a time of the years 0 to 9999"));
            }
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && to < from
        {
            return Err(ApiError::invalid_field("to", "the end lies before the beginning, `from`"));
        }
        if self.outcome.as_ref().is_some_and(|outcome| outcome.chars().count() > MAX_OUTCOME) {
            return Err(ApiError::invalid_field("outcome", "give at most 200 characters"));
        }
        let mut filter = Filter {
            user: self.user.map(UserId),
            session: self.session.map(SessionId),
            outcome: self.outcome.clone(),
            event_types: self
                .event_type
                .map(|event_type| format!("{event_type:?}"))
                .into_iter()
                .collect(),
            from: self.from,
            to: self.to,
            ..Filter::default()
        };
        if let Some(actor) = self.actor()? {
            actor.narrow(&mut filter);
        }
        let seen = match &self.address {
            Some(address) => {
                Some(history::narrow_to(app, identity, address.trim(), &mut filter).await?)
            }
            None => None,
        };
        Ok((filter, seen))
    }
}

/// The history: auditors see all of it, everybody else what concerns themselves.
#[utoipa::path(
    get, path = "/audit", tag = "audit", params(HistoryQuery), security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "A page of the history", body = History),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, and an address was asked for; or a page of another site has opened it"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "An auditor has searched too often within an hour"),
    )
)]
async fn read_history(
    State(app): State<App>,
    identity: Identity,
    context: Context,
    Query(query): Query<HistoryQuery>,
) -> ApiResult<JsonAnswer<History>> {
    search(&app, &identity, &context, &query).await
}

/// The same with what is looked for in the body, so that no address stands in the log of a proxy.
#[utoipa::path(
    post, path = "/audit/search", tag = "audit", request_body = HistoryQuery,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "A page of the history", body = History),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, and an address was asked for; or by cookie from another site"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "An auditor has searched too often within an hour"),
    )
)]
async fn search_history(
    State(app): State<App>,
    identity: Identity,
    context: Context,
    Json(query): Json<HistoryQuery>,
) -> ApiResult<JsonAnswer<History>> {
    search(&app, &identity, &context, &query).await
}

async fn search(
    app: &App,
    identity: &Identity,
    context: &Context,
    query: &HistoryQuery,
) -> ApiResult<JsonAnswer<History>> {
    let (cursor, limit) = (query.cursor()?, query.limit()?);
    let (filter, seen) = query.filter(app, identity).await?;
    let order = match query.order.unwrap_or_default() {
        Direction::Newest => Order::Newest,
        Direction::Oldest => Order::Oldest,
    };
    let origin = context.user(identity.user_id);
    let counts = query.count.unwrap_or(false);
    let wait = if counts { Wait::ForAll } else { Wait::No };
    let reach = history::reach(app, identity, wait).await?;
    let part = Part { order, cursor, limit };
    let page = history::page(app, identity, &origin, filter.clone(), reach, part).await?;
    let count = match counts {
        true => Some(history::count(app, identity, filter, reach).await?),
        false => None,
    };
    Ok(JsonAnswer(History {
        lines: page.lines.into_iter().map(LineView::from).collect(),
        count: count.map(|count| CountView { lines: count.lines, exact: count.exact }),
        reached: reach.reached,
        head: reach.head,
        searched: seen.map(|seen| {
            let (first, last) = seen.months.unzip();
            SearchedView {
                first_month: first.map(|month| month.to_string()),
                last_month: last.map(|month| month.to_string()),
                older_left_out: seen.left_out,
            }
        }),
        next: page.next.map(|cursor| cursor.to_string()),
        previous: page.previous.map(|cursor| cursor.to_string()),
    }))
}

/// An e-mail address or a username.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Holding {
    #[schema(example = "ada@example.org", min_length = 1, max_length = 320)]
    identifier: String,
}

/// Who has ever held it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Holders {
    /// In the order in which they took it. Who was erased is not among them.
    holders: Vec<HolderView>,
}

/// An account that has held an identifier.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Holder)]
pub struct HolderView {
    person: PersonView,
    /// The line of the book by which it took it.
    #[schema(minimum = 1)]
    from: i64,
    /// The line by which it gave it back; none while it holds it.
    #[schema(required, minimum = 1)]
    to: Option<i64>,
}

/// Who has ever held an e-mail address or a username: how a person is found by a former one.
#[utoipa::path(
    post, path = "/audit/holders", tag = "audit", request_body = Holding,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The accounts; none, if nobody ever held it", body = Holders),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or by cookie from another site"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too much was read in an hour"),
    )
)]
async fn find_holders(
    State(app): State<App>,
    Auditor(auditor): Auditor,
    context: Context,
    Json(holding): Json<Holding>,
) -> ApiResult<JsonAnswer<Holders>> {
    let length = holding.identifier.chars().count();
    if length == 0 || length > MAX_IDENTIFIER {
        let detail = "give an e-mail address or a username";
        return Err(ApiError::invalid_field("identifier", detail));
    }
    let holders = history::holders(&app, &auditor, &context, &holding.identifier).await?;
    let view = |(person, claim): (Person, Claim)| HolderView {
        person: person.into(),
        from: claim.from,
        to: claim.to,
    };
    Ok(JsonAnswer(Holders { holders: holders.into_iter().map(view).collect() }))
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
