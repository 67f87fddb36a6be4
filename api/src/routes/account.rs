//! One's own account: looking at it, changing it, and its password.

use axum::{Json as JsonAnswer, extract::State, http::StatusCode};
use commands::{Account, DeviceToken, NewProfile, PasswordChanged};
use domain::{Email, FullName, Password, UserId, Username};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    context::Context,
    extract::Json,
    identity::Identity,
    problem::{ApiError, ApiResult, field},
    state::App,
    views::{UserView, given},
};

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(me, change_me)).routes(routes!(change_password))
}

/// The account of whoever asks.
#[utoipa::path(
    get, path = "/auth/me", tag = "account", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The account", body = UserView),
        (status = 401, description = "The token is missing, malformed, expired, revoked or wrongly signed"),
    )
)]
pub(crate) async fn me(
    State(app): State<App>,
    identity: Identity,
) -> ApiResult<JsonAnswer<UserView>> {
    Ok(JsonAnswer(account(&app, identity.user_id).await?.into()))
}

/// The account of a token, which must still be there.
pub(crate) async fn account(app: &App, id: UserId) -> ApiResult<Account> {
    let account = app.book().account(id).await?;
    account.ok_or_else(|| ApiError::invalid_token("the account of this token is gone"))
}

/// What is to change; a field that is left out stays as it is.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileChange {
    #[serde(default)]
    #[schema(format = "email", max_length = 254)]
    email: Option<String>,
    #[serde(default)]
    #[schema(min_length = 3, max_length = 50)]
    username: Option<String>,
    /// `null` or an empty text removes it.
    #[serde(default, deserialize_with = "given")]
    #[schema(max_length = 200, value_type = Option<String>)]
    full_name: Option<Option<String>>,
    /// Required where the e-mail address or the username changes.
    #[serde(default)]
    #[schema(format = "password", max_length = 1024)]
    current_password: Option<String>,
}

/// Changes names and e-mail address.
///
/// A session may be stolen, and who has the e-mail address has the account: to change it or the username, the
/// current password is given as well. A full name alone needs none.
#[utoipa::path(
    patch, path = "/auth/me", tag = "account", request_body = ProfileChange,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The account as it is now", body = UserView),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 409, description = "The e-mail or the username is taken, or the account is disabled"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken, or the current password is missing or another one; `errors` names them"),
        (status = 429, description = "Too many wrong passwords, too many changes within the hour, or too many names asked for by this account or from this address"),
    )
)]
async fn change_me(
    State(app): State<App>,
    context: Context,
    identity: Identity,
    Json(body): Json<ProfileChange>,
) -> ApiResult<JsonAnswer<UserView>> {
    let account = account(&app, identity.user_id).await?;
    let ProfileChange { email, username, full_name, current_password } = body;
    let (change, current) = profile(&account, email, username, full_name, current_password)?;
    let changed = change_profile(&app, &context, identity.user_id, change, current).await?;
    Ok(JsonAnswer(changed.into()))
}

/// The values of a change, or all that is wrong with them. What is sent as it is stored changes nothing, and is
/// not looked at: it may have been taken under an older rule.
fn profile(
    account: &Account,
    email: Option<String>,
    username: Option<String>,
    full_name: Option<Option<String>>,
    current_password: Option<String>,
) -> ApiResult<(NewProfile, Option<Password>)> {
    let mut errors = Vec::new();
    let email = email.filter(|text| *text != account.email);
    let username = username.filter(|text| *text != account.username);
    let full_name = full_name.filter(|name| *name != account.full_name);
    let change = NewProfile {
        email: email.and_then(|text| field("email", Email::parse(&text), &mut errors)),
        username: username.and_then(|text| field("username", Username::parse(&text), &mut errors)),
        full_name: full_name.and_then(|text| {
            field("full_name", FullName::parse(text.as_deref().unwrap_or_default()), &mut errors)
        }),
    };
    let current = current_password
        .and_then(|text| field("current_password", Password::present(&text), &mut errors));
    if errors.is_empty() { Ok((change, current)) } else { Err(ApiError::invalid(errors)) }
}

/// Changes the profile, from the API or a page.
pub(crate) async fn change_profile(
    app: &App,
    context: &Context,
    id: UserId,
    change: NewProfile,
    current: Option<Password>,
) -> ApiResult<Account> {
    let origin = context.user(id);
    let (account, receipt) = app
        .command(|book| async move { book.change_profile(id, change, current, &origin).await })
        .await??;
    app.wrote(id, receipt);
    Ok(account)
}

/// The password as it is, and as it shall be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    #[schema(format = "password", max_length = 1024)]
    current_password: String,
    /// Any characters; normalised (NFKC), never trimmed or cut.
    #[schema(format = "password", min_length = 8, max_length = 1024)]
    new_password: String,
}

/// Changes the password. It ends all other sessions; this one goes on.
#[utoipa::path(
    post, path = "/auth/password", tag = "account", request_body = PasswordChange,
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 204, description = "The password is changed"),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 409, description = "The account is disabled"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "The current password is another one, or the new one cannot be taken"),
        (status = 429, description = "Too many wrong passwords, or too many changes within the hour"),
    )
)]
async fn change_password(
    State(app): State<App>,
    context: Context,
    identity: Identity,
    Json(body): Json<PasswordChange>,
) -> ApiResult<StatusCode> {
    let (current, new) = passwords(&body.current_password, &body.new_password)?;
    set_password(&app, &context, &identity, current, new).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Both passwords, or all that is wrong with them.
pub(crate) fn passwords(current: &str, new: &str) -> ApiResult<(Password, Password)> {
    let mut errors = Vec::new();
    let current = field("current_password", Password::present(current), &mut errors);
    let new = field("new_password", Password::choose(new), &mut errors);
    current.zip(new).ok_or_else(|| ApiError::invalid(errors))
}

/// Changes the password, from the API or a page.
pub(crate) async fn set_password(
    app: &App,
    context: &Context,
    identity: &Identity,
    current: Password,
    new: Password,
) -> ApiResult<DeviceToken> {
    let (id, kept) = (identity.user_id, identity.kept());
    let origin = context.user(id);
    let PasswordChanged { receipt, device } = app
        .command(
            |book| async move { book.change_password(id, Some(kept), current, new, &origin).await },
        )
        .await??;
    app.wrote(id, receipt);
    Ok(device)
}
