//! The lines that the filter of the page lets through, as a file.

use axum::extract::{Path, State};
use domain::Role;
use serde::Deserialize;
use ui::{
    pages::{HistoryFilterProblems, HistoryScope},
    paths,
};

use super::{Asked, HistoryQuery, filter, show};
use crate::{
    export::{Format, send},
    pages::{PageResult, Posted, Tokened, Visit},
    problem::ApiError,
    state::App,
};

/// The filter of the page. It is posted, so that no address stands in the log of a proxy.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::pages) struct ExportForm {
    csrf: String,
    user: String,
    actor: String,
    session: String,
    address: String,
    #[serde(rename = "type")]
    event_type: String,
    outcome: String,
    from: String,
    to: String,
    order: String,
}

impl Tokened for ExportForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

impl From<ExportForm> for HistoryQuery {
    fn from(form: ExportForm) -> Self {
        let ExportForm {
            csrf: _,
            user,
            actor,
            session,
            address,
            event_type,
            outcome,
            from,
            to,
            order,
        } = form;
        let cursor = String::new();
        Self { user, actor, session, address, event_type, outcome, from, to, order, cursor }
    }
}

pub(in crate::pages) async fn export(
    State(app): State<App>,
    visit: Visit,
    Path(format): Path<String>,
    posted: Posted<ExportForm>,
) -> PageResult {
    let auditor = visit.with_role(&app, Role::Auditor)?;
    let format = match format.as_str() {
        "jsonl" => Format::Jsonl,
        "csv" => Format::Csv,
        "ocsf" => Format::Ocsf,
        _ => return Err(ApiError::not_found().into()),
    };
    let query: HistoryQuery = posted.or_back(&app, paths::HISTORY)?.into();
    let mut asked = Asked::default();
    let origin = visit.context.user(auditor.user_id);
    let reader = (auditor, &origin);
    let found = filter(&app, reader, &query, HistoryScope::Everyone, &mut asked).await?;
    if asked.problems != HistoryFilterProblems::default() {
        // The page tells what of the filter can't be read.
        return show(&app, &visit, auditor, HistoryScope::Everyone, query).await;
    }
    Ok(send(&app, auditor, &visit.context, format, found, 0).await?)
}
