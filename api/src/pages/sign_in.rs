//! Signing in, registering, signing out.

use axum::{extract::State, http::StatusCode, response::Response};
use commands::{NewAccount, SignedIn};
use domain::{Email, FullName, Identifier, Password, Role, Roles, Username};
use serde::Deserialize;
use ui::{
    FormProblem, Notice, Problem,
    pages::{RegisterPage, RegisterProblems, SignInPage, SignInProblems},
    paths,
};

use super::{
    Button, PageResult, Posted, Tokened, Visit, checked, come_back, form_problem, html, is_taken,
    redirect,
};
use crate::{
    cookies::{self, Name, SetCookies},
    extract::Query,
    return_to::local_path,
    routes,
    state::App,
};

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ReturnTo {
    return_to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignInForm {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    password: String,
    remember_me: Option<String>,
    #[serde(default)]
    return_to: String,
    #[serde(default)]
    csrf: String,
}

impl Tokened for SignInForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterForm {
    #[serde(default)]
    email: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    full_name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    return_to: String,
    #[serde(default)]
    csrf: String,
}

impl Tokened for RegisterForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

/// Where to go afterwards.
fn destination(return_to: &str) -> &str {
    local_path(return_to).unwrap_or(paths::OVERVIEW)
}

fn kept(return_to: &str) -> Option<String> {
    local_path(return_to).map(str::to_owned)
}

pub(super) async fn show(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<ReturnTo>,
) -> PageResult {
    if visit.identity.is_some() {
        return Ok(redirect(&app, destination(&query.return_to), None));
    }
    let page = SignInPage {
        chrome: visit.chrome(&app),
        return_to: kept(&query.return_to),
        ..SignInPage::default()
    };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn submit(
    State(app): State<App>,
    visit: Visit,
    headers: axum::http::HeaderMap,
    posted: Posted<SignInForm>,
) -> PageResult {
    let page = |form: &SignInForm| SignInPage {
        chrome: visit.chrome(&app),
        identifier: form.identifier.clone(),
        remember_me: form.remember_me.is_some(),
        return_to: kept(&form.return_to),
        ..SignInPage::default()
    };
    let form = match posted.genuine() {
        Ok(form) => form,
        Err(form) => {
            let page = SignInPage { problem: Some(FormProblem::Expired), ..page(&form) };
            return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page)?);
        }
    };
    let mut problems = SignInProblems::default();
    if form.identifier.trim().is_empty() {
        problems.identifier = Some(Problem::Missing);
    }
    let password = checked(
        Password::present(&form.password),
        form.password.is_empty(),
        &mut problems.password,
    );
    let (Some(password), None) = (password, problems.identifier) else {
        let page = SignInPage { problems, ..page(&form) };
        return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page)?);
    };
    let identifier = Identifier::typed(&form.identifier);
    let remember_me = form.remember_me.is_some();
    let device = cookies::read(&headers, &app.settings().public_url, Name::Device);
    let device = device.map(str::to_owned);
    let attempt =
        routes::auth::sign_in(&app, &visit.context, identifier, password, remember_me, device);
    match attempt.await {
        Ok(signed_in) => Ok(welcome(&app, &signed_in, destination(&form.return_to), None)),
        Err(error) => match form_problem(&error) {
            Some(problem) => {
                Ok(come_back(&error, &SignInPage { problem: Some(problem), ..page(&form) })?)
            }
            None => Err(error.into()),
        },
    }
}

/// On with the cookies of the session.
fn welcome(app: &App, signed_in: &SignedIn, to: &str, notice: Option<Notice>) -> Response {
    let public_url = &app.settings().public_url;
    let mut set = SetCookies::default();
    set.session(public_url, signed_in, app.now());
    set.device(public_url, signed_in.device.as_ref());
    set.remove(public_url, Name::Visit);
    let mut response = redirect(app, to, notice);
    set.add_to(response.headers_mut());
    response
}

pub(super) async fn show_register(
    State(app): State<App>,
    visit: Visit,
    Query(query): Query<ReturnTo>,
) -> PageResult {
    if visit.identity.is_some() {
        return Ok(redirect(&app, destination(&query.return_to), None));
    }
    let page = RegisterPage {
        chrome: visit.chrome(&app),
        return_to: kept(&query.return_to),
        ..RegisterPage::default()
    };
    Ok(html(StatusCode::OK, &page)?)
}

pub(super) async fn submit_register(
    State(app): State<App>,
    visit: Visit,
    posted: Posted<RegisterForm>,
) -> PageResult {
    let page = |form: &RegisterForm| RegisterPage {
        chrome: visit.chrome(&app),
        email: form.email.clone(),
        username: form.username.clone(),
        full_name: form.full_name.clone(),
        return_to: kept(&form.return_to),
        ..RegisterPage::default()
    };
    let form = match posted.genuine() {
        Ok(form) => form,
        Err(form) => {
            let page = RegisterPage { problem: Some(FormProblem::Expired), ..page(&form) };
            return Ok(html(StatusCode::UNPROCESSABLE_ENTITY, &page)?);
        }
    };
    let mut problems = RegisterProblems::default();
    let new = new_account(&form, &mut problems);
    let Some(new) = new else {
        return Ok(html(
            StatusCode::UNPROCESSABLE_ENTITY,
            &RegisterPage { problems, ..page(&form) },
        )?);
    };
    match routes::auth::open_account(&app, &visit.context, new, false).await {
        Ok(signed_in) => {
            Ok(welcome(&app, &signed_in, destination(&form.return_to), Some(Notice::Registered)))
        }
        Err(error) => {
            problems.email = is_taken(&error, "email").then_some(Problem::EmailTaken);
            problems.username = is_taken(&error, "username").then_some(Problem::UsernameTaken);
            let problem = form_problem(&error);
            if problem.is_none() && problems.email.is_none() && problems.username.is_none() {
                return Err(error.into());
            }
            Ok(come_back(&error, &RegisterPage { problem, problems, ..page(&form) })?)
        }
    }
}

fn new_account(form: &RegisterForm, problems: &mut RegisterProblems) -> Option<NewAccount> {
    let email =
        checked(Email::parse(&form.email), form.email.trim().is_empty(), &mut problems.email);
    let username = checked(
        Username::parse(&form.username),
        form.username.trim().is_empty(),
        &mut problems.username,
    );
    let full_name = checked(FullName::parse(&form.full_name), false, &mut problems.full_name);
    let password =
        checked(Password::choose(&form.password), form.password.is_empty(), &mut problems.password);
    Some(NewAccount {
        email: email?,
        username: username?,
        full_name: full_name?,
        password: password?,
        roles: Roles::from([Role::User]),
    })
}

pub(super) async fn sign_out(
    State(app): State<App>,
    visit: Visit,
    headers: axum::http::HeaderMap,
    posted: Posted<Button>,
) -> PageResult {
    let public_url = &app.settings().public_url;
    if let Some(identity) = &visit.identity {
        posted.or_back(&app, paths::OVERVIEW)?;
        routes::auth::sign_out(&app, &visit.context, identity.user_id, identity.session_id).await?;
    } else if let Some(token) = cookies::read(&headers, public_url, Name::Refresh) {
        // A session that is not live any more: whatever is left of it goes.
        routes::auth::sign_out_by_token(&app, &visit.context, token.to_owned()).await?;
    }
    let mut set = SetCookies::default();
    set.end_session(public_url);
    let mut response = redirect(&app, paths::SIGN_IN, Some(Notice::SignedOut));
    set.add_to(response.headers_mut());
    Ok(response)
}
