//! What every request passes through: its id and address, limits, the clock, security headers, and
//! the writing out of errors for whoever asked.

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::{
    asker,
    bodies::{Held, Unread},
    connections::Connection,
    context::Context,
    extract::{MAX_BODY, announced_length, drain, ended_early, too_large},
    pages,
    problem::{ApiError, ApiResult, Kind},
    server::Crowded,
    state::App,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const COOP: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const PERMISSIONS: HeaderName = HeaderName::from_static("permissions-policy");

/// The most bytes of a request's target and headers. The connection has a bound of its own, above it.
const MAX_HEAD: usize = 16 * 1024;

/// Nothing may be loaded or run: for answers that are no pages.
const CSP_NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";
/// Pages have a stylesheet, images and forms, all from here; no script at all.
pub(crate) const CSP_PAGES: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                                    frame-ancestors 'none'; base-uri 'none'";

/// The same for the one page with a script, which asks this origin for what is new.
pub(crate) const CSP_LIVE_PAGE: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; \
                                        img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// Puts the layers around all routes.
pub fn around(router: Router<App>, app: &App) -> Router<App> {
    router
        .layer(DefaultBodyLimit::disable()) // `extract` has its own.
        .layer(middleware::from_fn_with_state(app.clone(), handle))
}

async fn handle(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let context = Context::read(
        request.headers(),
        request.extensions(),
        &app.settings().trusted_proxies,
        || app.book().ids().uuid_v7().to_string(),
    );
    request.extensions_mut().insert(context.clone());
    let method = request.method().clone();
    let route =
        request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let for_person = pages::are_at(request.uri().path());
    let asked = for_person
        .then(|| pages::Asked { headers: request.headers().clone(), uri: request.uri().clone() });
    let span = tracing::info_span!("request", request_id = context.request_id(), %method, route);

    let response = async {
        let mut response = answer(&app, request, next, &route).await;
        // No page was reached that could have looked who it is.
        if let (Some(asked), "none") = (&asked, route.as_str())
            && let Some(greeted) = pages::signed_in(&app, &asked.headers).await
        {
            response.extensions_mut().insert(greeted);
        }
        finish(&app, response, &context, asked.as_ref())
    };
    let response = asker::known_within(response.instrument(span.clone())).await;

    let took = started.elapsed();
    let status = response.status();
    app.metrics().answered(&method, &route, status, took);
    span.in_scope(|| {
        let (status, millis) =
            (status.as_u16(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        // What is asked all the time and went well is no news.
        if status < 400 && is_routine(&route) {
            tracing::debug!(status, millis, "{method} {route} {status} in {millis} ms");
        } else {
            tracing::info!(status, millis, "{method} {route} {status} in {millis} ms");
        }
    });
    response
}

fn is_routine(route: &str) -> bool {
    matches!(
        route,
        "/healthz"
            | "/readyz"
            | "/metrics"
            | "/api/v1/health"
            | "/api/v1/auth/verify"
            | "/static/{file}"
            | "/log/checkpoint"
            | "/log/tile/{*path}"
    )
}

/// The answer of the route, or the refusal before it gets there.
async fn answer(app: &App, request: Request, next: Next, route: &str) -> Response {
    if head_size(&request) > MAX_HEAD {
        return ApiError::new(
            Kind::HeadTooLarge,
            "Send an address and headers of at most 16 KiB in all.",
        )
        .into_response();
    }
    // Who asks how we are must hear it when we are busy, too, and has nothing to send.
    let exempt = matches!(route, "/healthz" | "/readyz" | "/metrics");
    if !exempt && request.extensions().get::<Crowded>().is_some() {
        return ApiError::overloaded().into_response();
    }
    // First the body, then the permit: how fast it comes is for its sender to say.
    let (request, held) = if exempt || request.body().is_end_stream() {
        (request, None)
    } else {
        match with_body(app, request).await {
            Ok((request, held)) => (request, Some(held)),
            Err(error) => return error.into_response(),
        }
    };
    let _permit = match app.requests().try_acquire_owned() {
        Ok(permit) => Some(permit),
        Err(_) if exempt => None,
        Err(_) => return ApiError::overloaded().into_response(),
    };
    drop(held);
    let running = std::panic::AssertUnwindSafe(next.run(request)).catch_unwind();
    match tokio::time::timeout(app.settings().request_timeout, running).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => ApiError::internal(panic_message(panic.as_ref())).into_response(),
        Err(_) => {
            let detail = "The answer took too long. If the request was to change something, look first whether it did.";
            ApiError { retry_after: Some(5), ..ApiError::new(Kind::Unavailable, detail) }
                .into_response()
        }
    }
}

/// The request with all of its body.
async fn with_body(app: &App, request: Request) -> ApiResult<(Request, Held)> {
    let (parts, mut body) = request.into_parts();
    let announced = announced_length(&parts.headers).unwrap_or(0);
    let read = if announced > MAX_BODY as u64 {
        Err(Unread::TooLarge)
    } else {
        let connection = parts.extensions.get::<Arc<Connection>>();
        connection.inspect(|connection| connection.receives());
        let read = app.bodies().read(&mut body, app.settings().body_timeout).await;
        connection.inspect(|connection| connection.has_received());
        read
    };
    match read {
        Ok((bytes, held)) => Ok((Request::from_parts(parts, Body::from(bytes)), held)),
        Err(Unread::TooLarge) => {
            drain(&parts.headers, body).await;
            Err(too_large())
        }
        Err(Unread::TooSlow) => {
            Err(ApiError::new(Kind::RequestTimeout, "Send the body without long pauses."))
        }
        Err(Unread::Broken) => Err(ended_early()),
        Err(Unread::GivenUp) => Err(ApiError::overloaded()),
    }
}

fn head_size(request: &Request) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    request
        .headers()
        .iter()
        .fold(target, |size, (name, value)| size + name.as_str().len() + value.len())
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a message"))
}

/// Writes out what a handler left as an error, and adds the headers that all answers have.
fn finish(
    app: &App,
    response: Response,
    context: &Context,
    asked: Option<&pages::Asked>,
) -> Response {
    let error = response.extensions().get::<Arc<ApiError>>().cloned();
    let mut response = match error {
        Some(error) => {
            log(&error, context);
            let mut written = match asked {
                Some(asked) => {
                    let greeted = response.extensions().get::<pages::Greeted>().cloned();
                    pages::error_page(&error, context, asked, greeted)
                }
                None => ApiError::clone(&error).into_problem(context.request_id()),
            };
            // What the handler had set beside: cookies, `Allow`.
            for (name, value) in response.headers() {
                if matches!(*name, header::SET_COOKIE | header::ALLOW) {
                    written.headers_mut().append(name, value.clone());
                }
            }
            written
        }
        None => response,
    };
    secure(app, response.headers_mut(), asked.is_some());
    if let Ok(id) = HeaderValue::from_str(context.request_id()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

fn log(error: &ApiError, context: &Context) {
    let request_id = context.request_id();
    if error.status() == StatusCode::FORBIDDEN {
        let (kind, asker) = (error.kind.name(), asker::in_words());
        tracing::warn!(
            request_id,
            kind,
            asker,
            "request {request_id} of {asker} was refused: {kind}"
        );
    }
    if let Some(cause) = &error.cause {
        if error.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id, "request {request_id} failed: {}", chain(cause.as_ref()));
        } else {
            tracing::warn!(
                request_id,
                "request {request_id} could not be served: {}",
                chain(cause.as_ref())
            );
        }
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = source.source();
    }
    text
}

/// The security headers. What a route has set itself stays.
fn secure(app: &App, headers: &mut HeaderMap, page: bool) {
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, if page { CSP_PAGES } else { CSP_NOTHING });
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::X_FRAME_OPTIONS, "DENY");
    // `no-referrer` would make browsers send `Origin: null` with our own forms.
    set(header::REFERRER_POLICY, "same-origin");
    set(CORP, "same-origin");
    set(COOP, "same-origin");
    set(PERMISSIONS, "camera=(), geolocation=(), microphone=(), payment=(), usb=()");
    set(header::CACHE_CONTROL, "no-store");
    if app.settings().public_url.is_https() {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
}

/// For an address where nothing is.
pub async fn nothing_here() -> ApiError {
    ApiError::not_found()
}

/// For a method that the address has not; axum adds `Allow`.
pub async fn no_such_method(method: Method) -> ApiError {
    let detail = format!("{method} is not among the methods of this address; `Allow` names those.");
    ApiError::new(Kind::MethodNotAllowed, detail)
}
