//! The first page after signing in.

use axum::{extract::State, http::StatusCode};
use ui::pages::OverviewPage;

use super::{PageResult, Visit, history::row, html, role_of, sessions::current_first};
use crate::{
    history::{self, Filter, Order},
    routes,
    state::App,
    views::{registered_at, role_names},
};

/// How many sessions, and how many lines of the history, are shown.
const FEW: usize = 5;
const LATELY: i64 = 8;

pub(super) async fn show(State(app): State<App>, visit: Visit) -> PageResult {
    let identity = visit.identity(&app)?;
    let (chrome, account) = visit.framed(&app, identity).await?;
    let mut sessions = current_first(routes::sessions::mine(&app, identity).await?);
    let session_count = sessions.len() as u64;
    sessions.truncate(FEW);
    let mine = Filter { user: Some(identity.user_id), ..Filter::default() };
    let page = history::page(&app, identity, mine, Order::Newest, None, LATELY).await?;
    let page = OverviewPage {
        chrome,
        account: ui::pages::Account {
            email: account.email,
            username: account.username,
            full_name: account.full_name,
            roles: role_names(&account.roles).into_iter().map(role_of).collect(),
            registered: registered_at(account.id),
        },
        sessions,
        session_count,
        history: page.lines.into_iter().map(row).collect(),
    };
    Ok(html(StatusCode::OK, &page)?)
}
