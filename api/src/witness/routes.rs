//! A witness over HTTP: `POST /add-checkpoint` and `GET /<log>/checkpoint` of C2SP tlog-witness.
//!
//! Whoever reaches it may ask: what counts is who has signed a checkpoint. So everything about a request
//! is bounded, and nothing is remembered that a log has not signed.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use proof::Refusal;
use tokio::net::TcpListener;
use tower_http::{set_header::SetResponseHeaderLayer, timeout::TimeoutLayer};

use super::{Declined, Witness, state::Evidence};
use crate::{
    connections::{Connections, Limits},
    server::{Bounds, accept_until},
};

/// The most bytes of a request: a proof has 63 lines of 45, a checkpoint 16 signatures and more, of which
/// each may have 5 kB once they are safe from quantum computers.
const MAX_BODY: usize = 128 * 1024;
/// How long a request may take from its head on: to send it, and to write it to the disk.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CONNECTIONS: usize = 256;
/// How long the head of a request may take, and an idle connection stay open.
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// For what is being answered when it stops.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until `shutdown` resolves, and finishes what is being answered then.
pub async fn serve(
    listener: TcpListener,
    witness: Arc<Witness>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    // A log comes from one address, and a witness may have no other.
    let limits =
        Limits { most: MAX_CONNECTIONS, per_address: MAX_CONNECTIONS, trusted: Vec::new() };
    let bounds = Bounds { connections: Connections::new(limits), header_timeout: HEADER_TIMEOUT };
    let graceful = accept_until(listener, router(witness), bounds, shutdown).await?;
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not finished within {} s", GRACE.as_secs());
    }
    Ok(())
}

pub(super) fn router(witness: Arc<Witness>) -> Router {
    let nosniff = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/{log}/checkpoint", get(checkpoint))
        .route("/{log}/fork", get(fork))
        .route("/{log}/suspect", get(suspect))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT))
        .layer(SetResponseHeaderLayer::if_not_present(nosniff.0, nosniff.1))
        .with_state(witness)
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: Bytes) -> Response {
    // It waits for the disk. A client that goes away breaks nothing off.
    match tokio::task::spawn_blocking(move || witness.add(&body)).await {
        Ok(Ok(line)) => line.into_response(),
        Ok(Err(declined)) => decline(&declined),
        Err(error) => {
            tracing::error!("a checkpoint could not be judged: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn decline(declined: &Declined) -> Response {
    let status = match declined {
        Declined::Refused(Refusal::Conflict(size)) => {
            let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/x.tlog.size"));
            return (StatusCode::CONFLICT, [kind], format!("{size}\n")).into_response();
        }
        Declined::UnknownLog => StatusCode::NOT_FOUND,
        Declined::Refused(Refusal::Unsigned | Refusal::Forged) => StatusCode::FORBIDDEN,
        Declined::Refused(Refusal::Malformed(_) | Refusal::Shrinks { .. }) => {
            StatusCode::BAD_REQUEST
        }
        Declined::Refused(Refusal::Inconsistent(_)) => StatusCode::UNPROCESSABLE_ENTITY,
        Declined::Storage(_) | Declined::Cosigning(_) | Declined::Clock => {
            tracing::error!("a checkpoint was not cosigned: {declined}");
            return (StatusCode::INTERNAL_SERVER_ERROR, "the witness can't cosign now\n")
                .into_response();
        }
    };
    (status, format!("{declined}\n")).into_response()
}

async fn fork(State(witness): State<Arc<Witness>>, Path(log): Path<String>) -> Response {
    kept(witness, log, Evidence::Fork).await
}

async fn suspect(State(witness): State<Arc<Witness>>, Path(log): Path<String>) -> Response {
    kept(witness, log, Evidence::Suspect).await
}

async fn kept(witness: Arc<Witness>, log: String, kind: Evidence) -> Response {
    let read = tokio::task::spawn_blocking(move || witness.evidence(&log, kind)).await;
    match read {
        Ok(Ok(Some(notes))) => {
            let kind =
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            let fresh = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            ([kind, fresh], notes).into_response()
        }
        Ok(Ok(None)) => {
            (StatusCode::NOT_FOUND, "nothing of that kind is kept here\n").into_response()
        }
        Ok(Err(error)) => {
            tracing::error!("what is kept of a log could not be read: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
        Err(error) => {
            tracing::error!("what is kept of a log could not be read: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn metrics(State(witness): State<Arc<Witness>>) -> Response {
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    match witness.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => {
            tracing::error!("the metrics could not be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn checkpoint(State(witness): State<Arc<Witness>>, Path(log): Path<String>) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let fresh = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match witness.last(&log) {
        Some(note) => ([kind, fresh], note).into_response(),
        None => {
            (StatusCode::NOT_FOUND, "no checkpoint of that log was cosigned here\n").into_response()
        }
    }
}
