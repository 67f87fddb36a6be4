//! The transparency log, for whoever wants to check it (C2SP tlog-tiles, tlog-proof): no more of it
//! than was signed.
//!
//! Checkpoints, hashes and proofs are for everybody. The lines themselves are for auditors, unless the
//! operator has made them public: they say nothing in the clear of who a person is, and yet when each
//! number signed in.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::get,
};
use domain::Role;
use projections::transparency;
use proof::{TILE_WIDTH, TilePath, entry_bundle};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tower_http::compression::{CompressionLayer, predicate::Predicate};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    context::Context,
    identity::{Identity, lacks},
    log::{LogError, Signed},
    problem::{ApiError, ApiResult, Kind},
    readings::Reading,
    state::App,
};

const TEXT: &str = "text/plain; charset=utf-8";
/// What was signed never changes. A week, and no more: a log that was begun anew is at the same address.
const FOREVER: &str = "max-age=604800, immutable";

/// At the root. The paths of tiles have slashes in them, which no description can say.
pub fn root() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(checkpoint))
        .routes(routes!(keys))
        .routes(routes!(prove))
        .route("/log/tile/{*path}", get(tile).layer(compression()))
}

/// The newest signed checkpoint of the book.
///
/// A C2SP checkpoint (a signed note), with the cosignatures of witnesses that there are so far: the newest may have none yet. It is not
/// older than the newest line by more than a few seconds, unless `/readyz` says why. Beside it are the tiles of C2SP tlog-tiles, under `/log/tile/`.
#[utoipa::path(
    get, path = "/log/checkpoint", tag = "log", operation_id = "log_checkpoint",
    responses(
        (status = 200, description = "The checkpoint", body = String, content_type = "text/plain"),
        (status = 404, description = "Nothing has been signed yet"),
    )
)]
async fn checkpoint(State(app): State<App>) -> ApiResult<Response> {
    let signed = app.log().recent().await?.ok_or_else(unsigned)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], signed.with_cosignatures()).into_response())
}

/// The keys that checkpoints are verified with.
///
/// One verifier key a line (C2SP signed-note), the oldest first. Who verifies should have them from elsewhere: `entrybook log key`
/// prints the same.
#[utoipa::path(
    get, path = "/log/key", tag = "log", operation_id = "log_keys",
    responses((status = 200, description = "The keys", body = String, content_type = "text/plain"))
)]
async fn keys(State(app): State<App>) -> impl IntoResponse {
    let mut text = app.log().verifier_keys().join("\n");
    text.push('\n');
    ([(header::CONTENT_TYPE, TEXT)], text)
}

/// The proof that a line is in a checkpoint.
///
/// A C2SP tlog-proof, of the newest checkpoint that all witnesses have cosigned, if one of the last covers the line, else of the newest:
/// it can be kept, and checked without asking here again. The line itself is the leaf that the proof is of; auditors
/// fetch it from `/log/tile/entries/`.
#[utoipa::path(
    get, path = "/log/proof/{position}", tag = "log", operation_id = "log_proof",
    params(("position" = i64, Path, description = "The line, from 1", minimum = 1)),
    responses(
        (status = 200, description = "The proof", body = String, content_type = "text/plain"),
        (status = 404, description = "There is no such line, or it is not signed yet"),
    )
)]
async fn prove(
    State(app): State<App>,
    position: Result<Path<u64>, PathRejection>,
) -> ApiResult<Response> {
    let Path(position) = position.map_err(|_| ApiError::not_found())?;
    // First: who asks for what there is not takes nobody's turn.
    let signed = app.log().for_proof(position).await?.filter(|signed| signed.size >= position);
    let signed = signed.ok_or_else(ApiError::not_found)?;
    let _turn = turn(&app).await?;
    let proof = app.log().proof_in(&signed, position).await?.ok_or_else(ApiError::not_found)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], proof.to_text()).into_response())
}

/// What no route of the router can say: the paths of tiles have slashes in them.
#[derive(utoipa::OpenApi)]
#[openapi(paths(hash_tile, line_bundle))]
pub struct TilesDescription;

/// A tile of hashes.
///
/// C2SP tlog-tiles: up to 256 hashes of 32 bytes each. The index is as there: groups of three digits, all but the last with an `x` before
/// them and a slash behind (`x001/067`), and `.p/` with a width behind the last tile that is not full (`067.p/5`).
#[utoipa::path(
    get, path = "/log/tile/{level}/{index}", tag = "log", operation_id = "log_tile",
    params(
        ("level" = u8, Path, description = "The level of the tree in steps of 8, from 0"),
        ("index" = String, Path, description = "Which tile of that level", example = "000.p/1"),
    ),
    responses(
        (status = 200, description = "The hashes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 404, description = "There is no such tile, or not all of it is signed yet"),
    )
)]
#[expect(dead_code, reason = "it is described here, and answered by `tile`")]
async fn hash_tile() {}

/// A bundle of lines.
///
/// C2SP tlog-tiles: up to 256 lines, each behind its length in two bytes. For auditors, and written down, unless the operator has made
/// them public. Compressed with gzip for who accepts that.
#[utoipa::path(
    get, path = "/log/tile/entries/{index}", tag = "log", operation_id = "log_entries",
    params(("index" = String, Path, description = "Which bundle, written as with tiles of hashes", example = "000.p/1")),
    responses(
        (status = 200, description = "The lines", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 401, description = "Nobody is signed in"),
        (status = 403, description = "Only auditors may"),
        (status = 404, description = "There is no such bundle, or not all of it is signed yet"),
    ),
    security(("bearer" = []), ("cookie" = []))
)]
#[expect(dead_code, reason = "it is described here, and answered by `tile`")]
async fn line_bundle() {}

/// A tile of hashes, or a bundle of lines. Who reads lines is written down, as with the history.
async fn tile(
    State(app): State<App>,
    context: Context,
    headers: HeaderMap,
    path: Result<Path<String>, PathRejection>,
) -> ApiResult<Response> {
    let Path(path) = path.map_err(|_| ApiError::not_found())?;
    let tile = TilePath::parse(&path).ok_or_else(ApiError::not_found)?;
    let is_public = tile.level.is_some() || app.settings().log_entries_public;
    if !is_public {
        let identity = Identity::of_request(&app, &headers).await?;
        if !identity.is(Role::Auditor) {
            return Err(lacks(Role::Auditor));
        }
        let origin = context.user(identity.user_id);
        app.reading(&identity, &origin, Reading::Followed, json!({ "log": "entries" })).await?;
    }
    covering(&app, tile.needs().ok_or_else(ApiError::not_found)?).await?;
    let _turn = turn(&app).await?;
    let mut connection = app.pool().acquire().await?;
    let (index, width) = (tile.index, tile.width);
    let content = match tile.level {
        Some(level) => transparency::tile(&mut connection, level, index, width).await,
        None => {
            let leaves =
                transparency::leaves(&mut connection, index * TILE_WIDTH, u64::from(width)).await;
            leaves.map(|leaves| Some(entry_bundle(&leaves)))
        }
    };
    let content = content.map_err(LogError::from)?.ok_or_else(ApiError::not_found)?;
    let shared = if is_public { "public" } else { "private" };
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (
            header::CACHE_CONTROL,
            HeaderValue::try_from(format!("{shared}, {FOREVER}")).map_err(ApiError::internal)?,
        ),
    ];
    let mut response = (headers, content).into_response();
    if tile.level.is_none() {
        response.extensions_mut().insert(Compressible);
    }
    Ok(response)
}

/// Of an answer that gets smaller by compression. Hashes don't.
#[derive(Debug, Clone, Copy)]
struct Compressible;

/// Bundles are compressed for who accepts it, as C2SP tlog-tiles asks for. Caches are told by `Vary` that it depends on that.
fn compression() -> CompressionLayer<impl Predicate> {
    let is_bundle = |_: StatusCode, _: Version, _: &HeaderMap, extensions: &Extensions| {
        extensions.get::<Compressible>().is_some()
    };
    CompressionLayer::new().compress_when(is_bundle)
}

/// Only so many read the log at once; the others wait.
async fn turn(app: &App) -> ApiResult<OwnedSemaphorePermit> {
    app.log().readers().acquire_owned().await.map_err(ApiError::internal)
}

/// The newest checkpoint, if it covers so many lines.
async fn covering(app: &App, lines: u64) -> ApiResult<Signed> {
    let signed = app.log().recent_of(lines).await?;
    signed.filter(|signed| lines > 0 && signed.size >= lines).ok_or_else(ApiError::not_found)
}

fn unsigned() -> ApiError {
    ApiError::new(Kind::NotFound, "No checkpoint has been signed yet. Try again in a moment.")
}
