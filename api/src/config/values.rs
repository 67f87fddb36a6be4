//! What the values of settings mean. An error says what would be right; the caller says whose value it was.

use crate::log::anchors::WitnessAddress;
use crate::settings::PublicUrl;
use axum::http::Uri;
use chrono::TimeDelta;
use ipnet::IpNet;
use proof::CosignatureVerifier;
use sqlx::postgres::PgConnectOptions;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// A value from the file as one would write it in the environment.
pub(super) fn as_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        toml::Value::Array(items) => {
            items.iter().map(as_text).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    let right = || "write an address and a port, such as 127.0.0.1:8080 or [::]:8080".to_owned();
    match text.strip_prefix("localhost:") {
        Some(port) => port
            .parse()
            .map(|port| (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into())
            .map_err(|_| right()),
        None => text.parse().map_err(|_| right()),
    }
}

pub(super) fn public_url(text: &str) -> Result<PublicUrl, String> {
    let right =
        "write http:// or https:// and a host name, such as https://login.example.org, and no path";
    // What is there of a port must be one.
    let authority = text.parse::<Uri>().ok().and_then(|uri| uri.into_parts().authority);
    let port_is_sound = authority.is_some_and(|authority| {
        authority.port_u16().is_some() || authority.as_str() == authority.host()
    });
    if port_is_sound {
        PublicUrl::parse(text).map_err(|_| right.to_owned())
    } else {
        Err(right.to_owned())
    }
}

/// Origins, each of a host of its own: what two have in common is their cookies.
pub(super) fn applications(text: &str) -> Result<Vec<PublicUrl>, String> {
    let mut applications = Vec::<PublicUrl>::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        // A host name and no more: it stands in the policy of the sign-in page.
        let named = |application: &PublicUrl| {
            let host = application.host().trim_start_matches('[').trim_end_matches(']');
            host.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':'))
        };
        let application = public_url(item).ok().filter(named).ok_or_else(|| {
            format!(
                "{item:?} is no origin; write https:// and a host name and no path, such as https://app.example.com, \
                 several of them separated by commas"
            )
        })?;
        if !application.is_https() && !application.is_loopback() {
            return Err(format!(
                "{application} is not https, so whoever is on the way could be let in; only on names of this machine, \
                 such as http://app.localhost, that is not needed"
            ));
        }
        if applications.iter().any(|other| other.host() == application.host()) {
            return Err(format!(
                "{} is there twice: give each application a host name of its own",
                application.host()
            ));
        }
        applications.push(application);
    }
    Ok(applications)
}

pub(super) fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            item.parse().or_else(|_| item.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
                format!(
                    "{item:?} is neither an address nor a network; write them such as 10.0.0.0/8 or 192.0.2.7, \
                     separated by commas"
                )
            })
        })
        .collect()
}

/// `KEY URL`, several of them separated by commas.
pub(super) fn witnesses(text: &str) -> Result<Vec<WitnessAddress>, String> {
    let right = "write the verifier key of each witness and its address, separated by commas, such as \
                 witness.example.com+1b6d2c5e+BAx… https://witness.example.com";
    let parts = text.split(|c: char| c.is_whitespace() || c == ',');
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    let (pairs, rest) = parts.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(right.to_owned());
    }
    let mut witnesses = Vec::<WitnessAddress>::new();
    for [key, url] in pairs {
        let key = CosignatureVerifier::new(key).map_err(|error| format!("{error}; {right}"))?;
        if witnesses.iter().any(|witness| witness.key == key) {
            return Err(format!("{} is there twice", key.short()));
        }
        let uri = anchor_url(url).map_err(|_| right.to_owned())?;
        if uri.query().is_some() {
            return Err(right.to_owned());
        }
        let url = uri.to_string().trim_end_matches('/').to_owned();
        witnesses.push(WitnessAddress { key, url });
    }
    Ok(witnesses)
}

/// An address of another machine. Without a password: it is in messages.
pub(super) fn anchor_url(text: &str) -> Result<Uri, String> {
    let right = "write http:// or https:// and a host name, and no password, such as https://archive.example.org/checkpoints";
    let uri: Uri = text.parse().map_err(|_| right.to_owned())?;
    let host =
        uri.authority().map(|authority| (authority.host(), authority.as_str().contains('@')));
    match (uri.scheme_str(), host) {
        (Some("http" | "https"), Some((host, false))) if !host.is_empty() => Ok(uri),
        _ => Err(right.to_owned()),
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err("write yes or no".to_owned()),
    }
}

pub(super) fn one_of<T: Copy>(choices: &[(&str, T)], text: &str) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text))
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            match names.split_last() {
                Some((last, others)) => format!("write {} or {last}", others.join(", ")),
                None => String::new(),
            }
        })
}

pub(super) fn duration(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let value = humantime::parse_duration(text)
        .map_err(|_| "write a number and a unit, such as 30s, 15m, 24h or 30d".to_owned())?;
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        Err(format!("write something from {} to {}", short(least), short(most)))
    }
}

/// As settings are written: in the largest unit that comes out even.
pub fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        _ if duration.subsec_nanos() != 0 => humantime::format_duration(duration).to_string(),
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

pub(super) fn delta(text: &str, least: Duration, most: Duration) -> Result<TimeDelta, String> {
    let value = duration(text, least, most)?;
    TimeDelta::from_std(value).map_err(|_| "that is too long".to_owned())
}

/// Nothing is for ever. Less than a month would make no difference but at the turn of one.
pub(super) fn retention(text: &str) -> Result<Option<TimeDelta>, String> {
    if text.eq_ignore_ascii_case("keep") {
        return Ok(None);
    }
    let day = Duration::from_secs(86_400);
    delta(text, day, 36_500 * day).map(Some).map_err(|right| format!("write keep, or {right}"))
}

pub(super) fn count<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: FromStr + PartialOrd + fmt::Display,
{
    match text.replace('_', "").parse() {
        Ok(value) if value >= least && value <= most => Ok(value),
        _ => Err(format!("write a whole number from {least} to {most}")),
    }
}

/// How to reach a PostgreSQL. Never shows its password.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    pub fn options(&self) -> &PgConnectOptions {
        &self.0
    }
}

impl From<PgConnectOptions> for DatabaseUrl {
    fn from(options: PgConnectOptions) -> Self {
        Self(options)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(options) = self;
        let database = options.get_database().unwrap_or_else(|| options.get_username());
        match options.get_socket() {
            Some(socket) => {
                write!(f, "{database} at {}, as {}", socket.display(), options.get_username())
            }
            None => write!(
                f,
                "{database} at {}:{}, as {}",
                options.get_host(),
                options.get_port(),
                options.get_username()
            ),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

pub(super) fn database_url(text: &str) -> Result<DatabaseUrl, String> {
    let right = "write postgres://USER:PASSWORD@HOST:5432/DATABASE, special characters of the password as %XX";
    if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
        return Err(right.to_owned());
    }
    // The cause may quote a part of the password.
    text.parse().map(DatabaseUrl).map_err(|_| right.to_owned())
}

/// A secret text. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_an_origin() {
        let read = |text| public_url(text).map(|url| url.to_string());
        assert_eq!(read("https://Login.Example.org/"), Ok("https://login.example.org".into()));
        assert_eq!(read("https://a.example:443"), Ok("https://a.example".into()));
        assert_eq!(read("http://localhost:8080"), Ok("http://localhost:8080".into()));
        assert_eq!(read("http://[::1]:81"), Ok("http://[::1]:81".into()));
        for wrong in [
            "login.example.org",
            "ftp://a.example",
            "https://a.example/login",
            "https://u@a.example",
            "https://",
            "https://a.example?x",
            "https://a.example:99999",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_have_units_and_bounds() {
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        let read = |text| duration(text, hours(1), hours(8));
        assert_eq!(read("90m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(read("1h 30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(read("9h"), Err("write something from 1h to 8h".into()));
        assert!(read("90").is_err());
        assert_eq!(short(hours(48)), "2d");
        assert_eq!(short(Duration::from_secs(90)), "90s");
    }

    #[test]
    fn a_retention_is_for_ever_or_for_days() {
        assert_eq!(retention("keep"), Ok(None));
        assert_eq!(retention("400d"), Ok(Some(TimeDelta::days(400))));
        for wrong in ["", "0d", "23h", "400", "never"] {
            let right = retention(wrong).unwrap_err();
            assert!(right.starts_with("write keep, or write "), "{wrong}: {right}");
        }
    }

    #[test]
    fn networks_and_addresses_mix() {
        assert_eq!(networks("10.0.0.0/8, ::1").unwrap().len(), 2);
        assert_eq!(networks("").unwrap().len(), 0);
        assert!(networks("10.0.0.0/8,proxy").unwrap_err().contains("\"proxy\""));
    }

    #[test]
    fn a_database_is_shown_without_its_password() {
        let url = database_url("postgres://ada:hunter2@db.example:6000/book").unwrap();
        assert_eq!(url.to_string(), "book at db.example:6000, as ada");
        assert!(!format!("{url:?}").contains("hunter2"));
        assert!(!database_url("mysql://ada:hunter2@db").unwrap_err().contains("hunter2"));
        assert!(!database_url("postgres://ada:hun:ter2@[db").unwrap_err().contains("ter2"));
    }

    #[test]
    fn a_witness_is_a_key_and_an_address() {
        let one = "witness.example/w1+24b5d9fe+BP0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY";
        let read = |text: &str| witnesses(text);
        let found = read(&format!("{one} https://witness.example/w1/")).unwrap();
        assert_eq!(found[0].key.to_string(), one);
        assert_eq!(found[0].url, "https://witness.example/w1");
        assert_eq!(
            read(&format!(" {one},http://10.0.0.5:8081 ,")).unwrap()[0].url,
            "http://10.0.0.5:8081"
        );
        assert!(read("").unwrap().is_empty());
        for wrong in [
            one.to_owned(),
            "https://witness.example".to_owned(),
            format!("https://witness.example {one}"),
            format!("{one} witness.example"),
            format!("{one} ftp://witness.example"),
            format!("{one} https://ada:secret@witness.example"),
            format!("{one} https://witness.example?x"),
            format!("{one} http://a, {one} http://b"),
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW http://a"
                .to_owned(),
        ] {
            assert!(read(&wrong).is_err(), "{wrong}");
        }
        assert!(anchor_url("https://archive.example.org/x?y=z").is_ok());
        assert!(anchor_url("https://ada:secret@archive.example.org/").is_err());
    }

    #[test]
    fn localhost_may_be_listened_on_by_name() {
        assert_eq!(listen("localhost:81").unwrap().to_string(), "127.0.0.1:81");
        assert!(listen("8080").is_err());
        assert!(listen(":8080").is_err());
    }
}
