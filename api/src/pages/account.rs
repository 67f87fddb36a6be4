//! A person's own password and profile.

use axum::{extract::State, http::StatusCode};
use commands::NewProfile;
use domain::{Email, FullName, Password, Username};
use serde::Deserialize;
use ui::{
    FormProblem, Notice, Problem,
    pages::{PasswordPage, PasswordProblems, ProfilePage, ProfileProblems},
    paths,
};

use super::{
    PageResult, Posted, Tokened, Visit, checked, come_back, form_problem, html, is_taken, redirect,
};
use crate::{cookies::SetCookies, problem::Kind, routes, state::App};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PasswordForm {
    #[serde(default)]
    current_password: String,
    #[serde(default)]
    new_password: String,
    /// For password managers; it is whose form it is.
    #[serde(default, rename = "username")]
    _username: String,
    #[serde(default)]
    csrf: String,
}

impl Tokened for PasswordForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileForm {
    #[serde(default)]
    full_name: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    current_password: String,
    #[serde(default)]
    csrf: String,
}

impl Tokened for ProfileForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

pub(super) async fn show_password(State(app): State<App>, visit: Visit) -> PageResult {
    let identity = visit.identity(&app)?;
    let (chrome, account) = visit.framed(&app, identity).await?;
    let page = PasswordPage { chrome, username: account.username, ..PasswordPage::default() };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn submit_password(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<PasswordForm>,
) -> PageResult {
    let identity = visit.sender(&app)?;
    let form = posted.or_back(&app, paths::PASSWORD)?;
    let mut problems = PasswordProblems::default();
    let current = checked(
        Password::present(&form.current_password),
        form.current_password.is_empty(),
        &mut problems.current_password,
    );
    let new = checked(
        Password::choose(&form.new_password),
        form.new_password.is_empty(),
        &mut problems.new_password,
    );
    if new.is_some() && form.new_password == form.current_password {
        problems.new_password = Some(Problem::PasswordUnchanged);
    }
    let (chrome, account) = visit.framed(&app, identity).await?;
    let page = PasswordPage { chrome, username: account.username, ..PasswordPage::default() };
    let (Some(current), Some(new), None) = (current, new, problems.new_password) else {
        return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &PasswordPage { problems, ..page })?);
    };
    match routes::account::set_password(&app, &visit.context, identity, current, new).await {
        Ok(device) => {
            let mut set = SetCookies::default();
            set.device(&app.settings().public_url, Some(&device));
            let mut response = redirect(&app, paths::OVERVIEW, Some(Notice::PasswordChanged));
            set.add_to(response.headers_mut());
            Ok(response)
        }
        Err(error) if error.kind == Kind::WrongPassword => {
            problems.current_password = Some(Problem::PasswordWrong);
            Ok(come_back(&error, &PasswordPage { problems, ..page })?)
        }
        Err(error) => match form_problem(&error) {
            Some(problem) => {
                Ok(come_back(&error, &PasswordPage { problem: Some(problem), ..page })?)
            }
            None => Err(error.into()),
        },
    }
}

pub(super) async fn show_profile(State(app): State<App>, visit: Visit) -> PageResult {
    let identity = visit.identity(&app)?;
    let (chrome, account) = visit.framed(&app, identity).await?;
    let page = ProfilePage {
        chrome,
        full_name: account.full_name.unwrap_or_default(),
        username: account.username,
        email: account.email,
        ..ProfilePage::default()
    };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn submit_profile(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<ProfileForm>,
) -> PageResult {
    let identity = visit.sender(&app)?;
    let (chrome, account) = visit.framed(&app, identity).await?;
    let page = |form: &ProfileForm| ProfilePage {
        chrome: chrome.clone(),
        full_name: form.full_name.clone(),
        username: form.username.clone(),
        email: form.email.clone(),
        ..ProfilePage::default()
    };
    let form = match posted.genuine() {
        Ok(form) => form,
        Err(form) => {
            let page = ProfilePage { problem: Some(FormProblem::Expired), ..page(&form) };
            return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page)?);
        }
    };
    let mut problems = ProfileProblems::default();
    let mut change = NewProfile::default();
    // What comes back as it is stored is not looked at: it may have been taken under an older rule.
    if form.email != account.email {
        let missing = form.email.trim().is_empty();
        change.email = checked(Email::parse(&form.email), missing, &mut problems.email);
    }
    if form.username != account.username {
        let missing = form.username.trim().is_empty();
        change.username = checked(Username::parse(&form.username), missing, &mut problems.username);
    }
    if form.full_name != account.full_name.unwrap_or_default() {
        change.full_name =
            checked(FullName::parse(&form.full_name), false, &mut problems.full_name);
    }
    let current = match &form.current_password {
        password if password.is_empty() => None,
        password => checked(Password::present(password), false, &mut problems.current_password),
    };
    if problems != ProfileProblems::default() {
        return Ok(html(
            StatusCode::UNPROCESSABLE_ENTITY,
            &ProfilePage { problems, ..page(&form) },
        )?);
    }
    let id = identity.user_id;
    match routes::account::change_profile(&app, &visit.context, id, change, current).await {
        Ok(_) => Ok(redirect(&app, paths::OVERVIEW, Some(Notice::ProfileChanged))),
        Err(error) => {
            problems.email = is_taken(&error, "email").then_some(Problem::EmailTaken);
            problems.username = is_taken(&error, "username").then_some(Problem::UsernameTaken);
            problems.current_password = match error.kind {
                Kind::WrongPassword => Some(Problem::PasswordWrong),
                // What was typed is sound, so it is the password that is asked for.
                Kind::InvalidInput => Some(Problem::PasswordNeeded),
                _ => None,
            };
            let problem = form_problem(&error);
            if problem.is_none() && problems == ProfileProblems::default() {
                return Err(error.into());
            }
            Ok(come_back(&error, &ProfilePage { problem, problems, ..page(&form) })?)
        }
    }
}
