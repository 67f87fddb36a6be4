//! The way of a browser from an application behind the proxy to the login and back.
//!
//! At the application's host the proxy answers nobody who is not signed in there, but asks `start` here, which
//! leaves a random cookie at the application and sends the browser to the login's host. Whoever is signed in there,
//! or signs in now, is sent back with a code (`commands::hand_over`), and `callback`, at the application's host
//! again, gives it back for the application's own cookie. Nothing is shown on the way.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use commands::{BrowserHash, HandOverError};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use ui::paths;

use super::{PageResult, Visit};
use crate::{
    applications,
    cookies::{self, Name, SetCookies},
    extract::Query,
    problem::{ApiError, ApiResult, Kind},
    return_to::local_path,
    settings::PublicUrl,
    state::App,
};

/// Where the proxy passes to `callback`, at the host of each application.
const CALLBACK: &str = "/.entrybook/callback";
/// The address that was asked for at the application, as the proxy tells it.
const ORIGINAL_URI: &str = "x-original-uri";
/// How long a person has to sign in.
const START_KEPT: TimeDelta = TimeDelta::hours(1);
/// The longest address to come back to: encoded in the address of `hand_over`, it must fit into `return_to` of the
/// sign-in page.
const MAX_RETURN: usize = 500;

#[derive(Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    application: String,
    #[serde(default)]
    return_to: String,
    #[serde(default)]
    browser: String,
}

#[derive(Deserialize)]
pub(super) struct Brought {
    #[serde(default)]
    code: String,
    #[serde(default)]
    return_to: String,
}

/// At the application: off to the login.
pub(super) async fn start(State(app): State<App>, headers: HeaderMap) -> ApiResult<Response> {
    let application = applications::asked_at(&app, &headers)?.ok_or_else(ApiError::not_found)?;
    if !is_meant(&headers) {
        return Ok(in_words("Open this page itself to sign in."));
    }
    let kept = cookies::read(&headers, application, Name::Start).and_then(bytes);
    // One for all tabs that are on their way.
    let start = kept.unwrap_or_else(|| {
        let mut fresh = [0; 32];
        app.book().entropy().fill(&mut fresh);
        fresh
    });
    let asked = headers.get(ORIGINAL_URI).and_then(|uri| uri.to_str().ok()).unwrap_or_default();
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("application", application.origin())
        .append_pair("return_to", back(asked))
        .append_pair("browser", &text(&hash(&start)))
        .finish();
    let to = format!("{}{}?{query}", app.settings().public_url, paths::HAND_OVER);
    let mut set = SetCookies::default();
    set.set(application, Name::Start, &text(&start), Some(START_KEPT));
    Ok(sent(&to, set))
}

/// At the login: back with a code, after signing in where that is needed.
pub(super) async fn hand_over(
    State(app): State<App>,
    visit: Visit,
    headers: HeaderMap,
    Query(wanted): Query<Wanted>,
) -> PageResult {
    let application = applications::named(&app, &wanted.application);
    let application = application.ok_or_else(ApiError::not_found)?;
    let browser: BrowserHash = bytes(&wanted.browser).ok_or_else(|| {
        ApiError::new(Kind::MalformedRequest, "Open the application, and not this address.")
    })?;
    if !is_meant(&headers) {
        return Err(ApiError::new(
            Kind::Forbidden,
            "Nobody is handed over in a frame, or by a page that is fetched ahead of being asked for.",
        )
        .into());
    }
    let identity = visit.identity(&app)?;
    let (user, session) = (identity.user_id, identity.session_id);
    let made = app.book().hand_over(application.origin(), &browser, user, session).await;
    let code = made.map_err(ApiError::from)?;
    tracing::info!(
        %session,
        application = application.origin(),
        "session {session} was handed over to {application}"
    );
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("code", &code)
        .append_pair("return_to", back(&wanted.return_to))
        .finish();
    Ok(sent(&format!("{application}{CALLBACK}?{query}"), SetCookies::default()))
}

/// At the application again: the code for its cookie, and on to what was asked for.
pub(super) async fn callback(
    State(app): State<App>,
    headers: HeaderMap,
    Query(brought): Query<Brought>,
) -> ApiResult<Response> {
    let application = applications::asked_at(&app, &headers)?.ok_or_else(ApiError::not_found)?;
    if !is_meant(&headers) {
        return Ok(in_words("Open this page itself to sign in."));
    }
    let mut set = SetCookies::default();
    match redeem(&app, application, &headers, &brought.code).await {
        Ok(token) => {
            let lasting = token.expires_at - app.now();
            set.set(application, Name::Application, &token.token, Some(lasting));
        }
        // What was asked for sends the browser to the login, where it is told so.
        Err(HandOverError::Ended(_)) => {}
        // The address of a code that was good is asked for again by "back" and "reload".
        Err(HandOverError::Invalid)
            if applications::identity(&app, application, &headers).await.is_ok() => {}
        Err(HandOverError::Invalid) => {
            return Ok(in_words(
                "You could not be signed in here: this address is good once, for a minute, and in the browser that asked \
                 for it, which has to keep cookies. Open the application again.",
            ));
        }
        Err(HandOverError::Storage(error)) => return Err(error.into()),
    }
    Ok(sent(back(&brought.return_to), set))
}

async fn redeem(
    app: &App,
    application: &PublicUrl,
    headers: &HeaderMap,
    code: &str,
) -> Result<commands::tokens::AccessToken, HandOverError> {
    let start = cookies::read(headers, application, Name::Start).and_then(bytes);
    let start = start.ok_or(HandOverError::Invalid)?;
    app.book().redeem_hand_over(application.origin(), &hash(&start), code).await
}

/// Whether a browser opens this as a page, as far as it says. What it fetches ahead, nobody has asked for yet; and in a
/// frame of another page nobody sees what is done. (Fetch Metadata; Speculation Rules, `Sec-Purpose`.)
fn is_meant(headers: &HeaderMap) -> bool {
    let says = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let ahead = ["sec-purpose", "purpose", "x-moz"]
        .into_iter()
        .any(|name| says(name).is_some_and(|purpose| purpose.contains("prefetch")));
    !ahead && says("sec-fetch-dest").is_none_or(|dest| dest == "document")
}

/// The address at the application to come back to: with its query where that is short, and of that host in any case.
fn back(asked: &str) -> &str {
    let short = |text: &&str| text.len() <= MAX_RETURN;
    let path = asked.split_once('?').map_or(asked, |(path, _)| path);
    [asked, path].into_iter().filter(short).find_map(local_path).unwrap_or("/")
}

/// See other (303). No address on this way is told to the next.
fn sent(to: &str, set: SetCookies) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(to) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    set.add_to(headers);
    response
}

/// At an application's host the pages have neither their style sheet nor their links.
fn in_words(words: &'static str) -> Response {
    let mut response = (StatusCode::BAD_REQUEST, words).into_response();
    let headers = response.headers_mut();
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn hash(start: &[u8; 32]) -> BrowserHash {
    Sha256::digest(start).into()
}

fn text(bytes: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_stays_at_the_application() {
        assert_eq!(back("/reports/7?year=2026"), "/reports/7?year=2026");
        let long = format!("/reports/7?year={}", "2".repeat(MAX_RETURN));
        assert_eq!(back(&long), "/reports/7");
        for elsewhere in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/a//b"]
        {
            assert_eq!(back(elsewhere), "/", "{elsewhere}");
        }
        assert_eq!(back(&"/a".repeat(MAX_RETURN)), "/");
    }

    #[test]
    fn the_longest_way_back_fits_into_the_sign_in_page() {
        // Each byte takes three in the query. An origin has a host name of 253 bytes at most.
        let worst = format!("/?{}", "&".repeat(MAX_RETURN - 2));
        let encode = |name: &str, value: &str| {
            form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish()
        };
        let asked = format!(
            "{}?application={}&{}&browser={}",
            paths::HAND_OVER,
            "a".repeat(280),
            encode("return_to", back(&worst)),
            text(&[0; 32])
        );
        assert!(asked.contains("%26%26"));
        assert_eq!(local_path(&asked), Some(asked.as_str()), "{} bytes", asked.len());
    }
}
