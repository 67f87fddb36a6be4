//! Erasing a person, for admins: the form, what stands there afterwards, and the receipt as a file.

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use domain::{Role, UserId};
use serde::Deserialize;
use ui::{
    FormProblem, Notice, Problem,
    pages::{ErasePage, EraseProblems, ErasedPage},
    paths,
};

use super::{PageResult, Posted, Tokened, Visit, come_back, form_problem, html, redirect};
use crate::{
    erasure::name_to_type,
    extract::Id,
    identity::Identity,
    problem::{ApiError, Kind},
    routes::erasure::{self, ErasureOrder},
    state::App,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EraseForm {
    #[serde(default)]
    username: String,
    #[serde(default)]
    myself: String,
    #[serde(default)]
    csrf: String,
}

impl Tokened for EraseForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

pub(super) async fn show(State(app): State<App>, visit: Visit, Id(id): Id) -> PageResult {
    let admin = visit.with_role(&app, Role::Admin)?;
    let id = UserId(id);
    if let Some(page) = form(&app, &visit, admin, id).await? {
        return Ok(html(StatusCode::OK, &page)?);
    }
    let erasure = erasure::stands(&app, id).await?;
    let (chrome, _) = visit.framed(&app, admin).await?;
    let line = erasure.line.and_then(|(line, at)| Some((u64::try_from(line).ok()?, at)));
    let page =
        ErasedPage { chrome, id: id.to_string(), line, has_receipt: erasure.receipt.is_some() };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn submit(
    State(app): State<App>,
    visit: Visit,
    Id(id): Id,
    posted: Posted<EraseForm>,
) -> PageResult {
    visit.sender(&app)?;
    let admin = visit.with_role(&app, Role::Admin)?;
    let id = UserId(id);
    let here = paths::user_erase(&id.to_string());
    let Some(page) = form(&app, &visit, admin, id).await? else {
        // It was done meanwhile, or there is no such account: that page tells.
        return Ok(redirect(&app, &here, None));
    };
    let (asked, genuine) = match posted.genuine() {
        Ok(asked) => (asked, true),
        Err(asked) => (asked, false),
    };
    let page = ErasePage { typed: asked.username.clone(), ..page };
    if !genuine {
        let page = ErasePage { problem: Some(FormProblem::Expired), ..page };
        return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page)?);
    }
    let order = ErasureOrder { username: asked.username, myself: asked.myself == "on" };
    match erasure::erase(&app, &visit.context, admin, id, &order).await {
        Ok(_) if page.is_self => Ok(redirect(&app, paths::SIGN_IN, Some(Notice::OneselfErased))),
        Ok(_) => Ok(redirect(&app, &here, None)),
        Err(error) => refused(&app, page, &error),
    }
}

/// The form again, with what was wrong with it.
fn refused(app: &App, page: ErasePage, error: &ApiError) -> PageResult {
    let problems = match error.kind {
        Kind::InvalidInput => {
            EraseProblems { username: Some(Problem::OtherUsername), ..EraseProblems::default() }
        }
        Kind::NotYourself => {
            EraseProblems { myself: Some(Problem::Myself), ..EraseProblems::default() }
        }
        Kind::LastAdmin => return Ok(redirect(app, paths::USERS, Some(Notice::LastAdmin))),
        _ => {
            let Some(problem) = form_problem(error) else { return Err(error.clone().into()) };
            return Ok(come_back(error, &ErasePage { problem: Some(problem), ..page })?);
        }
    };
    Ok(come_back(error, &ErasePage { problems, ..page })?)
}

/// The form for an account; nothing where there is none, or where it is erased already.
async fn form(
    app: &App,
    visit: &Visit,
    admin: &Identity,
    id: UserId,
) -> Result<Option<ErasePage>, super::Stop> {
    let account = app.book().account(id).await.map_err(ApiError::from)?;
    let Some(account) = account else { return Ok(None) };
    let (chrome, _) = visit.framed(app, admin).await?;
    Ok(Some(ErasePage {
        chrome,
        id: id.to_string(),
        name: name_to_type(&account),
        is_self: id == admin.user_id,
        ..ErasePage::default()
    }))
}

/// The receipt, to be handed on.
pub(super) async fn receipt(State(app): State<App>, visit: Visit, Id(id): Id) -> PageResult {
    visit.with_role(&app, Role::Admin)?;
    let erasure = erasure::stands(&app, UserId(id)).await?;
    let receipt = erasure.receipt.ok_or_else(ApiError::not_found)?;
    let text = serde_json::to_string_pretty(&receipt).map_err(ApiError::internal)?;
    let file = format!("attachment; filename=\"erasure-{id}.json\"");
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::CONTENT_DISPOSITION, file),
    ];
    Ok((headers, format!("{text}\n")).into_response())
}
