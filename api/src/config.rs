//! What Entrybook is told: flags over environment over file over defaults, read once and checked as a whole.
//!
//! Owns the list of settings ([`KEYS`]) and what their values mean. It opens nothing but the configuration file, and starts nothing.
//!
//! To add a setting: a line in `config/keys.rs`, and a field here that [`Config::read`] fills. The help, the parser, the error messages and the README's
//! table follow by themselves.

mod flags;
mod keys;
mod recorded;
mod sources;
mod values;

pub use flags::{CommonFlags, ServeFlags};
pub use keys::{KEYS, Key, Scope, flagless_help};
pub use sources::{FILE_VARIABLE, Origin, Shown, Sources};
pub use values::{DatabaseUrl, Secret, short};

use crate::log::anchors::AnchorSettings;
use crate::settings::{HttpSettings, PublicUrl};
use chrono::TimeDelta;
use commands::tokens::Algorithm;
use commands::{AddressPolicy, Hourly, log_keys::check_origin};
use domain::{Email, Password, ServerSettings, ThrottlePolicy, Username};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// A few seconds' work: in a burst people wait rather than be turned away.
const QUEUED_PER_THREAD: usize = 256;
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Settings that cannot be used, each with what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", problems.join("\n"))]
pub struct ConfigError {
    pub problems: Vec<String>,
}

impl ConfigError {
    pub fn one(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()] }
    }
}

/// Everything Entrybook can be told.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// None: `http://localhost`, with the port that is listened on.
    pub public_url: Option<PublicUrl>,
    pub applications: Vec<PublicUrl>,
    pub trusted_proxies: Vec<IpNet>,
    pub registration_open: bool,
    pub migrate: bool,
    pub shutdown_timeout: Duration,
    pub shutdown_drain: Duration,

    pub data_dir: PathBuf,
    /// None: a private PostgreSQL.
    pub database_url: Option<DatabaseUrl>,
    /// None: the same.
    pub owner_database_url: Option<DatabaseUrl>,
    pub database_connections: u32,
    /// None: in the data directory, or missing.
    pub master_key: Option<MasterKeySource>,
    /// The other one while it is being changed.
    pub previous_master_key: Option<MasterKeySource>,
    /// None: for ever.
    pub retention: Option<TimeDelta>,
    pub postgres_bin: Option<PathBuf>,
    pub postgres_user: Option<String>,

    pub access_token_lifetime: TimeDelta,
    pub refresh_lifetime: TimeDelta,
    pub remember_lifetime: TimeDelta,
    pub session_lifetime: TimeDelta,
    pub refresh_grace: TimeDelta,
    pub token_algorithm: Algorithm,
    pub token_audience: String,

    pub throttle: ThrottlePolicy,
    pub address_throttle: AddressPolicy,
    pub registrations_per_hour: u32,
    pub changes_per_hour: Hourly,
    pub max_connections: usize,
    pub connections_per_address: usize,
    pub max_requests: usize,

    pub hash_threads: usize,
    pub hash_queue: usize,

    pub admin: AdminSettings,

    /// None: by the public address.
    pub log_origin: Option<String>,
    pub log_interval: Duration,
    pub log_entries_public: bool,
    pub anchors: AnchorSettings,

    /// None: by the verb.
    pub log: Option<String>,
    /// None: by where it goes.
    pub log_format: Option<LogFormat>,

    /// The settings that the history is told of.
    pub recorded: ServerSettings,

    /// What is odd, and no error: for the log.
    pub warnings: Vec<String>,
}

/// Where the master key is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MasterKeySource {
    Given(Secret),
    File(PathBuf),
}

/// The first admin.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    pub email: Email,
    pub username: Username,
    /// None: to be generated.
    pub password: Option<Password>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

impl Config {
    /// Reads all settings, and names everything that is wrong with them at once.
    pub fn read(sources: &Sources) -> Result<Self, ConfigError> {
        let mut reader = Reader { sources, problems: Vec::new() };
        let config = reader.config();
        let problems = reader.problems;
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError { problems }),
        }
    }

    /// The address people use, when the server listens on this port.
    pub fn public_url(&self, port: u16) -> anyhow::Result<PublicUrl> {
        match &self.public_url {
            Some(url) => Ok(url.clone()),
            None => Ok(PublicUrl::parse(&format!("http://localhost:{port}"))?),
        }
    }

    /// The name of the transparency log, if it begins now.
    pub fn log_origin(&self, public_url: &PublicUrl) -> String {
        let host = public_url.origin().split_once("://").map_or("", |(_, host)| host);
        self.log_origin.clone().unwrap_or_else(|| format!("{host}/log"))
    }

    /// What HTTP is told.
    pub fn http(&self, public_url: PublicUrl) -> HttpSettings {
        HttpSettings {
            public_url,
            applications: self.applications.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            registration_open: self.registration_open,
            max_concurrent_requests: self.max_requests,
            max_connections: self.max_connections,
            connections_per_address: self.connections_per_address,
            shutdown_grace: self.shutdown_timeout,
            shutdown_drain: self.shutdown_drain,
            retention: self.retention,
            log_interval: self.log_interval,
            log_entries_public: self.log_entries_public,
            anchors: self.anchors.clone(),
            ..HttpSettings::default()
        }
    }
}

/// Collects problems. A `None` always comes with one, except from `optional`, where the value may be missing.
struct Reader<'a> {
    sources: &'a Sources,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn config(&mut self) -> Option<Config> {
        // All are read before any `?`, so that all problems are found.
        let listen = self.one("listen", values::listen);
        let public_url = self.optional("public_url", values::public_url);
        let applications = self.optional("applications", values::applications);
        let trusted_proxies = self.optional("trusted_proxies", values::networks);
        let registration_open = self
            .one("registration", |text| values::one_of(&[("open", true), ("closed", false)], text));
        let migrate = self.one("migrate", values::yes_or_no);
        let shutdown_timeout =
            self.one("shutdown_timeout", |text| values::duration(text, SECOND, HOUR));
        let shutdown_drain =
            self.one("shutdown_drain", |text| values::duration(text, Duration::ZERO, HOUR));

        let data_dir = self.one("data_dir", path);
        let database_url = self.optional("database_url", values::database_url);
        let owner_database_url = self.optional("owner_database_url", values::database_url);
        let database_connections =
            self.one("database_connections", |text| values::count(text, 4, 1_000));
        let master_key = self.master_key("master_key", "master_key_file");
        let previous_master_key =
            self.master_key("previous_master_key", "previous_master_key_file");
        let retention = self.one("retention", values::retention);
        let postgres_bin = self.optional("postgres_bin", path);
        let postgres_user = self.optional("postgres_user", |text| Ok(text.to_owned()));

        let access_token_lifetime =
            self.one("access_token_lifetime", |text| values::delta(text, MINUTE, 8 * HOUR));
        let refresh_lifetime =
            self.one("refresh_lifetime", |text| values::delta(text, MINUTE, YEAR));
        let remember_lifetime =
            self.one("remember_lifetime", |text| values::delta(text, MINUTE, YEAR));
        let session_lifetime =
            self.one("session_lifetime", |text| values::delta(text, MINUTE, YEAR));
        let refresh_grace =
            self.one("refresh_grace", |text| values::delta(text, Duration::ZERO, 5 * MINUTE));
        let token_algorithm = self.one("token_algorithm", |text| {
            let choices = [
                ("EdDSA", Algorithm::EdDsa),
                ("ES256", Algorithm::Es256),
                ("RS256", Algorithm::Rs256),
                ("HS256", Algorithm::Hs256),
            ];
            values::one_of(&choices, text)
        });
        let token_audience = self.one("token_audience", |text| match text.len() {
            1..=512 => Ok(text.to_owned()),
            _ => Err("write 1 to 512 bytes".to_owned()),
        });

        let throttle = self.throttle(10 * MINUTE, 30 * DAY);
        let address_throttle = self.address_throttle();
        let registrations_per_hour =
            self.one("registrations_per_hour", |text| values::count(text, 1, u32::MAX));
        let changes_per_hour =
            self.one("changes_per_hour", |text| values::count(text, 6, u32::MAX));
        let address_changes_per_hour =
            self.one("address_changes_per_hour", |text| values::count(text, 6, u32::MAX));

        let max_connections = self.one("max_connections", |text| values::count(text, 1, 1_000_000));
        let connections_per_address =
            self.one("connections_per_address", |text| values::count(text, 1, 1_000_000));
        let max_requests = self.one("max_requests", |text| values::count(text, 1, 100_000));

        let hash_threads = self.optional("hash_threads", |text| values::count(text, 1, 256));
        let hash_queue = self.optional("hash_queue", |text| values::count(text, 1, 100_000));

        let admin_email =
            self.one("admin_email", |text| Email::parse(text).map_err(|e| e.to_string()));
        let admin_username =
            self.one("admin_username", |text| Username::parse(text).map_err(|e| e.to_string()));
        let admin_password = self
            .optional("admin_password", |text| Password::choose(text).map_err(|e| e.to_string()));

        let log_origin = self.optional("log_origin", |text| {
            check_origin(text).map(|()| text.to_owned()).map_err(|_| {
                "write a name without spaces and without a plus, such as login.example.org/log"
                    .to_owned()
            })
        });
        let log_interval =
            self.one("log_interval", |text| values::duration(text, SECOND / 10, HOUR));
        let log_entries = self.one("log_entries", |text| {
            values::one_of(&[("auditors", false), ("public", true)], text)
        });
        let anchors = AnchorSettings {
            witnesses: self.optional("log_witnesses", values::witnesses).unwrap_or_default(),
            file: self.optional("log_anchor_file", path),
            url: self.optional("log_anchor_url", values::anchor_url),
            ca_file: self.optional("log_ca_file", path),
        };

        let log = self.optional("log", |text| {
            tracing_subscriber::EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|_| {
                "write error, warn, info, debug or trace, or info,PART=debug".to_owned()
            })
        });
        let log_format = self.optional("log_format", |text| {
            values::one_of(&[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)], text)
        });

        let hash_threads = hash_threads.unwrap_or_else(processors);
        let trusted_proxies = trusted_proxies.unwrap_or_default();
        let warnings =
            self.sources.warnings.iter().cloned().chain(too_wide(&trusted_proxies)).collect();
        let config = Config {
            listen: listen?,
            public_url,
            applications: applications.unwrap_or_default(),
            trusted_proxies,
            registration_open: registration_open?,
            migrate: migrate?,
            shutdown_timeout: shutdown_timeout?,
            shutdown_drain: shutdown_drain?,
            data_dir: data_dir?,
            database_url,
            owner_database_url,
            database_connections: database_connections?,
            master_key,
            previous_master_key,
            retention: retention?,
            postgres_bin,
            postgres_user,
            access_token_lifetime: access_token_lifetime?,
            refresh_lifetime: refresh_lifetime?,
            remember_lifetime: remember_lifetime?,
            session_lifetime: session_lifetime?,
            refresh_grace: refresh_grace?,
            token_algorithm: token_algorithm?,
            token_audience: token_audience?,
            throttle: throttle?,
            address_throttle: address_throttle?,
            registrations_per_hour: registrations_per_hour?,
            changes_per_hour: Hourly {
                person: changes_per_hour?,
                address: address_changes_per_hour?,
            },
            max_connections: max_connections?,
            connections_per_address: connections_per_address?,
            max_requests: max_requests?,
            hash_threads,
            hash_queue: hash_queue
                .unwrap_or_else(|| hash_threads.saturating_mul(QUEUED_PER_THREAD)),
            admin: AdminSettings {
                email: admin_email?,
                username: admin_username?,
                password: admin_password,
            },
            log_origin,
            log_interval: log_interval?,
            log_entries_public: log_entries?,
            anchors,
            log,
            log_format,
            recorded: recorded::settings(self.sources),
            warnings,
        };
        self.agree(&config);
        Some(config)
    }

    /// What each is right alone, and not together.
    fn agree(&mut self, config: &Config) {
        if config.changes_per_hour.address < config.changes_per_hour.person {
            self.problems.push(
                "ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR is less than ENTRYBOOK_CHANGES_PER_HOUR: one person would use up what all at their \
                 address have. Make it many times as much."
                    .to_owned(),
            );
        }
        if config.owner_database_url.is_some() && config.database_url.is_none() {
            self.problems.push(
                "ENTRYBOOK_OWNER_DATABASE_URL is given without DATABASE_URL. Give both: a private PostgreSQL has an owner of its own."
                    .to_owned(),
            );
        }
        let login = config.public_url.as_ref().map_or("localhost", PublicUrl::host);
        if config.applications.iter().any(|application| application.host() == login) {
            self.problems.push(format!(
                "ENTRYBOOK_APPLICATIONS has {login}, the host of ENTRYBOOK_PUBLIC_URL: an application there could act as everybody who \
                 opens it. Give it a host name of its own."
            ));
        }
        if config.remember_lifetime < config.refresh_lifetime {
            self.problems.push(
                "ENTRYBOOK_REMEMBER_LIFETIME is shorter than ENTRYBOOK_REFRESH_LIFETIME: being remembered would end a session sooner. \
                 Make it at least as long."
                    .to_owned(),
            );
        }
        if config.refresh_lifetime < config.access_token_lifetime {
            self.problems.push(
                "ENTRYBOOK_REFRESH_LIFETIME is shorter than ENTRYBOOK_ACCESS_TOKEN_LIFETIME: a session would end before its token. \
                 Make it at least as long."
                    .to_owned(),
            );
        }
    }

    fn master_key(&mut self, name: &str, file: &str) -> Option<MasterKeySource> {
        let given = self.optional(name, |text| Ok(Secret::new(text.to_owned())));
        let in_file = self.optional(file, path);
        match (given, in_file) {
            (Some(_), Some(_)) => {
                let (name, file) = (name.to_uppercase(), file.to_uppercase());
                self.problems.push(format!(
                    "ENTRYBOOK_{name} and ENTRYBOOK_{file} are both given. Give one of them."
                ));
                None
            }
            (Some(key), None) => Some(MasterKeySource::Given(key)),
            (None, Some(file)) => Some(MasterKeySource::File(file)),
            (None, None) => None,
        }
    }

    fn throttle(&mut self, longest_first: Duration, longest: Duration) -> Option<ThrottlePolicy> {
        let free_failures =
            self.one("throttle_free_failures", |text| values::count(text, 1, 1_000_000));
        let first_delay =
            self.one("throttle_first_delay", |text| values::delta(text, SECOND, longest_first));
        let longest_delay =
            self.one("throttle_longest_delay", |text| values::delta(text, SECOND, longest));
        let forgotten_after = self.one("throttle_forget", |text| values::delta(text, MINUTE, YEAR));
        Some(ThrottlePolicy {
            free_failures: free_failures?,
            first_delay: first_delay?,
            longest_delay: longest_delay?,
            forgotten_after: forgotten_after?,
        })
    }

    fn address_throttle(&mut self) -> Option<AddressPolicy> {
        let free_failures =
            self.one("address_throttle_free_failures", |text| values::count(text, 1, 1_000_000));
        let forget_each =
            self.one("address_throttle_forget_each", |text| values::delta(text, SECOND, DAY));
        Some(AddressPolicy { free_failures: free_failures?, forget_each: forget_each? })
    }

    /// A value that must be there, if only as the default.
    fn one<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let before = self.problems.len();
        let value = self.optional(name, parse);
        if value.is_none() && self.problems.len() == before {
            self.problems.push(format!("{name} is not set."));
        }
        value
    }

    fn optional<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let key = Key::named(name)?;
        let (text, origin) = self.sources.get(key)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(right) => {
                let name = sources::name_for(key, &origin);
                self.problems.push(if key.is_secret() {
                    format!("{name} cannot be used: {right}.")
                } else {
                    format!("{name} is {:?}: {right}.", sources::without_passwords(text))
                });
                None
            }
        }
    }
}

/// The one private network of that size (RFC 1918, section 3).
const PRIVATE: ipnet::Ipv4Net = ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 0, 0, 0), 8);

/// What to say of networks of trusted proxies that hold nearly everybody: whoever is in one may claim to come from any address, which
/// throttles, the audit log and limits of connections then believe.
fn too_wide(proxies: &[IpNet]) -> Option<String> {
    let is_wide = |network: &&IpNet| match network {
        // As many addresses as a /8 are nobody's proxies, but for those of private networks (RFC 1918).
        IpNet::V4(network) => network.prefix_len() <= 8 && *network != PRIVATE,
        // A /16 is more than any provider has; unique local addresses (RFC 4193) are one's own.
        IpNet::V6(network) => network.prefix_len() < 16 && !network.network().is_unique_local(),
    };
    let wide: Vec<String> = proxies.iter().filter(is_wide).map(ToString::to_string).collect();
    (!wide.is_empty()).then(|| {
        format!(
            "ENTRYBOOK_TRUSTED_PROXIES has {}: whoever is in such a network can claim to be any address, and is believed. List the addresses of \
             your own proxies alone.",
            wide.join(" and ")
        )
    })
}

/// An empty flag (`--data-dir=`) is a slip, never the current directory.
fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("write a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests;
