//! Where everything of one private PostgreSQL lies, and the lock that makes it ours.

use crate::account::{Account, name_of};
use crate::connect::Password;
use crate::error::{Error, io};
use crate::settings::Settings;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self as stdio, Read, Seek, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown,
};
use std::path::{Path, PathBuf};

const LOCK: &str = "entrybook.lock";
const RECORD: &str = "private-postgres.json";
/// In a home outside the data directory: the path of the data directory it serves.
const BELONGS_TO: &str = "belongs-to";
/// macOS has the shortest socket paths: 104 bytes with the final NUL. The longest name in the directory is the lock's,
/// but only the socket's own name goes through `sun_path`.
const SOCKET_PATH: usize = 103;
pub(crate) const PORT: u16 = 5432;

/// What is remembered from one start to the next.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Only where the account may not enter the data directory. Else the home is in it, and moves with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) home_elsewhere: Option<PathBuf>,
    /// Once true, a missing cluster is a loss and not a first start. Until then, the passwords may not be those of the cluster.
    pub(crate) initialised: bool,
    pub(crate) password: Password,
    pub(crate) superuser_password: Password,
    /// Only where the path below the home is too long for a socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) short_socket_dir: Option<PathBuf>,
}

/// Held open for its locks: whoever has a `Place` is alone on this data directory.
pub(crate) struct Place {
    pub(crate) data_dir: PathBuf,
    pub(crate) home: PathBuf,
    pub(crate) record: Record,
    pub(crate) socket_dir: PathBuf,
    locks: Vec<File>,
}

impl Drop for Place {
    /// Closing the files is not enough: a child that another thread is just starting has a copy of them until it executes its
    /// program, and the lock lives as long as any copy (flock(2)).
    fn drop(&mut self) {
        for lock in &self.locks {
            let _ = lock.unlock();
        }
    }
}

impl Place {
    pub(crate) fn open(settings: &Settings) -> Result<(Self, Account), Error> {
        prepare_data_dir(&settings.data_dir)?;
        let data_dir = settings
            .data_dir
            .canonicalize()
            .map_err(io("open the data directory", &settings.data_dir))?;
        let mut locks = vec![lock(&data_dir.join(LOCK), &data_dir)?];
        let recorded = load(&data_dir.join(RECORD))?;
        let mut record = match recorded {
            Some(record) => record,
            None => Record {
                home_elsewhere: None,
                initialised: false,
                password: Password::new(random_hex(24)?),
                superuser_password: Password::new(random_hex(24)?),
                short_socket_dir: None,
            },
        };
        let mut home = record.home_elsewhere.clone().unwrap_or_else(|| data_dir.join("postgres"));
        let cluster = home.join("cluster");
        let account = Account::choose(settings.unprivileged_user.as_deref(), &cluster)?;
        // The home itself is ours to open; what counts is the way there.
        if let Some(dir) = account.barred_from(home.parent().unwrap_or(&data_dir)) {
            if record.initialised || cluster.exists() {
                return Err(Error::ClosedDirectory { user: account.name, dir });
            }
            home = fallback(settings, &data_dir, &account, &dir)?;
            record.home_elsewhere = Some(home.clone());
        }
        // Before anything is made there: after a crash we still know where to look.
        save(&data_dir, &record)?;

        make_home(&home, &account)?;
        if record.home_elsewhere.is_some() {
            locks.push(lock(&home.join(LOCK), &data_dir)?);
            let belongs = home.join(BELONGS_TO);
            fs::write(&belongs, data_dir.as_os_str().as_encoded_bytes())
                .map_err(io("write", &belongs))?;
        }
        own_directory(&home.join("log"), &account)?;
        let socket_dir = socket_dir(&home, &mut record, &account)?;
        save(&data_dir, &record)?;
        Ok((Self { data_dir, home, record, socket_dir, locks }, account))
    }

    pub(crate) fn cluster(&self) -> PathBuf {
        self.home.join("cluster")
    }

    pub(crate) fn log_dir(&self) -> PathBuf {
        self.home.join("log")
    }

    /// What the programs print before the log takes over.
    pub(crate) fn output(&self) -> PathBuf {
        self.home.join("output.log")
    }

    pub(crate) fn hba(&self) -> PathBuf {
        self.home.join("pg_hba.conf")
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.data_dir.join(RECORD)
    }

    pub(crate) fn set_initialised(&mut self) -> Result<(), Error> {
        self.record.initialised = true;
        save(&self.data_dir, &self.record)
    }

    /// After a crash the socket and its lock are still there; only our own server ever makes them, and it does not run.
    pub(crate) fn clear_sockets(&self) {
        for name in [socket_name(), format!("{}.lock", socket_name())] {
            // A server that finds its name taken says so itself.
            let _ = fs::remove_file(self.socket_dir.join(name));
        }
    }

    /// Leaves nothing of ours in a shared directory.
    pub(crate) fn leave(&self) {
        if self.record.short_socket_dir.is_some() {
            let _ = fs::remove_dir(&self.socket_dir);
        }
    }
}

/// Makes the data directory as [`PrivatePostgres::start`](crate::PrivatePostgres::start) needs it: for the owner alone, except that a
/// root lets others pass through, but not look in (0711), for PostgreSQL runs as another account below it. Call it before
/// writing anything there. A directory that exists is left as it is.
///
/// # Errors
///
/// [`Error::Io`] when it cannot be made.
pub fn prepare_data_dir(data_dir: &Path) -> Result<(), Error> {
    if data_dir.is_dir() {
        return Ok(());
    }
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(data_dir)
        .map_err(io("make the data directory", data_dir))?;
    fs::set_permissions(data_dir, Permissions::from_mode(mode))
        .map_err(io("open the data directory", data_dir))
}

/// A place that the account may enter, when it may not enter the data directory because of `closed`.
fn fallback(
    settings: &Settings,
    data_dir: &Path,
    account: &Account,
    closed: &Path,
) -> Result<PathBuf, Error> {
    let base = &settings.fallback_dir;
    prepare_data_dir(base)?;
    let base = base.canonicalize().map_err(io("open", base))?;
    if let Some(dir) = account.barred_from(&base) {
        return Err(Error::ClosedDirectory { user: account.name.clone(), dir });
    }
    for earlier in base.read_dir().into_iter().flatten().flatten() {
        let earlier = earlier.path();
        if fs::read(earlier.join(BELONGS_TO))
            .is_ok_and(|path| path == data_dir.as_os_str().as_encoded_bytes())
        {
            tracing::warn!(
                earlier = %earlier.display(),
                "{} holds the database of an earlier {}; delete it if it is no longer wanted",
                earlier.display(),
                data_dir.display()
            );
        }
    }
    let home = base.join(random_hex(6)?);
    tracing::info!(
        home = %home.display(),
        "the account {}, which runs PostgreSQL, may not enter {}: the database is kept in {} and {} remembers it",
        account.name,
        closed.display(),
        home.display(),
        data_dir.join(RECORD).display()
    );
    Ok(home)
}

/// Ours, so that the account cannot swap what we write there.
fn make_home(home: &Path, account: &Account) -> Result<(), Error> {
    let mode = if account.other { 0o711 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(home) {
        Err(error) if error.kind() == stdio::ErrorKind::AlreadyExists => {}
        made => made.map_err(io("make", home))?,
    }
    let about = fs::symlink_metadata(home).map_err(io("look at", home))?;
    if about.uid() == geteuid().as_raw() {
        fs::set_permissions(home, Permissions::from_mode(mode)).map_err(io("open", home))?;
    }
    match account.barred_from(home) {
        Some(dir) => Err(Error::ClosedDirectory { user: account.name.clone(), dir }),
        None => Ok(()),
    }
}

/// A directory that is the account's alone. Its parent must be ours.
pub(crate) fn own_directory(dir: &Path, account: &Account) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == stdio::ErrorKind::AlreadyExists => {}
        made => made.map_err(io("make", dir))?,
    }
    let about = fs::symlink_metadata(dir).map_err(io("look at", dir))?;
    let ours = geteuid().as_raw();
    if !about.is_dir() || ![account.uid, ours].contains(&about.uid()) {
        return Err(Error::WrongOwner {
            path: dir.to_owned(),
            owner: name_of(about.uid()),
            expected: account.name.clone(),
        });
    }
    if about.uid() != account.uid {
        chown(dir, Some(account.uid), Some(account.gid)).map_err(io("give away", dir))?;
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(io("close", dir))
}

/// A new file that only the account reads. Its directory must be ours.
pub(crate) fn own_file(path: &Path, account: &Account, content: &[u8]) -> Result<(), Error> {
    let make = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        if account.other {
            fchown(&file, Some(account.uid), Some(account.gid))?;
        }
        file.write_all(content)
    };
    make().map_err(io("write", path))
}

fn socket_name() -> String {
    format!(".s.PGSQL.{PORT}")
}

fn fits(dir: &Path) -> bool {
    dir.join(socket_name()).as_os_str().len() <= SOCKET_PATH
}

fn socket_dir(home: &Path, record: &mut Record, account: &Account) -> Result<PathBuf, Error> {
    let usual = home.join("socket");
    if fits(&usual) {
        record.short_socket_dir = None;
        own_directory(&usual, account)?;
        return Ok(usual);
    }
    let private = |dir: &Path, uid: u32| {
        fs::symlink_metadata(dir)
            .is_ok_and(|about| about.is_dir() && about.uid() == uid && about.mode() & 0o077 == 0)
    };
    if let Some(dir) =
        record.short_socket_dir.as_ref().filter(|dir| private(dir, account.uid) && fits(dir))
    {
        return Ok(dir.clone());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = runtime
        .filter(|dir| !account.other && dir.is_absolute() && private(dir, account.uid))
        .unwrap_or_else(|| "/tmp".into());
    let mut dir = base.join(format!("entrybook-{}", random_hex(6)?));
    if !fits(&dir) {
        dir = Path::new("/tmp").join(format!("entrybook-{}", random_hex(6)?));
    }
    // Fails if it exists: in a shared directory, only a name of our own making is safe.
    DirBuilder::new().mode(0o700).create(&dir).map_err(io("make the socket directory", &dir))?;
    own_directory(&dir, account)?;
    record.short_socket_dir = Some(dir.clone());
    Ok(dir)
}

fn lock(path: &Path, data_dir: &Path) -> Result<File, Error> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io("open", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The number is for the message only.
            let _ = file.read_to_string(&mut holder);
            return Err(Error::InUse {
                data_dir: data_dir.to_owned(),
                pid: holder.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io("lock", path)(error)),
    }
    let write = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    write(&mut file).map_err(io("write", path))?;
    like_its_directory(&file, path);
    Ok(file)
}

/// What is remembered of a data directory, and its home, without taking it.
pub(crate) fn recorded(data_dir: &Path) -> Result<Option<(Record, PathBuf)>, Error> {
    let Some(record) = load(&data_dir.join(RECORD))? else {
        return Ok(None);
    };
    let data_dir = data_dir.canonicalize().map_err(io("open the data directory", data_dir))?;
    let home = record.home_elsewhere.clone().unwrap_or_else(|| data_dir.join("postgres"));
    Ok(Some((record, home)))
}

fn load(path: &Path) -> Result<Option<Record>, Error> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            Error::RecordDamaged { path: path.to_owned(), why: error.to_string() }
        }),
        Err(error) if error.kind() == stdio::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Whole or not at all, even across a power cut.
fn save(data_dir: &Path, record: &Record) -> Result<(), Error> {
    let path = data_dir.join(RECORD);
    let new = data_dir.join(format!("{RECORD}.new"));
    let write = || {
        let bytes = serde_json::to_vec_pretty(record).map_err(stdio::Error::other)?;
        if fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        like_its_directory(&file, &new);
        fs::rename(&new, &path)?;
        File::open(data_dir)?.sync_all()
    };
    write().map_err(io("write", &path))
}

/// So that root, working once in somebody's data directory, does not lock them out of it.
fn like_its_directory(file: &File, path: &Path) {
    if let Some(Ok(dir)) = path.parent().map(fs::metadata)
        && geteuid().is_root()
        && dir.uid() != 0
    {
        let _ = fchown(file, Some(dir.uid()), Some(dir.gid()));
    }
}

/// From the system's generator: passwords, and names that nobody can guess.
pub(crate) fn random_hex(bytes: usize) -> Result<String, Error> {
    let source = Path::new("/dev/urandom");
    let mut buffer = vec![0_u8; bytes];
    File::open(source)
        .and_then(|mut file| file.read_exact(&mut buffer))
        .map_err(io("read", source))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}
