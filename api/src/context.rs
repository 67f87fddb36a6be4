//! Where a request came from, and the id it goes by.
//!
//! The address is that of the connection. Only when that is a trusted proxy does `X-Forwarded-For`
//! count, read from the right: each proxy appends whom it saw, so what stands left of the first
//! untrusted address may be anybody's invention.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, HeaderMap, header, request::Parts},
};
use commands::{By, Origin};
use domain::UserId;
use ipnet::IpNet;

use crate::problem::ApiError;

/// The most characters of a user agent that are kept.
const MAX_USER_AGENT: usize = 512;
const MAX_REQUEST_ID: usize = 64;

/// What is known of a request before anybody looks at what it asks for.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    request_id: String,
    address: Option<IpAddr>,
    user_agent: Option<String>,
}

impl Context {
    /// Reads it from a request; `fresh_id` makes an id where none is given by a trusted proxy.
    pub fn read(
        headers: &HeaderMap,
        extensions: &Extensions,
        trusted: &[IpNet],
        fresh_id: impl FnOnce() -> String,
    ) -> Self {
        let peer = extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|ConnectInfo(peer)| peer.ip().to_canonical());
        let through_proxy = peer.is_some_and(|peer| is_trusted(peer, trusted));
        let given_id = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let request_id = given_id
            .filter(|id| through_proxy && is_request_id(id))
            .map_or_else(fresh_id, str::to_owned);
        let address = peer.map(|peer| client_address(peer, headers, trusted));
        Self(Arc::new(Inner { request_id, address, user_agent: user_agent(headers) }))
    }

    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }

    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.0.address
    }

    /// What a command is told of who asks, and from where.
    #[must_use]
    pub fn origin(&self, by: By) -> Origin {
        Origin {
            by,
            address: self.0.address,
            user_agent: self.0.user_agent.clone(),
            request_id: self.0.request_id.clone(),
        }
    }

    #[must_use]
    pub fn anonymous(&self) -> Origin {
        self.origin(By::Anonymous)
    }

    #[must_use]
    pub fn user(&self, user: UserId) -> Origin {
        self.origin(By::User(user))
    }
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| ApiError::internal("a request without its context"))
    }
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The nearest address that is no trusted proxy. What can't be read ends the walk: the proxy that
/// wrote it is then the last that is known.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = peer;
    let lines: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .map(|line| line.to_str().unwrap_or("?"))
        .collect();
    let mut hops = lines.iter().flat_map(|line| line.split(',')).rev();
    while is_trusted(nearest, trusted) {
        match hops.next().and_then(hop_address) {
            Some(address) => nearest = address,
            None => break,
        }
    }
    nearest
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:443`.
fn hop_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.ok().map(|address| address.to_canonical())
}

fn is_request_id(id: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// The user agent, bounded, without control characters. What is no UTF-8 is shown as such.
fn user_agent(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::USER_AGENT)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn context(peer: &str, lines: &[(&'static str, &str)]) -> Context {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 9)));
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        Context::read(&headers, &extensions, &trusted, || "fresh".to_owned())
    }

    fn address(peer: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        context(peer, &lines).address().unwrap().to_string()
    }

    #[test]
    fn nobody_but_a_trusted_proxy_is_believed() {
        assert_eq!(address("192.0.2.9", &["198.51.100.1"]), "192.0.2.9");
        assert_eq!(address("10.1.1.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(address("::ffff:10.1.1.1", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn the_walk_goes_from_the_right_to_the_first_untrusted() {
        assert_eq!(address("10.1.1.1", &["6.6.6.6, 198.51.100.1, 10.2.2.2"]), "198.51.100.1");
        assert_eq!(address("10.1.1.1", &["6.6.6.6", "198.51.100.1", "10.2.2.2"]), "198.51.100.1");
        assert_eq!(address("::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(address("10.1.1.1", &["198.51.100.1:80"]), "198.51.100.1");
    }

    #[test]
    fn what_cannot_be_read_ends_the_walk() {
        assert_eq!(address("10.1.1.1", &["198.51.100.1, unknown"]), "10.1.1.1");
        assert_eq!(address("10.1.1.1", &["6.6.6.6, unknown, 10.3.3.3"]), "10.3.3.3");
        assert_eq!(address("10.1.1.1", &[]), "10.1.1.1");
        assert_eq!(address("10.1.1.1", &["10.2.2.2, 10.3.3.3"]), "10.2.2.2");
    }

    #[test]
    fn a_request_id_is_taken_from_a_trusted_proxy_and_only_when_it_is_harmless() {
        let id =
            |peer: &str, id: &str| context(peer, &[("x-request-id", id)]).request_id().to_owned();
        assert_eq!(id("10.1.1.1", "abc-1.2_3"), "abc-1.2_3");
        assert_eq!(id("192.0.2.1", "abc"), "fresh");
        for bad in ["", "a b", "<x>", "é", &"a".repeat(65)] {
            assert_eq!(id("10.1.1.1", bad), "fresh", "{bad}");
        }
    }

    #[test]
    fn a_user_agent_is_bounded_and_never_fails() {
        let agent = |text: &str| context("::1", &[("user-agent", text)]).anonymous().user_agent;
        assert_eq!(agent("curl/8"), Some("curl/8".into()));
        assert_eq!(agent(""), None);
        assert_eq!(agent(&"é".repeat(600)).unwrap().chars().count(), 512);
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_bytes(b"a\xff\tb").unwrap());
        assert_eq!(user_agent(&headers), Some("a\u{fffd}b".into()));
    }
}
