//! How far each projection has read the book, for admins.

use axum::{extract::State, http::StatusCode};
use domain::Role;
use projections::ProjectionStatus;
use ui::pages::{ProjectionRow, ProjectionState, ProjectionsPage};

use super::{PageResult, Visit, html};
use crate::{problem::ApiError, state::App};

pub(super) async fn show(State(app): State<App>, visit: Visit) -> PageResult {
    let admin = visit.with_role(&app, Role::Admin)?;
    let (chrome, _) = visit.framed(&app, admin).await?;
    let statuses = app.projector().status().await.map_err(ApiError::from)?;
    let head = statuses.iter().map(|status| status.head).max().map_or(0, whole);
    let rows = statuses.into_iter().map(row).collect();
    Ok(html(StatusCode::OK, &ProjectionsPage { chrome, head, rows })?)
}

fn whole(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn row(status: ProjectionStatus) -> ProjectionRow {
    let state = match status.state {
        projections::ProjectionState::Missing => ProjectionState::Missing,
        projections::ProjectionState::Building => ProjectionState::Building,
        projections::ProjectionState::Live => ProjectionState::Live,
        projections::ProjectionState::Stopped => ProjectionState::Stopped,
    };
    ProjectionRow {
        name: status.name.to_owned(),
        version: u32::try_from(status.version).unwrap_or(0),
        position: whole(status.position),
        lag_events: whole(status.lag_events),
        lag_seconds: std::time::Duration::try_from_secs_f64(status.lag_seconds)
            .unwrap_or_default()
            .as_secs(),
        state,
        detail: status.detail,
    }
}
