//! What can go wrong, each with what to do about it.

use crate::version::OLDEST;
use std::io;
use std::path::{Path, PathBuf};

/// Why the private PostgreSQL could not be started or stopped. Each message is for the person who starts Entrybook.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "ENTRYBOOK_POSTGRES_BIN is {}, but {why}. Set it to the directory with initdb, postgres and pg_ctl of one PostgreSQL {OLDEST} \
         or newer, or unset it to let Entrybook look for one.",
        dir.display()
    )]
    WrongBinDir { dir: PathBuf, why: String },

    #[error(
        "No PostgreSQL {OLDEST} or newer was found.{} Run scripts/install-postgres, or set ENTRYBOOK_POSTGRES_BIN to the directory with \
         initdb, postgres and pg_ctl, or set DATABASE_URL to use a server that runs already.",
        passed_over(passed_over_list)
    )]
    NotFound { passed_over_list: Vec<String> },

    #[error(
        "The database in {} was made by PostgreSQL {wanted}, and no PostgreSQL {wanted} was found ({found}). Install PostgreSQL {wanted} \
         (on Debian: apt-get install postgresql-{wanted}; or ENTRYBOOK_POSTGRES_VERSION={wanted} scripts/install-postgres), or set \
         ENTRYBOOK_POSTGRES_BIN to its programs.",
        cluster.display()
    )]
    OtherMajorVersion { cluster: PathBuf, wanted: u32, found: String },

    #[error(
        "The data directory {} is in use by another Entrybook{}. Stop that one first, or give this one a directory of its own with \
         ENTRYBOOK_DATA_DIR.",
        data_dir.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse { data_dir: PathBuf, pid: Option<u32> },

    #[error(
        "PostgreSQL refuses to run as root, and the account {name:?} to run it as {why}. Set ENTRYBOOK_POSTGRES_USER to an unprivileged \
         account of this machine."
    )]
    WrongUser { name: String, why: &'static str },

    #[error(
        "PostgreSQL refuses to run as root, and there is none of the accounts postgres, _postgres, daemon and nobody to run it as. Make \
         one (useradd --system postgres), or set ENTRYBOOK_POSTGRES_USER to an unprivileged account."
    )]
    NoUser,

    #[error(
        "{} belongs to {owner}, and PostgreSQL is to run as {expected}. Start Entrybook as the account that owns it, or give it away with: \
         chown -R {expected} {}",
        path.display(),
        path.display()
    )]
    WrongOwner { path: PathBuf, owner: String, expected: String },

    #[error(
        "The account {user}, which is to run PostgreSQL, may not enter {}. Open that directory to it (chmod o+x), or set \
         ENTRYBOOK_DATA_DIR to a directory that it may enter, such as /var/lib/entrybook.",
        dir.display()
    )]
    ClosedDirectory { user: String, dir: PathBuf },

    #[error(
        "The database of this data directory was in {}, and is not there. Put it back, or, to begin with an empty database, delete {}.",
        cluster.display(),
        record.display()
    )]
    ClusterGone { cluster: PathBuf, record: PathBuf },

    #[error(
        "{} is not a whole database: it has no readable PG_VERSION. Restore it from a backup, or, to begin with an empty database, move it \
         away.",
        cluster.display()
    )]
    ClusterDamaged { cluster: PathBuf },

    #[error("{} cannot be read: {why}. Restore it, or delete it: new passwords are then set for the database.", path.display())]
    RecordDamaged { path: PathBuf, why: String },

    #[error("PostgreSQL could not make its database in {}: {detail}", dir.display())]
    InitFailed { dir: PathBuf, detail: String },

    #[error("PostgreSQL did not start on {}: {detail}. Its log is in {}.", cluster.display(), log.display())]
    StartFailed { cluster: PathBuf, log: PathBuf, detail: String },

    #[error("A PostgreSQL left over on {} (process {pid}) does not stop. End that process, then start Entrybook again.", cluster.display())]
    OrphanStays { cluster: PathBuf, pid: i32 },

    #[error("PostgreSQL (process {}) did not stop in time. It goes on stopping; look at its log in {}.", pid.unwrap_or_default(), log.display())]
    StopTimedOut { pid: Option<u32>, log: PathBuf },

    #[error("Could not {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("The start of PostgreSQL was broken off.")]
    BrokenOff,
}

/// `.map_err(io("read", path))`
pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

fn passed_over(reasons: &[String]) -> String {
    if reasons.is_empty() {
        String::new()
    } else {
        format!(" Passed over: {}.", reasons.join("; "))
    }
}
