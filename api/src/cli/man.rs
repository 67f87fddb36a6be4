//! `entrybook man`: the manual pages, made from the same descriptions as the help.

use super::Out;
use anyhow::Context;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    long_about = "Writes the manual pages, one for each verb, into a directory; or prints that of the program itself.",
    after_help = "Examples:\n  entrybook man | man -l -\n  entrybook man --out /usr/local/share/man/man1"
)]
pub(super) struct Arguments {
    /// The directory to write all pages into; it is made when missing
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(
    arguments: &Arguments,
    program: clap::Command,
    out: &mut Out,
) -> anyhow::Result<()> {
    match &arguments.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(program).render(&mut page)?;
            Ok(out.bytes(&page)?)
        }
        Some(directory) => {
            let cannot =
                || format!("The manual pages could not be written to {}", directory.display());
            std::fs::create_dir_all(directory).with_context(cannot)?;
            clap_mangen::generate_to(program, directory).with_context(cannot)
        }
    }
}
