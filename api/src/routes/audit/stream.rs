//! The history as it is written, for auditors.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::Response,
};
use domain::Role;
use projections::audit_history;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{EventType, HistoryQuery, LineView};
use crate::{
    context::Context,
    extract::Query,
    history::Line,
    identity::{Auditor, Welcome},
    problem::{ApiError, ApiResult, Kind},
    readings::{Reading, followed},
    sources::{Followed, SourcesError},
    state::App,
    tail::{self, Wanted},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(follow_history))
}

/// Which lines; all that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub struct StreamQuery {
    /// The account that it concerns.
    #[param(nullable = false)]
    user: Option<Uuid>,
    /// The account that did it, or `anonymous`, `system` or `cli`.
    #[param(
        nullable = false,
        pattern = "^(anonymous|system|cli|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
    )]
    actor: Option<String>,
    #[param(nullable = false)]
    session: Option<Uuid>,
    #[serde(rename = "type")]
    #[param(nullable = false, inline)]
    event_type: Option<EventType>,
    /// Why or how, as lines have it.
    #[param(nullable = false, max_length = 200)]
    outcome: Option<String>,
    /// The address that it came from, or a network.
    #[param(nullable = false, max_length = 64, example = "192.0.2.0/24")]
    address: Option<String>,
    /// The line after which to begin; the present end of the book, unless one is given. The header
    /// `Last-Event-ID` counts before it.
    #[param(nullable = false, minimum = 0)]
    after: Option<i64>,
}

/// Follows the history: an event `line` for each new line that passes, with what `GET /api/v1/audit`
/// answers of it. The id of an event is the number of its line.
///
/// To go on where a stream has ended, send the last id as `Last-Event-ID`: no line is left out, and none
/// told twice. Who reads too slowly is let go with an event `lagging`, whose data says so; a network of which too
/// much would have to be looked for, with `too_much`. It ends as well when the access token expires, or its session or role ends; ask again with a new one.
#[utoipa::path(
    get, path = "/audit/stream", tag = "audit",
    params(
        StreamQuery,
        ("Last-Event-ID" = inline(Option<String>), Header, nullable = false, pattern = "^[0-9]{1,18}$",
            description = "The id of the last event that was received"),
    ),
    security(("bearer" = []), ("cookie" = [])),
    responses(
        (status = 200, description = "Server-sent events", content_type = "text/event-stream", body = String),
        (status = 400, description = "The query or `Last-Event-ID` cannot be read"),
        (status = 401, description = "Not signed in"),
        (status = 403, description = "Not an auditor, or a page of another site has opened it"),
        (status = 422, description = "Some values cannot be taken; `errors` names them"),
        (status = 429, description = "Too much was read in an hour"),
        (status = 503, description = "Too many follow already"),
    )
)]
async fn follow_history(
    State(app): State<App>,
    Auditor(auditor): Auditor,
    context: Context,
    Query(query): Query<StreamQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    app.needs("audit_history").await?;
    let reached = audit_history::reached(app.pool()).await?;
    let after = match (last_event_id(&headers)?, query.after) {
        (Some(last), _) if last <= reached.max(head(&app)) => last,
        (Some(_), _) => return Err(malformed("the book has no line of this number")),
        (None, Some(after)) if (0..=reached.max(head(&app))).contains(&after) => after,
        (None, Some(_)) => {
            return Err(ApiError::invalid_field("after", "the book has no line of this number"));
        }
        (None, None) => reached,
    };
    let address = query.address;
    let query = HistoryQuery {
        user: query.user,
        actor: query.actor,
        session: query.session,
        event_type: query.event_type,
        outcome: query.outcome,
        ..HistoryQuery::default()
    };
    let (mut filter, _) = query.filter(&app, &auditor).await?;
    let mut place =
        address.as_deref().map(Followed::read).transpose().map_err(SourcesError::from)?;
    if let Some(place) = &mut place {
        // Refused here rather than in the stream.
        place.narrow(app.book(), (after, reached), &mut filter).await?;
    }
    let origin = context.user(auditor.user_id);
    let asked = followed(&filter, after, reached);
    app.reading(&auditor, &origin, Reading::Followed, asked).await?;
    let write =
        |line: Line| serde_json::to_string(&LineView::from(line)).map_err(ApiError::internal);
    let may = move |app| Welcome::with_role(app, headers.clone(), Role::Auditor);
    tail::follow(&app, auditor, Wanted { filter, place, after }, write, may)
}

fn head(app: &App) -> i64 {
    app.sequencer().head().borrow().position
}

/// The line after which a client wants to go on.
fn last_event_id(headers: &HeaderMap) -> ApiResult<Option<i64>> {
    let mut values = headers.get_all(LAST_EVENT_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value
        .to_str()
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(position) if values.next().is_none() => Ok(Some(position)),
        _ => Err(malformed("send the id of the last event as it came, a number")),
    }
}

fn malformed(what: &str) -> ApiError {
    ApiError::new(Kind::MalformedRequest, format!("`Last-Event-ID`: {what}."))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_last_event_id_is_a_number_or_refused() {
        let read = |values: &[&'static [u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(LAST_EVENT_ID, HeaderValue::from_bytes(value).unwrap());
            }
            last_event_id(&headers).map_err(|error| error.kind)
        };
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[b"0"]), Ok(Some(0)));
        assert_eq!(read(&[b"117"]), Ok(Some(117)));
        for garbage in
            [&b""[..], b"-1", b"+1", b"1.5", b"x", b"1 ", b"99999999999999999999", b"\xff"]
        {
            assert_eq!(read(&[garbage]), Err(Kind::MalformedRequest), "{garbage:?}");
        }
        assert_eq!(read(&[b"1", b"2"]), Err(Kind::MalformedRequest));
    }
}
