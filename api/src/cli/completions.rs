//! `entrybook completions`: what a shell needs to complete verbs and flags.

use super::Out;
use clap_complete::{Shell, generate};

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Prints a script that lets a shell complete the verbs and flags of this program.",
    after_help = "Examples:\n  entrybook completions bash > /etc/bash_completion.d/entrybook\n  \
        entrybook completions zsh > /usr/local/share/zsh/site-functions/_entrybook\n  \
        entrybook completions fish > ~/.config/fish/completions/entrybook.fish"
)]
pub(super) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(super) fn run(
    arguments: &Arguments,
    mut program: clap::Command,
    out: &mut Out,
) -> anyhow::Result<()> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut program, "entrybook", &mut script);
    Ok(out.bytes(&script)?)
}
