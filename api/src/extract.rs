//! Reading requests strictly: what can't be taken is refused with a sentence, and never guessed at.
//!
//! JSON and forms are bounded in size and time, by `bodies`. A body is first read as what it is (400 when it
//! isn't), then as what is asked for (422 with the field). Fields that nobody knows are refused,
//! because a misspelt `remember_me` that is quietly ignored helps nobody.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{ApiError, ApiResult, FieldError, Kind};

/// The most bytes of a body.
pub const MAX_BODY: usize = 64 * 1024;
/// The most bytes of a refused body that are read, so that the client hears why it was refused.
const MAX_DRAINED: usize = 16 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

/// A body of `application/x-www-form-urlencoded`.
#[derive(Debug)]
pub struct Form<T>(pub T);

/// A JSON body or none at all: then the default.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

/// The query.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// The one parameter of the path, as an id.
#[derive(Debug)]
pub struct Id(pub uuid::Uuid);

/// What a body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    Json,
    Form,
    None,
    Other,
}

impl MediaType {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Self::None };
        let Ok(text) = value.to_str() else { return Self::Other };
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let utf8 = parts.filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                value.trim_matches('"').eq_ignore_ascii_case("utf-8")
            }
            _ => true,
        });
        match essence {
            _ if !utf8 => Self::Other,
            essence if essence.eq_ignore_ascii_case("application/json") => Self::Json,
            essence if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") => {
                Self::Form
            }
            _ => Self::Other,
        }
    }
}

impl<T: DeserializeOwned, S> FromRequest<S> for Json<T>
where
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<Self> {
        if MediaType::of(request.headers()) != MediaType::Json {
            return Err(unsupported("Send the body as `Content-Type: application/json` (UTF-8)."));
        }
        let body = read_body(request).await?;
        parse_json(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Default, S> FromRequest<S> for OptionalJson<T>
where
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<Self> {
        let media_type = MediaType::of(request.headers());
        let body = read_body(request).await?;
        match media_type {
            MediaType::Json | MediaType::None if body.is_empty() => Ok(Self(T::default())),
            MediaType::Json if body.trim_ascii() == b"null" => Ok(Self(T::default())),
            MediaType::Json => parse_json(&body).map(Self),
            _ => Err(unsupported(
                "Send the body as `Content-Type: application/json` (UTF-8), or send none.",
            )),
        }
    }
}

impl<T: DeserializeOwned, S> FromRequest<S> for Form<T>
where
    S: Send + Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> ApiResult<Self> {
        if MediaType::of(request.headers()) != MediaType::Form {
            return Err(unsupported(
                "Send the body as `Content-Type: application/x-www-form-urlencoded`.",
            ));
        }
        let body = read_body(request).await?;
        parse_form(&body).map(Self)
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> ApiResult<Self> {
        parse_form(parts.uri.query().unwrap_or_default().as_bytes()).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let axum::extract::Path(text) =
            axum::extract::Path::<String>::from_request_parts(parts, state)
                .await
                .map_err(|_| ApiError::not_found())?;
        // One way to write an id, so that a log can be searched for it.
        let id = (text.len() == 36).then(|| text.parse().ok()).flatten();
        id.map(Self).ok_or_else(ApiError::not_found)
    }
}

fn unsupported(detail: &'static str) -> ApiError {
    ApiError::new(Kind::UnsupportedMediaType, detail)
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> ApiError {
    ApiError::new(Kind::MalformedRequest, detail)
}

/// The refusal of a body that is too large.
pub fn too_large() -> ApiError {
    ApiError::new(Kind::TooLarge, "Send a body of at most 64 KiB.")
}

/// The length that the request announces, if it does.
#[must_use]
pub fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads what a client goes on sending although it was refused, within bounds: one that is still
/// writing may never read the answer. One that waits for `100 Continue` has not begun.
pub async fn drain(headers: &HeaderMap, body: Body) {
    if headers.contains_key(header::EXPECT) {
        return;
    }
    let reading = async {
        let mut body = Limited::new(body, MAX_DRAINED);
        while let Some(Ok(_)) = body.frame().await {}
    };
    let _ = tokio::time::timeout(DRAIN_TIME, reading).await;
}

/// The whole body. `layers` has read it within the bounds of size and time, so nothing is waited for here.
async fn read_body(request: Request) -> ApiResult<Bytes> {
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(_) => Err(ended_early()),
    }
}

/// The refusal of a body that ended before its end.
pub(crate) fn ended_early() -> ApiError {
    malformed("The body ended before it was complete.")
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("Send the body in UTF-8."))?;
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        malformed(format!("The body is no JSON: look at line {line}, column {column}."))
    })?;
    if !value.is_object() {
        return Err(ApiError::invalid_field("", "send a JSON object"));
    }
    if let Some(field) = field_with_nul(&value) {
        return Err(ApiError::invalid_field(&field, "texts hold no NUL character"));
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(vec![field_error(&path, &inner_message(error.inner()))])
    })
}

/// serde_json's message without its position, which is no help in one line of JSON.
fn inner_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

/// What serde says of a field, with the field's name even where serde has it in the words alone.
fn field_error(path: &str, message: &str) -> FieldError {
    let named = ["missing field `", "unknown field `", "duplicate field `"]
        .into_iter()
        .find_map(|start| message.strip_prefix(start)?.split('`').next());
    let field = match (path, named) {
        ("." | "", Some(name)) => name.to_owned(),
        ("." | "", None) => String::new(),
        (path, _) => path.to_owned(),
    };
    // The offending value may be a password in the wrong place: it is never repeated.
    let detail = match message.rsplit_once(", expected ") {
        Some((wrong, expected)) if wrong.starts_with("invalid ") => format!("expected {expected}"),
        _ if message.starts_with("missing field") => "this field is required".to_owned(),
        _ if message.starts_with("unknown field") => "there is no such field here".to_owned(),
        _ if message.starts_with("duplicate field") => "this field is given twice".to_owned(),
        _ if message.starts_with("UUID parsing failed") => {
            "expected an id, 32 hexadecimal digits as 8-4-4-4-12".to_owned()
        }
        // What chrono says of a text that is no time.
        _ if [
            "premature end of input",
            "input contains",
            "input is out of range",
            "trailing input",
        ]
        .into_iter()
        .any(|start| message.starts_with(start)) =>
        {
            "expected a time such as 2026-01-31T12:00:00Z (RFC 3339)".to_owned()
        }
        Some((_, expected)) => format!("expected {expected}"),
        None => message.to_owned(),
    };
    FieldError { field, detail }
}

fn field_with_nul(value: &Value) -> Option<String> {
    let inside = |name: &str, value: &Value| {
        field_with_nul(value)
            .map(|path| if path.is_empty() { name.to_owned() } else { format!("{name}.{path}") })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| inside(&at.to_string(), item))
        }
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            if name.contains('\0') { Some(String::new()) } else { inside(name, field) }
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn parse_form<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    check_form(bytes)?;
    let text =
        std::str::from_utf8(bytes).map_err(|_| malformed("Percent-encode what is not ASCII."))?;
    let deserializer = serde_urlencoded::Deserializer::new(form_pairs(text));
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let path = error.path().to_string();
        ApiError::invalid(vec![field_error(&path, &error.inner().to_string())])
    })
}

fn form_pairs(text: &str) -> form_urlencoded::Parse<'_> {
    form_urlencoded::parse(text.as_bytes())
}

/// Whether a form or query is sound: the usual parsers replace what they can't read, and what is
/// stored would then not be what was sent.
fn check_form(bytes: &[u8]) -> ApiResult<()> {
    for part in bytes.split(|byte| matches!(byte, b'&' | b'=')) {
        let decoded = percent_decoded(part)
            .ok_or_else(|| malformed("A percent sign is followed by two hexadecimal digits."))?;
        let text = String::from_utf8(decoded).map_err(|_| malformed("Percent-encode UTF-8."))?;
        if text.contains('\0') {
            return Err(ApiError::invalid_field("", "texts hold no NUL character"));
        }
    }
    Ok(())
}

fn percent_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        rest = match rest {
            [] => return Some(out),
            [b'%', high, low, rest @ ..] => {
                out.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest
            }
            [b'%', ..] => return None,
            [byte, rest @ ..] => {
                out.push(*byte);
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, StatusCode};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: String,
        #[serde(default)]
        count: Option<u32>,
    }

    fn json(text: &[u8]) -> (StatusCode, Option<FieldError>) {
        let error = parse_json::<Body>(text).unwrap_err();
        (error.status(), error.errors.first().cloned())
    }

    fn unprocessable(field: &str, detail: &str) -> (StatusCode, Option<FieldError>) {
        (StatusCode::UNPROCESSABLE_ENTITY, Some(FieldError::new(field, detail)))
    }

    #[test]
    fn json_that_cannot_be_read_is_400() {
        let deep = format!("{{\"name\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            &b""[..],
            b"{",
            b"{\"name\":\"a\"} x",
            b"{\"name\":\"\xff\"}",
            b"{\"name\":\"\\ud800\"}",
            b"{\"name\":NaN}",
            deep.as_bytes(),
        ] {
            assert_eq!(
                json(text).0,
                StatusCode::BAD_REQUEST,
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
    }

    #[test]
    fn ids_and_times_that_are_none_are_told_what_would_be() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Asked {
            user: Option<uuid::Uuid>,
            from: Option<chrono::DateTime<chrono::Utc>>,
        }
        let expected = |text: &str| {
            let error = parse_form::<Asked>(text.as_bytes()).unwrap_err();
            error.errors.first().map(|error| error.detail.clone()).unwrap()
        };
        for text in ["user=ada", "user=0189-x", "user="] {
            assert!(expected(text).starts_with("expected an id"), "{text}: {}", expected(text));
        }
        for text in ["", "2026-11-29", "now", "2026-13-29T00:00:00Z", "2026-11-29T00:00:00Z%2B"] {
            let text = format!("from={text}");
            assert!(expected(&text).starts_with("expected a time such as"), "{text}");
        }
    }

    #[test]
    fn json_of_another_shape_is_422_with_the_field() {
        assert_eq!(json(b"{}"), unprocessable("name", "this field is required"));
        assert_eq!(json(br#"{"name":1}"#), unprocessable("name", "expected a string"));
        assert_eq!(json(br#"{"name":"a","count":-1}"#), unprocessable("count", "expected u32"));
        assert_eq!(
            json(br#"{"name":"a","nmae":"b"}"#),
            unprocessable("nmae", "there is no such field here")
        );
        assert_eq!(
            json(br#"{"name":"a","name":"b"}"#),
            unprocessable("name", "this field is given twice")
        );
        assert_eq!(
            json(br#"{"name":"a\u0000"}"#),
            unprocessable("name", "texts hold no NUL character")
        );
        assert_eq!(json(br#"["a", 1]"#), unprocessable("", "send a JSON object"));
        assert_eq!(json(b"null"), unprocessable("", "send a JSON object"));
    }

    #[test]
    fn a_refusal_never_repeats_what_was_sent() {
        let error = parse_json::<Body>(br#"{"name":{"hunter2":"hunter2"}}"#).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        let error = parse_form::<Body>(b"name=a&count=hunter2").unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn forms_are_read_strictly() {
        let form = |text: &[u8]| parse_form::<Body>(text);
        assert_eq!(
            form(b"name=a+b%20c&count=2").unwrap(),
            Body { name: "a b c".into(), count: Some(2) }
        );
        assert_eq!(form(b"name=a%zz").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(form(b"name=a%f").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(form(b"name=%ff").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(form(b"name=\xff").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(form(b"name=a%00").unwrap_err().status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(form(b"name=a&name=b").unwrap_err().status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(
            form(b"name=a&x=b").unwrap_err().errors,
            [FieldError::new("x", "there is no such field here")]
        );
        assert_eq!(
            form(b"").unwrap_err().errors,
            [FieldError::new("name", "this field is required")]
        );
    }

    #[test]
    fn a_media_type_is_compared_without_case_and_its_charset_matters() {
        let media_type = |text: &str| {
            let headers = HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                HeaderValue::from_str(text).unwrap(),
            )]);
            MediaType::of(&headers)
        };
        assert_eq!(media_type("application/json"), MediaType::Json);
        assert_eq!(media_type("Application/JSON; Charset=\"UTF-8\""), MediaType::Json);
        assert_eq!(media_type("application/json; charset=latin1"), MediaType::Other);
        assert_eq!(media_type("application/x-www-form-urlencoded"), MediaType::Form);
        assert_eq!(media_type("text/plain"), MediaType::Other);
        assert_eq!(media_type("application/jsonp"), MediaType::Other);
        assert_eq!(MediaType::of(&HeaderMap::new()), MediaType::None);
    }
}
