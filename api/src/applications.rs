//! Applications behind the proxy, each on a host name of its own (`ENTRYBOOK_APPLICATIONS`).
//!
//! The proxy says at which of them a request was made, in a header that it sets itself and lets no client set.
//! Whoever reaches this server past the proxy may claim any of them, and gains nothing: at an application the cookie
//! of that application counts, which its holder has to bring either way, and never a cookie or a token of the login.

use axum::http::HeaderMap;
use chrono::{DateTime, Utc};

use crate::{
    cookies::{self, Name},
    identity::{Identity, refused},
    problem::{ApiError, ApiResult, Kind},
    settings::PublicUrl,
    state::App,
};

/// Holds the origin of the application, as the setting writes it.
pub const HEADER: &str = "x-entrybook-application";

/// The application that a request was made at, if at any.
pub fn asked_at<'a>(app: &'a App, headers: &HeaderMap) -> ApiResult<Option<&'a PublicUrl>> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let listed = value.to_str().ok().and_then(|origin| named(app, origin));
    match (listed, values.next()) {
        (Some(application), None) => Ok(Some(application)),
        _ => Err(ApiError::new(
            Kind::Forbidden,
            "The proxy names an application that is not known here. ENTRYBOOK_APPLICATIONS has to list its origin.",
        )),
    }
}

/// The application of this origin, if it is one of ours.
#[must_use]
pub fn named<'a>(app: &'a App, origin: &str) -> Option<&'a PublicUrl> {
    app.settings().applications.iter().find(|application| application.origin() == origin)
}

/// Who is signed in at the application, by its cookie alone, and until when that cookie is good.
pub async fn identity(
    app: &App,
    application: &PublicUrl,
    headers: &HeaderMap,
) -> ApiResult<(Identity, DateTime<Utc>)> {
    let token = cookies::read(headers, application, Name::Application)
        .ok_or_else(ApiError::not_signed_in)?;
    let tokens = app.book().tokens();
    let claims =
        tokens.verify_for_application(application.origin(), token).await.map_err(refused)?;
    let until = DateTime::from_timestamp(claims.exp, 0).unwrap_or_else(|| app.now());
    Ok((Identity::of_claims(app, claims, true)?, until))
}
