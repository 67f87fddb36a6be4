//! What HTTP is told by the configuration: the public address, whom to trust, and the limits.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use axum::http::Uri;
use chrono::TimeDelta;
use ipnet::IpNet;

use crate::log::anchors::AnchorSettings;

/// The settings of the HTTP side.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Where people reach Entrybook; with https, cookies are `Secure` with the `__Host-` prefix.
    pub public_url: PublicUrl,
    /// The applications that people are handed over to, each on a host name of its own.
    pub applications: Vec<PublicUrl>,
    /// The proxies whose `X-Forwarded-For` and `X-Request-Id` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether people may register themselves.
    pub registration_open: bool,
    /// More requests than these at once are answered 503.
    pub max_concurrent_requests: usize,
    /// When there are more connections than these, an idle one is closed.
    pub max_connections: usize,
    /// So many of them one address has at most; trusted proxies have no bound of their own.
    pub connections_per_address: usize,
    /// How long the head of a request may take, and an idle connection stay open.
    pub header_timeout: Duration,
    /// How long the body of a request may take (408).
    pub body_timeout: Duration,
    /// How long an answer may take (503).
    pub request_timeout: Duration,
    /// How long requests in flight may take to finish when the server stops.
    pub shutdown_grace: Duration,
    /// How long before that requests are still taken, while `/readyz` tells who follows it to turn away.
    pub shutdown_drain: Duration,
    /// How long addresses and user agents can be read; for ever if nothing is set.
    pub retention: Option<TimeDelta>,
    /// How often a checkpoint is signed at most.
    pub log_interval: Duration,
    /// Whether everybody may fetch the lines of the book; else auditors.
    pub log_entries_public: bool,
    /// Where checkpoints are anchored.
    pub anchors: AnchorSettings,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            public_url: PublicUrl { origin: "http://localhost:8080".to_owned() },
            applications: Vec::new(),
            trusted_proxies: Vec::new(),
            registration_open: true,
            max_concurrent_requests: 512,
            max_connections: 4096,
            connections_per_address: 1024,
            header_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(20),
            shutdown_drain: Duration::ZERO,
            retention: None,
            log_interval: Duration::from_secs(2),
            log_entries_public: false,
            anchors: AnchorSettings::default(),
        }
    }
}

/// The origin under which people reach Entrybook, as browsers write it (RFC 6454, section 6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl {
    origin: String,
}

/// A text that is no public URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a public URL is http:// or https:// with a host and nothing after it, as https://login.example.org"
)]
pub struct InvalidPublicUrl;

impl PublicUrl {
    pub fn parse(text: &str) -> Result<Self, InvalidPublicUrl> {
        let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| InvalidPublicUrl)?;
        let (Some(scheme @ ("http" | "https")), Some(authority)) =
            (uri.scheme_str(), uri.authority())
        else {
            return Err(InvalidPublicUrl);
        };
        let bare =
            matches!(uri.path(), "" | "/") && uri.query().is_none() && !text.contains(['#', '@']);
        if !bare || authority.host().is_empty() {
            return Err(InvalidPublicUrl);
        }
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = match authority.port_u16() {
            Some(port) if port != usual => format!(":{port}"),
            Some(_) | None => String::new(),
        };
        Ok(Self { origin: format!("{scheme}://{}{port}", authority.host().to_lowercase()) })
    }

    /// `https://login.example.org`: without a slash at its end.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    #[must_use]
    pub fn is_https(&self) -> bool {
        self.origin.starts_with("https://")
    }

    /// Without its port: browsers keep one set of cookies for all ports of a host (RFC 6265, section 8.5).
    #[must_use]
    pub fn host(&self) -> &str {
        let authority = self.origin.split_once("://").map_or("", |(_, authority)| authority);
        match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        }
    }

    /// Whether it is a name or an address of this machine, whose plain http nobody in between reads (WHATWG, "Secure
    /// Contexts").
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for PublicUrl {
    type Err = InvalidPublicUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_told_apart_from_its_port() {
        for (text, host, loopback) in [
            ("https://login.example.org", "login.example.org", false),
            ("https://login.example.org:8443", "login.example.org", false),
            ("http://app.localhost:8080", "app.localhost", true),
            ("http://localhost", "localhost", true),
            ("http://127.0.0.1:8080", "127.0.0.1", true),
            ("http://[::1]:8080", "[::1]", true),
            ("http://[::1]", "[::1]", true),
            ("http://notlocalhost", "notlocalhost", false),
            ("http://localhost.example.org", "localhost.example.org", false),
            ("http://10.0.0.1", "10.0.0.1", false),
        ] {
            let url = PublicUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.is_loopback()), (host, loopback), "{text}");
        }
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let origin = |text| PublicUrl::parse(text).map(|url| url.to_string());
        assert_eq!(origin("https://Login.Example.org/"), Ok("https://login.example.org".into()));
        assert_eq!(origin("https://login.example.org:443"), Ok("https://login.example.org".into()));
        assert_eq!(origin("http://localhost:8080"), Ok("http://localhost:8080".into()));
        for text in [
            "",
            "localhost:8080",
            "ftp://a.org",
            "https://a.org/path",
            "https://a.org?q",
            "https://u@a.org",
        ] {
            assert_eq!(origin(text), Err(InvalidPublicUrl), "{text}");
        }
    }
}
