//! How a verb ends: the exit code, and the last words.

use super::{out, tame};
use crate::bootstrap::DatabaseUnavailable;
use crate::config::ConfigError;
use commands::keyring::KeyringError;
use commands::{CommandError, RegisterError, StorageError};
use projections::RebuildError;
use std::ffi::OsString;
use std::io::{self, Write};

/// The exit codes. Scripts rely on them; they do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    DatabaseUnavailable = 3,
    Refused = 4,
    Unhealthy = 5,
    /// What was compared with the book differs from it.
    Differs = 6,
    /// What was verified is not all there, or nothing proves that it is.
    Incomplete = 7,
    /// As a shell reports SIGINT.
    Interrupted = 130,
    /// As a shell reports SIGTERM.
    Terminated = 143,
}

/// What was asked for is not there, or may not be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Ctrl-C.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// How errors are said: in words, or as JSON to whoever asked for JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errors {
    Words,
    Json,
}

impl Errors {
    /// By the arguments as they were typed: also where they could not be understood.
    pub(super) fn asked_for(arguments: impl IntoIterator<Item = OsString>) -> Self {
        let mut options = arguments.into_iter().skip(1).take_while(|argument| argument != "--");
        if options.any(|argument| argument == "--json") { Self::Json } else { Self::Words }
    }

    /// Says what went wrong: on standard error, and as JSON on standard output as well where no answer was begun.
    pub(super) fn report(self, error: &anyhow::Error) -> Exit {
        // `entrybook audit tail | head`: whoever reads has seen enough.
        if error.chain().any(is_broken_pipe) {
            return Exit::Done;
        }
        let code = code(error);
        if code != Exit::Interrupted {
            self.say(&words(error), code);
        }
        code
    }

    /// Says what was wrong with the arguments; or prints the help or the version, which are answers and no errors.
    pub(super) fn report_usage(self, error: &clap::Error) -> Exit {
        match self {
            Self::Json if error.use_stderr() => {
                let text = error.render().to_string();
                self.say(text.trim_end().trim_start_matches("error: "), Exit::Usage);
                Exit::Usage
            }
            Self::Json | Self::Words => {
                let _ = error.print();
                if error.use_stderr() { Exit::Usage } else { Exit::Done }
            }
        }
    }

    fn say(self, message: &str, code: Exit) {
        let text = match self {
            Self::Words => format!("entrybook: {}", tame::text(message)),
            Self::Json => {
                let error =
                    serde_json::json!({ "error": { "message": message, "exit_code": code as u8 } });
                tame::json(&error.to_string()).into_owned()
            }
        };
        // A program that reads answers finds one object on standard output in any case: the answer, or this.
        if self == Self::Json && !out::has_begun() {
            let _ = writeln!(io::stdout(), "{text}");
        }
        // If even that fails, the exit code still tells.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// The error with its causes, each said once: many an error quotes its own cause.
pub(super) fn words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            let end = text.trim_end_matches('.').len();
            text.truncate(end);
            text = format!("{text}: {cause}");
        }
    }
    if !text.ends_with(['.', '?', '!']) && !text.contains('\n') {
        text.push('.');
    }
    text
}

fn is_broken_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn code(error: &anyhow::Error) -> Exit {
    error.chain().find_map(code_of).unwrap_or(Exit::Failed)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let unavailable = |yes: bool| yes.then_some(Exit::DatabaseUnavailable);
    if let Some(KeyringError::WrongMasterKey { .. }) = cause.downcast_ref() {
        Some(Exit::Usage)
    } else if cause.is::<Interrupted>() {
        Some(Exit::Interrupted)
    } else if cause.is::<ConfigError>() {
        Some(Exit::Usage)
    } else if cause.is::<Refused>() {
        Some(Exit::Refused)
    } else if let Some(error) = cause.downcast_ref::<CommandError>() {
        match error {
            CommandError::NotFound | CommandError::Refused(_) => Some(Exit::Refused),
            CommandError::Overloaded => None,
            CommandError::Storage(error) => unavailable(error.is_temporary()),
        }
    } else if let Some(error) = cause.downcast_ref::<RegisterError>() {
        match error {
            RegisterError::IdentifierTaken(_) => Some(Exit::Refused),
            RegisterError::TooMany { .. } | RegisterError::Overloaded => None,
            RegisterError::Storage(error) => unavailable(error.is_temporary()),
        }
    } else if let Some(error) = cause.downcast_ref::<RebuildError>() {
        match error {
            RebuildError::UnderWay(_)
            | RebuildError::FirstBuild(_)
            | RebuildError::NotRegistered(_) => Some(Exit::Refused),
            // Its cause may tell more.
            _ => None,
        }
    } else if let Some(error) = cause.downcast_ref::<StorageError>() {
        unavailable(error.is_temporary())
    } else if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
        unavailable(commands::is_temporary(error))
    } else {
        unavailable(cause.is::<DatabaseUnavailable>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn exit(error: impl Into<anyhow::Error>) -> Exit {
        code(&Err::<(), anyhow::Error>(error.into()).context("doing this").unwrap_err())
    }

    #[test]
    fn causes_decide_the_code_wherever_they_are() {
        assert_eq!(exit(anyhow::anyhow!("anything")), Exit::Failed);
        assert_eq!(exit(ConfigError::one("x")), Exit::Usage);
        assert_eq!(exit(Refused("x".into())), Exit::Refused);
        assert_eq!(exit(CommandError::NotFound), Exit::Refused);
        assert_eq!(exit(sqlx::Error::PoolTimedOut), Exit::DatabaseUnavailable);
        assert_eq!(
            exit(StorageError::Unavailable(sqlx::Error::PoolClosed)),
            Exit::DatabaseUnavailable
        );
        assert_eq!(exit(sqlx::Error::RowNotFound), Exit::Failed);
        let wrong = KeyringError::WrongMasterKey { expected: "a".into(), given: "b".into() };
        assert_eq!(exit(wrong), Exit::Usage);
        assert_eq!(
            exit(KeyringError::Database(sqlx::Error::PoolClosed)),
            Exit::DatabaseUnavailable
        );
    }

    #[test]
    fn who_asks_for_json_gets_errors_as_json() {
        let asked = |line: &str| Errors::asked_for(line.split(' ').map(OsString::from));
        assert_eq!(asked("entrybook audit show --json 7"), Errors::Json);
        assert_eq!(asked("entrybook --json"), Errors::Json);
        assert_eq!(asked("entrybook audit show 7"), Errors::Words);
        assert_eq!(asked("entrybook users erase -- --json"), Errors::Words);
        assert_eq!(asked("--json serve"), Errors::Words, "that is the name of the program");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let error =
            anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).context("printing");
        assert_eq!(Errors::Words.report(&error), Exit::Done);
    }
}
