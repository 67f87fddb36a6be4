//! The lines that the filter of the page lets through, as a file.

use axum::extract::{Path, State};
use domain::Role;
use ui::pages::{HistoryFilterProblems, HistoryScope};

use super::{HistoryQuery, filter, show};
use crate::{
    export::{Format, send},
    extract::Query,
    pages::{PageResult, Visit},
    problem::ApiError,
    state::App,
};

pub(in crate::pages) async fn export(
    State(app): State<App>,
    visit: Visit,
    Path(format): Path<String>,
    Query(query): Query<HistoryQuery>,
) -> PageResult {
    let auditor = visit.with_role(&app, Role::Auditor)?;
    let format = match format.as_str() {
        "jsonl" => Format::Jsonl,
        "csv" => Format::Csv,
        "ocsf" => Format::Ocsf,
        _ => return Err(ApiError::not_found().into()),
    };
    let mut problems = HistoryFilterProblems::default();
    let origin = visit.context.user(auditor.user_id);
    let reader = (auditor, &origin);
    let (filter, _) = filter(&app, reader, &query, HistoryScope::Everyone, &mut problems).await?;
    if problems != HistoryFilterProblems::default() {
        // The page tells what of the filter can't be read.
        return show(&app, &visit, auditor, HistoryScope::Everyone, query).await;
    }
    Ok(send(&app, auditor, &visit.context, format, filter, 0).await?)
}
