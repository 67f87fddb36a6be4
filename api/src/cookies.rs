//! The cookies of the pages: what they are called, and how they are set.
//!
//! Under an https address they are `Secure` with the `__Host-` prefix, so that no other host and no
//! plain connection can set or read them (RFC 6265bis, 4.1.3.2). On http, which is for trying things
//! on localhost, they have plain names: not every browser stores `Secure` ones there.

use axum::http::{HeaderMap, HeaderValue, header};
use chrono::{DateTime, TimeDelta, Utc};
use commands::{DEVICE_LIFETIME, DeviceToken, SignedIn};

use crate::settings::PublicUrl;

/// A cookie of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Access,
    Refresh,
    /// The visit that forms before signing in are bound to.
    Visit,
    /// What the last request did, told once on the next page.
    Notice,
    /// At an application: its own token.
    Application,
    /// At an application: the browser that is on its way to the login.
    Start,
    /// That somebody has signed in here before, to be let past a throttle that others have brought about. It stays when
    /// they sign out, and tells nothing of them ([`commands::DeviceToken`]).
    Device,
}

impl Name {
    fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Access => ("__Host-entrybook_access", "entrybook_access"),
            Self::Refresh => ("__Host-entrybook_refresh", "entrybook_refresh"),
            Self::Visit => ("__Host-entrybook_csrf", "entrybook_csrf"),
            Self::Notice => ("__Host-entrybook_notice", "entrybook_notice"),
            Self::Application => ("__Host-entrybook_app", "entrybook_app"),
            Self::Start => ("__Host-entrybook_start", "entrybook_start"),
            Self::Device => ("__Host-entrybook_device", "entrybook_device"),
        }
    }

    /// What it is called under this address.
    #[must_use]
    pub fn under(self, public_url: &PublicUrl) -> &'static str {
        if public_url.is_https() { self.parts().0 } else { self.parts().1 }
    }
}

/// The longest value that is looked at: browsers keep no more than 4,096 bytes of a name and its value (RFC
/// 6265bis, 5.6).
const MAX_VALUE: usize = 4096;

/// The value of a cookie of ours, if the request has it.
///
/// Read as bytes, cookie by cookie: those of other programs on this host stand in the same line, and what they
/// hold is none of our business. Two of ours with different values are none: a browser has one alone of a
/// `__Host-` name, so another one was put there by somebody else, and which is which can't be told from their
/// order (RFC 6265, 4.2.2).
#[must_use]
pub fn read<'a>(headers: &'a HeaderMap, public_url: &PublicUrl, name: Name) -> Option<&'a str> {
    let name = name.under(public_url).as_bytes();
    let mut values = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b';'))
        .filter_map(|pair| value_of(pair, name))
        .filter(|value| !value.is_empty());
    let value = values.next()?;
    let alone = values.all(|other| other == value);
    let sound = value.len() <= MAX_VALUE && value.iter().all(u8::is_ascii_graphic);
    (alone && sound).then(|| std::str::from_utf8(value).ok()).flatten()
}

/// The value of a cookie, without the quotes that may stand around it (RFC 6265, 4.1.1), if it has that name.
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = pair.trim_ascii().strip_prefix(name)?.trim_ascii_start().strip_prefix(b"=")?;
    let value = value.trim_ascii();
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Cookies to be set by an answer.
#[derive(Debug, Clone, Default)]
pub struct SetCookies(Vec<HeaderValue>);

impl SetCookies {
    /// Both tokens of a session. They outlive the browser only where the person asked to be
    /// remembered.
    pub fn session(&mut self, public_url: &PublicUrl, signed_in: &SignedIn, now: DateTime<Utc>) {
        let lasting = |until: DateTime<Utc>| signed_in.remember_me.then(|| until - now);
        self.set(
            public_url,
            Name::Access,
            &signed_in.access.token,
            lasting(signed_in.access.expires_at),
        );
        self.set(
            public_url,
            Name::Refresh,
            signed_in.refresh.expose(),
            lasting(signed_in.refresh_expires_at),
        );
    }

    /// The token of a device, where a password was proved. It outlives the session.
    pub fn device(&mut self, public_url: &PublicUrl, device: Option<&DeviceToken>) {
        if let Some(device) = device {
            self.set(public_url, Name::Device, device.expose(), Some(DEVICE_LIFETIME));
        }
    }

    pub fn end_session(&mut self, public_url: &PublicUrl) {
        self.remove(public_url, Name::Access);
        self.remove(public_url, Name::Refresh);
    }

    /// Sets a cookie for so long, or until the browser is closed. The value is one of ours: ASCII
    /// without separators.
    pub fn set(
        &mut self,
        public_url: &PublicUrl,
        name: Name,
        value: &str,
        max_age: Option<TimeDelta>,
    ) {
        let name = name.under(public_url);
        let secure = if public_url.is_https() { "; Secure" } else { "" };
        let lasting = max_age
            .map(|age| format!("; Max-Age={}", age.num_seconds().max(0)))
            .unwrap_or_default();
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{lasting}");
        if let Ok(mut line) = HeaderValue::from_str(&text) {
            line.set_sensitive(true);
            self.0.push(line);
        }
    }

    pub fn remove(&mut self, public_url: &PublicUrl, name: Name) {
        self.set(public_url, name, "", Some(TimeDelta::zero()));
    }

    /// Adds them to an answer.
    pub fn add_to(self, headers: &mut HeaderMap) {
        for line in self.0 {
            headers.append(header::SET_COOKIE, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn https() -> PublicUrl {
        PublicUrl::parse("https://login.example.org").unwrap()
    }

    fn http() -> PublicUrl {
        PublicUrl::parse("http://localhost:8080").unwrap()
    }

    fn lines(cookies: SetCookies) -> Vec<String> {
        cookies.0.iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn https_has_the_host_prefix_and_http_plain_names() {
        let mut cookies = SetCookies::default();
        cookies.set(&https(), Name::Refresh, "abc", Some(TimeDelta::hours(1)));
        cookies.set(&http(), Name::Refresh, "abc", None);
        cookies.remove(&https(), Name::Access);
        insta::assert_debug_snapshot!(lines(cookies), @r#"
        [
            "__Host-entrybook_refresh=abc; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=3600",
            "entrybook_refresh=abc; Path=/; HttpOnly; SameSite=Lax",
            "__Host-entrybook_access=; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=0",
        ]
        "#);
    }

    fn access(lines: &[&[u8]]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        read(&headers, &http(), Name::Access).map(str::to_owned)
    }

    #[test]
    fn what_others_put_into_the_line_hides_nothing() {
        let ours = Some("abc".to_owned());
        for lines in [
            &["a=é; entrybook_access=abc".as_bytes()][..],
            &[b"a=\xff\xfe; entrybook_access=abc"],
            &[b"entrybook_access=abc; a=\xe9"],
            &[b"=; ;;a; entrybook_access=abc;"],
            &[b"a=\xff", b"entrybook_access=abc"],
            &[b"a=\"; entrybook_access=abc"],
            &[b"entrybook_access=\"abc\""],
            &[b"entrybook_access = abc\t"],
            &[b"entrybook_access=; entrybook_access=abc"],
            &[b"xentrybook_access=x; entrybook_accessx=x; entrybook_access=abc"],
            &[b"Entrybook_Access=x; entrybook_access=abc"],
        ] {
            assert_eq!(access(lines), ours, "{:?}", lines.concat().escape_ascii().to_string());
        }
    }

    #[test]
    fn a_value_that_is_none_of_ours_is_none() {
        let huge = [b"entrybook_access=".as_slice(), &[b'a'; MAX_VALUE + 1]].concat();
        for line in [
            &b"entrybook_access"[..],
            b"entrybook_access=",
            b"entrybook_access=\"\"",
            b"entrybook_access=a\xe9",
            b"entrybook_access=a b",
            &huge,
        ] {
            assert_eq!(access(&[line]), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn of_two_different_values_none_is_believed() {
        assert_eq!(access(&[b"entrybook_access=abc; entrybook_access=tossed"]), None);
        assert_eq!(access(&[b"entrybook_access=abc", b"entrybook_access=tossed"]), None);
        assert_eq!(access(&[b"entrybook_access=abc; entrybook_access=abc"]), Some("abc".into()));
    }

    #[test]
    fn a_cookie_is_read_by_its_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; entrybook_access=plain"));
        headers.append(header::COOKIE, HeaderValue::from_static("__Host-entrybook_access=host"));
        assert_eq!(read(&headers, &https(), Name::Access), Some("host"));
        assert_eq!(read(&headers, &http(), Name::Access), Some("plain"));
        assert_eq!(read(&headers, &http(), Name::Refresh), None);
    }
}
