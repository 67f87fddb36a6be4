use super::*;
use std::ffi::OsString;
use std::path::Path;

fn gather(
    flags: &[(&str, &str)],
    file: Option<&Path>,
    environment: &[(&str, &str)],
) -> Result<Sources, ConfigError> {
    let flags: Vec<_> = flags
        .iter()
        .map(|(name, value)| (Key::named(name).unwrap(), (*value).to_owned()))
        .collect();
    let environment =
        environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Sources::gather(&flags, file, environment)
}

fn read(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::read(&gather(flags, None, environment)?)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_defaults_are_those_of_the_help() {
    let config = read(&[], &[]).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.public_url(8080).unwrap().origin(), "http://localhost:8080");
    assert_eq!(config.data_dir, Path::new(".entrybook"));
    assert_eq!(config.access_token_lifetime, TimeDelta::minutes(15));
    assert_eq!(config.remember_lifetime, TimeDelta::days(30));
    assert!(config.registration_open && config.migrate);
    assert!(config.database_url.is_none() && config.master_key.is_none());

    let service = commands::Settings::default();
    assert_eq!(
        (config.throttle, config.address_throttle),
        (service.throttle, service.address_throttle)
    );
    assert_eq!(config.registrations_per_hour, service.registrations_per_hour);
    assert_eq!(config.changes_per_hour, service.changes_per_hour);
    assert_eq!(config.refresh_grace, service.refresh_grace);
    assert_eq!(config.refresh_lifetime, service.refresh_lifetime);
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let file = file("listen = \"127.0.0.1:1\"\ntoken_audience = \"file\"\nhash_queue = 7\n");
    let sources = gather(
        &[("listen", "127.0.0.1:3")],
        Some(file.path()),
        &[("ENTRYBOOK_LISTEN", "127.0.0.1:2"), ("ENTRYBOOK_TOKEN_AUDIENCE", "environment")],
    );
    let config = Config::read(&sources.unwrap()).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.token_audience, "environment");
    assert_eq!(config.hash_queue, 7);
}

#[test]
fn the_environment_may_name_the_file() {
    let file = file("registration = \"closed\"\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n");
    let path = file.path().to_str().unwrap();
    let config = read(&[], &[("ENTRYBOOK_CONFIG", path)]).unwrap();
    assert!(!config.registration_open);
    assert_eq!(config.trusted_proxies.len(), 2);
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = read(&[], &[("DATABASE_URL", ""), ("ENTRYBOOK_LISTEN", "")]).unwrap();
    assert!(config.database_url.is_none());
}

#[test]
fn everything_wrong_is_named_at_once_with_what_would_be_right() {
    let error = read(
        &[("listen", "8080")],
        &[
            ("ENTRYBOOK_ACCESS_TOKEN_LIFETIME", "9h"),
            ("ENTRYBOOK_REGISTRATION", "ajar"),
            ("ENTRYBOOK_HASH_QUEUE", "-1"),
            ("ENTRYBOOK_TOKEN_ALGORITHM", "none"),
        ],
    )
    .unwrap_err();
    assert_eq!(
        error.problems,
        [
            "--listen is \"8080\": write an address and a port, such as 127.0.0.1:8080 or [::]:8080.",
            "ENTRYBOOK_REGISTRATION is \"ajar\": write open or closed.",
            "ENTRYBOOK_ACCESS_TOKEN_LIFETIME is \"9h\": write something from 1m to 8h.",
            "ENTRYBOOK_TOKEN_ALGORITHM is \"none\": write EdDSA, ES256, RS256 or HS256.",
            "ENTRYBOOK_HASH_QUEUE is \"-1\": write a whole number from 1 to 100000.",
        ]
    );
}

#[test]
fn unknown_keys_of_the_file_are_refused_with_a_suggestion() {
    let file = file("lisen = \"127.0.0.1:1\"\ncolour = \"blue\"\nhash_queue = { a = 1 }\n");
    let error = gather(&[], Some(file.path()), &[]).unwrap_err().to_string();
    assert!(error.contains("lisen is no setting. Did you mean listen?"), "{error}");
    assert!(error.contains("colour is no setting. `entrybook serve --help` lists"), "{error}");
    assert!(error.contains("hash_queue takes one value"), "{error}");
}

#[test]
fn a_broken_file_is_shown_by_its_line_and_not_by_its_content() {
    let file = file("listen = \"127.0.0.1:1\"\nmaster_key = hunter2\n");
    let error = gather(&[], Some(file.path()), &[]).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let missing = gather(&[], Some(Path::new("/nonexistent/entrybook.toml")), &[]).unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
}

#[test]
fn an_unknown_variable_is_a_warning_with_a_suggestion() {
    let config = read(&[], &[("ENTRYBOOK_LISTN", "x"), ("HOME", "/")]).unwrap();
    assert_eq!(config.warnings, ["ENTRYBOOK_LISTN is no setting. Did you mean ENTRYBOOK_LISTEN?"]);
}

#[test]
fn secrets_are_never_shown() {
    let environment = [
        ("DATABASE_URL", "postgres://ada:hunter2@db/book"),
        ("ENTRYBOOK_MASTER_KEY", "hunter2"),
        ("ENTRYBOOK_ADMIN_PASSWORD", "hunter2hunter2"),
    ];
    let sources = gather(&[], None, &environment).unwrap();
    assert!(!format!("{sources:?}").contains("hunter2"));
    assert!(!format!("{:?}", Config::read(&sources).unwrap()).contains("hunter2"));

    let wrong = [("DATABASE_URL", "mysql://hunter2"), ("ENTRYBOOK_ADMIN_PASSWORD", "hunter2")];
    let error = read(&[], &wrong).unwrap_err();
    assert_eq!(error.problems.len(), 2);
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn one_master_key_is_enough() {
    let both = [("ENTRYBOOK_MASTER_KEY", "k"), ("ENTRYBOOK_MASTER_KEY_FILE", "/run/secrets/key")];
    assert!(read(&[], &both).unwrap_err().to_string().contains("Give one of them"));
}

#[test]
fn one_previous_master_key_is_enough() {
    let both = [
        ("ENTRYBOOK_PREVIOUS_MASTER_KEY", "hunter2"),
        ("ENTRYBOOK_PREVIOUS_MASTER_KEY_FILE", "/run/secrets/key"),
    ];
    let error = read(&[], &both).unwrap_err().to_string();
    assert!(error.contains("ENTRYBOOK_PREVIOUS_MASTER_KEY_FILE are both given"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let one = read(&[], &both[..1]).unwrap();
    assert!(one.previous_master_key.is_some() && one.master_key.is_none());
    assert_eq!(one.retention, None);
}

#[test]
fn lifetimes_must_agree() {
    let error = read(&[("refresh_lifetime", "40d")], &[]).unwrap_err();
    assert!(error.to_string().contains("ENTRYBOOK_REMEMBER_LIFETIME is shorter"), "{error}");
}

#[test]
fn every_key_is_read() {
    // A value that none of them takes: whoever is not read does not complain.
    let unread: Vec<_> = KEYS
        .iter()
        .filter(|key| {
            let accepts_all = [
                "token_audience",
                "data_dir",
                "master_key",
                "master_key_file",
                "previous_master_key",
                "previous_master_key_file",
                "postgres_bin",
                "postgres_user",
                "log_anchor_file",
                "log_ca_file",
            ];
            !accepts_all.contains(&key.name) && read(&[(key.name, "\u{1}=[\u{1}")], &[]).is_ok()
        })
        .map(|key| key.name)
        .collect();
    assert_eq!(unread, [""; 0]);
}

#[test]
fn a_network_of_everybody_is_no_proxy_to_be_trusted_in_silence() {
    let warnings =
        |networks: &str| read(&[], &[("ENTRYBOOK_TRUSTED_PROXIES", networks)]).unwrap().warnings;
    for wide in [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1,128.0.0.0/1",
        "2000::/3",
        "10.0.0.0/8,0.0.0.0/0",
        "8.0.0.0/8",
        "127.0.0.0/8,203.0.0.0/8",
    ] {
        let said = warnings(wide);
        assert_eq!(said.len(), 1, "{wide}: {said:?}");
        assert!(
            said[0].contains("ENTRYBOOK_TRUSTED_PROXIES has ") && !said[0].contains("10.0.0.0/8"),
            "{said:?}"
        );
    }
    for fine in [
        "10.0.0.0/8",
        "172.16.0.0/12,fd00::/8,fc00::/7",
        "104.16.0.0/13,2400:cb00::/32",
        "127.0.0.1,::1",
    ] {
        assert_eq!(warnings(fine), [""; 0], "{fine}");
    }
}

#[test]
fn each_application_has_a_host_name_of_its_own() {
    let read = |applications: &str, public_url: &str| {
        let environment =
            [("ENTRYBOOK_APPLICATIONS", applications), ("ENTRYBOOK_PUBLIC_URL", public_url)];
        read(&[], &environment).map(|config| config.applications)
    };
    let login = "https://login.example.com";
    let two = read("https://app.example.com, https://Wiki.example.com:443/", login).unwrap();
    let origins: Vec<_> = two.iter().map(PublicUrl::origin).collect();
    assert_eq!(origins, ["https://app.example.com", "https://wiki.example.com"]);
    let local = read("http://app.localhost:8080", "http://localhost:8080").unwrap();
    assert_eq!(local[0].origin(), "http://app.localhost:8080");
    for (applications, why) in [
        ("app.example.com", "is no origin"),
        ("https://app.example.com/path", "is no origin"),
        ("https://*.example.com", "is no origin"),
        ("https://app.example.com;script-src", "is no origin"),
        ("http://app.example.com", "is not https"),
        ("http://notlocalhost", "is not https"),
        ("https://app.example.com,https://app.example.com:8443", "is there twice"),
        ("https://login.example.com:8443", "the host of ENTRYBOOK_PUBLIC_URL"),
        ("https://login.example.com", "the host of ENTRYBOOK_PUBLIC_URL"),
    ] {
        let problems = read(applications, login).unwrap_err().problems;
        assert!(problems.len() == 1 && problems[0].contains(why), "{applications}: {problems:?}");
    }
}
