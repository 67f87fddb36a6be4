//! Making a cluster, once, so that it is there whole or not at all.

use crate::account::Account;
use crate::connect::Password;
use crate::error::{Error, io};
use crate::guard::{Guard, Program};
use crate::install::Installation;
use crate::place::{Place, own_directory, own_file, random_hex};
use nix::fcntl::OFlag;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const SUPERUSER: &str = "postgres";
/// The role of the application and the database it owns.
pub(crate) const APPLICATION: &str = "entrybook";

const NEW: &str = "cluster.new-";
const SCRATCH: &str = "scratch-";
const PATIENCE: Duration = Duration::from_secs(600);
const TAIL: u64 = 8192;

/// The major version of the cluster, if there is one.
pub(crate) fn major_version(place: &Place) -> Result<Option<u32>, Error> {
    let cluster = place.cluster();
    if !cluster.exists() {
        if place.record.initialised {
            return Err(Error::ClusterGone { cluster, record: place.record_path() });
        }
        return Ok(None);
    }
    let text = fs::read_to_string(cluster.join("PG_VERSION")).ok();
    match text.and_then(|text| text.trim().parse().ok()) {
        Some(major) => Ok(Some(major)),
        None => Err(Error::ClusterDamaged { cluster }),
    }
}

/// Leaves a whole cluster with the roles, the database and the passwords of the record. No server may be running on it.
pub(crate) fn ensure(
    place: &mut Place,
    installation: &Installation,
    account: &Account,
) -> Result<(), Error> {
    sweep(&place.home);
    if place.cluster().exists() {
        if place.record.initialised {
            return Ok(());
        }
        // The record was lost, or the first start was broken off at its very end.
        tracing::info!("new passwords are set for the private PostgreSQL");
        let roles =
            [(APPLICATION, &place.record.password), (SUPERUSER, &place.record.superuser_password)];
        let sql: Vec<String> = roles
            .iter()
            .map(|(role, password)| set_password("ALTER", role, "", password))
            .collect();
        single_user(place, installation, account, &place.cluster(), &sql)?;
        return place.set_initialised();
    }
    let cluster = place.cluster();
    tracing::info!(cluster = %cluster.display(), "making a database with PostgreSQL {} in {}", installation.version, cluster.display());
    let new = place.home.join(format!("{NEW}{}", random_hex(6)?));
    own_directory(&new, account)?;
    initdb(place, installation, account, &new)?;
    let sql = [
        // May make databases (a test clones one from a template), but neither roles nor programs of the server's account.
        set_password(
            "CREATE",
            APPLICATION,
            "NOSUPERUSER NOCREATEROLE CREATEDB",
            &place.record.password,
        ),
        format!("CREATE DATABASE {APPLICATION} OWNER {APPLICATION};"),
    ];
    single_user(place, installation, account, &new, &sql)?;
    fs::rename(&new, &cluster).map_err(io("rename the new database to", &cluster))?;
    File::open(&place.home).and_then(|dir| dir.sync_all()).map_err(io("sync", &place.home))?;
    place.set_initialised()
}

/// What an earlier start was killed in the middle of.
fn sweep(home: &Path) {
    for entry in home.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let removed = if name.starts_with(NEW) {
            fs::remove_dir_all(entry.path())
        } else if name.starts_with(SCRATCH) {
            fs::remove_file(entry.path())
        } else {
            continue;
        };
        match removed {
            Ok(()) => tracing::info!(
                "removed {}, left by a start that was broken off",
                entry.path().display()
            ),
            Err(error) => tracing::warn!(
                "could not remove {}, left by a start that was broken off: {error}",
                entry.path().display()
            ),
        }
    }
}

fn initdb(
    place: &Place,
    installation: &Installation,
    account: &Account,
    new: &Path,
) -> Result<(), Error> {
    let secret = Scratch::new(place, account, place.record.superuser_password.expose())?;
    let mut args: Vec<OsString> = [
        "--encoding=UTF8",
        "--locale=C",
        "--data-checksums",
        "--auth=scram-sha-256",
        "--no-instructions",
    ]
    .map(OsString::from)
    .into();
    args.extend([
        "--username".into(),
        SUPERUSER.into(),
        "--pwfile".into(),
        secret.0.clone().into(),
    ]);
    args.extend(["--pgdata".into(), new.into()]);
    run(place, account, installation.program("initdb"), args, Path::new("/dev/null"), new)
}

/// Runs statements on a cluster without a server.
fn single_user(
    place: &Place,
    installation: &Installation,
    account: &Account,
    cluster: &Path,
    sql: &[String],
) -> Result<(), Error> {
    // With -j a statement ends at a semicolon and an empty line.
    let script = Scratch::new(
        place,
        account,
        &sql.iter().map(|statement| format!("{statement}\n\n")).collect::<String>(),
    )?;
    let mut args: Vec<OsString> = vec!["--single".into(), "-j".into(), "-D".into(), cluster.into()];
    // A failing statement ends it, and is not printed: it may hold a password.
    for parameter in [
        "exit_on_error=on",
        "log_min_error_statement=panic",
        "log_statement=none",
        "password_encryption=scram-sha-256",
        "fsync=on",
    ] {
        args.extend(["-c".into(), parameter.into()]);
    }
    args.push(SUPERUSER.into());
    run(place, account, installation.program("postgres"), args, &script.0, cluster)
}

fn run(
    place: &Place,
    account: &Account,
    path: PathBuf,
    args: Vec<OsString>,
    input: &Path,
    cluster: &Path,
) -> Result<(), Error> {
    let failed = |detail| Error::InitFailed { dir: cluster.to_owned(), detail };
    let output = place.output();
    let file = File::create(&output).map_err(io("write", &output))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let program = Program {
        account,
        path,
        args,
        env: Vec::new(),
        input,
        output: file,
        grace: Duration::from_secs(5),
    };
    let mut guard = Guard::spawn(program).map_err(|error| failed(error.to_string()))?;
    match guard.wait_until(Instant::now() + PATIENCE).map_err(|error| failed(error.to_string()))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(failed(format!("{name} ended with {status}: {}", last_lines(&output)))),
        // Dropping the guard ends it.
        None => Err(failed(format!("{name} did not finish within {} seconds", PATIENCE.as_secs()))),
    }
}

/// The end of a log, for a message of one line.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = tail(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(4);
    match lines.get(from..) {
        Some(last) if !last.is_empty() => last.join(" / "),
        _ => "it said nothing".to_owned(),
    }
}

/// Never through a link: the directory of the log belongs to the account, and we may be root.
fn tail(log: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// The password is hexadecimal, so it needs no quoting.
fn set_password(verb: &str, role: &str, options: &str, password: &Password) -> String {
    format!("{verb} ROLE {role} LOGIN {options} PASSWORD '{}';", password.expose())
}

/// A file for a program's eyes, gone when it has been read.
struct Scratch(PathBuf);

impl Scratch {
    fn new(place: &Place, account: &Account, content: &str) -> Result<Self, Error> {
        let path = place.home.join(format!("{SCRATCH}{}", random_hex(6)?));
        own_file(&path, account, content.as_bytes())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
