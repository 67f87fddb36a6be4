//! How far each projection has read the book, and rebuilding them, for admins.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use domain::Role;
use projections::{Options, Projection};
use ui::{
    Notice,
    pages::{
        BuildPhase, BuildState, ProjectionBuild, ProjectionRow, ProjectionState, ProjectionStop,
        ProjectionsPage,
    },
    paths,
};

use super::{Button, PageResult, Posted, Stop, Visit, html, redirect};
use crate::{
    identity::Welcome,
    layers::CSP_LIVE_PAGE,
    problem::{ApiError, ApiResult, Kind},
    rebuilds,
    routes::projections::{self as route, BuildView, Named, ProjectionView, Projections},
    standing,
    state::App,
};

/// What a button asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Rebuild,
    Check,
    Repair,
}

pub(super) async fn show(State(app): State<App>, visit: Visit) -> PageResult {
    let admin = visit.with_role(&app, Role::Admin)?;
    let (chrome, _) = visit.framed(&app, admin).await?;
    let page = page(chrome, &route::read(&app).await?);
    let mut response = html(StatusCode::OK, &page)?;
    let policy = HeaderValue::from_static(CSP_LIVE_PAGE);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}

/// What changes on the page, as server-sent events: the part of it that is live, written anew.
pub(super) async fn follow(State(app): State<App>, visit: Visit, headers: HeaderMap) -> PageResult {
    if visit.identity.is_none() {
        // So a browser is told not to ask again (WHATWG HTML, section 9.2); the page then asks for itself.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    visit.with_role(&app, Role::Admin)?;
    let chrome = visit.chrome(&app);
    let write =
        move |now: &Projections| page(chrome.clone(), now).live().map_err(ApiError::internal);
    // By the cookie that came with the request. When its token has expired the stream ends, the browser
    // asks again, and is given a new one on the way, as with every page.
    let may = move |app| Welcome::with_role(app, headers.clone(), Role::Admin);
    let events = standing::follow(&app, write, may)?;
    Ok(events.into_response())
}

pub(super) async fn rebuild_all(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<Button>,
) -> PageResult {
    begin(&app, &visit, posted, projections::all(), Wish::Rebuild).await
}

pub(super) async fn check_all(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<Button>,
) -> PageResult {
    begin(&app, &visit, posted, projections::all(), Wish::Check).await
}

pub(super) async fn rebuild(
    State(app): State<App>,
    visit: Visit,
    Named(projection): Named,
    posted: Posted<Button>,
) -> PageResult {
    begin(&app, &visit, posted, vec![projection], Wish::Rebuild).await
}

pub(super) async fn check(
    State(app): State<App>,
    visit: Visit,
    Named(projection): Named,
    posted: Posted<Button>,
) -> PageResult {
    begin(&app, &visit, posted, vec![projection], Wish::Check).await
}

pub(super) async fn repair(
    State(app): State<App>,
    visit: Visit,
    Named(projection): Named,
    posted: Posted<Button>,
) -> PageResult {
    begin(&app, &visit, posted, vec![projection], Wish::Repair).await
}

pub(super) async fn cancel(
    State(app): State<App>,
    visit: Visit,
    Named(projection): Named,
    posted: Posted<Button>,
) -> PageResult {
    sender(&app, &visit)?;
    posted.or_back(&app, paths::PROJECTIONS)?;
    let origin = visit.context.user(visit.identity(&app)?.user_id);
    told(&app, rebuilds::cancel(&app, projection, &origin).await, Notice::BuildCancelled)
}

async fn begin(
    app: &App,
    visit: &Visit,
    posted: Posted<Button>,
    chosen: Vec<&'static dyn Projection>,
    wish: Wish,
) -> PageResult {
    sender(app, visit)?;
    posted.or_back(app, paths::PROJECTIONS)?;
    let origin = visit.context.user(visit.identity(app)?.user_id);
    let options = Options {
        dry_run: wish == Wish::Check,
        repair: wish == Wish::Repair,
        ..Options::default()
    };
    let notice = if options.dry_run { Notice::CheckBegun } else { Notice::RebuildBegun };
    told(app, rebuilds::start(app, chosen, options, origin).await, notice)
}

fn sender(app: &App, visit: &Visit) -> Result<(), Stop> {
    visit.sender(app)?;
    visit.with_role(app, Role::Admin).map(drop)
}

/// Back to the page, with what became of it.
fn told(app: &App, done: ApiResult<()>, notice: Notice) -> PageResult {
    let notice = match done {
        Ok(()) => notice,
        Err(error) => match error.kind {
            Kind::BuildUnderWay => Notice::BuildUnderWay,
            Kind::NoBuild => Notice::NoBuild,
            _ => return Err(error.into()),
        },
    };
    Ok(redirect(app, paths::PROJECTIONS, Some(notice)))
}

fn page(chrome: ui::Chrome, now: &Projections) -> ProjectionsPage {
    let rows = now.projections.iter().map(row).collect();
    ProjectionsPage { chrome, head: whole(now.head), rows }
}

fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// Whole seconds, or what else is counted.
fn floor(number: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(number).unwrap_or_default().as_secs()
}

fn row(view: &ProjectionView) -> ProjectionRow {
    let stop = view.stopped.as_ref().map(|stopped| ProjectionStop {
        position: whole(stopped.position),
        stream: stopped.stream.clone(),
        event: stopped.event_type.as_ref().map(|event_type| {
            let version = stopped.event_version.as_deref().unwrap_or("?");
            format!("{event_type}, version {version}")
        }),
        cause: stopped.cause.clone(),
        advice: stopped.advice.clone(),
    });
    ProjectionRow {
        name: view.name.clone(),
        version: u32::try_from(view.version).unwrap_or(0),
        position: whole(view.position),
        lag_events: whole(view.lag_events),
        lag_seconds: floor(view.lag_seconds),
        state: match view.state {
            route::ProjectionState::Missing => ProjectionState::Missing,
            route::ProjectionState::Building => ProjectionState::Building,
            route::ProjectionState::Live => ProjectionState::Live,
            route::ProjectionState::Stopped => ProjectionState::Stopped,
        },
        built: view.built,
        stopped: stop,
        build: view.build.as_ref().map(build),
    }
}

fn build(view: &BuildView) -> ProjectionBuild {
    let took = (view.updated_at - view.started_at).to_std().unwrap_or_default();
    ProjectionBuild {
        state: match view.state {
            route::BuildState::Running => BuildState::Running,
            route::BuildState::Interrupted => BuildState::Interrupted,
            route::BuildState::Built => BuildState::Built,
            route::BuildState::Swapped => BuildState::Swapped,
            route::BuildState::Compared => BuildState::Compared,
            route::BuildState::Differs => BuildState::Differs,
            route::BuildState::Failed => BuildState::Failed,
            route::BuildState::Cancelled => BuildState::Cancelled,
        },
        phase: match view.phase {
            route::BuildPhase::Folding => BuildPhase::Folding,
            route::BuildPhase::Copying => BuildPhase::Copying,
            route::BuildPhase::Indexing => BuildPhase::Indexing,
            route::BuildPhase::CatchingUp => BuildPhase::CatchingUp,
            route::BuildPhase::Comparing => BuildPhase::Comparing,
            route::BuildPhase::Swapping => BuildPhase::Swapping,
        },
        check_only: view.dry_run,
        events_done: whole(view.events_done),
        events_total: whole(view.events_total),
        events_per_second: floor(view.events_per_second),
        seconds_left: view.seconds_left.map(floor),
        seconds: took.as_secs(),
        updated: view.updated_at,
        detail: view.detail.clone(),
    }
}
