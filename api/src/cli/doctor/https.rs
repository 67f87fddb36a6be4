//! Whether passwords and cookies are closed to who listens on the way.

use super::Check;
use crate::config::Config;
use axum::http::Uri;
use std::net::IpAddr;

pub(super) fn check(config: &Config) -> Check {
    let name = "https";
    let url = match config.public_url(config.listen.port()) {
        Ok(url) => url,
        Err(error) => return Check::broken(name, error),
    };
    let origin = url.origin();
    if url.is_https() {
        Check::ok(
            name,
            format!(
                "people use {origin}; cookies are Secure, and browsers are told to stay with https for a year"
            ),
        )
    } else if is_this_machine(origin) {
        // Nobody listens on the way.
        Check::ok(name, format!("people use {origin}, on this machine alone"))
    } else {
        Check::warn(
            name,
            format!(
                "people use {origin}: passwords and cookies go over the network in the clear, and cookies are not Secure"
            ),
            "Have a proxy end TLS in front of this server, and set ENTRYBOOK_PUBLIC_URL to the address with https.",
        )
    }
}

fn is_this_machine(origin: &str) -> bool {
    let Ok(uri) = origin.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    let is_loopback =
        |host: &str| host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    host == "localhost"
        || host.ends_with(".localhost")
        || is_loopback(host.trim_matches(['[', ']']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_machine_is_told_from_others() {
        for origin in [
            "http://localhost",
            "http://app.localhost:8080",
            "http://127.0.0.1:8080",
            "http://[::1]:8080",
        ] {
            assert!(is_this_machine(origin), "{origin}");
        }
        for origin in [
            "http://login.example.org",
            "http://localhost.example.org",
            "http://192.168.0.7",
            "http://[fd00::1]",
        ] {
            assert!(!is_this_machine(origin), "{origin}");
        }
    }
}
