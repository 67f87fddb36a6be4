//! Finding the programs of a PostgreSQL on this machine.

use crate::account::Account;
use crate::error::Error;
use crate::settings::Settings;
use crate::version::{OLDEST, Version};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Directories as (parent, start of the name, rest): every entry of the parent whose name starts so, with the rest appended.
const KNOWN: [(&str, &str, &str); 10] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                  // Red Hat, from postgresql.org
    ("/usr/libexec", "postgresql", ""),         // Alpine
    ("/usr/lib", "postgresql", "bin"),          // older Alpine, Arch, SUSE
    ("/opt/homebrew/opt", "postgresql", "bin"), // Homebrew
    ("/usr/local/opt", "postgresql", "bin"),    // Homebrew on Intel
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
    ("/usr/local", "pgsql", "bin"), // built from source
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ("/usr/local/lib/entrybook-postgres", "", "bin"), // scripts/install-postgres --wheel, as root
];

/// Looked at as they are.
const KNOWN_PLAIN: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

const PROGRAMS: [&str; 3] = ["postgres", "initdb", "pg_ctl"];

#[derive(Clone, Debug)]
pub(crate) struct Installation {
    pub(crate) bin: PathBuf,
    pub(crate) version: Version,
}

impl Installation {
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The one for `cluster` (its path and major version, once there is one): by setting, else of the cluster's major version,
    /// else the newest. Among equals the place looked at first wins.
    pub(crate) fn find(
        settings: &Settings,
        account: &Account,
        cluster: Option<(&Path, u32)>,
    ) -> Result<Self, Error> {
        if let Some(dir) = &settings.bin_dir {
            let wrong = |why| Error::WrongBinDir { dir: dir.clone(), why };
            let found = inspect(dir, account).map_err(wrong)?;
            return match cluster {
                Some((path, major)) if major != found.version.major => Err(wrong(format!(
                    "PostgreSQL {} there cannot open the database in {}, which was made by PostgreSQL {major}",
                    found.version,
                    path.display()
                ))),
                _ => Ok(found),
            };
        }
        let (found, passed_over_list) = look_around(&settings.search_dirs, account);
        let fits = |one: &&Self| cluster.is_none_or(|(_, major)| one.version.major == major);
        // `max_by_key` gives the last of equals; the order is reversed so that this is the first place.
        if let Some(best) = found.iter().rev().filter(fits).max_by_key(|one| one.version) {
            return Ok(best.clone());
        }
        match cluster {
            Some((path, wanted)) => {
                let list: Vec<String> = found
                    .iter()
                    .map(|one| format!("{} in {}", one.version, one.bin.display()))
                    .collect();
                let found = if list.is_empty() {
                    "nor any other".to_owned()
                } else {
                    format!("only {}", list.join(", "))
                };
                Err(Error::OtherMajorVersion { cluster: path.to_owned(), wanted, found })
            }
            None => Err(Error::NotFound { passed_over_list }),
        }
    }
}

/// All usable ones, in the order of the places, and why others were passed over.
fn look_around(search_dirs: &[PathBuf], account: &Account) -> (Vec<Installation>, Vec<String>) {
    let mut places: Vec<PathBuf> = Vec::new();
    for dir in search_dirs {
        places.extend([dir.clone(), dir.join("bin")]);
        places.extend(entries(dir, "", "bin"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter(|dir| dir.is_absolute()));
    for (parent, start, rest) in KNOWN {
        places.extend(entries(Path::new(parent), start, rest));
    }
    places.extend(KNOWN_PLAIN.map(PathBuf::from));

    let mut seen: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    let mut passed_over = Vec::new();
    for place in places {
        // No word about directories that do not pretend to hold a server.
        if !place.join("postgres").is_file() {
            continue;
        }
        let place = place.canonicalize().unwrap_or(place);
        if seen.contains(&place) {
            continue;
        }
        match inspect(&place, account) {
            Ok(one) => found.push(one),
            Err(why) => {
                tracing::debug!(place = %place.display(), "passed over the PostgreSQL in {}: {why}", place.display());
                passed_over.push(format!("{} ({why})", place.display()));
            }
        }
        seen.push(place);
    }
    (found, passed_over)
}

/// Sorted, so that the order does not depend on the file system.
fn entries(parent: &Path, start: &str, rest: &str) -> Vec<PathBuf> {
    let Ok(listing) = parent.read_dir() else { return Vec::new() };
    let mut names: Vec<_> = listing.flatten().map(|entry| entry.file_name()).collect();
    names.retain(|name| name.as_encoded_bytes().starts_with(start.as_bytes()));
    names.sort();
    names.iter().map(|name| join(parent, name, rest)).collect()
}

fn join(parent: &Path, name: &OsStr, rest: &str) -> PathBuf {
    let dir = parent.join(name);
    if rest.is_empty() { dir } else { dir.join(rest) }
}

/// Runs each program for its version, as the account that will run it later.
fn inspect(dir: &Path, account: &Account) -> Result<Installation, String> {
    let bin = dir.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such directory".to_owned(),
        _ => format!("it cannot be read: {error}"),
    })?;
    let mut version = None;
    for name in PROGRAMS {
        let program = bin.join(name);
        if !program.is_file() {
            return Err(format!("there is no {name} in it"));
        }
        let output = account.command(&program).arg("--version").output().map_err(|error| {
            format!("its {name} cannot be run by the account {}: {error}", account.name)
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("its {name} does not run: {}", said.trim()));
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let this = Version::parse(&printed).ok_or_else(|| {
            format!("its {name} is not PostgreSQL's: it says {:?}", printed.trim())
        })?;
        match version {
            None => version = Some(this),
            Some(first) if first == this => {}
            Some(first) => {
                return Err(format!(
                    "its postgres is of version {first}, but its {name} of {this}"
                ));
            }
        }
    }
    match version {
        Some(version) if version.major >= OLDEST => Ok(Installation { bin, version }),
        Some(version) => {
            Err(format!("PostgreSQL {version} is too old: {OLDEST} or newer is needed"))
        }
        None => Err("no version could be told".to_owned()),
    }
}
