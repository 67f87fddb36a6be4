//! The settings as flags of the command line, made from the list of keys.

use super::keys::{KEYS, Key, Scope};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::path::PathBuf;

/// The flags that every verb takes.
#[derive(Clone, Debug, Default)]
pub struct CommonFlags {
    pub file: Option<PathBuf>,
    given: Vec<(&'static Key, String)>,
}

/// The flags that `serve` takes on top.
#[derive(Clone, Debug, Default)]
pub struct ServeFlags {
    given: Vec<(&'static Key, String)>,
}

impl CommonFlags {
    /// Together with those of `serve`, if it is `serve`.
    pub fn with(&self, serve: Option<&ServeFlags>) -> Vec<(&'static Key, String)> {
        let serve = serve.into_iter().flat_map(|flags| flags.given.iter());
        self.given.iter().chain(serve).cloned().collect()
    }
}

fn add(mut command: Command, scope: Scope) -> Command {
    for key in KEYS.iter().filter(|key| key.scope == scope) {
        command = command.arg(
            Arg::new(key.name)
                .long(key.dashed())
                .value_name(key.value)
                .help(key.short_help())
                .long_help(key.long_help())
                .help_heading(key.heading)
                .global(scope == Scope::Everywhere)
                .action(ArgAction::Set),
        );
    }
    command
}

fn collect(matches: &ArgMatches, scope: Scope) -> Vec<(&'static Key, String)> {
    let keys = KEYS.iter().filter(|key| key.scope == scope);
    keys.filter_map(|key| matches.get_one::<String>(key.name).map(|value| (key, value.clone())))
        .collect()
}

impl Args for CommonFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("A file of settings (TOML)")
            .long_help(
                "A file of settings (TOML), such as: listen = \"0.0.0.0:8080\". Its keys are the flags with _ for -. Flags go over the \
                 environment, the environment over the file.\n[env: ENTRYBOOK_CONFIG]",
            )
            .help_heading("File of settings")
            .global(true)
            .value_parser(clap::value_parser!(PathBuf));
        add(command.arg(file), Scope::Everywhere)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CommonFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            file: matches.get_one::<PathBuf>("config").cloned(),
            given: collect(matches, Scope::Everywhere),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ServeFlags {
    fn augment_args(command: Command) -> Command {
        add(command, Scope::Serve)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { given: collect(matches, Scope::Serve) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
