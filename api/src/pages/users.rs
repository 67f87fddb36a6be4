//! The accounts, for admins.

use axum::{extract::State, http::StatusCode};
use domain::{Role, UserId};
use serde::Deserialize;
use ui::{
    Notice,
    pages::{UserRow, UsersPage},
    paths,
};

use super::{Button, PageResult, Posted, Stop, Tokened, Visit, html, redirect, role_of};
use crate::{
    extract::{Id, Query},
    identity::Identity,
    problem::{ApiResult, Kind},
    routes::{self, users::read_cursor},
    state::App,
};

const ROWS: i64 = 50;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UsersQuery {
    q: String,
    cursor: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleForm {
    role: routes::RoleName,
    #[serde(default)]
    csrf: String,
}

impl Tokened for RoleForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

pub(super) async fn show(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<UsersQuery>,
) -> PageResult {
    let admin = visit.with_role(&app, Role::Admin)?;
    let (chrome, _) = visit.framed(&app, admin).await?;
    let search = query.q.trim();
    let asked = (!search.is_empty()).then_some(search);
    let after = (!query.cursor.is_empty()).then(|| read_cursor(&query.cursor)).transpose()?;
    let is_first_page = after.is_none();
    let (users, next) = routes::users::page(&app, admin, asked, after, ROWS).await?;
    let row = |user: crate::views::UserView| UserRow {
        is_self: UserId(user.id) == admin.user_id,
        id: user.id.to_string(),
        username: user.username,
        email: user.email,
        full_name: user.full_name,
        roles: user.roles.into_iter().map(role_of).collect(),
        disabled: user.disabled,
        erased: user.erased,
        registered: user.registered_at,
    };
    let page = UsersPage {
        chrome,
        search: search.to_owned(),
        rows: users.into_iter().map(row).collect(),
        is_first_page,
        next,
    };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn disable(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<Button>,
) -> PageResult {
    let admin = sender(&app, &visit)?;
    posted.or_back(&app, paths::USERS)?;
    let done = routes::users::set_disabled(&app, &visit.context, admin, UserId(id), true).await;
    told(&app, done, Notice::UserDisabled)
}

pub(super) async fn enable(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<Button>,
) -> PageResult {
    let admin = sender(&app, &visit)?;
    posted.or_back(&app, paths::USERS)?;
    let done = routes::users::set_disabled(&app, &visit.context, admin, UserId(id), false).await;
    told(&app, done, Notice::UserEnabled)
}

pub(super) async fn grant(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<RoleForm>,
) -> PageResult {
    let admin = sender(&app, &visit)?;
    let role = posted.or_back(&app, paths::USERS)?.role.into();
    let done = routes::users::set_role(&app, &visit.context, admin, UserId(id), role, true).await;
    told(&app, done, Notice::RoleGranted)
}

pub(super) async fn revoke(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<RoleForm>,
) -> PageResult {
    let admin = sender(&app, &visit)?;
    let role = posted.or_back(&app, paths::USERS)?.role.into();
    let done = routes::users::set_role(&app, &visit.context, admin, UserId(id), role, false).await;
    told(&app, done, Notice::RoleRevoked)
}

fn sender<'a>(app: &App, visit: &'a Visit) -> Result<&'a Identity, Stop> {
    visit.sender(app)?;
    visit.with_role(app, Role::Admin)
}

/// Back to the list, with what became of it.
fn told(app: &App, done: ApiResult<bool>, notice: Notice) -> PageResult {
    let notice = match done {
        Ok(true) => notice,
        Ok(false) => Notice::NothingChanged,
        Err(error) => match error.kind {
            Kind::NotFound => Notice::UserUnknown,
            Kind::NotYourself => Notice::NotYourself,
            Kind::LastAdmin => Notice::LastAdmin,
            _ => return Err(error.into()),
        },
    };
    Ok(redirect(app, paths::USERS, Some(notice)))
}
