//! How the service is: for load balancers, for operators, and for whoever verifies tokens.

use axum::{
    Json as JsonAnswer,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    metrics,
    problem::ApiResult,
    readiness::{self, Report},
    state::App,
};

/// Under `/api/v1`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health))
}

/// At the root.
pub fn root() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(scrape))
        .routes(routes!(jwks))
}

/// That the process is alive.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    #[schema(pattern = "^ok$")]
    status: &'static str,
    version: &'static str,
}

/// Whether the process answers. It asks nobody else: see `/readyz` for that.
#[utoipa::path(
    get, path = "/health", tag = "service",
    responses((status = 200, description = "It does", body = Health))
)]
pub(crate) async fn health() -> JsonAnswer<Health> {
    JsonAnswer(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// The same as `/api/v1/health`, where orchestrators look for it.
#[utoipa::path(
    get, path = "/healthz", tag = "service",
    responses((status = 200, description = "The process answers", body = Health))
)]
async fn healthz() -> JsonAnswer<Health> {
    health().await
}

/// Whether this replica should be sent requests, and what it waits for.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses(
        (status = 200, description = "It is ready", body = Report),
        (status = 503, description = "It waits for something", body = Report, content_type = "application/json"),
    )
)]
async fn readyz(State(app): State<App>) -> impl IntoResponse {
    let report = readiness::report(&app).await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, JsonAnswer(report))
}

/// Numbers for Prometheus, in the text format that the scraper prefers. Let your proxy keep them from the public.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "The numbers", content(
        (String = "text/plain"),
        (String = "application/openmetrics-text"),
    )))
)]
async fn scrape(State(app): State<App>, headers: HeaderMap) -> ApiResult<impl IntoResponse> {
    let format = metrics::Format::accepted(&headers);
    let text = metrics::scrape(&app, format).await?;
    Ok(([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "Accept")], text))
}

/// The public keys of access tokens (RFC 7517).
#[derive(Debug, Serialize, ToSchema)]
pub struct Jwks {
    keys: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// The public keys of access tokens (RFC 7517), for whoever verifies tokens without asking here.
#[utoipa::path(
    get, path = "/.well-known/jwks.json", tag = "service",
    responses((status = 200, description = "The keys", body = Jwks))
)]
async fn jwks(State(app): State<App>) -> impl IntoResponse {
    // A new key is published this long before it signs, and more.
    let kept = [(header::CACHE_CONTROL, "public, max-age=300")];
    (kept, JsonAnswer(app.book().tokens().jwks()))
}
