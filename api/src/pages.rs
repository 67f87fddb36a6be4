//! The pages, filled with what `ui` shows: one noun per file, mounted from `ui::paths`.
//!
//! A browser proves who it is by cookies. When its access token has expired, the next page that is
//! asked for refreshes the session on the way, so nobody is signed out while they are there. Forms
//! send back a token, every change answers with a redirect, and what it did is told once on the
//! page after it.

mod account;
mod assets;
mod erasing;
mod hand_over;
mod history;
mod line;
mod overview;
mod projections;
mod sessions;
mod sign_in;
mod state;
mod users;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::TimeDelta;
use commands::{Account, SignedIn};
use domain::{InvalidValue, Role};
use serde::{Deserialize, de::DeserializeOwned};
use ui::{Chrome, FormProblem, Locale, Notice, Page, Problem, pages::ErrorPage, paths};

use crate::{
    asker::{self, Asker},
    context::Context,
    cookies::{self, Name, SetCookies},
    csrf::{self, Bound},
    extract::Form,
    identity::{Identity, lacks},
    layers::CSP_PAGES,
    problem::{ApiError, ApiResult, Kind},
    routes,
    state::App,
};

/// How long a notice waits for its page.
const NOTICE_KEPT: TimeDelta = TimeDelta::seconds(60);

/// Whether a person in a browser is who asks at this path.
#[must_use]
pub fn are_at(path: &str) -> bool {
    let for_programs =
        ["/api/", "/.well-known/", "/log/"].iter().any(|prefix| path.starts_with(prefix))
            || matches!(path, "/api" | "/healthz" | "/readyz" | "/metrics");
    !for_programs
}

/// All pages.
pub fn router(app: &App) -> Router<App> {
    Router::new()
        .route(paths::OVERVIEW, get(overview::show))
        .route(paths::SIGN_IN, get(sign_in::show).post(sign_in::submit))
        .route(paths::HAND_OVER, get(hand_over::hand_over))
        .route(paths::SIGN_OUT, post(sign_in::sign_out))
        .route(paths::REGISTER, get(sign_in::show_register).post(sign_in::submit_register))
        .route(paths::SESSIONS, get(sessions::show))
        .route(paths::SESSION_END, post(sessions::end))
        .route(paths::SESSIONS_END_OTHERS, post(sessions::end_others))
        .route(paths::PASSWORD, get(account::show_password).post(account::submit_password))
        .route(paths::PROFILE, get(account::show_profile).post(account::submit_profile))
        .route(paths::MY_HISTORY, get(history::show_mine))
        .route(paths::HISTORY, get(history::show_everyone))
        .route(paths::HISTORY_EXPORT, post(history::export))
        .route(paths::HISTORY_LINE, get(line::show))
        .route(paths::AUDIT_STATE, get(state::show))
        .route(paths::USERS, get(users::show))
        .route(paths::USER_DISABLE, post(users::disable))
        .route(paths::USER_ENABLE, post(users::enable))
        .route(paths::USER_ERASE, get(erasing::show).post(erasing::submit))
        .route(paths::USER_RECEIPT, get(erasing::receipt))
        .route(paths::USER_ROLE_GRANT, post(users::grant))
        .route(paths::USER_ROLE_REVOKE, post(users::revoke))
        .route(paths::PROJECTIONS, get(projections::show))
        .route(paths::PROJECTIONS_PROGRESS, get(projections::follow))
        .route(paths::PROJECTIONS_REBUILD, post(projections::rebuild_all))
        .route(paths::PROJECTIONS_CHECK, post(projections::check_all))
        .route(paths::PROJECTION_REBUILD, post(projections::rebuild))
        .route(paths::PROJECTION_CHECK, post(projections::check))
        .route(paths::PROJECTION_REPAIR, post(projections::repair))
        .route(paths::PROJECTION_CANCEL, post(projections::cancel))
        .route_layer(middleware::from_fn_with_state(app.clone(), visit))
        .route(paths::STATIC, get(assets::file))
        // At an application's host no cookie of the login is looked at or set.
        .route(paths::HAND_OVER_START, get(hand_over::start))
        .route(paths::HAND_OVER_CALLBACK, get(hand_over::callback))
}

/// What a page is told of the browser that asks.
#[derive(Clone)]
pub struct Visit {
    context: Context,
    identity: Option<Identity>,
    /// The random value that forms before signing in are bound to.
    value: String,
    notice: Option<Notice>,
    locale: Locale,
    uri: Uri,
}

/// An answer that ends a handler early: an error, or a redirect.
pub struct Stop(Box<Response>);

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error.into_response()))
    }
}

impl From<Response> for Stop {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Stop {
    fn into_response(self) -> Response {
        *self.0
    }
}

pub(crate) type PageResult = Result<Response, Stop>;

/// Finds out who a browser is, refreshes its session where that is due, and sets its cookies.
async fn visit(
    State(app): State<App>,
    context: Context,
    mut request: Request,
    next: Next,
) -> Response {
    let public_url = &app.settings().public_url;
    let mut set = SetCookies::default();
    let mut identity =
        match who(&app, &context, request.method(), request.headers(), &mut set).await {
            Ok(identity) => identity,
            Err(error) => return error.into_response(),
        };
    let headers = request.headers();
    if let Some(identity) = &mut identity {
        identity.from_elsewhere = csrf::is_from_elsewhere(headers);
    }
    let value = cookies::read(headers, public_url, Name::Visit).map(str::to_owned);
    let value = value.unwrap_or_else(|| {
        let fresh = csrf::fresh_visit(app.book().entropy());
        if identity.is_none() {
            set.set(public_url, Name::Visit, &fresh, None);
        }
        fresh
    });
    let told = cookies::read(headers, public_url, Name::Notice);
    let visit = Visit {
        context,
        notice: told.and_then(Notice::from_code),
        locale: locale(headers),
        uri: request.uri().clone(),
        identity,
        value,
    };
    let told = told.is_some();
    request.extensions_mut().insert(visit.clone());
    let mut response = next.run(request).await;
    if told && response.status().is_success() {
        set.remove(public_url, Name::Notice);
    }
    set.add_to(response.headers_mut());
    if matches!(visit.uri.path(), paths::SIGN_IN | paths::REGISTER) {
        forms_lead_to_applications(&app, response.headers_mut());
    }
    // Other failures may be the database's, which is then not asked for more.
    let of_a_projection = response.extensions().get::<Arc<ApiError>>().is_some_and(|error| {
        matches!(error.kind, Kind::ProjectionBuilding | Kind::ProjectionBehind)
    });
    if (response.status().is_client_error() || of_a_projection)
        && let Some(identity) = &visit.identity
        && let Ok(Some(account)) = app.book().account(identity.user_id).await
    {
        response.extensions_mut().insert(Greeted::new(&app, identity, &account));
    }
    response
}

/// Lets the forms of this page lead on to the applications: after signing in a browser is sent there, and Chromium
/// holds each step of the way against the policy of the page with the form.
fn forms_lead_to_applications(app: &App, headers: &mut HeaderMap) {
    let applications = &app.settings().applications;
    if applications.is_empty() {
        return;
    }
    let origins: String =
        applications.iter().map(|application| format!(" {application}")).collect();
    let policy = CSP_PAGES.replace("form-action 'self'", &format!("form-action 'self'{origins}"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

/// Who a browser is, by its cookies.
async fn who(
    app: &App,
    context: &Context,
    method: &Method,
    headers: &HeaderMap,
    set: &mut SetCookies,
) -> ApiResult<Option<Identity>> {
    let public_url = &app.settings().public_url;
    if let Some(token) = cookies::read(headers, public_url, Name::Access)
        && let Ok(identity) = Identity::of_token(app, token, true).await
    {
        return Ok(Some(identity));
    }
    let Some(token) = cookies::read(headers, public_url, Name::Refresh) else { return Ok(None) };
    if !method.is_safe() {
        // A change is admitted on the strength of a live session; the page after it refreshes.
        return match app.book().session_of_refresh(token).await {
            Ok(live) => Ok(Some(Identity {
                user_id: live.user_id,
                session_id: live.session_id,
                user_version: live.user.version,
                roles: live.user.roles,
                via_cookie: true,
                from_elsewhere: false,
            })),
            Err(commands::RefreshError::Storage(error)) => Err(error.into()),
            Err(_) => Ok(None),
        };
    }
    match routes::auth::rotate(app, context, token.to_owned()).await {
        Ok(signed_in) => {
            set.session(public_url, &signed_in, app.now());
            Ok(Some(identity_of(&signed_in)))
        }
        Err(error) if error.status() == StatusCode::UNAUTHORIZED => {
            set.end_session(public_url);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn identity_of(signed_in: &SignedIn) -> Identity {
    asker::is(Asker { user: signed_in.account.id, session: signed_in.session_id });
    Identity {
        user_id: signed_in.account.id,
        session_id: signed_in.session_id,
        user_version: signed_in.account.version,
        roles: signed_in.account.roles.clone(),
        via_cookie: true,
        from_elsewhere: false,
    }
}

fn locale(headers: &HeaderMap) -> Locale {
    Locale::negotiate(headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()))
}

/// Who is signed in, for the error page of an address where nothing is. Nothing is refreshed for it.
pub async fn signed_in(app: &App, headers: &HeaderMap) -> Option<Greeted> {
    let identity = Identity::of_request(app, headers).await.ok()?;
    let account = app.book().account(identity.user_id).await.ok()??;
    Some(Greeted::new(app, &identity, &account))
}

/// Whom an error page greets, and what its button to sign out sends.
#[derive(Clone)]
pub struct Greeted {
    person: ui::SignedIn,
    csrf: String,
}

impl Greeted {
    fn new(app: &App, identity: &Identity, account: &Account) -> Self {
        let csrf = app.csrf().token(Bound::Session(identity.session_id));
        Self { person: person(identity, account), csrf }
    }
}

fn person(identity: &Identity, account: &Account) -> ui::SignedIn {
    ui::SignedIn {
        display_name: account.full_name.clone().unwrap_or_else(|| account.username.clone()),
        auditor: identity.is(Role::Auditor),
        admin: identity.is(Role::Admin),
    }
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> ApiResult<Self> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("a page without its visit"))
    }
}

impl Visit {
    fn bound(&self) -> Bound<'_> {
        match &self.identity {
            Some(identity) => Bound::Session(identity.session_id),
            None => Bound::Visit(&self.value),
        }
    }

    /// The frame of a page for somebody who is not signed in.
    fn chrome(&self, app: &App) -> Chrome {
        Chrome {
            path: self.uri.path().to_owned(),
            csrf: app.csrf().token(self.bound()),
            request_id: self.context.request_id().to_owned(),
            notice: self.notice,
            ..Chrome::new(self.locale)
        }
    }

    /// Whoever is signed in, or the way to the sign-in and back.
    fn identity(&self, app: &App) -> Result<&Identity, Stop> {
        self.identity.as_ref().ok_or_else(|| {
            let asked = self.uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
            let home = matches!(asked, "" | "/");
            let to = if home {
                paths::SIGN_IN.to_owned()
            } else {
                let query = form_urlencoded::Serializer::new(String::new())
                    .append_pair("return_to", asked)
                    .finish();
                format!("{}?{query}", paths::SIGN_IN)
            };
            let notice = (!home).then_some(Notice::SignInFirst);
            redirect(app, &to, notice).into()
        })
    }

    /// Whoever is signed in, for a form: back to where the form is.
    fn sender(&self, app: &App) -> Result<&Identity, Stop> {
        let to_sign_in = || redirect(app, paths::SIGN_IN, Some(Notice::SignInFirst)).into();
        self.identity.as_ref().ok_or_else(to_sign_in)
    }

    fn with_role(&self, app: &App, role: Role) -> Result<&Identity, Stop> {
        let identity = self.identity(app)?;
        if identity.is(role) { Ok(identity) } else { Err(lacks(role).into()) }
    }

    /// The frame of a page, and the account, of whoever is signed in.
    async fn framed(&self, app: &App, identity: &Identity) -> Result<(Chrome, Account), Stop> {
        let account = routes::account::account(app, identity.user_id).await?;
        let chrome = Chrome { person: Some(person(identity, &account)), ..self.chrome(app) };
        Ok((chrome, account))
    }
}

/// A form of a page that holds the token of its visit.
pub(crate) trait Tokened: DeserializeOwned {
    fn csrf(&self) -> &str;
}

/// A form that was posted. What it holds is had by asking whether it is `genuine` alone.
pub struct Posted<T> {
    form: T,
    genuine: bool,
}

impl<T> Posted<T> {
    /// What was posted: `Err` if the form was not one of this visit, and nothing may be done on it.
    fn genuine(self) -> Result<T, T> {
        if self.genuine { Ok(self.form) } else { Err(self.form) }
    }

    /// The same for a form that has nothing to be kept: back to its page.
    fn or_back(self, app: &App, path: &str) -> Result<T, Stop> {
        self.genuine().map_err(|_| redirect(app, path, Some(Notice::FormExpired)).into())
    }
}

impl<T: Tokened> FromRequest<App> for Posted<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        let visit = request.extensions().get::<Visit>().cloned();
        let visit = visit.ok_or_else(|| ApiError::internal("a form without its visit"))?;
        csrf::same_origin(request.method(), request.headers(), &app.settings().public_url)?;
        let Form(form) = Form::<T>::from_request(request, app).await?;
        let genuine = app.csrf().accepts(visit.bound(), form.csrf());
        if !genuine {
            let asker = asker::in_words();
            tracing::warn!(
                asker,
                "a form of {asker} was refused: its token is not one of this visit"
            );
        }
        Ok(Self { form, genuine })
    }
}

/// A form with a button and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Button {
    #[serde(default)]
    csrf: String,
}

impl Tokened for Button {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

/// Writes a page out.
fn html(status: StatusCode, page: &impl Page) -> ApiResult<Response> {
    let text = page.render().map_err(ApiError::internal)?;
    let kind = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((status, kind, text).into_response())
}

/// See other (303), telling there what was done.
fn redirect(app: &App, to: &str, notice: Option<Notice>) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if let Some(notice) = notice {
        let mut set = SetCookies::default();
        set.set(&app.settings().public_url, Name::Notice, notice.code(), Some(NOTICE_KEPT));
        set.add_to(response.headers_mut());
    }
    response
}

/// What a person asked for, for the page that tells why they don't get it.
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    pub(crate) uri: Uri,
}

impl Asked {
    /// To go there again, from here.
    fn path_and_query(&self) -> String {
        self.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
    }
}

/// The page for an error. Where somebody is signed in, `visit` has left who.
#[must_use]
pub(crate) fn error_page(
    error: &ApiError,
    context: &Context,
    asked: &Asked,
    greeted: Option<Greeted>,
) -> Response {
    let (person, csrf) = greeted.map(|greeted| (greeted.person, greeted.csrf)).unzip();
    let chrome = Chrome {
        request_id: context.request_id().to_owned(),
        person,
        csrf: csrf.unwrap_or_default(),
        ..Chrome::new(locale(&asked.headers))
    };
    let detail = match error.kind {
        // The texts of `ui` know no more than the status; these know better.
        Kind::CrossSite | Kind::RegistrationClosed | Kind::ProjectionBehind | Kind::OverBudget => {
            Some(error.detail.clone().into_owned())
        }
        _ => None,
    };
    let page = ErrorPage {
        chrome,
        status: error.status().as_u16(),
        building: error.kind == Kind::ProjectionBuilding,
        go_on: (error.kind == Kind::OpenedElsewhere).then(|| asked.path_and_query()),
        title: None,
        detail,
        wait_seconds: error.retry_after,
    };
    let mut response =
        html(error.status(), &page).unwrap_or_else(|_| error.status().into_response());
    error.add_headers(&mut response);
    response
}

/// What is wrong with a whole form, where that is what the error says.
fn form_problem(error: &ApiError) -> Option<FormProblem> {
    match error.kind {
        Kind::WrongCredentials => Some(FormProblem::WrongCredentials),
        Kind::TooManyAttempts => {
            Some(FormProblem::Throttled { wait_seconds: error.retry_after.unwrap_or(1) })
        }
        Kind::OverBudget => {
            Some(FormProblem::OverBudget { wait_seconds: error.retry_after.unwrap_or(1) })
        }
        Kind::Overloaded => Some(FormProblem::Unavailable),
        Kind::AccountDisabled => Some(FormProblem::AccountDisabled),
        Kind::Contended => Some(FormProblem::Conflict),
        _ => None,
    }
}

/// The status of a form that comes back: pages have no 401, which is for programs.
fn form_status(error: &ApiError) -> StatusCode {
    match error.status() {
        StatusCode::UNAUTHORIZED => StatusCode::UNPROCESSABLE_ENTITY,
        status => status,
    }
}

/// A form that comes back because of an error.
fn come_back(error: &ApiError, page: &impl Page) -> ApiResult<Response> {
    let mut response = html(form_status(error), page)?;
    error.add_headers(&mut response);
    Ok(response)
}

/// What `ui` says of a value that was refused.
fn problem_of(invalid: InvalidValue) -> Problem {
    match invalid {
        InvalidValue::Email => Problem::Email,
        InvalidValue::UsernameLength => Problem::UsernameLength,
        InvalidValue::UsernameCharacters => Problem::UsernameCharacters,
        InvalidValue::UsernameScripts => Problem::UsernameScripts,
        InvalidValue::FullNameLength => Problem::FullNameLength,
        InvalidValue::FullNameCharacters => Problem::FullNameCharacters,
        InvalidValue::PasswordTooShort => Problem::PasswordTooShort,
        InvalidValue::PasswordTooLong => Problem::PasswordTooLong,
        InvalidValue::PasswordNul => Problem::PasswordNul,
    }
}

/// The value of a field, leaving its problem where it is shown.
fn checked<T>(
    parsed: Result<T, InvalidValue>,
    empty: bool,
    problem: &mut Option<Problem>,
) -> Option<T> {
    match parsed {
        _ if empty => {
            *problem = Some(Problem::Missing);
            None
        }
        Ok(value) => Some(value),
        Err(invalid) => {
            *problem = Some(problem_of(invalid));
            None
        }
    }
}

/// Whether an error names this field as taken.
fn is_taken(error: &ApiError, field: &str) -> bool {
    error.kind == Kind::IdentifierTaken && error.errors.iter().any(|taken| taken.field == field)
}

fn role_of(role: routes::RoleName) -> ui::Role {
    match role {
        routes::RoleName::User => ui::Role::User,
        routes::RoleName::Auditor => ui::Role::Auditor,
        routes::RoleName::Admin => ui::Role::Admin,
    }
}
