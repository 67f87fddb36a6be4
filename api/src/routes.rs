//! The API, one noun per file. A file owns its routes, what they take and what they answer.
//!
//! How to add a route: a handler with `#[utoipa::path]` that lists every answer it can give, and its
//! name in the file's `router()`. It is then served and described; [`crate::openapi()`] adds the
//! problem body to each answer from 400 on.

pub mod account;
pub mod audit;
pub mod auth;
pub mod docs;
pub mod erasure;
pub mod log;
pub mod projections;
pub mod service;
pub mod sessions;
pub mod users;

use axum::{
    Router,
    routing::{get, post},
};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::state::App;

pub(crate) use crate::views::RoleName;

/// Everything that is described, and its description.
pub(crate) fn described(description: OpenApi) -> (Router<App>, OpenApi) {
    let v1 = OpenApiRouter::new()
        .merge(auth::router())
        .merge(account::router())
        .merge(sessions::router())
        .merge(audit::router())
        .merge(users::router())
        .merge(erasure::router())
        .merge(projections::router())
        .merge(service::router());
    OpenApiRouter::with_openapi(description)
        .merge(service::root())
        .merge(log::root())
        .nest("/api/v1", v1)
        .split_for_parts()
}

/// The older paths, and the newer ones that they are twins of.
pub(crate) const OLDER: [(&str, &str); 3] = [
    ("/api/auth/login", "/api/v1/auth/login"),
    ("/api/auth/me", "/api/v1/auth/me"),
    ("/api/health", "/api/v1/health"),
];

/// For clients of before.
pub(crate) fn older() -> Router<App> {
    Router::new()
        .route("/api/auth/login", post(auth::login))
        .route("/api/auth/me", get(account::me))
        .route("/api/health", get(service::health))
}
