//! Erasing a person, and the receipt for it; for admins.

use axum::{Json as JsonAnswer, extract::State};
use chrono::{DateTime, Utc};
use domain::UserId;
use proof::ErasureReceipt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{
    admins::Lookup,
    context::Context,
    erasure::{self, Erasure},
    extract::{Id, Json},
    identity::{Admin, Identity},
    problem::{ApiError, ApiResult, Kind},
    state::App,
};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(erase_user)).routes(routes!(get_erasure))
}

/// That it is meant, and whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErasureOrder {
    /// The username of the account, letter by letter; its id where the username can't be read.
    #[schema(example = "ada")]
    pub username: String,
    /// To be said by who erases their own account.
    #[serde(default)]
    pub myself: bool,
}

/// An erasure.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Erasure)]
pub struct ErasureView {
    pub user_id: Uuid,
    /// The line of the book that says it; `null` for a moment, until the book is put in order.
    #[schema(required, minimum = 1)]
    pub position: Option<i64>,
    /// When that was written.
    #[schema(required)]
    pub recorded_at: Option<DateTime<Utc>>,
    /// `null` for some seconds, until the transparency log has signed a checkpoint over the line.
    #[schema(required)]
    pub receipt: Option<ReceiptView>,
}

/// Enough to check the erasure with nothing but the log's key: docs/erasure.md tells how.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ErasureReceipt)]
pub struct ReceiptView {
    /// A signed note (C2SP signed-note) that names the log, the account, the line, its time and its
    /// hash.
    pub note: String,
    /// The line of the book, byte by byte as it is hashed.
    pub event: String,
    /// That the line is in a signed checkpoint (C2SP tlog-proof).
    pub proof: String,
}

impl From<ErasureReceipt> for ReceiptView {
    fn from(ErasureReceipt { note, event, proof }: ErasureReceipt) -> Self {
        Self { note, event, proof }
    }
}

impl ErasureView {
    fn new(id: UserId, erasure: Erasure) -> Self {
        let (position, recorded_at) = erasure.line.unzip();
        let receipt = erasure.receipt.map(ReceiptView::from);
        Self { user_id: id.0, position, recorded_at, receipt }
    }
}

/// Erases a person, for good: their key is destroyed, so that nothing of theirs can be read any more, their
/// sessions end, their names are free. The history keeps its lines. Asking again changes nothing.
#[utoipa::path(
    post, path = "/admin/users/{id}/erase", tag = "admin", request_body = ErasureOrder,
    security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The person is erased; the receipt may come later", body = ErasureView),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such account"),
        (status = 409, description = "It is the last admin, or one's own account and `myself` is not said"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "The username is not the account's; `errors` names the field"),
    )
)]
async fn erase_user(
    State(app): State<App>,
    context: Context,
    Admin(admin): Admin,
    Id(id): Id,
    Json(order): Json<ErasureOrder>,
) -> ApiResult<JsonAnswer<ErasureView>> {
    let id = UserId(id);
    erase(&app, &context, &admin, id, &order).await?;
    Ok(JsonAnswer(ErasureView::new(id, stands(&app, id).await?)))
}

/// How the erasure of a person stands, with its receipt as soon as there is one.
#[utoipa::path(
    get, path = "/admin/users/{id}/erasure", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The person is erased", body = ErasureView),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
        (status = 404, description = "There is no such account, or it is not erased"),
    )
)]
async fn get_erasure(
    State(app): State<App>,
    _admin: Admin,
    Id(id): Id,
) -> ApiResult<JsonAnswer<ErasureView>> {
    let id = UserId(id);
    Ok(JsonAnswer(ErasureView::new(id, stands(&app, id).await?)))
}

/// Erases, from the API or a page; whether that changed anything.
pub(crate) async fn erase(
    app: &App,
    context: &Context,
    admin: &Identity,
    id: UserId,
    order: &ErasureOrder,
) -> ApiResult<bool> {
    // Who is erased already has no name to be typed.
    if let Some(account) = app.book().account(id).await? {
        if order.username.trim() != erasure::name_to_type(&account) {
            return Err(ApiError::invalid_field(
                "username",
                "this is not the username of the account that is to be erased",
            ));
        }
        if admin.user_id == id && !order.myself {
            return Err(ApiError::new(
                Kind::NotYourself,
                "This is your own account. To erase it all the same, say so: `\"myself\": true`.",
            ));
        }
        if admin.user_id == id {
            // Whether another admin remains is looked up in the list.
            app.needs("users").await?;
        }
    } else if !app.book().user(id).await?.erased {
        return Err(ApiError::not_found());
    }
    let origin = context.user(admin.user_id);
    let done = app
        .command(move |book| async move { erasure::erase(&book, id, &origin, Lookup::List).await });
    let receipt = done.await??;
    app.wrote(admin.user_id, receipt);
    Ok(receipt.is_some())
}

/// How an erasure stands, for the API or a page; a 404 where there is none.
pub(crate) async fn stands(app: &App, id: UserId) -> ApiResult<Erasure> {
    let erasure = erasure::of(app.book(), app.log(), app.pool(), id).await?;
    erasure.ok_or_else(ApiError::not_found)
}
