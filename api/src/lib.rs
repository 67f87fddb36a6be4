//! Entrybook over HTTP: the API, the pages, and the server that carries them.
//!
//! A request passes [`layers`] (its id, limits, security headers), is read by [`extract`] and
//! [`identity`], and reaches a handler in [`routes`] or [`pages`], which asks `commands` to do
//! something or `projections` for what is to be shown. What goes wrong is an
//! [`ApiError`](problem::ApiError), written out as a problem for programs and as a page for people.
//! What goes on without a request is in [`processes`].
//!
//! This crate decides nothing that the history depends on: that is `domain`'s.

pub mod admins;
pub mod applications;
pub mod asker;
mod bodies;
pub mod bootstrap;
pub mod cli;
pub mod config;
mod connections;
pub mod context;
pub mod cookies;
pub mod csrf;
pub mod erasure;
pub mod export;
pub mod extract;
pub mod history;
pub mod identity;
pub mod layers;
pub mod log;
mod lookalikes;
pub mod metrics;
mod names;
mod openapi;
pub mod pages;
pub mod problem;
pub mod processes;
pub mod readiness;
pub mod readings;
pub mod rebuilds;
mod refusals;
pub mod replay;
pub mod retention;
pub mod return_to;
pub mod routes;
pub mod server;
mod service_events;
pub mod settings;
pub mod sources;
pub mod standing;
pub mod state;
pub mod tail;
pub mod telemetry;
pub mod views;
pub mod whole_line;
pub mod witness;

use axum::Router;

pub use openapi::openapi;
pub use settings::{HttpSettings, InvalidPublicUrl, PublicUrl};
pub use state::{App, Parts};

/// Everything that is served.
pub fn router(app: App) -> Router {
    let (described, _) = routes::described(utoipa::openapi::OpenApiBuilder::new().build());
    let routes = described
        .merge(routes::older())
        .nest("/api/v1", routes::docs::router())
        .merge(pages::router(&app))
        .fallback(layers::nothing_here)
        .method_not_allowed_fallback(layers::no_such_method);
    layers::around(routes, &app).with_state(app)
}
