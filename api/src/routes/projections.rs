//! How far each projection has read the book, and rebuilding them, for admins.

use axum::{
    Json as JsonAnswer,
    extract::{FromRequestParts, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use domain::Role;
use projections::{Build, Options, Phase, Projection, ProjectionStatus, StopKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    context::Context,
    extract::OptionalJson,
    identity::{Admin, Welcome},
    problem::{ApiError, ApiResult, FieldError},
    rebuilds, standing,
    state::App,
};

/// More names than these are not read.
const MAX_NAMES: usize = 64;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_projections))
        .routes(routes!(follow_projections))
        .routes(routes!(rebuild_projections))
        .routes(routes!(get_projection))
        .routes(routes!(rebuild_projection, cancel_rebuild))
        .routes(routes!(verify_projection))
}

/// The projections.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Projections {
    /// The last line of the book.
    #[schema(minimum = 0)]
    pub head: i64,
    pub projections: Vec<ProjectionView>,
}

/// One projection, at the version that this server has.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Projection)]
pub struct ProjectionView {
    #[schema(example = "users")]
    pub name: String,
    pub version: i32,
    /// The last line that it has applied.
    #[schema(minimum = 0)]
    pub position: i64,
    /// How many lines it has still to apply.
    #[schema(minimum = 0)]
    pub lag_events: i64,
    /// How old the first of them is.
    #[schema(minimum = 0)]
    pub lag_seconds: f64,
    pub state: ProjectionState,
    /// Whether it has ever been complete. What reads it is answered 503 until then.
    pub built: bool,
    /// Why it stopped, say.
    #[schema(required)]
    pub detail: Option<String>,
    /// Where it stopped, if it did.
    #[schema(required)]
    pub stopped: Option<StoppedView>,
    /// The rebuild or check that is under way, on any replica or from the command line; else the last.
    #[schema(required)]
    pub build: Option<BuildView>,
}

/// `stopped` means: at an event that it can't apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionState {
    Missing,
    Building,
    Live,
    Stopped,
}

/// The line that a projection can't apply. It waits there, and skips nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Stopped)]
pub struct StoppedView {
    #[schema(minimum = 1)]
    pub position: i64,
    /// The stream, and the place of the event in it.
    #[schema(required, example = "User 0199a0b5-6c00-7000-8000-000000000001 number 4")]
    pub stream: Option<String>,
    #[schema(required, example = "UserRegistered")]
    pub event_type: Option<String>,
    #[schema(required, example = "2.0")]
    pub event_version: Option<String>,
    pub cause: String,
    pub advice: String,
}

/// A rebuild, or a check, which is one that changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Build)]
pub struct BuildView {
    pub state: BuildState,
    pub phase: BuildPhase,
    /// Whether it builds and compares, and changes nothing.
    pub dry_run: bool,
    /// How many lines of the book are folded.
    #[schema(minimum = 0)]
    pub events_done: i64,
    /// How many there are to fold.
    #[schema(minimum = 0)]
    pub events_total: i64,
    #[schema(minimum = 0)]
    pub events_per_second: f64,
    /// Until all lines are folded, where that can be told.
    #[schema(required, minimum = 0)]
    pub seconds_left: Option<f64>,
    pub started_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// What differs, or what went wrong.
    #[schema(required)]
    pub detail: Option<String>,
}

/// What became of a build. After `differs`, `failed`, `cancelled` and `interrupted` what serves is as
/// it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildState {
    Running,
    /// Its process is gone; the next one goes on where it was.
    Interrupted,
    /// The first build is complete.
    Built,
    /// The new tables serve.
    Swapped,
    /// A check found that it agrees with the book.
    Compared,
    /// It does not agree with the book; a rebuild with `repair` mends that.
    Differs,
    Failed,
    Cancelled,
}

/// What a build is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BuildPhase {
    Folding,
    Copying,
    Indexing,
    CatchingUp,
    Comparing,
    Swapping,
}

/// How to rebuild.
#[derive(Debug, Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RebuildOptions {
    /// Build and compare, and change nothing.
    #[schema(default = false)]
    dry_run: bool,
    /// Put the new tables in place although they differ from the old ones. Without it, a difference ends
    /// the rebuild as `differs`.
    #[schema(default = false)]
    repair: bool,
}

/// What to rebuild, and how.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RebuildOfSeveral {
    /// All, unless some are named. One pass over the book feeds them all.
    #[schema(min_items = 1, max_items = 64)]
    names: Option<Vec<String>>,
    /// Build and compare, and change nothing.
    #[schema(default = false)]
    dry_run: bool,
    /// Put the new tables in place although they differ from the old ones.
    #[schema(default = false)]
    repair: bool,
}

impl RebuildOptions {
    fn checked(self) -> ApiResult<Options> {
        let Self { dry_run, repair } = self;
        if dry_run && repair {
            return Err(ApiError::invalid_field("repair", "a dry run changes nothing; choose one"));
        }
        Ok(Options { dry_run, repair, ..Options::default() })
    }
}

impl Projections {
    /// Whether those who follow should hear of it. The clock alone is no news, but to the eye.
    #[must_use]
    pub fn differs_from(&self, now: &Self) -> bool {
        let still = |projections: &Self| {
            let mut still = projections.clone();
            for one in &mut still.projections {
                let whole = if one.lag_seconds < 120.0 { 1.0 } else { 60.0 };
                one.lag_seconds = (one.lag_seconds / whole).floor();
            }
            still
        };
        still(self) != still(now)
    }
}

impl ProjectionView {
    fn new(status: ProjectionStatus, build: Option<Build>) -> Self {
        let advice = advice(&status);
        Self {
            name: status.name.to_owned(),
            version: status.version,
            position: status.position,
            lag_events: status.lag_events.max(0),
            lag_seconds: status.lag_seconds.max(0.0),
            state: match status.state {
                projections::ProjectionState::Missing => ProjectionState::Missing,
                projections::ProjectionState::Building => ProjectionState::Building,
                projections::ProjectionState::Live => ProjectionState::Live,
                projections::ProjectionState::Stopped => ProjectionState::Stopped,
            },
            built: status.built,
            detail: status.detail,
            stopped: status.stopped.map(|stopped| StoppedView {
                position: stopped.position,
                stream: stopped.stream,
                event_type: stopped.event_type,
                event_version: stopped.event_version,
                cause: stopped.cause,
                advice: advice.to_owned(),
            }),
            build: build.map(BuildView::from),
        }
    }
}

/// What to do about a projection that is stopped.
#[must_use]
pub fn advice(status: &ProjectionStatus) -> &'static str {
    let stopped = status.stopped.as_ref();
    let kind = stopped.map_or(StopKind::Other, |stopped| stopped.kind);
    if kind == StopKind::RefusedRows {
        "See whether its table is whole (`entrybook projections verify`); `entrybook projections rebuild --repair` \
         makes it anew, and the projection goes on by itself, from this line."
    } else if kind != StopKind::DamagedPayload
        && stopped.is_some_and(|stopped| stopped.event_type.is_some())
    {
        "Run a version of Entrybook that can apply this event: the projection then goes on by itself, from this line."
    } else {
        "Look at the book at this line (`entrybook audit`), and run a version of Entrybook that can read it, or restore \
         the book from a backup: the projection then goes on by itself."
    }
}

impl From<Build> for BuildView {
    fn from(build: Build) -> Self {
        Self {
            state: match build.state {
                projections::BuildState::Running => BuildState::Running,
                projections::BuildState::Interrupted => BuildState::Interrupted,
                projections::BuildState::Built => BuildState::Built,
                projections::BuildState::Swapped => BuildState::Swapped,
                projections::BuildState::Compared => BuildState::Compared,
                projections::BuildState::Differs => BuildState::Differs,
                projections::BuildState::Failed => BuildState::Failed,
                projections::BuildState::Cancelled => BuildState::Cancelled,
            },
            phase: BuildPhase::read(&build.phase),
            dry_run: build.dry_run,
            events_done: build.events_done,
            events_total: build.events_total.max(build.events_done),
            events_per_second: build.events_per_second.max(0.0),
            seconds_left: build.seconds_left.map(|seconds| seconds.max(0.0)),
            started_at: build.started_at,
            updated_at: build.updated_at,
            detail: build.detail,
        }
    }
}

impl BuildPhase {
    /// A phase that only a newer binary knows is one of work beside the fold.
    fn read(stored: &str) -> Self {
        let known = [
            (Phase::Folding, Self::Folding),
            (Phase::Copying, Self::Copying),
            (Phase::Indexing, Self::Indexing),
            (Phase::CatchingUp, Self::CatchingUp),
            (Phase::Comparing, Self::Comparing),
            (Phase::Swapping, Self::Swapping),
        ];
        let found = known.into_iter().find(|(phase, _)| phase.as_str() == stored);
        found.map_or(Self::Copying, |(_, phase)| phase)
    }
}

/// How all stand now, for the API or a page.
pub(crate) async fn read(app: &App) -> ApiResult<Projections> {
    let statuses = app.projector().status().await?;
    let mut builds = projections::builds(app.background()).await?;
    let head = statuses.iter().map(|status| status.head).max().unwrap_or(0);
    let projections = statuses.into_iter().map(|status| {
        let is_its = |build: &Build| build.name == status.name && build.version == status.version;
        let build = builds.iter().position(is_its).map(|at| builds.swap_remove(at));
        ProjectionView::new(status, build)
    });
    Ok(Projections { head, projections: projections.collect() })
}

async fn read_one(app: &App, projection: &dyn Projection) -> ApiResult<ProjectionView> {
    let all = read(app).await?.projections;
    all.into_iter().find(|one| one.name == projection.name()).ok_or_else(unknown)
}

fn unknown() -> ApiError {
    ApiError {
        detail: "There is no projection of this name; GET /api/v1/admin/projections lists them."
            .into(),
        ..ApiError::not_found()
    }
}

/// The projection that the path names.
pub(crate) struct Named(pub(crate) &'static dyn Projection);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        let axum::extract::Path(name) = path.map_err(|_| unknown())?;
        projections::named(&name).map(Self).ok_or_else(unknown)
    }
}

/// How far each projection has read the book, and the rebuilds under way.
#[utoipa::path(
    get, path = "/admin/projections", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The projections", body = Projections),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
    )
)]
async fn list_projections(
    State(app): State<App>,
    _admin: Admin,
) -> ApiResult<JsonAnswer<Projections>> {
    Ok(JsonAnswer(read(&app).await?))
}

/// Follows the projections: an event `projections` at first and after each change, at most two a second,
/// with what `GET /api/v1/admin/projections` answers.
///
/// Ends when the access token expires, or its session or role ends; ask again with a new one.
#[utoipa::path(
    get, path = "/admin/projections/progress", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
    )
)]
async fn follow_projections(
    State(app): State<App>,
    _admin: Admin,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let write = |now: &Projections| serde_json::to_string(now).map_err(ApiError::internal);
    let may = move |app| Welcome::with_role(app, headers.clone(), Role::Admin);
    standing::follow(&app, write, may)
}

/// One projection.
#[utoipa::path(
    get, path = "/admin/projections/{name}", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("name" = String, Path, description = "The name of the projection")),
    responses(
        (status = 200, description = "The projection", body = ProjectionView),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
        (status = 404, description = "There is no such projection"),
    )
)]
async fn get_projection(
    State(app): State<App>,
    _admin: Admin,
    Named(projection): Named,
) -> ApiResult<JsonAnswer<ProjectionView>> {
    Ok(JsonAnswer(read_one(&app, projection).await?))
}

/// Rebuilds several projections in one pass over the book, while they serve.
#[utoipa::path(
    post, path = "/admin/projections/rebuild", tag = "admin", request_body = Option<RebuildOfSeveral>,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 202, description = "It is under way", body = Projections,
            headers(("Location" = String, description = "Where its progress is told"))),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 409, description = "One of them is being built already"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
    )
)]
async fn rebuild_projections(
    State(app): State<App>,
    Admin(admin): Admin,
    context: Context,
    OptionalJson(wanted): OptionalJson<RebuildOfSeveral>,
) -> ApiResult<Response> {
    let chosen = match &wanted.names {
        None => projections::all(),
        Some(names) => named(names)?,
    };
    let options = RebuildOptions { dry_run: wanted.dry_run, repair: wanted.repair }.checked()?;
    rebuilds::start(&app, chosen, options, context.user(admin.user_id)).await?;
    Ok(accepted("/api/v1/admin/projections", read(&app).await?))
}

fn named(names: &[String]) -> ApiResult<Vec<&'static dyn Projection>> {
    if !(1..=MAX_NAMES).contains(&names.len()) {
        return Err(ApiError::invalid_field(
            "names",
            "name 1 to 64 projections, or leave it out for all",
        ));
    }
    let mut chosen: Vec<&'static dyn Projection> = Vec::new();
    let mut errors = Vec::new();
    for (at, name) in names.iter().enumerate() {
        match projections::named(name) {
            Some(projection) if chosen.iter().any(|known| known.name() == name) => {
                let detail = format!("{} is named twice", projection.name());
                errors.push(FieldError::new(format!("names[{at}]"), detail));
            }
            Some(projection) => chosen.push(projection),
            None => {
                errors.push(FieldError::new(format!("names[{at}]"), "there is no such projection"))
            }
        }
    }
    if errors.is_empty() { Ok(chosen) } else { Err(ApiError::invalid(errors)) }
}

/// Rebuilds a projection while it serves: new tables are built beside the live ones, compared with
/// them, and put in their place.
#[utoipa::path(
    post, path = "/admin/projections/{name}/rebuild", tag = "admin", request_body = Option<RebuildOptions>,
    security(("bearer" = []), ("cookie" = [])),
    params(("name" = String, Path, description = "The name of the projection")),
    responses(
        (status = 202, description = "It is under way", body = ProjectionView,
            headers(("Location" = String, description = "Where its progress is told"))),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such projection"),
        (status = 409, description = "It is being built already"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
    )
)]
async fn rebuild_projection(
    State(app): State<App>,
    Admin(admin): Admin,
    context: Context,
    Named(projection): Named,
    OptionalJson(options): OptionalJson<RebuildOptions>,
) -> ApiResult<Response> {
    let origin = context.user(admin.user_id);
    rebuilds::start(&app, vec![projection], options.checked()?, origin).await?;
    under_way(&app, projection).await
}

/// Checks a projection against the book, and changes nothing: a rebuild with `dry_run`.
#[utoipa::path(
    post, path = "/admin/projections/{name}/verify", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("name" = String, Path, description = "The name of the projection")),
    responses(
        (status = 202, description = "It is under way", body = ProjectionView,
            headers(("Location" = String, description = "Where its progress is told"))),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such projection"),
        (status = 409, description = "It is being built already"),
    )
)]
async fn verify_projection(
    State(app): State<App>,
    Admin(admin): Admin,
    context: Context,
    Named(projection): Named,
) -> ApiResult<Response> {
    let options = Options { dry_run: true, ..Options::default() };
    rebuilds::start(&app, vec![projection], options, context.user(admin.user_id)).await?;
    under_way(&app, projection).await
}

/// Cancels the rebuild or check of a projection, wherever it runs; those that are built in the same
/// pass are cancelled with it. What serves is as it was.
#[utoipa::path(
    delete, path = "/admin/projections/{name}/rebuild", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("name" = String, Path, description = "The name of the projection")),
    responses(
        (status = 202, description = "It is about to stop", body = ProjectionView,
            headers(("Location" = String, description = "Where its progress is told"))),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such projection"),
        (status = 409, description = "It is not being built"),
    )
)]
async fn cancel_rebuild(
    State(app): State<App>,
    Admin(admin): Admin,
    context: Context,
    Named(projection): Named,
) -> ApiResult<Response> {
    rebuilds::cancel(&app, projection, &context.user(admin.user_id)).await?;
    under_way(&app, projection).await
}

async fn under_way(app: &App, projection: &dyn Projection) -> ApiResult<Response> {
    let location = format!("/api/v1/admin/projections/{}", projection.name());
    Ok(accepted(&location, read_one(app, projection).await?))
}

fn accepted(location: &str, body: impl Serialize) -> Response {
    let headers = [(header::LOCATION, location.to_owned())];
    (StatusCode::ACCEPTED, headers, JsonAnswer(body)).into_response()
}
