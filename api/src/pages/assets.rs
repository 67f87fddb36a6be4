//! The static files of the pages.

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::problem::{ApiError, ApiResult};

pub(super) async fn file(uri: Uri, asked: HeaderMap) -> ApiResult<Response> {
    let asset = ui::static_asset(uri.path()).ok_or_else(ApiError::not_found)?;
    let etag = HeaderValue::try_from(asset.etag).map_err(ApiError::internal)?;
    let own = etag.to_str().unwrap_or_default().to_owned();
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let fresh = known.flat_map(|line| line.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own
    });
    let mut response =
        if fresh { StatusCode::NOT_MODIFIED.into_response() } else { asset.bytes.into_response() };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(asset.cache_control));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    Ok(response)
}
