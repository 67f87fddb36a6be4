//! Every answer that says no: one error type, and the `application/problem+json` it becomes (RFC 9457).
//!
//! A handler returns an [`ApiError`]; [`crate::layers`] writes it out, because it knows the request
//! id and whether a program or a person in a browser asked. What went wrong inside never reaches
//! the answer: it goes to the log, with the request id that the answer names.

use std::{borrow::Cow, error::Error, sync::Arc, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use commands::{Budget, OverBudget, Spender, StorageError};
use domain::{IdentifierKind, InvalidValue};
use serde::Serialize;
use utoipa::ToSchema;

/// The kinds of problems. Their names are stable: clients may decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    MalformedRequest,
    NotSignedIn,
    InvalidToken,
    WrongCredentials,
    InvalidRefreshToken,
    SessionEnded,
    Forbidden,
    CrossSite,
    OpenedElsewhere,
    RegistrationClosed,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    IdentifierTaken,
    NotYourself,
    LastAdmin,
    BuildUnderWay,
    NoBuild,
    AccountDisabled,
    Contended,
    TooLarge,
    HeadTooLarge,
    UnsupportedMediaType,
    InvalidInput,
    WrongPassword,
    TooManyAttempts,
    OverBudget,
    Internal,
    Unavailable,
    ProjectionBuilding,
    ProjectionBehind,
    Overloaded,
}

impl Kind {
    /// By which programs and the log tell it from others.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.parts().1
    }

    /// Status, name and title, side by side.
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::MalformedRequest => {
                (StatusCode::BAD_REQUEST, "malformed-request", "The request could not be read")
            }
            Self::NotSignedIn => (StatusCode::UNAUTHORIZED, "not-signed-in", "Not signed in"),
            Self::InvalidToken => {
                (StatusCode::UNAUTHORIZED, "invalid-token", "The access token is not valid")
            }
            Self::WrongCredentials => {
                (StatusCode::UNAUTHORIZED, "wrong-credentials", "Wrong credentials")
            }
            Self::InvalidRefreshToken => (
                StatusCode::UNAUTHORIZED,
                "invalid-refresh-token",
                "The refresh token is not valid",
            ),
            Self::SessionEnded => {
                (StatusCode::UNAUTHORIZED, "session-ended", "The session has ended")
            }
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::OpenedElsewhere => {
                (StatusCode::FORBIDDEN, "opened-elsewhere", "Another site has opened this")
            }
            Self::CrossSite => {
                (StatusCode::FORBIDDEN, "cross-site-request", "The request came from another site")
            }
            Self::RegistrationClosed => {
                (StatusCode::FORBIDDEN, "registration-closed", "Registration is closed")
            }
            Self::NotFound => (StatusCode::NOT_FOUND, "not-found", "There is nothing here"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "That cannot be done here")
            }
            Self::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request-timeout", "The request took too long")
            }
            Self::IdentifierTaken => (StatusCode::CONFLICT, "identifier-taken", "Already taken"),
            Self::NotYourself => (StatusCode::CONFLICT, "not-yourself", "Not on your own account"),
            Self::LastAdmin => (StatusCode::CONFLICT, "last-admin", "One admin must remain"),
            Self::BuildUnderWay => {
                (StatusCode::CONFLICT, "build-under-way", "It is being built already")
            }
            Self::NoBuild => (StatusCode::CONFLICT, "no-build-under-way", "It is not being built"),
            Self::AccountDisabled => {
                (StatusCode::CONFLICT, "account-disabled", "The account is disabled")
            }
            Self::Contended => {
                (StatusCode::CONFLICT, "changed-meanwhile", "Changed by somebody else meanwhile")
            }
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large")
            }
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "The request's head is too large",
            ),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The body is of another type",
            ),
            Self::InvalidInput => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", "Some values cannot be taken")
            }
            Self::WrongPassword => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "wrong-password",
                "The current password is another one",
            ),
            Self::TooManyAttempts => {
                (StatusCode::TOO_MANY_REQUESTS, "too-many-attempts", "Too many attempts")
            }
            Self::OverBudget => (StatusCode::TOO_MANY_REQUESTS, "over-budget", "Too many changes"),
            Self::Internal => {
                (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong on our side")
            }
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available just now")
            }
            Self::ProjectionBuilding => (
                StatusCode::SERVICE_UNAVAILABLE,
                "projection-building",
                "Being put together just now",
            ),
            Self::ProjectionBehind => {
                (StatusCode::SERVICE_UNAVAILABLE, "projection-behind", "Behind the book just now")
            }
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too busy just now")
            }
        }
    }

    #[must_use]
    pub fn status(self) -> StatusCode {
        self.parts().0
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as it is called in the request.
    #[schema(example = "username")]
    pub field: String,
    /// What is wrong with it, and what would be right.
    #[schema(example = "a username has 3 to 50 characters")]
    pub detail: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, detail: impl ToString) -> Self {
        Self { field: field.into(), detail: detail.to_string() }
    }
}

/// The body of every answer from 400 on (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Which problem it is; stable.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/problems/invalid-input")]
    pub kind: String,
    /// The same in few words.
    #[schema(example = "Some values cannot be taken")]
    pub title: &'static str,
    /// The status code of the answer.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    pub status: u16,
    /// What to do about it.
    pub detail: String,
    /// The id under which the request is in the log and in the history.
    pub request_id: String,
    /// The fields that could not be taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub errors: Vec<FieldError>,
}

/// Why a request was not done.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub struct ApiError {
    pub kind: Kind,
    pub detail: Cow<'static, str>,
    pub errors: Vec<FieldError>,
    /// After how many seconds trying again may help.
    pub retry_after: Option<u64>,
    /// What went wrong inside: for the log alone.
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), retry_after: None, cause: None }
    }

    /// Something that should not have happened. The answer says nothing of it.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let detail = "Nothing is known to be lost. If it happens again, tell an administrator the request id.";
        Self { cause: Some(Arc::from(cause.into())), ..Self::new(Kind::Internal, detail) }
    }

    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let detail = "The database cannot be reached. Try again in a moment; if the request was to change \
                      something, look first whether it did.";
        Self {
            retry_after: Some(2),
            cause: Some(Arc::from(cause.into())),
            ..Self::new(Kind::Unavailable, detail)
        }
    }

    /// Whether a token still counts is not known at this moment. Nothing was looked at nor changed.
    pub fn token_not_known(detail: &'static str) -> Self {
        Self { retry_after: Some(2), ..Self::new(Kind::Unavailable, detail) }
    }

    pub fn overloaded() -> Self {
        let detail = "More is asked of the server than it can do at once. Nothing was changed; try again in a moment.";
        Self { retry_after: Some(1), ..Self::new(Kind::Overloaded, detail) }
    }

    /// What is asked for is read from a projection that is built for the first time.
    pub fn projection_building(projection: &str) -> Self {
        let detail = format!(
            "The projection {projection}, from which this is read, is being built for the first time. Signing in goes \
             on meanwhile; try again in a moment."
        );
        Self { retry_after: Some(5), ..Self::new(Kind::ProjectionBuilding, detail) }
    }

    /// What is asked for may be told by lines that a projection does not show yet.
    pub fn projection_behind(projection: &str, reached: i64, needed: i64) -> Self {
        let detail = format!(
            "The projection {projection}, from which this is read, shows the book up to line {reached} so far, and this \
             takes line {needed}. Try again in a moment; how somebody was as of a line up to {reached} can be told \
             already. If it stays so, an administrator finds why at Projections."
        );
        Self { retry_after: Some(5), ..Self::new(Kind::ProjectionBehind, detail) }
    }

    pub fn not_found() -> Self {
        Self::new(Kind::NotFound, "There is nothing at this address, or it is not yours to see.")
    }

    pub fn not_signed_in() -> Self {
        Self::new(
            Kind::NotSignedIn,
            "Send an access token as `Authorization: Bearer …`; POST /api/v1/auth/login gives one.",
        )
    }

    pub fn invalid_token(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidToken, detail)
    }

    /// Somebody, or an address, has made the history grow faster than people do.
    pub fn over_budget(over: OverBudget) -> Self {
        let OverBudget { budget, spender, retry_after } = over;
        let what = match budget {
            Budget::Changes => "profile changes",
            Budget::SignIns => "sign-ins",
            Budget::Refreshes => "refreshes",
            Budget::SessionCuts => "requests to end all other sessions",
            Budget::Passwords => "password changes",
            Budget::Administration => "changes of other accounts",
        };
        let whose = match spender {
            Spender::Person | Spender::Stream => "by this account",
            Spender::Address => "from your address",
        };
        let seconds = whole_seconds(retry_after);
        let detail = format!(
            "There were too many {what} {whose} within the hour, so nothing was changed. Wait {seconds} seconds, then try again. Sessions that are \
             open already go on, and they can be ended."
        );
        Self { retry_after: Some(seconds), ..Self::new(Kind::OverBudget, detail) }
    }

    pub fn throttled(retry_after: Duration) -> Self {
        let seconds = whole_seconds(retry_after);
        let detail = format!(
            "Wait {seconds} seconds, then try again. Sessions that are open already go on."
        );
        Self { retry_after: Some(seconds), ..Self::new(Kind::TooManyAttempts, detail) }
    }

    /// Values that can't be taken, each with its field.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Self {
            errors,
            ..Self::new(
                Kind::InvalidInput,
                "Correct the fields named in `errors`, and send it again.",
            )
        }
    }

    pub fn invalid_field(field: &str, detail: impl ToString) -> Self {
        Self::invalid(vec![FieldError::new(field, detail)])
    }

    pub fn taken(kind: IdentifierKind) -> Self {
        let field = kind.as_str();
        let detail = match kind {
            IdentifierKind::Email => {
                "another account has this e-mail address; sign in to it, or give another"
            }
            IdentifierKind::Username => "another account has this username; choose another",
        };
        Self {
            errors: vec![FieldError::new(field, detail)],
            ..Self::new(
                Kind::IdentifierTaken,
                "Choose another value for the field named in `errors`.",
            )
        }
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.kind.status()
    }

    /// The body, for programs.
    #[must_use]
    pub fn body(&self, request_id: &str) -> ProblemBody {
        let (status, name, title) = self.kind.parts();
        ProblemBody {
            kind: format!("/problems/{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail.clone().into_owned(),
            request_id: request_id.to_owned(),
            errors: self.errors.clone(),
        }
    }

    /// The whole answer, for programs.
    #[must_use]
    pub fn into_problem(self, request_id: &str) -> Response {
        let mut response = (self.status(), Json(self.body(request_id))).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.add_headers(&mut response);
        response
    }

    /// The headers that belong to the status, whatever the body is.
    pub fn add_headers(&self, response: &mut Response) {
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge() {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if self.kind == Kind::RequestTimeout {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// The challenge of a 401 (RFC 6750, section 3): bare where no token was sent.
    fn challenge(&self) -> Option<HeaderValue> {
        if self.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        let bare = HeaderValue::from_static(r#"Bearer realm="entrybook""#);
        if self.kind != Kind::InvalidToken {
            return Some(bare);
        }
        // RFC 6750 allows %x20-21 / %x23-5B / %x5D-7E in the description.
        let allowed = |c: &char| matches!(*c, ' '..='!' | '#'..='[' | ']'..='~');
        let description: String = self.detail.chars().filter(allowed).collect();
        let text = format!(
            r#"Bearer realm="entrybook", error="invalid_token", error_description="{description}""#
        );
        Some(HeaderValue::from_str(&text).unwrap_or(bare))
    }
}

/// Leaves the error for [`crate::layers`] to write out.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// Rounded up, and never none: a client that waits so long is let in.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// While servers are being upgraded, a request may reach a newer one next. In seconds.
const NEWER_RETRY: u64 = 5;

/// The value of a field, or what is wrong with it.
pub fn field<T>(
    name: &str,
    parsed: Result<T, InvalidValue>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    parsed.map_err(|invalid| errors.push(FieldError::new(name, invalid))).ok()
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::OverBudget(over) => Self::over_budget(over),
            StorageError::Contended => Self {
                retry_after: Some(1),
                ..Self::new(
                    Kind::Unavailable,
                    "Others change the same thing all the time. Nothing was changed; try again in a moment.",
                )
            },
            error @ StorageError::Newer { .. } => Self {
                retry_after: Some(NEWER_RETRY),
                cause: Some(Arc::new(error)),
                ..Self::new(
                    Kind::Unavailable,
                    "What was asked for was written by a newer version of Entrybook than this server. \
                     Nothing was changed; upgrade this server, or ask one that is upgraded.",
                )
            },
            error if error.is_temporary() => Self::unavailable(error),
            error => Self::internal(error),
        }
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        StorageError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_kind_its_fields_and_its_request() {
        let error = ApiError::taken(IdentifierKind::Username);
        insta::assert_json_snapshot!(error.body("r-1"), @r#"
        {
          "type": "/problems/identifier-taken",
          "title": "Already taken",
          "status": 409,
          "detail": "Choose another value for the field named in `errors`.",
          "request_id": "r-1",
          "errors": [
            {
              "field": "username",
              "detail": "another account has this username; choose another"
            }
          ]
        }
        "#);
    }

    #[test]
    fn the_cause_of_a_fault_stays_inside() {
        let error = ApiError::internal("password=hunter2 in table users");
        let response = error.clone().into_problem("r-1");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(!serde_json::to_string(&error.body("r-1")).unwrap().contains("hunter2"));
    }

    #[test]
    fn a_challenge_is_bare_until_a_token_was_sent() {
        let challenge = |error: ApiError| {
            let response = error.into_problem("r");
            response.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned()
        };
        assert_eq!(challenge(ApiError::not_signed_in()), r#"Bearer realm="entrybook""#);
        assert_eq!(
            challenge(ApiError::invalid_token("the \"token\" has expired")),
            r#"Bearer realm="entrybook", error="invalid_token", error_description="the token has expired""#
        );
        assert_eq!(
            challenge(ApiError::new(Kind::WrongCredentials, "x")),
            r#"Bearer realm="entrybook""#
        );
    }

    #[test]
    fn a_budget_that_is_used_up_says_whose_and_until_when() {
        let error = ApiError::from(StorageError::from(OverBudget {
            budget: Budget::Changes,
            spender: Spender::Person,
            retry_after: Duration::from_millis(9_200),
        }));
        assert_eq!(error.retry_after, Some(10));
        insta::assert_json_snapshot!(error.body("r-1"), @r#"
        {
          "type": "/problems/over-budget",
          "title": "Too many changes",
          "status": 429,
          "detail": "There were too many profile changes by this account within the hour, so nothing was changed. Wait 10 seconds, then try again. Sessions that are open already go on, and they can be ended.",
          "request_id": "r-1"
        }
        "#);
        let response = error.into_problem("r");
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "10");
    }

    #[test]
    fn waiting_is_told_in_whole_seconds_rounded_up() {
        let response = ApiError::throttled(Duration::from_millis(1_200)).into_problem("r");
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
    }
}
