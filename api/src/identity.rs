//! Who asks, proved by an access token: from the `Authorization` header, or from a page's cookie.
//!
//! No database is asked. The token's signature and times are checked, and the ends and changes that
//! this replica knows of (`projections::Revocations`). While it can't know them, at its start and when
//! the database is away, nobody is let in: a token that was revoked must not work because of that.

use axum::{
    extract::{FromRef, FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, header, request::Parts},
};
use commands::tokens::{AccessClaims, TokenProblem};
use domain::{Kept, Role, Roles, SessionId, UserId};
use projections::Verdict;

use crate::{
    asker::{self, Asker},
    cookies::{self, Name},
    csrf,
    problem::{ApiError, ApiResult, Kind},
    state::App,
};

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub user_id: UserId,
    pub session_id: SessionId,
    /// The version of the account that it was proved for: what cuts sessions off later has a larger one.
    pub user_version: u64,
    pub roles: Roles,
    /// Whether the browser proved it by itself, so that the request may be another site's wish.
    pub via_cookie: bool,
    /// Whether a browser did so for a page that is not of this origin: a link, a picture, a frame. What such a
    /// request leaves behind, its person may not have meant.
    pub from_elsewhere: bool,
}

/// Somebody who may read the whole history.
#[derive(Debug, Clone)]
pub struct Auditor(pub Identity);

/// Somebody who manages accounts.
#[derive(Debug, Clone)]
pub struct Admin(pub Identity);

impl Identity {
    /// This session, where all others of the account are to end.
    #[must_use]
    pub fn kept(&self) -> Kept {
        Kept { session: self.session_id, version: self.user_version }
    }

    #[must_use]
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whom an access token belongs to.
    pub async fn of_token(app: &App, token: &str, via_cookie: bool) -> ApiResult<Self> {
        let claims = app.book().tokens().verify(token).await.map_err(refused)?;
        Self::of_claims(app, claims, via_cookie)
    }

    /// The same for what a token says whose signature, audience and times are right.
    pub fn of_claims(app: &App, claims: AccessClaims, via_cookie: bool) -> ApiResult<Self> {
        if !app.revocations().is_ready() {
            return Err(ApiError::token_not_known(
                "Which sessions have ended is not known at this moment, because the database cannot be reached or what \
                 happened meanwhile is still being read. Try again in a moment.",
            ));
        }
        match app.revocations().check(claims.sid, claims.sub, claims.uv) {
            Verdict::Valid { roles } => {
                asker::is(Asker { user: claims.sub, session: claims.sid });
                Ok(Self {
                    user_id: claims.sub,
                    session_id: claims.sid,
                    user_version: claims.uv,
                    roles: roles.unwrap_or_else(|| claims.role.into_iter().collect()),
                    via_cookie,
                    from_elsewhere: false,
                })
            }
            Verdict::Revoked => {
                Err(ApiError::invalid_token("the session of this token has ended; sign in again"))
            }
            Verdict::Unknown => Err(ApiError::token_not_known(
                "The account has changed, and how it stands now is still being read. Try again in a moment.",
            )),
        }
    }

    /// Whom a request comes from. A token in the header counts alone: a wrong one is never made good
    /// by a cookie.
    pub async fn of_request(app: &App, headers: &HeaderMap) -> ApiResult<Self> {
        match bearer(headers)? {
            Some(token) => Self::of_token(app, token, false).await,
            None => match cookies::read(headers, &app.settings().public_url, Name::Access) {
                Some(token) => {
                    let identity = Self::of_token(app, token, true).await?;
                    Ok(Self { from_elsewhere: csrf::is_from_elsewhere(headers), ..identity })
                }
                None => Err(ApiError::not_signed_in()),
            },
        }
    }
}

/// The answer to a token that is not accepted.
#[must_use]
pub fn refused(problem: TokenProblem) -> ApiError {
    ApiError::invalid_token(match problem {
        TokenProblem::Malformed => "this is no access token",
        TokenProblem::UnknownKey => "the token was signed with a key that is not ours",
        TokenProblem::BadSignature => "the token's signature is wrong",
        TokenProblem::WrongAudience => "the token was made for another service",
        TokenProblem::Expired => "the token has expired; refresh it or sign in again",
    })
}

/// Whether who follows what is told bit by bit may still do so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    Yes,
    No,
    /// That is not known at the moment: they are told nothing until it is.
    Unknown,
}

impl Welcome {
    /// Whether a request that was let in would be so again, from somebody with this role.
    pub async fn with_role(app: App, headers: HeaderMap, role: Role) -> Self {
        match Identity::of_request(&app, &headers).await {
            Ok(identity) if identity.is(role) => Self::Yes,
            Ok(_) => Self::No,
            Err(error) if error.status().is_client_error() => Self::No,
            // While the database is away, the ends of sessions are not known, and it comes back.
            Err(_) => Self::Unknown,
        }
    }
}

/// The token of an `Authorization` header (RFC 6750, section 2.1), if there is one.
pub fn bearer(headers: &HeaderMap) -> ApiResult<Option<&str>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token =
        value.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
        });
    match token {
        Some(token) if !token.is_empty() && values.next().is_none() => Ok(Some(token)),
        _ => Err(ApiError::invalid_token("send one access token, as Bearer and the token")),
    }
}

impl<S> FromRequestParts<S> for Identity
where
    App: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let app = App::from_ref(state);
        let identity = Self::of_request(&app, &parts.headers).await?;
        if identity.via_cookie {
            csrf::same_origin(&parts.method, &parts.headers, &app.settings().public_url)?;
        }
        Ok(identity)
    }
}

/// Nobody, where no token is sent; a wrong token is still refused.
impl<S> OptionalFromRequestParts<S> for Identity
where
    App: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Option<Self>> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(identity) => Ok(Some(identity)),
            Err(error) if error.kind == Kind::NotSignedIn => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl<S> FromRequestParts<S> for Auditor
where
    App: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        with_role(parts, state, Role::Auditor).await.map(Self)
    }
}

impl<S> FromRequestParts<S> for Admin
where
    App: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        with_role(parts, state, Role::Admin).await.map(Self)
    }
}

async fn with_role<S>(parts: &mut Parts, state: &S, role: Role) -> ApiResult<Identity>
where
    App: FromRef<S>,
    S: Sync,
{
    let identity = <Identity as FromRequestParts<S>>::from_request_parts(parts, state).await?;
    if identity.is(role) { Ok(identity) } else { Err(lacks(role)) }
}

/// The refusal for want of a role.
#[must_use]
pub fn lacks(role: Role) -> ApiError {
    ApiError::new(
        Kind::Forbidden,
        match role {
            Role::User => "This needs the role user.",
            Role::Auditor => "This needs the role auditor; an admin can grant it.",
            Role::Admin => "This needs the role admin; another admin can grant it.",
        },
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_bearer_token_is_read_as_rfc_6750_writes_it() {
        let token = |text: &'static str| {
            let headers =
                HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(text))]);
            bearer(&headers).map(|token| token.map(str::to_owned)).map_err(|error| error.kind)
        };
        assert_eq!(token("Bearer abc"), Ok(Some("abc".into())));
        assert_eq!(token("bearer  abc "), Ok(Some("abc".into())));
        assert_eq!(token("Basic abc"), Err(Kind::InvalidToken));
        assert_eq!(token("Bearer"), Err(Kind::InvalidToken));
        assert_eq!(token("Bearer "), Err(Kind::InvalidToken));
        assert_eq!(bearer(&HeaderMap::new()).unwrap(), None);
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(bearer(&twice).is_err());
    }
}
