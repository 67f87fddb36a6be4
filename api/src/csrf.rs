//! Against requests that another site makes a browser send (CSRF).
//!
//! Two defences, each enough alone. A request that changes something on the strength of a cookie
//! must come from this origin, which browsers tell in `Sec-Fetch-Site` and `Origin`; and every form
//! of a page sends back a token that only this origin can have read. Cookies are `SameSite=Lax` too.

use axum::http::{HeaderMap, Method, header};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use commands::clock::Entropy;
use domain::SessionId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{
    problem::{ApiError, ApiResult, Kind},
    settings::PublicUrl,
};

/// Makes and checks the tokens of forms.
pub struct CsrfKey(Zeroizing<[u8; 32]>);

/// What a form's token is bound to.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// Somebody who is signed in.
    Session(SessionId),
    /// A visit before signing in: the random value of its cookie.
    Visit(&'a str),
}

impl CsrfKey {
    #[must_use]
    pub fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        Self(secret)
    }

    /// The token that a form sends back.
    #[must_use]
    pub fn token(&self, bound: Bound<'_>) -> String {
        let message = match bound {
            Bound::Session(id) => format!("session:{id}"),
            Bound::Visit(value) => format!("visit:{value}"),
        };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.0.as_slice()) else {
            // HMAC takes keys of any length (RFC 2104), so this is never reached.
            return String::new();
        };
        mac.update(message.as_bytes());
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// Whether a form's token is the one of this visit. In constant time.
    #[must_use]
    pub fn accepts(&self, bound: Bound<'_>, token: &str) -> bool {
        let expected = self.token(bound);
        !expected.is_empty() && bool::from(expected.as_bytes().ct_eq(token.as_bytes()))
    }
}

/// A fresh value for the cookie of a visit.
#[must_use]
pub fn fresh_visit(entropy: &dyn Entropy) -> String {
    let mut bytes = [0; 24];
    entropy.fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Refuses what another site made the browser send.
///
/// As in Go's `http.CrossOriginProtection`: `Sec-Fetch-Site` decides where it is sent (browsers send
/// it to https and localhost), else `Origin` must be ours or name the host that was asked. Without
/// either, no browser of today sent it, and what is no browser has no cookies of somebody else.
pub fn same_origin(method: &Method, headers: &HeaderMap, public_url: &PublicUrl) -> ApiResult<()> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let ours = match (text("sec-fetch-site"), text("origin")) {
        (Some("same-origin" | "none"), _) | (None, None) => true,
        (Some(_), Some(origin)) => origin == public_url.origin(),
        (Some(_), None) => false,
        (None, Some(origin)) => {
            let host = origin.split_once("://").map(|(_, host)| host);
            origin == public_url.origin() || (host.is_some() && host == text(header::HOST.as_str()))
        }
    };
    if ours {
        return Ok(());
    }
    Err(ApiError::new(
        Kind::CrossSite,
        "This was sent by a page of another site on the strength of a cookie. Send it from a page of this one, or \
         with an access token in the Authorization header.",
    ))
}

/// Whether a browser says that a page of another origin made it send this: one of another site, or of another
/// host of this one. Such a page can send people anywhere, in a link or unseen, with their cookies.
///
/// What says nothing counts as meant: programs, and browsers from before 2023 or where neither https nor
/// localhost is asked.
#[must_use]
pub fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    headers
        .get("sec-fetch-site")
        .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_visit_alone() {
        let key = CsrfKey::new(Zeroizing::new([7; 32]));
        let session = Bound::Session(SessionId(Uuid::from_u128(1)));
        let token = key.token(session);
        assert!(key.accepts(session, &token));
        assert!(!key.accepts(Bound::Session(SessionId(Uuid::from_u128(2))), &token));
        assert!(!key.accepts(Bound::Visit("00000000-0000-0000-0000-000000000001"), &token));
        assert!(!key.accepts(session, ""));
        assert!(!CsrfKey::new(Zeroizing::new([8; 32])).accepts(session, &token));
    }

    fn check(lines: &[(&'static str, &'static str)]) -> bool {
        let headers = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let public_url = PublicUrl::parse("https://login.example.org").unwrap();
        same_origin(&Method::POST, &headers, &public_url).is_ok()
    }

    #[test]
    fn requests_of_other_origins_are_refused() {
        assert!(check(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "https://login.example.org")
        ]));
        assert!(check(&[("origin", "https://login.example.org")]));
        assert!(check(&[("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080")]));
        assert!(check(&[]));
        assert!(!check(&[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")]));
        assert!(!check(&[
            ("sec-fetch-site", "same-site"),
            ("origin", "https://other.example.org")
        ]));
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("origin", "https://evil.example"), ("host", "login.example.org")]));
        assert!(!check(&[("origin", "null"), ("host", "login.example.org")]));
        assert!(!check(&[("origin", "https://login.example.org.evil.example")]));
    }

    #[test]
    fn reading_is_not_changing() {
        let headers = HeaderMap::from_iter([(
            header::ORIGIN,
            HeaderValue::from_static("https://evil.example"),
        )]);
        assert!(
            same_origin(&Method::GET, &headers, &PublicUrl::parse("https://a.org").unwrap())
                .is_ok()
        );
    }
}
