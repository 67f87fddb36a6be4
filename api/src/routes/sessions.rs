//! One's own sessions: the devices that are signed in.

use axum::{Json as JsonAnswer, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use domain::{EndReason, SessionId};
use projections::sessions::{self, Row};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::{context::Context, extract::Id, identity::Identity, problem::ApiResult, state::App};

/// The most sessions that are listed. Who has more ends some.
const LISTED: i64 = 200;
/// Sessions that are ended in one go.
const BATCH: i64 = 100;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions, end_other_sessions))
        .routes(routes!(end_session))
}

/// One device that is signed in.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    pub id: Uuid,
    /// Whether it is the one that asks.
    pub current: bool,
    /// How it was opened.
    #[schema(example = "password")]
    pub method: String,
    pub remember_me: bool,
    pub first_seen: DateTime<Utc>,
    /// When it was last refreshed.
    pub last_seen: DateTime<Utc>,
    /// When it ends unless it is refreshed before.
    pub expires_at: DateTime<Utc>,
    #[schema(required, example = "192.0.2.7")]
    pub address: Option<String>,
    #[schema(required)]
    pub user_agent: Option<String>,
}

/// The sessions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sessions {
    sessions: Vec<SessionView>,
}

/// How many sessions were ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndedSessions {
    /// Left out while the list of sessions is being built: they have ended, and nobody can count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    ended: Option<usize>,
}

/// The devices that are signed in to the account of whoever asks.
#[utoipa::path(
    get, path = "/sessions", tag = "sessions", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "The sessions", body = Sessions),
        (status = 401, description = "Not signed in"),
    )
)]
async fn list_sessions(
    State(app): State<App>,
    identity: Identity,
) -> ApiResult<JsonAnswer<Sessions>> {
    Ok(JsonAnswer(Sessions { sessions: mine(&app, &identity).await? }))
}

/// One's live sessions, newest first, with where they were last seen.
pub(crate) async fn mine(app: &App, identity: &Identity) -> ApiResult<Vec<SessionView>> {
    app.needs("sessions").await?;
    app.see_own_writes(identity.user_id, "sessions").await;
    let rows = sessions::live_of_user(app.pool(), identity.user_id, app.now(), LISTED).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        views.push(view(app, identity, row).await?);
    }
    Ok(views)
}

async fn view(app: &App, identity: &Identity, row: Row) -> ApiResult<SessionView> {
    let sealed = row.last_source.as_ref().or(row.started_source.as_ref());
    let source = match sealed {
        Some(sealed) => {
            app.book()
                .open_source(sealed, domain::stream::SESSION, &row.session_id.to_string())
                .await?
        }
        None => None,
    };
    let (address, user_agent) =
        source.map(|source| (source.address, source.user_agent)).unwrap_or_default();
    Ok(SessionView {
        id: row.session_id.0,
        current: row.session_id == identity.session_id,
        method: row.method,
        remember_me: row.remember_me,
        first_seen: row.started_at,
        last_seen: row.last_seen_at,
        expires_at: row.expires_at,
        address,
        user_agent,
    })
}

/// Ends all sessions but the one that asks.
#[utoipa::path(
    delete, path = "/sessions", tag = "sessions", security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "They have ended", body = EndedSessions),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 429, description = "It was done too often within the hour"),
    )
)]
async fn end_other_sessions(
    State(app): State<App>,
    context: Context,
    identity: Identity,
) -> ApiResult<JsonAnswer<EndedSessions>> {
    Ok(JsonAnswer(EndedSessions { ended: end_all_others(&app, &context, &identity).await? }))
}

/// Ends all others, from the API or a page, and counts them where there is a whole list of them.
pub(crate) async fn end_all_others(
    app: &App,
    context: &Context,
    identity: &Identity,
) -> ApiResult<Option<usize>> {
    let (user, current, kept) = (identity.user_id, identity.session_id, identity.kept());
    // One event cuts them all off, also those that no table shows yet; the ends of those that are
    // listed are posted here, so that the person sees them, and the rest by the process.
    if !are_over_already(app, identity).await? {
        let origin = context.user(user);
        let receipt = app
            .command(|book| async move { book.end_other_sessions(user, kept, &origin).await })
            .await??;
        app.wrote(user, receipt);
    }
    if !app.projector().is_built("sessions").await? {
        return Ok(None);
    }
    app.see_own_writes(user, "sessions").await;
    let rows = sessions::live_of_user(app.pool(), user, app.now(), BATCH).await?;
    let others: Vec<SessionId> =
        rows.into_iter().map(|row| row.session_id).filter(|id| *id != current).collect();
    let ended = others.len();
    let origin = context.user(user);
    let receipt = app
        .command(|book| async move {
            book.end_sessions(user, &others, EndReason::EndedOthers, &origin).await
        })
        .await??;
    app.wrote(user, receipt);
    Ok(Some(ended))
}

/// Whether ending all other sessions would end none, so that there is nothing to append.
///
/// The read table alone is never believed here: a session whose row is not there, for whatever reason, must end too.
/// So the account's own events must tell that all others were cut off before and this one kept, and the table only
/// that none was opened since; the line is left out where both are certain.
async fn are_over_already(app: &App, identity: &Identity) -> ApiResult<bool> {
    let (user, session) = (identity.user_id, identity.session_id);
    let account = app.book().user(user).await?;
    let Some(cut) = account.cut.filter(|cut| cut.kept == Some(session)) else { return Ok(false) };
    Ok(!account.disabled
        && app.projector().is_built("sessions").await?
        && sessions::has_surely_no_other(app.pool(), user, session, cut.version).await?)
}

/// Ends one session. One that has ended already stays so.
#[utoipa::path(
    delete, path = "/sessions/{id}", tag = "sessions", security(("bearer" = []), ("cookie" = [])),
    params(("id" = Uuid, Path, description = "The id of one's own session")),
    responses(
        (status = 204, description = "It has ended"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 404, description = "There is no such session of one's own"),
    )
)]
async fn end_session(
    State(app): State<App>,
    context: Context,
    identity: Identity,
    Id(id): Id,
) -> ApiResult<StatusCode> {
    end_one(&app, &context, &identity, SessionId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ends one of one's own sessions, from the API or a page.
pub(crate) async fn end_one(
    app: &App,
    context: &Context,
    identity: &Identity,
    session: SessionId,
) -> ApiResult<()> {
    let user = identity.user_id;
    let reason = if session == identity.session_id {
        EndReason::SignedOut
    } else {
        EndReason::EndedElsewhere
    };
    let origin = context.user(user);
    let receipt = app
        .command(|book| async move { book.end_session(user, session, reason, &origin).await })
        .await??;
    app.wrote(user, receipt);
    Ok(())
}
