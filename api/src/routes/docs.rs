//! The description of the API, and the page that shows it. Everything comes from the binary.

use std::sync::{Arc, LazyLock};

use axum::{
    Json as JsonAnswer, Router,
    extract::{Path, rejection::PathRejection},
    http::{HeaderValue, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use crate::{
    openapi,
    problem::{ApiError, ApiResult},
    state::App,
};

static DESCRIPTION: LazyLock<OpenApi> = LazyLock::new(openapi);
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    // Swagger UI would otherwise let a link choose another description, and ask a validator outside.
    let config =
        Config::new(["/api/v1/openapi.json"]).query_config_enabled(false).validator_url("none");
    Arc::new(config)
});

/// Scripts and styles from here alone, and of inline ones a single style that Swagger UI puts on its
/// filter, by its hash. It draws its icons from `data:`.
const CSP: &str = "default-src 'none'; script-src 'self'; \
                   style-src 'self' 'sha256-RL3ie0nH+Lzz2YNqQN83mnU0J1ot4QL7b99vMdIX99w='; img-src 'self' data:; \
                   connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// Under `/api/v1`.
pub fn router() -> Router<App> {
    Router::new()
        .route("/openapi.json", get(description))
        .route("/docs", get(async || Redirect::permanent("/api/v1/docs/")))
        .route("/docs/", get(async || file("index.html")))
        .route("/docs/{file}", get(named))
}

async fn named(name: Result<Path<String>, PathRejection>) -> ApiResult<Response> {
    file(&name.map_err(|_| ApiError::not_found())?)
}

async fn description() -> JsonAnswer<&'static OpenApi> {
    JsonAnswer(&DESCRIPTION)
}

fn file(name: &str) -> ApiResult<Response> {
    let found = utoipa_swagger_ui::serve(name, CONFIG.clone())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    let file = found.ok_or_else(ApiError::not_found)?;
    let mut response = file.bytes.into_owned().into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::try_from(file.content_type).map_err(ApiError::internal)?,
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if file.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}
