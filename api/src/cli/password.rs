//! Passwords from a terminal, a pipe or the random source; never from an argument.

use super::usage;
use crate::bootstrap::generate_password;
use commands::clock::SystemEntropy;
use domain::Password;
use std::io::{self, IsTerminal, Read};
use zeroize::Zeroizing;

/// How a new password is given.
#[derive(Debug, clap::Args)]
pub(super) struct PasswordChoice {
    /// Read the password from standard input: its first line
    #[arg(long)]
    password_stdin: bool,
    /// Generate a password and print it once. So it is also where nobody can be asked
    #[arg(long, conflicts_with = "password_stdin")]
    generate_password: bool,
}

pub(super) struct NewPassword {
    pub(super) password: Password,
    /// To be printed, once.
    pub(super) generated: Option<Zeroizing<String>>,
}

impl PasswordChoice {
    pub(super) fn read(&self) -> anyhow::Result<NewPassword> {
        if self.password_stdin {
            return given(&first_line()?);
        }
        if self.generate_password || !io::stdin().is_terminal() {
            return generated();
        }
        let typed = ask("New password (empty: generate one): ")?;
        if typed.is_empty() {
            return generated();
        }
        if *ask("Again: ")? != *typed {
            return Err(usage("The two passwords differ."));
        }
        given(&typed)
    }
}

fn ask(prompt: &str) -> io::Result<Zeroizing<String>> {
    rpassword::prompt_password(prompt).map(Zeroizing::new)
}

/// More than any password has; the rest of a longer one is not read.
const MOST_BYTES: u64 = 8 * 1_024;

fn first_line() -> anyhow::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    io::stdin().take(MOST_BYTES).read_to_string(&mut text)?;
    let line = text.split('\n').next().unwrap_or_default();
    Ok(Zeroizing::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

fn given(text: &str) -> anyhow::Result<NewPassword> {
    let password = Password::choose(text).map_err(|error| usage(format!("Password: {error}.")))?;
    Ok(NewPassword { password, generated: None })
}

fn generated() -> anyhow::Result<NewPassword> {
    let text = generate_password(&SystemEntropy);
    Ok(NewPassword { password: Password::choose(&text)?, generated: Some(text) })
}
