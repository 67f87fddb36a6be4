//! Whether passwords and cookies are closed to who listens on the way.

use super::Check;
use crate::config::Config;

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
    } else if url.is_loopback() {
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

/// Where people are let in by what the login hands over. What the setting may hold is checked when it is read.
pub(super) fn applications(config: &Config) -> Option<Check> {
    let origins: Vec<_> = config.applications.iter().map(ToString::to_string).collect();
    (!origins.is_empty()).then(|| {
        let origins = origins.join(", ");
        Check::ok(
            "applications",
            format!("people are let in at {origins}, each with a host name of its own"),
        )
    })
}
