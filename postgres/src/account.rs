//! The account that PostgreSQL runs as, and how programs are run as it.

use crate::error::Error;
use nix::unistd::{Uid, User, getegid, geteuid};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In this order, when started as root and nothing says otherwise. `daemon` and `nobody` exist nearly everywhere but may be
/// shared with other services; the log says so.
const ACCOUNTS: [&str; 4] = ["postgres", "_postgres", "daemon", "nobody"];

/// Passed on to programs; all else of our environment stays with us, for it may hold secrets, or PG… variables that mislead.
const ENVIRONMENT: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) name: String,
    /// We are root and programs run as somebody else.
    pub(crate) other: bool,
}

impl Account {
    /// `cluster` may not exist yet.
    pub(crate) fn choose(setting: Option<&str>, cluster: &Path) -> Result<Self, Error> {
        let owner = fs::symlink_metadata(cluster).ok();
        if !geteuid().is_root() {
            let own = geteuid().as_raw();
            let account =
                Self { uid: own, gid: getegid().as_raw(), name: name_of(own), other: false };
            return match owner {
                Some(owner) if owner.uid() != own => {
                    Err(wrong_owner(cluster, owner.uid(), &account.name))
                }
                _ => Ok(account),
            };
        }
        let wished = setting.map(named).transpose()?;
        match (owner, wished) {
            (Some(owner), wished) if owner.uid() == 0 => {
                let wished = wished.map_or_else(usual, Ok)?;
                Err(wrong_owner(cluster, 0, &wished.name))
            }
            (Some(owner), Some(wished)) if owner.uid() != wished.uid => {
                Err(wrong_owner(cluster, owner.uid(), &wished.name))
            }
            // The gid of the account rather than of the directory, unless the account is gone from this machine.
            (Some(owner), _) => Ok(by_uid(owner.uid()).unwrap_or_else(|| Self {
                uid: owner.uid(),
                gid: owner.gid(),
                name: owner.uid().to_string(),
                other: true,
            })),
            (None, Some(wished)) => Ok(wished),
            (None, None) => usual(),
        }
    }

    /// A command that runs as this account, from `/` (our own directory may be closed to it), with hardly any environment.
    /// `uid()` also drops root's supplementary groups.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
        for key in ENVIRONMENT {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        if self.other {
            command.gid(self.gid).uid(self.uid);
        }
        command
    }

    /// The first directory on the way down to `dir` that the account may not enter. Asked of the system itself, for mode bits are
    /// not the whole story (access lists, read-only binds).
    pub(crate) fn barred_from(&self, dir: &Path) -> Option<PathBuf> {
        if !self.other {
            return None;
        }
        let mut way: Vec<&Path> = dir.ancestors().filter(|d| !d.as_os_str().is_empty()).collect();
        way.reverse();
        way.into_iter()
            .find(|step| {
                let entered = self
                    .command(Path::new("/bin/sh"))
                    .args(["-c", "cd -- \"$1\"", "sh"])
                    .arg(step)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
                !entered.is_ok_and(|status| status.success())
            })
            .map(Path::to_owned)
    }
}

pub(crate) fn name_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid))
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

fn wrong_owner(path: &Path, owner: u32, expected: &str) -> Error {
    Error::WrongOwner {
        path: path.to_owned(),
        owner: name_of(owner),
        expected: expected.to_owned(),
    }
}

fn from_user(user: User) -> Account {
    Account { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: user.name, other: true }
}

fn by_uid(uid: u32) -> Option<Account> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(from_user)
}

fn named(name: &str) -> Result<Account, Error> {
    let wrong = |why| Error::WrongUser { name: name.to_owned(), why };
    let user = User::from_name(name).ok().flatten().ok_or_else(|| wrong("does not exist"))?;
    if user.uid.is_root() { Err(wrong("is root itself")) } else { Ok(from_user(user)) }
}

fn usual() -> Result<Account, Error> {
    let account = ACCOUNTS.iter().find_map(|name| named(name).ok()).ok_or(Error::NoUser)?;
    if !account.name.ends_with("postgres") {
        tracing::warn!(
            account = account.name,
            "there is no account postgres: PostgreSQL runs as {}, which other services may share; ENTRYBOOK_POSTGRES_USER names a better one",
            account.name
        );
    }
    Ok(account)
}
