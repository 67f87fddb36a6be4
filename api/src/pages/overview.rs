//! The first page after signing in.

use axum::{extract::State, http::StatusCode};
use ui::pages::OverviewPage;

use super::{PageResult, Visit, history::row, html, role_of, sessions::current_first};
use crate::{
    history::{self, Filter, Order, Part},
    problem::{ApiResult, Kind},
    routes,
    state::{App, Wait},
    views::{registered_at, role_names},
};

/// How many sessions, and how many lines of the history, are shown.
const FEW: usize = 5;
const LATELY: i64 = 8;

pub(super) async fn show(State(app): State<App>, visit: Visit) -> PageResult {
    let identity = visit.identity(&app)?;
    let (chrome, account) = visit.framed(&app, identity).await?;
    let (mine, sessions_building) = unless_building(routes::sessions::mine(&app, identity).await)?;
    let mut sessions = current_first(mine.unwrap_or_default());
    let session_count = sessions.len() as u64;
    sessions.truncate(FEW);
    let origin = visit.context.user(identity.user_id);
    let lately = async {
        let reach = history::reach(&app, identity, Wait::No).await?;
        let mine = Filter { user: Some(identity.user_id), ..Filter::default() };
        let part = Part { order: Order::Newest, cursor: None, limit: LATELY };
        history::page(&app, identity, &origin, mine, reach, part).await
    };
    let (lately, history_building) = unless_building(lately.await)?;
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
        history: lately.map(|page| page.lines).unwrap_or_default().into_iter().map(row).collect(),
        sessions_building,
        history_building,
    };
    Ok(html(StatusCode::OK, &page)?)
}

/// Who signs in comes here first: a part that is still being built must not keep them from the rest.
fn unless_building<T>(part: ApiResult<T>) -> ApiResult<(Option<T>, bool)> {
    match part {
        Ok(part) => Ok((Some(part), false)),
        Err(error) if error.kind == Kind::ProjectionBuilding => Ok((None, true)),
        Err(error) => Err(error),
    }
}
