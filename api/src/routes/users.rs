//! The accounts, for admins.

use axum::{Json as JsonAnswer, extract::State};
use chrono::DateTime;
use commands::{Account, Entrybook, Origin, Receipt, keyring::KeyringError};
use domain::{Identifier, Role, Sealed, UserId};
use projections::users::{self, Cursor, Row};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    admins::{Lookup, TakeAwayError, take_away},
    context::Context,
    extract::{Id, Json, Query},
    identity::{Admin, Identity},
    problem::{ApiError, ApiResult, Kind},
    state::App,
    views::{RoleName, UserView, registered_at, role_names},
};

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 200;
/// The last moment of the year 9999, in microseconds: what the database certainly takes.
const LAST_MOMENT: i64 = 253_402_300_799_999_999;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_users))
        .routes(routes!(get_user))
        .routes(routes!(disable_user))
        .routes(routes!(enable_user))
        .routes(routes!(change_roles))
}

/// Which accounts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// The whole e-mail address or username of one account. Personal data is sealed, so there is no
    /// search by parts.
    #[param(nullable = false, min_length = 1, max_length = 320)]
    q: Option<String>,
    /// `next` of an answer, as it is.
    #[param(
        nullable = false,
        pattern = "^[0-9]{1,18}-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
    )]
    cursor: Option<String>,
    #[param(nullable = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<u16>,
}

/// A page of accounts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Users {
    users: Vec<UserView>,
    /// The cursor of the next page.
    #[schema(required)]
    next: Option<String>,
}

/// Roles to grant and to revoke.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleChange {
    #[serde(default)]
    #[schema(max_items = 3)]
    grant: Vec<RoleName>,
    /// Every account keeps the role `user`.
    #[serde(default)]
    #[schema(max_items = 3)]
    revoke: Vec<RevocableRole>,
}

/// A role that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RevocableRole {
    Auditor,
    Admin,
}

impl From<RevocableRole> for Role {
    fn from(role: RevocableRole) -> Self {
        match role {
            RevocableRole::Auditor => Self::Auditor,
            RevocableRole::Admin => Self::Admin,
        }
    }
}

/// The accounts, newest first, or the one that is asked for.
#[utoipa::path(
    get, path = "/admin/users", tag = "admin", params(UsersQuery), security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "A page of accounts", body = Users),
        (status = 400, description = "The query cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
    )
)]
async fn list_users(
    State(app): State<App>,
    Admin(admin): Admin,
    Query(query): Query<UsersQuery>,
) -> ApiResult<JsonAnswer<Users>> {
    let limit = match query.limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => i64::from(limit),
        _ => return Err(ApiError::invalid_field("limit", "a page has 1 to 200 accounts")),
    };
    if query.q.as_ref().is_some_and(|q| !(1..=Identifier::MAX_BYTES).contains(&q.chars().count())) {
        return Err(ApiError::invalid_field(
            "q",
            "an e-mail address or username has 1 to 320 characters",
        ));
    }
    let after = query.cursor.as_deref().map(read_cursor).transpose()?;
    let (users, next) = page(&app, &admin, query.q.as_deref(), after, limit).await?;
    Ok(JsonAnswer(Users { users, next }))
}

/// A page of accounts and the cursor of the next one, for the API or a page.
pub(crate) async fn page(
    app: &App,
    admin: &Identity,
    search: Option<&str>,
    after: Option<Cursor>,
    limit: i64,
) -> ApiResult<(Vec<UserView>, Option<String>)> {
    if let Some(search) = search {
        let found = match app.book().find_account(&Identifier::typed(search)).await? {
            Some(id) => app.book().account(id).await?,
            None => None,
        };
        return Ok((found.map(UserView::from).into_iter().collect(), None));
    }
    app.needs("users").await?;
    app.see_own_writes(admin.user_id, "users").await;
    let page = users::page(app.pool(), after, limit).await?;
    let next = page.rows.last().filter(|_| page.more).map(|row| write_cursor(&row.cursor()));
    let mut views = Vec::with_capacity(page.rows.len());
    for row in page.rows {
        views.push(view(app, row).await?);
    }
    Ok((views, next))
}

async fn view(app: &App, row: Row) -> ApiResult<UserView> {
    let (book, id) = (app.book(), row.user_id);
    let email = open_value(book, id, "email", row.email.map(|email| email.sealed)).await?;
    let username = row.username.map(|username| username.sealed);
    let username = open_value(book, id, "username", username).await?;
    Ok(UserView {
        id: id.0,
        // The key goes a moment before the list shows it.
        erased: row.erased || username.is_none(),
        // What is erased is empty.
        email: email.unwrap_or_default(),
        username: username.unwrap_or_default(),
        full_name: open_value(book, id, "full_name", row.full_name).await?,
        roles: role_names(&row.roles),
        disabled: row.disabled,
        registered_at: registered_at(row.user_id),
    })
}

/// A value of an account in the clear: nothing where there is none, or its person is erased.
pub(crate) async fn open_value(
    book: &Entrybook,
    id: UserId,
    field: &str,
    sealed: Option<Sealed>,
) -> Result<Option<String>, KeyringError> {
    match sealed {
        Some(sealed) => book.open_text(&sealed, &format!("User/{id}/{field}")).await,
        None => Ok(None),
    }
}

fn write_cursor(cursor: &Cursor) -> String {
    format!("{}-{}", cursor.registered_at.timestamp_micros(), cursor.user_id)
}

pub(crate) fn read_cursor(text: &str) -> ApiResult<Cursor> {
    let read = || {
        let (micros, id) = text.split_once('-')?;
        let micros: i64 =
            micros.parse().ok().filter(|micros| (0..=LAST_MOMENT).contains(micros))?;
        let user_id = (id.len() == 36).then(|| id.parse().ok()).flatten()?;
        Some(Cursor { registered_at: DateTime::from_timestamp_micros(micros)?, user_id })
    };
    read().ok_or_else(|| {
        ApiError::invalid_field("cursor", "this is no cursor; take `next` of an answer as it is")
    })
}

/// One account.
#[utoipa::path(
    get, path = "/admin/users/{id}", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The account", body = UserView),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin"),
        (status = 404, description = "There is no such account"),
    )
)]
async fn get_user(
    State(app): State<App>,
    _admin: Admin,
    Id(id): Id,
) -> ApiResult<JsonAnswer<UserView>> {
    let id = UserId(id);
    if let Some(account) = app.book().account(id).await? {
        return Ok(JsonAnswer(account.into()));
    }
    let user = app.book().user(id).await?;
    if !user.erased {
        return Err(ApiError::not_found());
    }
    Ok(JsonAnswer(UserView {
        id: id.0,
        email: String::new(),
        username: String::new(),
        full_name: None,
        roles: role_names(&user.roles),
        disabled: user.disabled,
        erased: true,
        registered_at: registered_at(id),
    }))
}

async fn account(app: &App, id: UserId) -> ApiResult<Account> {
    app.book().account(id).await?.ok_or_else(ApiError::not_found)
}

/// Disables an account: signing in is refused, and all its sessions end at once.
#[utoipa::path(
    post, path = "/admin/users/{id}/disable", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The account as it is now", body = UserView),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such account"),
        (status = 409, description = "It is one's own account"),
        (status = 429, description = "Too many accounts were changed within the hour"),
    )
)]
async fn disable_user(
    State(app): State<App>,
    context: Context,
    Admin(admin): Admin,
    Id(id): Id,
) -> ApiResult<JsonAnswer<UserView>> {
    set_disabled(&app, &context, &admin, UserId(id), true).await?;
    Ok(JsonAnswer(account(&app, UserId(id)).await?.into()))
}

/// Enables an account again. Sessions that have ended stay ended.
#[utoipa::path(
    post, path = "/admin/users/{id}/enable", tag = "admin", security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The account as it is now", body = UserView),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such account"),
        (status = 429, description = "Too many accounts were changed within the hour"),
    )
)]
async fn enable_user(
    State(app): State<App>,
    context: Context,
    Admin(admin): Admin,
    Id(id): Id,
) -> ApiResult<JsonAnswer<UserView>> {
    set_disabled(&app, &context, &admin, UserId(id), false).await?;
    Ok(JsonAnswer(account(&app, UserId(id)).await?.into()))
}

/// Grants and revokes roles. What is so already stays so.
#[utoipa::path(
    post, path = "/admin/users/{id}/roles", tag = "admin", request_body = RoleChange,
    security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of the account")),
    responses(
        (status = 200, description = "The account as it is now", body = UserView),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an admin, or by cookie from another site"),
        (status = 404, description = "There is no such account"),
        (status = 409, description = "One's own role of admin cannot be revoked"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too many accounts were changed within the hour"),
    )
)]
async fn change_roles(
    State(app): State<App>,
    context: Context,
    Admin(admin): Admin,
    Id(id): Id,
    Json(change): Json<RoleChange>,
) -> ApiResult<JsonAnswer<UserView>> {
    let id = UserId(id);
    if change.grant.len() > 3 {
        return Err(ApiError::invalid_field("grant", "there are 3 roles"));
    }
    if change.revoke.len() > 3 {
        return Err(ApiError::invalid_field("revoke", "there are 3 roles"));
    }
    // What can't be done is refused before anything is done.
    account(&app, id).await?;
    let grant: Vec<Role> = change.grant.into_iter().map(Role::from).collect();
    let revoke: Vec<Role> = change.revoke.into_iter().map(Role::from).collect();
    if revoke.iter().any(|role| grant.contains(role)) {
        return Err(ApiError::invalid_field("revoke", "a role is either granted or revoked"));
    }
    if revoke.contains(&Role::Admin) {
        not_oneself(&admin, id)?;
    }
    for role in grant {
        set_role(&app, &context, &admin, id, role, true).await?;
    }
    for role in revoke {
        set_role(&app, &context, &admin, id, role, false).await?;
    }
    Ok(JsonAnswer(account(&app, id).await?.into()))
}

/// An admin keeps their own account and role, so that nobody locks themselves out. That two don't take
/// each other's at once is for [`take_away`] to see to.
fn not_oneself(admin: &Identity, id: UserId) -> ApiResult<()> {
    if admin.user_id == id {
        return Err(ApiError::new(
            Kind::NotYourself,
            "Ask another admin to do that to your account.",
        ));
    }
    Ok(())
}

/// Disables or enables, from the API or a page; whether that changed anything.
pub(crate) async fn set_disabled(
    app: &App,
    context: &Context,
    admin: &Identity,
    id: UserId,
    disabled: bool,
) -> ApiResult<bool> {
    if disabled {
        not_oneself(admin, id)?;
    }
    administer(app, context, admin, move |book, origin| async move {
        if disabled {
            take_away(&book, id, &origin, Lookup::List, book.disable(id, &origin)).await
        } else {
            Ok(book.enable(id, &origin).await?)
        }
    })
    .await
}

/// Grants or revokes a role, from the API or a page; whether that changed anything.
pub(crate) async fn set_role(
    app: &App,
    context: &Context,
    admin: &Identity,
    id: UserId,
    role: Role,
    granted: bool,
) -> ApiResult<bool> {
    if !granted && role == Role::Admin {
        not_oneself(admin, id)?;
    }
    administer(app, context, admin, |book, origin| async move {
        let revoke = book.revoke_role(id, role, &origin);
        match role {
            _ if granted => Ok(book.grant_role(id, role, &origin).await?),
            Role::Admin => take_away(&book, id, &origin, Lookup::List, revoke).await,
            Role::User | Role::Auditor => Ok(revoke.await?),
        }
    })
    .await
}

async fn administer<F>(
    app: &App,
    context: &Context,
    admin: &Identity,
    command: impl FnOnce(commands::Entrybook, Origin) -> F,
) -> ApiResult<bool>
where
    F: Future<Output = Result<Option<Receipt>, TakeAwayError>> + Send + 'static,
{
    let origin = context.user(admin.user_id);
    let receipt = app.command(|book| command(book, origin)).await??;
    app.wrote(admin.user_id, receipt);
    Ok(receipt.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_as_they_were_given() {
        let text = "1760000000123456-0199a0b5-6c00-7000-8000-000000000001";
        assert_eq!(write_cursor(&read_cursor(text).unwrap()), text);
        for text in [
            "",
            "1",
            "-1-0199a0b5-6c00-7000-8000-000000000001",
            "253402300800000000-0199a0b5-6c00-7000-8000-000000000001",
        ] {
            assert!(read_cursor(text).is_err(), "{text}");
        }
    }
}
