//! How it was: a person as of a time or a line of the book, and who was signed in then.

use axum::{Json as JsonAnswer, extract::State};
use chrono::{DateTime, Utc};
use domain::UserId;
use projections::Reach;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    context::Context,
    extract::Query,
    history::is_rfc_3339,
    identity::{Auditor, Identity},
    problem::{ApiError, ApiResult},
    readings::Reading,
    replay::{self, AsOf, Then},
    state::App,
    views::RoleName,
};

const DEFAULT_PEOPLE: u16 = 20;
const MAX_PEOPLE: u16 = 50;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_state)).routes(routes!(read_signed_in))
}

/// Whose state, and as of when.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StateQuery {
    /// The account.
    user: Uuid,
    /// A time (RFC 3339) or the number of a line; now, unless one is given.
    #[serde(default)]
    #[param(nullable = false, example = "2026-01-31T12:00:00Z")]
    at: Option<String>,
    /// The number of a line, in place of `at`.
    #[serde(default)]
    #[param(nullable = false, minimum = 1)]
    position: Option<i64>,
    /// Another one, to be told what differs from there to `at`.
    #[serde(default)]
    #[param(nullable = false, example = "117")]
    against: Option<String>,
}

/// Who was signed in, and when that is.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct SignedInQuery {
    /// A time (RFC 3339); now, unless one is given.
    #[param(nullable = false)]
    at: Option<DateTime<Utc>>,
    /// `next` of an answer.
    #[param(nullable = false)]
    after: Option<Uuid>,
    #[param(nullable = false, minimum = 1, maximum = 50, default = 20)]
    limit: Option<u16>,
}

/// How it was with a person.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateAnswer {
    state: StateView,
    /// The other state, where one was asked for.
    #[schema(required)]
    against: Option<StateView>,
    /// What differs from the other state to this one.
    #[schema(required)]
    changes: Option<Vec<ChangeView>>,
    /// The last line of the book that the history shows. As of now, or of a time, it is the last that
    /// there was when it was asked.
    #[schema(minimum = 0)]
    reached: i64,
}

/// A person as they were.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PersonState)]
pub struct StateView {
    user: Uuid,
    /// The moment; of a line, when its event happened.
    at: DateTime<Utc>,
    /// The last line of the book that has a part in it; 0 where there was none yet.
    #[schema(minimum = 0)]
    position: i64,
    /// None before they registered.
    #[schema(required)]
    account: Option<AccountView>,
    /// The sessions that were good then, the last begun first: 200 at most.
    sessions: Vec<SessionView>,
    /// How many of them there were.
    live_sessions: usize,
    /// How many had begun by then; null where it is asked who was signed in.
    #[schema(required)]
    sessions_begun: Option<usize>,
}

/// An account as it was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AccountState)]
pub struct AccountView {
    /// None, as the username and the name, where the person was erased since.
    #[schema(required)]
    email: Option<String>,
    #[schema(required)]
    username: Option<String>,
    #[schema(required)]
    full_name: Option<String>,
    roles: Vec<RoleName>,
    disabled: bool,
    erased: bool,
    registered_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// How many events it had.
    #[schema(minimum = 1)]
    version: u64,
}

/// A session as it was.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SessionState)]
pub struct SessionView {
    id: Uuid,
    #[schema(example = "password")]
    method: String,
    remember_me: bool,
    started_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    #[schema(minimum = 0)]
    refreshes: i64,
    #[schema(required, example = "192.0.2.7")]
    address: Option<String>,
    #[schema(required)]
    user_agent: Option<String>,
}

/// Something that differs.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StateChange)]
pub struct ChangeView {
    /// `registered`, `email`, `username`, `full_name`, `role`, `disabled`, `erased` or `session`.
    #[schema(example = "role")]
    what: &'static str,
    /// How it was: a value, `yes`, a role, or the id of a session. None where it was not so.
    #[schema(required)]
    from: Option<String>,
    #[schema(required, example = "auditor")]
    to: Option<String>,
}

/// Who was signed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignedInAnswer {
    at: DateTime<Utc>,
    /// In the order of their ids, each with the sessions that were good.
    people: Vec<StateView>,
    /// What `after` must be to get more of them.
    #[schema(required)]
    next: Option<Uuid>,
    /// The last line of the book that was known.
    #[schema(minimum = 0)]
    reached: i64,
}

impl StateAnswer {
    pub(crate) fn new(then: Then, other: Option<Then>, reached: i64) -> Self {
        let changes = other.as_ref().map(|other| {
            let view = |change: replay::Change| ChangeView {
                what: change.what.as_str(),
                from: change.from,
                to: change.to,
            };
            replay::changes(other, &then).into_iter().map(view).collect()
        });
        let against = other.map(StateView::from);
        Self { state: then.into(), against, changes, reached }
    }
}

impl From<Then> for StateView {
    fn from(then: Then) -> Self {
        Self {
            user: then.user.0,
            at: then.at,
            position: then.position,
            account: then.account.map(|account| AccountView {
                email: account.email,
                username: account.username,
                full_name: account.full_name,
                roles: account.roles.into_iter().map(RoleName::from).collect(),
                disabled: account.disabled,
                erased: account.erased,
                registered_at: account.registered_at,
                updated_at: account.updated_at,
                version: account.version,
            }),
            sessions: then.sessions.into_iter().map(SessionView::from).collect(),
            live_sessions: then.live.len(),
            sessions_begun: then.begun,
        }
    }
}

impl From<replay::Session> for SessionView {
    fn from(session: replay::Session) -> Self {
        Self {
            id: session.id.0,
            method: session.method,
            remember_me: session.remember_me,
            started_at: session.started_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            refreshes: session.refreshes,
            address: session.address,
            user_agent: session.user_agent,
        }
    }
}

/// The moment that a text means: the number of a line, or a time.
pub(crate) fn moment(app: &App, field: &str, text: &str) -> ApiResult<AsOf> {
    let wrong = || {
        let detail = "give a time such as 2026-01-31T12:00:00Z, or the number of a line";
        ApiError::invalid_field(field, detail)
    };
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let position: i64 = text.parse().map_err(|_| wrong())?;
        let head = app.sequencer().head().borrow().position;
        if position < 1 || position > head {
            let detail = format!("the book has the lines 1 to {head}");
            return Err(ApiError::invalid_field(field, detail));
        }
        return Ok(AsOf::Position(position));
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
    past(app, field, time.to_utc()).map(AsOf::Time)
}

/// What is still to come can't be told.
fn past(app: &App, field: &str, time: DateTime<Utc>) -> ApiResult<DateTime<Utc>> {
    if !is_rfc_3339(time) {
        return Err(ApiError::invalid_field(field, "give a time of the years 0 to 9999"));
    }
    if time > app.now() {
        return Err(ApiError::invalid_field(field, "this time is still to come"));
    }
    Ok(time)
}

/// The states that were asked for, and how far the book is known.
pub(crate) struct Told {
    pub(crate) then: Then,
    pub(crate) other: Option<Then>,
    pub(crate) reach: Reach,
}

/// How it was with a person, as of one moment, and of another. Auditors alone may ask, and that they
/// did is written down.
pub(crate) async fn read(
    app: &App,
    auditor: &Identity,
    context: &Context,
    user: UserId,
    (at, against): (Option<AsOf>, Option<AsOf>),
) -> ApiResult<Told> {
    app.needs("audit_history").await?;
    // As of a time any line may count, for times are not in the order of the book.
    let last = |moment: Option<AsOf>| match moment {
        Some(AsOf::Position(line)) => Some(line),
        Some(AsOf::Time(_)) | None => None,
    };
    let needed = match against {
        Some(against) => last(at).zip(last(Some(against))).map(|(one, other)| one.max(other)),
        None => last(at),
    };
    let reach = app.needs_line("audit_history", needed).await?;
    if user != auditor.user_id {
        // Whichever moment it is: who steps along looks at the same person.
        let origin = context.user(auditor.user_id);
        app.reading(auditor, &origin, Reading::Replayed, json!({ "user": user })).await?;
    }
    app.see_own_writes(user, "audit_history").await;
    let then = async |as_of: AsOf| {
        let state = projections::replay::state(&app.source(), user, as_of).await?;
        ApiResult::Ok(replay::open(app.book(), &state).await?)
    };
    let other = match against {
        Some(against) => Some(then(against).await?),
        None => None,
    };
    let then = then(at.unwrap_or_else(|| AsOf::Time(app.now()))).await?;
    Ok(Told { then, other, reach })
}

/// A page of those who were signed in, whom the next page begins after, and how far the book is known.
pub(crate) type Page = (Vec<Then>, Option<UserId>, i64);

/// Who was signed in, a page of them.
pub(crate) async fn read_people(
    app: &App,
    auditor: &Identity,
    context: &Context,
    at: Option<DateTime<Utc>>,
    (after, limit): (Option<UserId>, i64),
) -> ApiResult<Page> {
    let mut reached = i64::MAX;
    for projection in ["audit_history", "sessions"] {
        app.needs(projection).await?;
        reached = app.needs_line(projection, None).await?.reached.min(reached);
    }
    let filter = json!({ "signed_in": at.map_or(json!("now"), |at| json!(at)) });
    app.reading(auditor, &context.user(auditor.user_id), Reading::Replayed, filter).await?;
    let at = at.unwrap_or_else(|| app.now());
    let page = projections::replay::signed_in(&app.source(), at, after, limit).await?;
    let next = page.rows.last().filter(|_| page.more).map(|state| state.user_id);
    let mut people = Vec::with_capacity(page.rows.len());
    // What an account had just ended is over, though its session is listed.
    for state in page.rows.iter().filter(|state| state.live().next().is_some()) {
        people.push(replay::open(app.book(), state).await?);
    }
    Ok((people, next, reached))
}

/// How it was with a person: the account, its roles and its live sessions as of a time or a line of the
/// book, and what differs from another moment.
///
/// It is folded from the book. As of a time, each stream is read up to its first event that happened
/// later.
#[utoipa::path(
    get, path = "/audit/state", tag = "audit", params(StateQuery), security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The state", body = StateAnswer),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or a page of another site has opened it"),
        (status = 404, description = "There is no such account"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too much was read in an hour"),
        (status = 503, description = "The history does not show so much of the book yet"),
    )
)]
async fn read_state(
    State(app): State<App>,
    context: Context,
    Auditor(auditor): Auditor,
    Query(query): Query<StateQuery>,
) -> ApiResult<JsonAnswer<StateAnswer>> {
    let at = match (query.at.as_deref(), query.position) {
        (None, None) => None,
        (Some(text), None) => Some(moment(&app, "at", text)?),
        (None, Some(position)) => Some(moment(&app, "position", &position.to_string())?),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid_field("position", "give either this or `at`"));
        }
    };
    let against = query.against.as_deref().map(|text| moment(&app, "against", text)).transpose()?;
    let user = UserId(query.user);
    let Told { then, other, reach } = read(&app, &auditor, &context, user, (at, against)).await?;
    let unknown = |then: &Then| then.account.is_none() && then.begun == Some(0);
    if unknown(&then) && other.as_ref().is_none_or(unknown) && !is_known(&app, user).await? {
        return Err(ApiError {
            detail: "There is no account with this id.".into(),
            ..ApiError::not_found()
        });
    }
    Ok(JsonAnswer(StateAnswer::new(then, other, reach.reached)))
}

/// Whether there is such an account at all, be it that it registered later.
async fn is_known(app: &App, user: UserId) -> ApiResult<bool> {
    Ok(app.book().user(user).await?.version > 0)
}

/// Who was signed in at a time, each with the sessions that were good then.
#[utoipa::path(
    get, path = "/audit/signed-in", tag = "audit", params(SignedInQuery), security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "Who was signed in", body = SignedInAnswer),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or a page of another site has opened it"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too much was read in an hour"),
        (status = 503, description = "The history does not show so much of the book yet"),
    )
)]
async fn read_signed_in(
    State(app): State<App>,
    context: Context,
    Auditor(auditor): Auditor,
    Query(query): Query<SignedInQuery>,
) -> ApiResult<JsonAnswer<SignedInAnswer>> {
    let at = query.at.map(|at| past(&app, "at", at)).transpose()?;
    let limit = match query.limit.unwrap_or(DEFAULT_PEOPLE) {
        limit @ 1..=MAX_PEOPLE => i64::from(limit),
        _ => return Err(ApiError::invalid_field("limit", "a page has 1 to 50 people")),
    };
    let after = query.after.map(UserId);
    let (people, next, reached) = read_people(&app, &auditor, &context, at, (after, limit)).await?;
    Ok(JsonAnswer(SignedInAnswer {
        at: at.unwrap_or_else(|| app.now()),
        people: people.into_iter().map(StateView::from).collect(),
        next: next.map(|user| user.0),
        reached,
    }))
}
