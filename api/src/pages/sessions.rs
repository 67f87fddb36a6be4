//! The devices that a person is signed in on.

use axum::{extract::State, http::StatusCode};
use domain::SessionId;
use ui::{Notice, SessionView, pages::SessionsPage, paths};

use super::{Button, PageResult, Posted, Visit, html, redirect};
use crate::{extract::Id, problem::Kind, routes, state::App};

/// As `ui` has them, the one that asks before the others.
pub(super) fn current_first(mut sessions: Vec<routes::sessions::SessionView>) -> Vec<SessionView> {
    sessions.sort_by_key(|session| !session.current);
    let view = |session: routes::sessions::SessionView| SessionView {
        id: session.id.to_string(),
        user_agent: session.user_agent,
        address: session.address,
        first_seen: session.first_seen,
        last_seen: session.last_seen,
        expires: Some(session.expires_at),
        current: session.current,
    };
    sessions.into_iter().map(view).collect()
}

pub(super) async fn show(State(app): State<App>, visit: Visit) -> PageResult {
    let identity = visit.identity(&app)?;
    let (chrome, _) = visit.framed(&app, identity).await?;
    let sessions = current_first(routes::sessions::mine(&app, identity).await?);
    Ok(html(StatusCode::OK, &SessionsPage { chrome, sessions })?)
}

pub(super) async fn end(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<Button>,
) -> PageResult {
    let identity = visit.sender(&app)?;
    posted.or_back(&app, paths::SESSIONS)?;
    let notice =
        match routes::sessions::end_one(&app, &visit.context, identity, SessionId(id)).await {
            Ok(()) => Notice::SessionEnded,
            Err(error) if error.kind == Kind::NotFound => Notice::SessionUnknown,
            Err(error) => return Err(error.into()),
        };
    Ok(redirect(&app, paths::SESSIONS, Some(notice)))
}

pub(super) async fn end_others(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<Button>,
) -> PageResult {
    let identity = visit.sender(&app)?;
    posted.or_back(&app, paths::SESSIONS)?;
    routes::sessions::end_all_others(&app, &visit.context, identity).await?;
    Ok(redirect(&app, paths::SESSIONS, Some(Notice::OtherSessionsEnded)))
}
