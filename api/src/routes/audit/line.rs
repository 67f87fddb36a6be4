//! One line of the book with all that its event holds, for auditors.

use axum::{
    Json as JsonAnswer,
    extract::{Path, State, rejection::PathRejection},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::LineView;
use crate::{
    context::Context,
    identity::Auditor,
    problem::{ApiError, ApiResult},
    state::App,
    whole_line::{self, Whole},
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(read_line))
}

/// One line of the book, with all that its event holds.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeLine {
    #[serde(flatten)]
    line: LineView,
    /// When it was written down.
    recorded_at: DateTime<Utc>,
    /// The version of the event.
    #[schema(example = "1")]
    version: String,
    /// Whose it is: the kind, and the id.
    #[schema(example = "Session/0197f0c2-6b1e-7a54-9d3c-5e8f1a2b3c4d")]
    stream: String,
    /// Its number in its stream.
    #[schema(minimum = 1)]
    sequence: i64,
    /// What the event says. Personal data is opened; what was erased is `(erased)`, and what is opened for
    /// nobody, such as the hash of a password, `(sealed)`.
    #[schema(value_type = Object)]
    payload: Value,
    /// Where the proof is to be had that it is in the newest signed checkpoint, once it is signed.
    #[schema(example = "/log/proof/117")]
    proof: String,
}

impl From<Whole> for WholeLine {
    fn from(whole: Whole) -> Self {
        let proof = ui::paths::log_proof(&whole.line.position.to_string());
        Self {
            line: whole.line.into(),
            recorded_at: whole.recorded_at,
            version: whole.version,
            stream: whole.stream,
            sequence: whole.sequence,
            payload: whole.payload,
            proof,
        }
    }
}

/// One line of the book with all that its event holds: values before and after, how long a throttle
/// lasts, what was changed in the settings.
///
/// It is read in the book itself. That an auditor reads it is written down first.
#[utoipa::path(
    get, path = "/audit/{position}", tag = "audit", security(("bearer" = []), ("cookie" = [])),
    params(("position" = i64, Path, description = "The line, from 1", minimum = 1)),
    responses(
        (status = 200, description = "The line", body = WholeLine),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or a page of another site has opened it"),
        (status = 404, description = "The book has no such line"),
        (status = 429, description = "Too much was read in an hour"),
    )
)]
async fn read_line(
    State(app): State<App>,
    Auditor(auditor): Auditor,
    context: Context,
    position: Result<Path<i64>, PathRejection>,
) -> ApiResult<JsonAnswer<WholeLine>> {
    let none = || ApiError {
        detail: "The book has no line of this number.".into(),
        ..ApiError::not_found()
    };
    let Path(position) = position.map_err(|_| none())?;
    let origin = context.user(auditor.user_id);
    let whole = whole_line::read(&app, &auditor, &origin, position).await?.ok_or_else(none)?;
    Ok(JsonAnswer(whole.into()))
}
