//! The `entrybook` program. Everything is in the library; see `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    entrybook::cli::main()
}
