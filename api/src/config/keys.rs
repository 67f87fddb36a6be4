//! Every setting: its names, what it means, its default. `--help`, the parser and the README table all read this list.

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    /// In the configuration file. The flag is the same with dashes.
    pub name: &'static str,
    /// In the environment.
    pub env: &'static str,
    /// What kind of value it takes, as `--help` shows it.
    pub value: &'static str,
    /// The default, as one would write it. Empty: none.
    pub default: &'static str,
    /// What it does. The first sentence is the short help.
    pub help: &'static str,
    pub heading: &'static str,
    pub scope: Scope,
}

/// Where a key may be given as a flag. In the environment and the file every key may be given, to every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To every verb.
    Everywhere,
    /// To `serve` alone.
    Serve,
    /// Nowhere: whoever may list the processes of a machine could read it.
    NoFlag,
}

const SERVER: &str = "Server";
const DATA: &str = "Data and keys";
const TOKENS: &str = "Tokens and sessions";
const GUARD: &str = "Protection against guessing and flooding";
const HASHING: &str = "Password hashing";
const ADMIN: &str = "The first admin, made when the book has no account yet";
const LOG: &str = "Transparency log";
const LOGGING: &str = "Logging";

macro_rules! keys {
    ($($heading:ident $scope:ident $name:literal $env:literal $value:literal = $default:literal, $help:literal;)*) => {
        /// All of them, in the order of the help.
        pub const KEYS: &[Key] = &[$(Key {
            name: $name,
            env: $env,
            value: $value,
            default: $default,
            help: $help,
            heading: $heading,
            scope: Scope::$scope,
        },)*];
    };
}

keys! {
    SERVER Serve "listen" "ENTRYBOOK_LISTEN" "ADDRESS:PORT" = "127.0.0.1:8080",
        "Where the server listens. 0.0.0.0:8080 is every IPv4 address of the machine, [::]:8080 every address.";
    SERVER Serve "public_url" "ENTRYBOOK_PUBLIC_URL" "URL" = "",
        "The address people use, such as https://login.example.org. It is the issuer of the tokens, the origin that forms must come \
         from, and with https it makes the cookies Secure. Default: http://localhost with the port of ENTRYBOOK_LISTEN.";
    SERVER Serve "applications" "ENTRYBOOK_APPLICATIONS" "URLS" = "",
        "The applications behind the proxy that people are let in at when they are signed in here. The origin of each, separated by \
         commas, such as https://app.example.com,https://wiki.example.com, with a host name of its own (deploy/nginx). Default: none.";
    SERVER Serve "trusted_proxies" "ENTRYBOOK_TRUSTED_PROXIES" "NETWORKS" = "",
        "The proxies whose X-Forwarded-For is believed. Addresses and networks, separated by commas: 10.0.0.0/8,fd00::/8. Everybody else's \
         is ignored. Default: none.";
    SERVER Serve "registration" "ENTRYBOOK_REGISTRATION" "open|closed" = "open",
        "Whether people may register themselves. When closed, accounts are made with `entrybook admin create`.";
    SERVER Serve "migrate" "ENTRYBOOK_MIGRATE" "yes|no" = "yes",
        "Whether `serve` brings the database up to date. Any number of replicas may start at once; one does the work. With no, it refuses to \
         start on a database that `entrybook migrate` has not brought up to date.";
    SERVER Serve "shutdown_timeout" "ENTRYBOOK_SHUTDOWN_TIMEOUT" "DURATION" = "25s",
        "How long requests in flight may take after SIGTERM or Ctrl-C. A second signal ends them at once.";
    SERVER Serve "shutdown_drain" "ENTRYBOOK_SHUTDOWN_DRAIN" "DURATION" = "0s",
        "How long after SIGTERM or Ctrl-C requests are still taken, while /readyz answers 503. Behind a load balancer that follows /readyz, set \
         it longer than the balancer needs to notice, and no request is lost when a replica stops: a few seconds.";

    DATA Everywhere "data_dir" "ENTRYBOOK_DATA_DIR" "DIR" = ".entrybook",
        "The directory of the private PostgreSQL, the master key, and what the transparency log has signed. Made when missing; to begin anew, \
         delete it.";
    DATA Everywhere "database_url" "DATABASE_URL" "URL" = "",
        "Use this PostgreSQL (14 or newer) and start none. postgres://USER:PASSWORD@HOST:5432/DATABASE. A password is better given in the \
         environment than as a flag. Default: a private PostgreSQL in the data directory.";
    DATA NoFlag "owner_database_url" "ENTRYBOOK_OWNER_DATABASE_URL" "URL" = "",
        "The login that owns the tables and brings them up to date, where it is not the one of DATABASE_URL. With two of them nobody who has \
         the login of DATABASE_URL can change history. Default: DATABASE_URL.";
    DATA Serve "database_connections" "ENTRYBOOK_DATABASE_CONNECTIONS" "COUNT" = "20",
        "How many connections this process opens at most to answer requests. A few more keep the book in order.";
    DATA NoFlag "master_key" "ENTRYBOOK_MASTER_KEY" "KEY" = "",
        "The key that wraps all other keys: 32 bytes in base64 or hexadecimal. Make one with `openssl rand -base64 32`. Without it nobody \
         can read the personal data in the database, Entrybook included: keep a copy in a safe place, apart from the database backups.";
    DATA Everywhere "master_key_file" "ENTRYBOOK_MASTER_KEY_FILE" "FILE" = "",
        "A file with the master key in it. Readable by its owner alone (chmod 600). Default: master.key in the data directory, made at the \
         first start; with DATABASE_URL a key must be given.";
    DATA NoFlag "previous_master_key" "ENTRYBOOK_PREVIOUS_MASTER_KEY" "KEY" = "",
        "The other master key while the master key is being changed: it opens what it has wrapped, and wraps nothing. `entrybook keys rewrap` \
         wraps all keys by the present one; then it is needed no more.";
    DATA Everywhere "previous_master_key_file" "ENTRYBOOK_PREVIOUS_MASTER_KEY_FILE" "FILE" = "",
        "A file with the other master key in it. Default: none.";
    DATA Serve "retention" "ENTRYBOOK_RETENTION" "keep|DURATION" = "keep",
        "How long the history tells addresses and user agents, such as 400d: from then on nobody can read them. It goes by whole months, and \
         once a month is forgotten nothing brings it back. The events themselves stay.";
    DATA Everywhere "postgres_bin" "ENTRYBOOK_POSTGRES_BIN" "DIR" = "",
        "The directory of initdb, postgres and pg_ctl for the private PostgreSQL. Default: the newest found on PATH and where Debian, Red \
         Hat, Alpine and Homebrew put it.";
    DATA Everywhere "postgres_user" "ENTRYBOOK_POSTGRES_USER" "ACCOUNT" = "",
        "The account that the private PostgreSQL runs as when Entrybook is started as root. Default: the first of postgres, _postgres, \
         daemon, nobody that exists.";

    TOKENS Serve "access_token_lifetime" "ENTRYBOOK_ACCESS_TOKEN_LIFETIME" "DURATION" = "15m",
        "How long an access token is good for, from 1m to 8h. A session that is ended takes its tokens with it at once, whatever this says.";
    TOKENS Serve "refresh_lifetime" "ENTRYBOOK_REFRESH_LIFETIME" "DURATION" = "24h",
        "How long a session lasts after its last refresh.";
    TOKENS Serve "remember_lifetime" "ENTRYBOOK_REMEMBER_LIFETIME" "DURATION" = "30d",
        "The same, for sessions begun with \"remember me\".";
    TOKENS Serve "session_lifetime" "ENTRYBOOK_SESSION_LIFETIME" "DURATION" = "90d",
        "How long a session lasts at most, however often it is refreshed: then the person signs in again. It holds for sessions that are open \
         already, from when they began.";
    TOKENS Serve "refresh_grace" "ENTRYBOOK_REFRESH_GRACE" "DURATION" = "10s",
        "How long a spent refresh token may be used again. Two tabs do that; after the grace it counts as stolen, and the session ends.";
    TOKENS Serve "token_algorithm" "ENTRYBOOK_TOKEN_ALGORITHM" "EdDSA|ES256|RS256|HS256" = "EdDSA",
        "How access tokens are signed. With HS256 only Entrybook itself can check them.";
    TOKENS Serve "token_audience" "ENTRYBOOK_TOKEN_AUDIENCE" "TEXT" = "entrybook",
        "Whom access tokens are for: their `aud` claim.";

    GUARD Serve "throttle_free_failures" "ENTRYBOOK_THROTTLE_FREE_FAILURES" "COUNT" = "5",
        "So many failed sign-ins to one account are free; then the delays begin.";
    GUARD Serve "throttle_first_delay" "ENTRYBOOK_THROTTLE_FIRST_DELAY" "DURATION" = "1s",
        "The first delay. Each further failure doubles it.";
    GUARD Serve "throttle_longest_delay" "ENTRYBOOK_THROTTLE_LONGEST_DELAY" "DURATION" = "15m",
        "Where the doubling stops.";
    GUARD Serve "throttle_forget" "ENTRYBOOK_THROTTLE_FORGET" "DURATION" = "24h",
        "Failures count no more when none came for so long.";
    GUARD Serve "address_throttle_free_failures" "ENTRYBOOK_ADDRESS_THROTTLE_FREE_FAILURES" "COUNT" = "100",
        "So many failed sign-ins from one address (IPv6: one /64), to whatever accounts, are free at once. A /56 has four times as \
         many, a /48 and a /24 of IPv4 sixteen times.";
    GUARD Serve "address_throttle_forget_each" "ENTRYBOOK_ADDRESS_THROTTLE_FORGET_EACH" "DURATION" = "6m",
        "One of these failures is forgotten each so long, and then there is room for another one.";
    GUARD Serve "registrations_per_hour" "ENTRYBOOK_REGISTRATIONS_PER_HOUR" "COUNT" = "1000",
        "How many accounts may be registered from one address in an hour. Asking for another name or e-mail address counts as well.";
    GUARD Serve "changes_per_hour" "ENTRYBOOK_CHANGES_PER_HOUR" "COUNT" = "360",
        "How many changes of their profile one person may make in an hour, a sixth of them at once; more get 429 and Retry-After. As many sign-ins, \
         refreshes, changes of the password and endings of all other sessions, each counted apart; of other accounts, an admin may change ten times \
         as many. At least 6.";
    GUARD Serve "address_changes_per_hour" "ENTRYBOOK_ADDRESS_CHANGES_PER_HOUR" "COUNT" = "36000",
        "How many changes of profiles, sign-ins and refreshes, each counted apart, may come from one address (IPv6: one /64) in an hour, \
         whoever makes them.";

    GUARD Serve "max_connections" "ENTRYBOOK_MAX_CONNECTIONS" "COUNT" = "4096",
        "How many connections are open at most. Who comes when there are so many takes the place of the one that has waited for its client for longest; \
         where all are being answered, only /healthz, /readyz and /metrics are answered, on a few connections more.";
    GUARD Serve "connections_per_address" "ENTRYBOOK_CONNECTIONS_PER_ADDRESS" "COUNT" = "1024",
        "How many of these one address (IPv6: one /64) has at most. ENTRYBOOK_TRUSTED_PROXIES are not bounded so, for everybody comes from them.";
    GUARD Serve "max_requests" "ENTRYBOOK_MAX_REQUESTS" "COUNT" = "512",
        "How many requests are answered at once; more get 503 and Retry-After. A request counts from when all of its body is there.";

    HASHING Serve "hash_threads" "ENTRYBOOK_HASH_THREADS" "COUNT" = "",
        "How many passwords are hashed at once, each with 19 MiB of memory. Default: one for each processor.";
    HASHING Serve "hash_queue" "ENTRYBOOK_HASH_QUEUE" "COUNT" = "",
        "How many more may wait. Default: 256 for each that is hashed at once, a few seconds' work. Beyond that a sign-in is answered with 503 and Retry-After.";

    ADMIN Serve "admin_email" "ENTRYBOOK_ADMIN_EMAIL" "EMAIL" = "admin@localhost",
        "E-mail address of the first admin.";
    ADMIN Serve "admin_username" "ENTRYBOOK_ADMIN_USERNAME" "NAME" = "admin",
        "Username of the first admin.";
    ADMIN NoFlag "admin_password" "ENTRYBOOK_ADMIN_PASSWORD" "PASSWORD" = "",
        "Password of the first admin, 8 to 1,024 characters. Default: a generated one, printed once.";

    LOG Serve "log_origin" "ENTRYBOOK_LOG_ORIGIN" "NAME" = "",
        "The name of the transparency log, such as login.example.org/log. It is taken at the first start and kept in the database; afterwards \
         `entrybook log begin` alone gives another. Default: the host of ENTRYBOOK_PUBLIC_URL, and /log.";
    LOG Serve "log_interval" "ENTRYBOOK_LOG_INTERVAL" "DURATION" = "2s",
        "How often a checkpoint of the book is signed at most, from 100ms to 1h. Nothing is signed when nothing is new.";
    LOG Serve "log_entries" "ENTRYBOOK_LOG_ENTRIES" "auditors|public" = "auditors",
        "Who may fetch the lines of the book from the log. They hold no personal data in the clear, but tell which account, by its number, \
         did what and when; and whoever reads them can confirm that somebody who was erased had a name that they suspect (docs/erasure.md). \
         Checkpoints, hashes and proofs are for everybody.";
    LOG Serve "log_witnesses" "ENTRYBOOK_LOG_WITNESSES" "KEY URL" = "",
        "The witnesses that cosign each checkpoint. Of each its verifier key and the address where it is reached, such as \
         witness.example.com+1b6d2c5e+BAx… https://witness.example.com; several are separated by commas. `entrybook log witness` is one. \
         Default: none.";
    LOG Serve "log_anchor_file" "ENTRYBOOK_LOG_ANCHOR_FILE" "FILE" = "",
        "A file that each checkpoint is appended to. On another disk, or one that can only be written once, it tells whether the book was \
         set back. Default: none.";
    LOG Serve "log_anchor_url" "ENTRYBOOK_LOG_ANCHOR_URL" "URL" = "",
        "An address that each checkpoint is posted to. Any answer 2xx will do; anything else is tried again later. Default: none.";
    LOG Serve "log_ca_file" "ENTRYBOOK_LOG_CA_FILE" "FILE" = "",
        "Certificates, in PEM, of whom to trust when witnesses and the address are reached by https. The usual authorities are trusted in \
         any case. Default: none.";

    LOGGING Everywhere "log" "ENTRYBOOK_LOG" "FILTER" = "",
        "What is logged: error, warn, info, debug, trace. Or by part: info,commands=debug. Default: info for `serve`, warn for the \
         other verbs.";
    LOGGING Everywhere "log_format" "ENTRYBOOK_LOG_FORMAT" "pretty|json" = "",
        "How it is logged, on standard error. Default: pretty on a terminal, json elsewhere.";
}

impl Key {
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// As a flag, with its dashes.
    pub fn flag(&self) -> String {
        format!("--{}", self.dashed())
    }

    pub(super) fn dashed(&self) -> String {
        self.name.replace('_', "-")
    }

    /// Whether its value may never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(
            self.name,
            "master_key"
                | "previous_master_key"
                | "admin_password"
                | "database_url"
                | "owner_database_url"
        )
    }

    /// Up to the first full stop that ends a sentence, without it.
    pub(super) fn short_help(&self) -> &'static str {
        self.help.split_once(". ").map_or(self.help.trim_end_matches('.'), |(first, _)| first)
    }

    /// The whole help, with the other ways to give it.
    pub(super) fn long_help(&self) -> String {
        let default = if self.default.is_empty() {
            String::new()
        } else {
            format!(" [default: {}]", self.default)
        };
        format!("{}\n[env: {}]{default}", self.help, self.env)
    }
}

/// The keys without a flag, for the end of `serve --help`.
pub fn flagless_help() -> String {
    let mut text = String::from(
        "Settings that are no flags, because every user of a machine may list those:\n",
    );
    for key in KEYS.iter().filter(|key| key.scope == Scope::NoFlag) {
        text.push_str(&format!("  {}\n          {}\n", key.env, key.help));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_differ_and_follow_one_rule() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS {
            let usual = format!("ENTRYBOOK_{}", key.name.to_uppercase());
            assert!(key.env == usual || key.env == "DATABASE_URL", "{}", key.env);
            assert!(key.help.ends_with('.'), "{}", key.name);
        }
    }

    #[test]
    fn no_secret_is_a_flag_but_the_address_of_the_database() {
        for key in KEYS.iter().filter(|key| key.is_secret() && key.name != "database_url") {
            assert_eq!(key.scope, Scope::NoFlag, "{}", key.name);
        }
    }
}
