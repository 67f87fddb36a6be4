//! One line of the book, with all that its event holds.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use domain::Role;
use ui::pages::{LineChange, LinePage};

use super::{PageResult, Visit, history::row, html};
use crate::{
    problem::ApiError,
    state::App,
    whole_line::{self, Told},
};

pub(super) async fn show(
    State(app): State<App>,
    visit: Visit,
    position: Result<Path<i64>, PathRejection>,
) -> PageResult {
    let auditor = visit.with_role(&app, Role::Auditor)?;
    let Path(position) = position.map_err(|_| ApiError::not_found())?;
    let (chrome, _) = visit.framed(&app, auditor).await?;
    let origin = visit.context.user(auditor.user_id);
    let whole = whole_line::read(&app, auditor, &origin, position).await?;
    let whole = whole.ok_or_else(ApiError::not_found)?;
    let Told { changes, fields } = Told::of(&whole.payload);
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let head = app.sequencer().head().borrow().position;
    let page = LinePage {
        chrome,
        line: number(position),
        head: number(head.max(position)),
        request_id: whole.line.request_id.clone(),
        row: row(whole.line),
        recorded: whole.recorded_at,
        version: whole.version,
        stream: whole.stream,
        sequence: number(whole.sequence),
        changes: changes
            .into_iter()
            .map(|(name, from, to)| LineChange { name, from, to })
            .collect(),
        fields,
    };
    Ok(html(StatusCode::OK, &page)?)
}
