//! How far each projection has read the book, for admins.

use axum::{Json as JsonAnswer, extract::State};
use projections::ProjectionStatus;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{identity::Admin, problem::ApiResult, state::App};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_projections))
}

/// The projections.
#[derive(Debug, Serialize, ToSchema)]
pub struct Projections {
    /// The last line of the book.
    #[schema(minimum = 0)]
    head: i64,
    projections: Vec<ProjectionView>,
}

/// One projection, at the version that this server has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Projection)]
pub struct ProjectionView {
    #[schema(example = "users")]
    name: String,
    version: i32,
    /// The last line that it has applied.
    #[schema(minimum = 0)]
    position: i64,
    /// How many lines it has still to apply.
    #[schema(minimum = 0)]
    lag_events: i64,
    /// How old the first of them is.
    #[schema(minimum = 0)]
    lag_seconds: f64,
    state: ProjectionState,
    /// Why it stopped, say.
    #[schema(required)]
    detail: Option<String>,
}

/// `stopped` means: at an event that it can't apply.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectionState {
    Missing,
    Building,
    Live,
    Stopped,
}

impl From<ProjectionStatus> for ProjectionView {
    fn from(status: ProjectionStatus) -> Self {
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
            detail: status.detail,
        }
    }
}

/// How far each projection has read the book.
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
    let statuses = app.projector().status().await?;
    let head = statuses.iter().map(|status| status.head).max().unwrap_or(0);
    let projections = statuses.into_iter().map(ProjectionView::from).collect();
    Ok(JsonAnswer(Projections { head, projections }))
}
