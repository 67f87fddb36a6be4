//! Programs of other people that tests need: a browser, nginx, schemathesis.

use std::path::{Path, PathBuf};

/// Whether tests with this tool run. `ENTRYBOOK_TEST_WITHOUT` names, separated by commas, what this
/// machine has to do without: browser, schemathesis, nginx.
pub fn with(group: &str) -> bool {
    let without = std::env::var("ENTRYBOOK_TEST_WITHOUT").unwrap_or_default();
    let left_out = without.split(',').any(|name| name.trim() == group);
    if left_out {
        println!("DID NOT RUN: ENTRYBOOK_TEST_WITHOUT names {group}");
    }
    !left_out
}

/// The first of these programs on PATH, or what the variable says.
pub fn find(variable: &str, names: &[&str], group: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian has nginx where only root's PATH leads.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places
        .flat_map(|place| names.iter().map(move |name| place.join(name)))
        .find(|path| is_program(path));
    found.unwrap_or_else(|| {
        panic!(
            "None of {names:?} is on PATH. Install it, set {variable}, or leave these tests out with \
             ENTRYBOOK_TEST_WITHOUT={group}."
        )
    })
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
