//! The history as a file, for auditors.

use axum::{extract::State, response::Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{EventType, HistoryQuery};
use crate::{
    context::Context,
    export::{self, Format},
    extract::{Json, Query},
    identity::{Auditor, Identity},
    problem::{ApiError, ApiResult},
    state::App,
};

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(export_history)).routes(routes!(export_found))
}

/// Which lines, and as what; all that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ExportQuery {
    /// `jsonl`: lines that prove themselves. `csv`: for spreadsheets. `ocsf`: events for a SIEM.
    #[param(required, nullable = false, inline)]
    #[schema(required, nullable = false)]
    format: Option<Format>,
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
    /// Why or how, as lines have it.
    #[param(nullable = false, max_length = 200)]
    #[schema(max_length = 200)]
    outcome: Option<String>,
    /// The address that it came from, or a network.
    #[param(nullable = false, max_length = 64, example = "192.0.2.0/24")]
    #[schema(max_length = 64, example = "192.0.2.0/24")]
    address: Option<String>,
    /// From then on, by the time when it happened (RFC 3339).
    #[param(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Before then.
    #[param(nullable = false)]
    to: Option<DateTime<Utc>>,
    /// Only lines after this one: how to go on behind the last line of a file that was cut off.
    #[param(nullable = false, minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<u64>,
}

/// The history as a file, up to the newest signed checkpoint.
///
/// It is sent as it is made. It is whole if it ends with its manifest, which is signed: docs/export.md tells how. One that was cut off
/// has none, and `entrybook audit verify` says so. Two of one auditor may be under way at once.
#[utoipa::path(
    get, path = "/audit/export", tag = "audit", params(ExportQuery),
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The file", content(
            (String = "application/jsonl"), (String = "text/csv"),
        )),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or a page of another site has opened it"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Two exports are under way, or too much was read in an hour"),
        (status = 503, description = "Nothing is signed yet, or the history is behind what is signed"),
    )
)]
async fn export_history(
    State(app): State<App>,
    Auditor(auditor): Auditor,
    context: Context,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    send(&app, &auditor, &context, query).await
}

/// The same with what is asked for in the body, so that no address stands in the log of a proxy.
#[utoipa::path(
    post, path = "/audit/export", tag = "audit", request_body = ExportQuery,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The file", content(
            (String = "application/jsonl"), (String = "text/csv"),
        )),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor; or by cookie from another site"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Two exports are under way, or too much was read in an hour"),
        (status = 503, description = "Nothing is signed yet, or the history is behind what is signed"),
    )
)]
async fn export_found(
    State(app): State<App>,
    Auditor(auditor): Auditor,
    context: Context,
    Json(query): Json<ExportQuery>,
) -> ApiResult<Response> {
    send(&app, &auditor, &context, query).await
}

async fn send(
    app: &App,
    auditor: &Identity,
    context: &Context,
    query: ExportQuery,
) -> ApiResult<Response> {
    let format =
        query.format.ok_or_else(|| ApiError::invalid_field("format", "give jsonl, csv or ocsf"))?;
    let after = query.after.unwrap_or_default();
    // Positions are whole numbers of JSON.
    if after >> 53 != 0 {
        return Err(ApiError::invalid_field("after", "the book has no line of this number"));
    }
    let query = HistoryQuery {
        user: query.user,
        actor: query.actor,
        session: query.session,
        event_type: query.event_type,
        outcome: query.outcome,
        address: query.address,
        from: query.from,
        to: query.to,
        ..HistoryQuery::default()
    };
    let filter = query.filter(app, auditor).await?;
    export::send(app, auditor, context, format, filter, after).await
}
