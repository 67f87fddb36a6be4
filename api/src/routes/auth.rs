//! Opening, keeping and ending a session: register, sign in, refresh, sign out, verify.

use axum::{
    Json as JsonAnswer,
    extract::{FromRef, FromRequest, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
};
use commands::{NewAccount, SignedIn};
use domain::{EndReason, FullName, Identifier, Password, Role, Roles, SessionId, UserId};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    applications,
    context::Context,
    cookies::{self, Name, SetCookies},
    csrf,
    extract::{Form, Json, MediaType, OptionalJson},
    identity::{Identity, bearer},
    problem::{ApiError, ApiResult, FieldError, Kind, field},
    state::App,
    views::SignedInView,
};

/// The longest identifier that is looked at, in bytes.
const MAX_IDENTIFIER: usize = Identifier::MAX_BYTES;
const MAX_TOKEN: usize = 512;

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(login))
        .routes(routes!(refresh))
        .routes(routes!(logout))
        .routes(routes!(verify))
}

/// What a person brings to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Unique, compared without case.
    #[schema(format = "email", max_length = 254, example = "ada@example.org")]
    email: String,
    /// Letters and digits of one script, inside it also . _ and -; unique, compared without case.
    #[schema(min_length = 3, max_length = 50, example = "ada")]
    username: String,
    /// Any characters; normalised (NFKC), never trimmed or cut.
    #[schema(
        format = "password",
        min_length = 8,
        max_length = 1024,
        example = "correct horse battery"
    )]
    password: String,
    #[serde(default)]
    #[schema(max_length = 200, example = "Ada Lovelace")]
    full_name: Option<String>,
    /// Keep the session for 30 days instead of 24 hours.
    #[serde(default)]
    remember_me: Option<bool>,
}

/// Registers an account and opens its first session.
#[utoipa::path(
    post, path = "/auth/register", tag = "auth", request_body = Registration,
    responses(
        (status = 201, description = "The account, and its first session", body = SignedInView),
        (status = 400, description = "The body is no JSON"),
        (status = 403, description = "Registration is closed"),
        (status = 409, description = "The e-mail or the username is taken"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too many registrations from this address"),
    )
)]
async fn register(
    State(app): State<App>,
    context: Context,
    Json(body): Json<Registration>,
) -> ApiResult<(StatusCode, JsonAnswer<SignedInView>)> {
    let remember_me = body.remember_me.unwrap_or(false);
    let new = new_account(body.email, body.username, body.full_name, &body.password)?;
    let signed_in = open_account(&app, &context, new, remember_me).await?;
    Ok((StatusCode::CREATED, JsonAnswer(SignedInView::new(signed_in, app.now()))))
}

/// The values of a registration, or all that is wrong with them.
pub(crate) fn new_account(
    email: String,
    username: String,
    full_name: Option<String>,
    password: &str,
) -> ApiResult<NewAccount> {
    let mut errors = Vec::new();
    let email = field("email", domain::Email::parse(&email), &mut errors);
    let username = field("username", domain::Username::parse(&username), &mut errors);
    let full_name =
        field("full_name", FullName::parse(full_name.as_deref().unwrap_or_default()), &mut errors);
    let password = field("password", Password::choose(password), &mut errors);
    match (email, username, full_name, password) {
        (Some(email), Some(username), Some(full_name), Some(password)) => Ok(NewAccount {
            email,
            username,
            full_name,
            password,
            roles: Roles::from([Role::User]),
        }),
        _ => Err(ApiError::invalid(errors)),
    }
}

/// Registers, from the API or a page.
pub(crate) async fn open_account(
    app: &App,
    context: &Context,
    new: NewAccount,
    remember_me: bool,
) -> ApiResult<SignedIn> {
    if !app.settings().registration_open {
        return Err(ApiError::new(
            Kind::RegistrationClosed,
            "Accounts are made by an administrator here. Ask one for yours.",
        ));
    }
    let origin = context.anonymous();
    let signed_in =
        app.command(|book| async move { book.register(new, remember_me, &origin).await }).await??;
    app.wrote(signed_in.account.id, signed_in.receipt);
    Ok(signed_in)
}

/// Who signs in. Give exactly one of `identifier`, `email` and `username`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The e-mail address or the username.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 320, example = "ada@example.org")]
    identifier: Option<String>,
    /// The same as `identifier`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 320)]
    email: Option<String>,
    /// The same as `identifier`.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 320)]
    username: Option<String>,
    #[schema(format = "password", max_length = 1024, example = "correct horse battery")]
    password: String,
    /// Keep the session for 30 days instead of 24 hours.
    #[serde(default)]
    remember_me: Option<bool>,
}

/// The OAuth2 password form (RFC 6749, section 4.3.2).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginForm {
    /// The e-mail address or the username.
    #[schema(min_length = 1, max_length = 320, example = "ada@example.org")]
    username: String,
    #[schema(format = "password", max_length = 1024, example = "correct horse battery")]
    password: String,
    #[serde(default)]
    #[schema(pattern = "^(password)?$", nullable = false)]
    grant_type: Option<String>,
    /// Taken, and not used.
    #[serde(default, rename = "scope")]
    #[schema(nullable = false)]
    _scope: Option<String>,
    /// Taken, and not used.
    #[serde(default, rename = "client_id")]
    #[schema(nullable = false)]
    _client_id: Option<String>,
    /// Taken, and not used.
    #[serde(default, rename = "client_secret")]
    #[schema(nullable = false)]
    _client_secret: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    remember_me: Option<bool>,
}

/// Either body, checked.
pub struct LoginRequest {
    identifier: Identifier,
    password: Password,
    remember_me: bool,
}

impl<S> FromRequest<S> for LoginRequest
where
    App: FromRef<S>,
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        match MediaType::of(request.headers()) {
            MediaType::Json => Json::<Login>::from_request(request, state).await?.0.try_into(),
            MediaType::Form => Form::<LoginForm>::from_request(request, state).await?.0.try_into(),
            MediaType::None | MediaType::Other => Err(ApiError::new(
                Kind::UnsupportedMediaType,
                "Send the body as `Content-Type: application/json` or `application/x-www-form-urlencoded`.",
            )),
        }
    }
}

impl TryFrom<Login> for LoginRequest {
    type Error = ApiError;

    fn try_from(body: Login) -> ApiResult<Self> {
        let given =
            [("identifier", body.identifier), ("email", body.email), ("username", body.username)];
        let mut given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
        match (given.next(), given.next()) {
            (Some((name, identifier)), None) => {
                Self::new(name, &identifier, &body.password, body.remember_me.unwrap_or(false))
            }
            _ => Err(ApiError::invalid_field(
                "identifier",
                "give exactly one of identifier, email and username",
            )),
        }
    }
}

impl TryFrom<LoginForm> for LoginRequest {
    type Error = ApiError;

    fn try_from(form: LoginForm) -> ApiResult<Self> {
        if !matches!(form.grant_type.as_deref(), None | Some("" | "password")) {
            return Err(ApiError::invalid_field(
                "grant_type",
                "the one grant type here is password",
            ));
        }
        Self::new("username", &form.username, &form.password, form.remember_me.unwrap_or(false))
    }
}

impl LoginRequest {
    fn new(name: &str, identifier: &str, password: &str, remember_me: bool) -> ApiResult<Self> {
        let mut errors = Vec::new();
        if !(1..=MAX_IDENTIFIER).contains(&identifier.chars().count()) {
            errors.push(FieldError::new(
                name,
                "an e-mail address or username has 1 to 320 characters",
            ));
        }
        let password = field("password", Password::present(password), &mut errors);
        match password {
            Some(password) if errors.is_empty() => {
                Ok(Self { identifier: Identifier::typed(identifier), password, remember_me })
            }
            _ => Err(ApiError::invalid(errors)),
        }
    }
}

/// Opens a session with a password. The form is the OAuth2 password grant.
///
/// An unknown identifier, a wrong password and a disabled account are answered alike.
#[utoipa::path(
    post, path = "/auth/login", tag = "auth",
    request_body(content((Login = "application/json"), (LoginForm = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "The account, and a session", body = SignedInView),
        (status = 400, description = "The body cannot be read"),
        (status = 401, description = "Wrong credentials"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is of another type"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too many failed attempts, or too many sessions were opened within the hour"),
    )
)]
pub(crate) async fn login(
    State(app): State<App>,
    context: Context,
    request: LoginRequest,
) -> ApiResult<JsonAnswer<SignedInView>> {
    let LoginRequest { identifier, password, remember_me } = request;
    // A program has no device: the cookie is one of browsers.
    let signed_in = sign_in(&app, &context, identifier, password, remember_me, None).await?;
    Ok(JsonAnswer(SignedInView::new(signed_in, app.now())))
}

/// Signs in, from the API or a page.
pub(crate) async fn sign_in(
    app: &App,
    context: &Context,
    identifier: Identifier,
    password: Password,
    remember_me: bool,
    device: Option<String>,
) -> ApiResult<SignedIn> {
    let origin = context.anonymous();
    let signed_in = app
        .command(|book| async move {
            let device = device.as_deref();
            book.sign_in_with(&identifier, password, remember_me, device, &origin).await
        })
        .await??;
    app.wrote(signed_in.account.id, signed_in.receipt);
    Ok(signed_in)
}

/// A refresh token; without one, the cookie of the browser counts.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshBody {
    #[serde(default)]
    #[schema(max_length = 512)]
    refresh_token: Option<String>,
}

/// Where a refresh token came from.
enum Presented {
    Body(String),
    Cookie(String),
}

impl Presented {
    /// The token of the body, or else of the cookie, which must not be another site's doing.
    fn read(
        app: &App,
        method: &Method,
        headers: &HeaderMap,
        body: RefreshBody,
    ) -> ApiResult<Option<Self>> {
        if let Some(token) = body.refresh_token {
            if token.len() > MAX_TOKEN {
                return Err(ApiError::invalid_field(
                    "refresh_token",
                    "a refresh token has at most 512 characters",
                ));
            }
            return Ok(Some(Self::Body(token)));
        }
        let public_url = &app.settings().public_url;
        match cookies::read(headers, public_url, Name::Refresh) {
            Some(token) => {
                csrf::same_origin(method, headers, public_url)?;
                Ok(Some(Self::Cookie(token.to_owned())))
            }
            None => Ok(None),
        }
    }
}

/// Spends a refresh token for a new pair.
///
/// By cookie, the new pair is set as cookies, and the body leaves both tokens out, so that no script
/// ever holds them. A second use within a few seconds (two tabs) is answered with a pair as
/// good; a later one ends the session, because one of its two users is a thief.
#[utoipa::path(
    post, path = "/auth/refresh", tag = "auth", request_body = Option<RefreshBody>,
    responses(
        (status = 200, description = "The account, and the new pair", body = SignedInView),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "There is no token, it is not good, or its session has ended"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "The token is being used too many times at once, or too much was refreshed within the hour"),
    )
)]
async fn refresh(
    State(app): State<App>,
    context: Context,
    method: Method,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<RefreshBody>,
) -> ApiResult<Response> {
    let (token, by_cookie) = match Presented::read(&app, &method, &headers, body)? {
        Some(Presented::Body(token)) => (token, false),
        Some(Presented::Cookie(token)) => (token, true),
        None => {
            return Err(ApiError::new(
                Kind::NotSignedIn,
                "Send the refresh token as `refresh_token` in the body, or as the cookie.",
            ));
        }
    };
    let public_url = &app.settings().public_url;
    let mut set = SetCookies::default();
    let mut response = match rotate(&app, &context, token).await {
        Ok(signed_in) => {
            if by_cookie {
                set.session(public_url, &signed_in, app.now());
            }
            let view = SignedInView::new(signed_in, app.now());
            JsonAnswer(if by_cookie { view.without_tokens() } else { view }).into_response()
        }
        Err(error) => {
            if by_cookie && error.status() == StatusCode::UNAUTHORIZED {
                set.end_session(public_url);
            }
            error.into_response()
        }
    };
    set.add_to(response.headers_mut());
    Ok(response)
}

/// Spends a refresh token, from the API or a page.
pub(crate) async fn rotate(app: &App, context: &Context, token: String) -> ApiResult<SignedIn> {
    let origin = context.anonymous();
    let signed_in =
        app.command(|book| async move { book.refresh(&token, &origin).await }).await??;
    app.wrote(signed_in.account.id, signed_in.receipt);
    Ok(signed_in)
}

/// Ends the session: of the refresh token in the body, or of its cookie, or of the access token.
///
/// The access token stops working too. A refresh token that is not good has nothing to end, and that
/// is no error (RFC 7009, section 2.2).
#[utoipa::path(
    post, path = "/auth/logout", tag = "auth", request_body = Option<RefreshBody>,
    security((), ("bearer" = []), ("cookie" = [])),
    responses(
        (status = 204, description = "The session has ended"),
        (status = 400, description = "The body is no JSON"),
        (status = 401, description = "There is no token, or the access token is not valid"),
        (status = 403, description = "By cookie, and from another site"),
        (status = 413, description = "The body is larger than 64 KiB"),
        (status = 415, description = "The body is not application/json"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
    )
)]
async fn logout(
    State(app): State<App>,
    context: Context,
    method: Method,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<RefreshBody>,
) -> ApiResult<Response> {
    let mut set = SetCookies::default();
    let has_bearer = bearer(&headers)?.is_some();
    match Presented::read(&app, &method, &headers, body)? {
        Some(Presented::Body(token)) => sign_out_by_token(&app, &context, token).await?,
        Some(Presented::Cookie(token)) if !has_bearer => {
            sign_out_by_token(&app, &context, token).await?;
            set.end_session(&app.settings().public_url);
        }
        Some(Presented::Cookie(_)) | None => {
            let identity = Identity::of_request(&app, &headers).await?;
            if identity.via_cookie {
                csrf::same_origin(&method, &headers, &app.settings().public_url)?;
                set.end_session(&app.settings().public_url);
            }
            sign_out(&app, &context, identity.user_id, identity.session_id).await?;
        }
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set.add_to(response.headers_mut());
    Ok(response)
}

pub(crate) async fn sign_out_by_token(
    app: &App,
    context: &Context,
    token: String,
) -> ApiResult<()> {
    let origin = context.anonymous();
    app.command(|book| async move { book.sign_out_by_token(&token, &origin).await }).await??;
    Ok(())
}

/// Signs out a session of one's own, from the API or a page.
pub(crate) async fn sign_out(
    app: &App,
    context: &Context,
    user: UserId,
    session: SessionId,
) -> ApiResult<()> {
    let origin = context.user(user);
    app.command(|book| async move {
        book.end_session(user, session, EndReason::SignedOut, &origin).await
    })
    .await??;
    Ok(())
}

const VERIFIED_USER: HeaderName = HeaderName::from_static("x-entrybook-user");
const VERIFIED_ROLES: HeaderName = HeaderName::from_static("x-entrybook-roles");
const VERIFIED_SESSION: HeaderName = HeaderName::from_static("x-entrybook-session");
const VERIFIED_UNTIL: HeaderName = HeaderName::from_static("x-entrybook-until");

/// Says who a request is from, for nginx `auth_request` and its like.
///
/// It takes an access token, its cookie, or, where the access cookie has expired, the refresh cookie
/// of a live session, which it does not spend. At an application with a host name of its own, which the
/// proxy names, it takes the cookie of that application and nothing else.
#[utoipa::path(
    get, path = "/auth/verify", tag = "auth", security(("bearer" = []), ("cookie" = [])),
    params(
        ("X-Entrybook-Application" = Option<String>, Header,
            description = "The origin of the application, one of ENTRYBOOK_APPLICATIONS; the proxy sets it, and lets no client set it"),
    ),
    responses(
        (status = 204, description = "Somebody who is signed in", headers(
            ("X-Entrybook-User" = String, description = "The id of the account"),
            ("X-Entrybook-Roles" = String, description = "Its roles, separated by commas"),
            ("X-Entrybook-Session" = String, description = "The id of the session"),
            ("X-Entrybook-Until" = i64, description = "At an application: until when its cookie is good, in seconds since 1970"),
        )),
        (status = 401, description = "Nobody who is signed in"),
        (status = 403, description = "The application is none of ENTRYBOOK_APPLICATIONS"),
    )
)]
async fn verify(State(app): State<App>, headers: HeaderMap) -> ApiResult<Response> {
    let mut until = None;
    let (user, session, roles) = match applications::asked_at(&app, &headers)? {
        Some(application) => {
            let (identity, end) = applications::identity(&app, application, &headers).await?;
            until = Some(end.timestamp());
            (identity.user_id, identity.session_id, identity.roles)
        }
        None => match Identity::of_request(&app, &headers).await {
            Ok(identity) => (identity.user_id, identity.session_id, identity.roles),
            Err(error) => by_refresh_cookie(&app, &headers).await?.ok_or(error)?,
        },
    };
    let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let mut response = StatusCode::NO_CONTENT.into_response();
    for (name, value) in [
        (VERIFIED_USER, user.to_string()),
        (VERIFIED_ROLES, roles.join(",")),
        (VERIFIED_SESSION, session.to_string()),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_str(&value).map_err(ApiError::internal)?);
    }
    if let Some(until) = until {
        response.headers_mut().insert(VERIFIED_UNTIL, until.into());
    }
    Ok(response)
}

async fn by_refresh_cookie(
    app: &App,
    headers: &HeaderMap,
) -> ApiResult<Option<(UserId, SessionId, Roles)>> {
    if !matches!(bearer(headers), Ok(None)) {
        return Ok(None);
    }
    let Some(token) = cookies::read(headers, &app.settings().public_url, Name::Refresh) else {
        return Ok(None);
    };
    match app.book().session_of_refresh(token).await {
        Ok(live) => Ok(Some((live.user_id, live.session_id, live.user.roles))),
        Err(commands::RefreshError::Storage(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}
