//! The command line: one file per verb.
//!
//! Owns what is printed and the exit codes. A verb builds what it needs with `bootstrap` and does what the server would do, as
//! `By::Cli` with the operating system's user.

mod admin;
mod audit;
mod completions;
mod dev;
mod doctor;
mod exit;
mod healthcheck;
mod key_faults;
mod keys;
mod log;
mod man;
mod migrate;
mod openapi;
mod out;
mod password;
mod projections;
mod prune;
mod serve;
mod show_config;
mod table;
mod tame;
mod users;
mod verifier_keys;

pub use exit::{Exit, Refused};

use crate::bootstrap::{Database, Migrate, Services, Size, prepare};
use crate::config::{CommonFlags, Config, ConfigError, ServeFlags, Sources, flagless_help};
use crate::telemetry;
use clap::{CommandFactory, Parser, Subcommand};
use commands::{By, Origin};
use out::Out;
use std::process::ExitCode;
use std::time::Duration;

const ABOUT: &str = "A login service whose whole history can be replayed and proved";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or settings
  3  the database cannot be reached
  4  refused, or nothing like that is there
  5  doctor or log status found problems
  6  read tables, or what is checked with them, differ from the book; or the book from what was signed of it
  7  what was verified is not all there, or nothing proves that it is
  130, 143  broken off by SIGINT (Ctrl-C), by SIGTERM

With --json an error is JSON as well, on standard error, and on standard output where no answer was begun: {\"error\": {\"message\", \"exit_code\"}}.
Settings come from flags, else the environment, else a file (--config); `entrybook serve --help` explains them all.";

#[derive(Debug, Parser)]
#[command(
    name = "entrybook",
    version,
    about = ABOUT,
    long_about = "Entrybook is a login service whose whole history can be replayed and proved.\n\n\
        `entrybook serve` starts everything: without any settings it brings a private PostgreSQL of its own, kept in .entrybook, and \
        prints the password of its first admin once.",
    after_help = EXIT_CODES,
    max_term_width = 100,
    propagate_version = true
)]
struct Cli {
    #[command(flatten)]
    common: CommonFlags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start Entrybook: the server, and what posts its book
    #[command(
        long_about = "Starts everything: brings the database up to date, makes the first admin where there is no account yet and prints \
            its password once, posts the journal and the read tables, and answers HTTP.\n\n\
            Without DATABASE_URL it starts a private PostgreSQL in the data directory, and makes a master key there. Any number of \
            processes may serve one DATABASE_URL; they are equals.\n\n\
            SIGTERM or Ctrl-C finishes the requests in flight, then stops everything it started; a second one does not wait for the \
            requests.",
        after_long_help = serve_help()
    )]
    Serve(ServeFlags),
    /// Bring the database up to date
    #[command(
        long_about = "Brings the database up to date, and says what was done. Safe to run from several places at once, and while \
            servers run. `serve` does it by itself unless told --migrate=no.",
        after_help = "Examples:\n  entrybook migrate\n  DATABASE_URL=postgres://owner@db/entrybook entrybook migrate --json"
    )]
    Migrate(migrate::Arguments),
    /// Make accounts from the command line, reset passwords, see who is an admin
    #[command(
        long_about = "Acts on accounts without signing in: for the first admin, for a lost password, for scripts. What it does is in \
            the history, with your name on this machine as the one who did it. Works beside a running server."
    )]
    Admin(admin::Arguments),
    /// See how far the read tables are, check them, and build them anew
    #[command(
        long_about = "Every table that is read is posted from the events, and can be built anew from them. `status` shows how far each is \
            behind, and what is being built; `verify` compares them with the book; `rebuild` builds them beside the live ones, compares, and \
            swaps them in; `prune` drops versions that nobody uses. All of it works beside running servers, and nobody who reads or signs in \
            waits for it.",
        after_help = EXIT_CODES
    )]
    Projections(projections::Arguments),
    /// Read the history
    #[command(
        long_about = "Reads the history: every change of an account or a session, every failed sign-in, in the order of the book. \
            Personal data (names, addresses) is opened for you with the master key: mind who looks over your shoulder, and where you \
            send the output."
    )]
    Audit(audit::Arguments),
    /// The transparency log: its keys, how it stands, and witnesses of other logs
    #[command(
        long_about = "The transparency log makes the book one that can be proved: a signed checkpoint every few seconds, over a tree of all lines. \
            Here are the keys that it is checked with, how it stands, and what to do when it stopped. `witness` watches the logs of other \
            machines. docs/transparency-log.md describes it.",
        after_help = EXIT_CODES
    )]
    Log(log::Arguments),
    /// Erase a person, and have the receipt for it
    #[command(
        long_about = "Erases people from the command line, and gives the receipts for it. docs/erasure.md tells what is destroyed, what remains \
            and why. (`entrybook admin list --all` lists the accounts.)",
        after_help = EXIT_CODES
    )]
    Users(users::Arguments),
    /// See which master keys wrap the keys, and change the master key
    Keys(keys::Arguments),
    /// Make up a history, for trying and measuring
    Dev(dev::Arguments),
    /// Show the settings in force, and where each comes from
    Config(show_config::Arguments),
    /// Print the OpenAPI description of the API
    #[command(
        long_about = "Prints the OpenAPI 3.1 description of the API, as the server answers it under /openapi.json. Needs no database.",
        after_help = "Example:\n  entrybook openapi > openapi.json"
    )]
    Openapi,
    /// Print the completions of a shell
    Completions(completions::Arguments),
    /// Write the manual pages
    Man(man::Arguments),
    /// Check settings, database, clock, keys and lag, and say what to do
    #[command(
        long_about = "Checks what Entrybook needs: settings, data directory, database (version, durability, privileges, migrations), \
            clock, keys, sequencer and read tables. Each line says ok, warn or fail, and what to do. Exits with 5 if anything failed. It \
            changes nothing. Works beside a running server.",
        after_help = "Examples:\n  entrybook doctor\n  entrybook doctor --json"
    )]
    Doctor(doctor::Arguments),
    /// Ask the server of this machine whether it lives
    #[command(
        long_about = "Asks /healthz of the server that listens on ENTRYBOOK_LISTEN, for at most three seconds. Exits with 0 if it answers \
            200. For container engines, whose health checks need something inside the image to ask with."
    )]
    Healthcheck,
}

fn serve_help() -> String {
    format!(
        "{}\nExamples:\n  entrybook serve\n  entrybook serve --listen 0.0.0.0:8080 --public-url https://login.example.org\n  \
         DATABASE_URL=postgres://entrybook:PASSWORD@db/entrybook ENTRYBOOK_MASTER_KEY_FILE=/run/secrets/master.key entrybook serve\n\n\
         {EXIT_CODES}",
        flagless_help()
    )
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let errors = exit::Errors::asked_for(std::env::args_os());
    let code = match Cli::try_parse() {
        Ok(cli) => run(cli).unwrap_or_else(|error| errors.report(&error)),
        Err(error) => errors.report_usage(&error),
    };
    ExitCode::from(code as u8)
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let mut out = Out::standard();
    let serve = match &cli.verb {
        Verb::Serve(flags) => Some(flags),
        // These need no settings.
        Verb::Openapi => {
            openapi::run(&mut out)?;
            return Ok(Exit::Done);
        }
        Verb::Completions(arguments) => {
            completions::run(arguments, Cli::command(), &mut out)?;
            return Ok(Exit::Done);
        }
        Verb::Man(arguments) => {
            man::run(arguments, Cli::command(), &mut out)?;
            return Ok(Exit::Done);
        }
        _ => None,
    };
    let sources =
        Sources::gather(&cli.common.with(serve), cli.common.file.as_deref(), std::env::vars_os());
    if let Verb::Config(arguments) = &cli.verb {
        return show_config::run(&sources?, arguments, &mut out);
    }
    let config = sources.and_then(|sources| Config::read(&sources));
    if let Verb::Doctor(arguments) = &cli.verb {
        return on_runtime(doctor::run(config, arguments, &mut out));
    }
    let config = config?;
    if matches!(cli.verb, Verb::Healthcheck) {
        healthcheck::run(config.listen)?;
        return Ok(Exit::Done);
    }
    // The notices of PostgreSQL tell of tables that are not there yet, and that a verb has slow statements tells nobody anything.
    let serves = serve.is_some() || matches!(&cli.verb, Verb::Log(log) if log.serves());
    telemetry::start(&config, if serves { "info,sqlx=warn" } else { "warn,sqlx=error" });
    match cli.verb {
        Verb::Serve(_) => on_runtime(serve::run(&config, &mut out))?,
        Verb::Migrate(arguments) => on_runtime(migrate::run(&config, &arguments, &mut out))?,
        Verb::Admin(arguments) => on_runtime(admin::run(&config, arguments, &mut out))?,
        Verb::Projections(arguments) => {
            return on_runtime(projections::run(&config, &arguments, &mut out));
        }
        Verb::Audit(arguments) => return on_runtime(audit::run(&config, arguments, &mut out)),
        Verb::Log(arguments) => return on_runtime(log::run(&config, arguments, &mut out)),
        Verb::Users(arguments) => return on_runtime(users::run(&config, arguments, &mut out)),
        Verb::Keys(arguments) => on_runtime(keys::run(&config, arguments, &mut out))?,
        Verb::Dev(arguments) => on_runtime(dev::run(&config, arguments, &mut out))?,
        Verb::Config(_)
        | Verb::Openapi
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::Doctor(_)
        | Verb::Healthcheck => {}
    }
    Ok(Exit::Done)
}

fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // What still runs then is nobody's answer.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Refuses to look into a database that is not there: a verb in the wrong directory would make one, and a master key.
fn require_database(config: &Config) -> anyhow::Result<()> {
    if Database::exists(config)? {
        return Ok(());
    }
    let dir = std::path::absolute(&config.data_dir)?;
    Err(Refused(format!(
        "There is no database in {}. Go to the directory that Entrybook is started in, or name its data directory with --data-dir or \
         ENTRYBOOK_DATA_DIR (or its database with DATABASE_URL). To begin a new book: entrybook serve",
        dir.display()
    ))
    .into())
}

/// Runs `work` with everything a verb may need, on a database that is there already, and stops what was started for it, whatever came
/// of it.
async fn with_services<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Services) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    require_database(config)?;
    with_new_services(config, work).await
}

/// The same, and makes a private database where there is none.
async fn with_new_services<T>(
    config: &Config,
    work: impl AsyncFnOnce(&Services) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    with_services_of(config, Size::ONE_VERB, async |services| {
        tokio::select! {
            result = work(services) => result,
            _ = tokio::signal::ctrl_c() => Err(exit::Interrupted.into()),
        }
    })
    .await
}

/// The same for work that minds Ctrl-C itself.
async fn with_services_of<T>(
    config: &Config,
    size: Size,
    work: impl AsyncFnOnce(&Services) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let database = Database::open_or_join(config).await?;
    let result = async {
        prepare(config, &database, Migrate::as_owner(&database)).await?;
        let issuer = config.public_url(config.listen.port())?;
        let services = Services::open(config, &database, issuer.origin(), size).await?;
        let result = work(&services).await;
        services.close().await;
        result
    }
    .await;
    let closed = database.close().await;
    let result = result?;
    closed?;
    Ok(result)
}

/// Who acts on the command line, for the history.
fn origin(services: &Services) -> Origin {
    Origin {
        by: By::Cli { os_user: os_user() },
        address: None,
        user_agent: None,
        request_id: services.book.ids().uuid_v7().to_string(),
    }
}

/// The account of this machine that runs the verb; behind sudo, also who called it.
fn os_user() -> String {
    let uid = nix::unistd::getuid();
    let name = nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| format!("uid {uid}"), |user| user.name);
    match std::env::var("SUDO_USER") {
        Ok(caller) if uid.is_root() && !caller.is_empty() && caller != name => {
            format!("{name} (sudo by {caller})")
        }
        _ => name,
    }
}

/// A wrong setting as the error of a verb.
fn usage(problem: impl Into<String>) -> anyhow::Error {
    ConfigError::one(problem).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_flags_may_stand_before_and_after_the_verb() {
        for line in [
            ["entrybook", "--data-dir", "d", "admin", "list"],
            ["entrybook", "admin", "--data-dir", "d", "list"],
            ["entrybook", "admin", "list", "--data-dir", "d"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            let given = cli.common.with(None);
            assert_eq!(given.len(), 1, "{line:?}");
            assert_eq!(given[0].1, "d");
        }
    }

    /// Whoever asks for the help of a verb wants what that verb does, and the settings of all verbs after it.
    #[test]
    fn the_own_options_of_a_verb_come_first_in_its_help() {
        fn look(command: &mut clap::Command, at_all: &mut usize) {
            let own: Vec<String> = command
                .get_arguments()
                .filter(|argument| !argument.is_global_set() && !argument.is_hide_set())
                .filter_map(|argument| argument.get_long().map(str::to_owned))
                .filter(|long| !["help", "version"].contains(&long.as_str()))
                .collect();
            let help = command.render_long_help().to_string();
            let place = |long: &str| {
                help.lines().position(|line| {
                    let words = line.trim_start();
                    let words = words
                        .split_once(", ")
                        .filter(|(short, _)| short.len() == 2)
                        .map_or(words, |(_, long)| long);
                    words.split([' ', '=']).next() == Some(&format!("--{long}"))
                })
            };
            if let Some(settings) = place("config") {
                for long in own {
                    *at_all += 1;
                    let place = place(&long);
                    assert!(place.is_some_and(|place| place < settings), "--{long} in {help}");
                }
            }
            for verb in command.get_subcommands_mut() {
                look(verb, at_all);
            }
        }
        let mut command = Cli::command();
        command.build();
        let mut at_all = 0;
        look(&mut command, &mut at_all);
        assert!(at_all > 80, "{at_all}");
    }

    #[test]
    fn every_setting_is_in_the_help_of_serve() {
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for key in crate::config::KEYS {
            assert!(help.contains(key.env), "{}", key.env);
        }
    }
}
