//! What the tests share: a data directory, the owner process to kill, and looking at processes.

use postgres::{ConnectParts, PrivatePostgres, Settings, State};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Generous: it only bounds a failing test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
/// A fast shutdown that takes so long is never seen to end by a test.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(3600);
const OWNER_DATA_DIR: &str = "TEST_OWNER_DATA_DIR";
const OWNER_IS_PATIENT: &str = "TEST_OWNER_IS_PATIENT";

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Which PostgreSQL the tests run on: `ENTRYBOOK_POSTGRES_BIN`, else what is found.
pub(crate) fn settings(data_dir: &Path) -> Settings {
    let mut settings = Settings::new(data_dir);
    settings.bin_dir = std::env::var_os("ENTRYBOOK_POSTGRES_BIN").map(PathBuf::from);
    settings.search_dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../.postgres")];
    settings
}

/// A directory that PostgreSQL's account may pass through, and in it a data directory that is not there yet.
pub(crate) struct Dir {
    pub(crate) temp: TempDir,
    pub(crate) data: PathBuf,
}

pub(crate) fn dir() -> Dir {
    let temp = tempfile::Builder::new().prefix("entrybook-pg-").tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let data = temp.path().canonicalize().unwrap().join("data");
    Dir { temp, data }
}

pub(crate) async fn start(data_dir: &Path) -> PrivatePostgres {
    PrivatePostgres::start(settings(data_dir)).await.unwrap()
}

pub(crate) async fn connect(parts: &ConnectParts) -> Result<PgConnection, sqlx::Error> {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&parts.socket_dir)
        .port(parts.port)
        .username(&parts.user)
        .password(parts.password.expose())
        .database(&parts.database)
        .ssl_mode(PgSslMode::Disable);
    PgConnection::connect_with(&options).await
}

pub(crate) async fn text(connection: &mut PgConnection, sql: &str) -> String {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

/// A committed row, to be found again.
pub(crate) async fn leave_a_row(parts: &ConnectParts) {
    let mut connection = connect(parts).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (what text); INSERT INTO kept VALUES ('still here')")
        .execute(&mut connection)
        .await
        .unwrap();
}

pub(crate) async fn find_the_row(parts: &ConnectParts) {
    let mut connection = connect(parts).await.unwrap();
    assert_eq!(text(&mut connection, "SELECT what FROM kept").await, "still here");
}

pub(crate) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    let began = Instant::now();
    while !met() {
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn until_state(postgres: &PrivatePostgres, wanted: State) {
    let mut states = postgres.subscribe();
    tokio::time::timeout(DEADLINE, states.wait_for(|state| *state == wanted))
        .await
        .unwrap()
        .unwrap();
}

/// Zombies do not count: in a container nobody may be there to bury an orphan.
pub(crate) fn alive(pid: u32) -> bool {
    let ps = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let stat = String::from_utf8(ps.stdout).unwrap();
    !stat.trim().is_empty() && !stat.trim().starts_with('Z')
}

/// All living processes whose command line names `needle`, with their parents.
pub(crate) fn processes_naming(needle: &str) -> Vec<(u32, u32)> {
    let ps = Command::new("ps")
        .args(["-A", "-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "args="])
        .output()
        .unwrap();
    String::from_utf8_lossy(&ps.stdout)
        .lines()
        .filter(|line| line.contains(needle))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let pid = words.next()?.parse().ok()?;
            let parent = words.next()?.parse().ok()?;
            (!words.next()?.starts_with('Z') && pid != std::process::id()).then_some((pid, parent))
        })
        .collect()
}

pub(crate) fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Runs one of PostgreSQL's programs as the account that the cluster belongs to.
pub(crate) fn pg_ctl(postgres: &PrivatePostgres, cluster: &Path, args: &[&str]) {
    let mut command = Command::new(postgres.bin_dir().join("pg_ctl"));
    command.args(args).arg("-D").arg(cluster).current_dir("/").stdout(Stdio::null());
    if is_root() {
        let owner = fs::metadata(cluster).unwrap();
        command.gid(owner.gid()).uid(owner.uid());
    }
    assert!(command.status().unwrap().success());
}

/// A process of that owner which has nothing to do with PostgreSQL.
pub(crate) struct Stranger(pub(crate) Child);

impl Stranger {
    pub(crate) fn start(owner: &fs::Metadata) -> Self {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").current_dir("/");
        sleep.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if is_root() {
            sleep.gid(owner.gid()).uid(owner.uid());
        }
        Self(sleep.spawn().unwrap())
    }

    pub(crate) fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another process that runs a private PostgreSQL: this test binary once more, in [`be_the_owner`].
pub(crate) struct Owner {
    pub(crate) child: Child,
    pub(crate) server: u32,
    data_dir: PathBuf,
}

impl Owner {
    /// Comes back when its PostgreSQL runs.
    pub(crate) async fn start(data_dir: &Path) -> Self {
        Self::run(data_dir, &mut Self::command(data_dir)).await
    }

    /// One that gives its PostgreSQL as long as a test lasts for a fast shutdown.
    pub(crate) async fn start_patient(data_dir: &Path) -> Self {
        Self::run(data_dir, Self::command(data_dir).env(OWNER_IS_PATIENT, "yes")).await
    }

    async fn run(data_dir: &Path, command: &mut Command) -> Self {
        let child = command.spawn().unwrap();
        let note = data_dir.join("server.pid");
        let mut server = None;
        until("the owner's PostgreSQL runs", || {
            server = fs::read_to_string(&note).ok().and_then(|text| text.trim().parse().ok());
            server.is_some()
        })
        .await;
        fs::remove_file(note).unwrap();
        Self { child, server: server.unwrap(), data_dir: data_dir.to_owned() }
    }

    fn command(data_dir: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "owner_process", "--nocapture"])
            .env(OWNER_DATA_DIR, data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub(crate) fn kill_9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Also after a failing test that had killed the watchdog, no process is left.
        let named = processes_naming(&self.data_dir.to_string_lossy());
        if named.iter().any(|(pid, _)| *pid == self.server) {
            let server = nix::unistd::Pid::from_raw(self.server.try_into().unwrap());
            let _ = nix::sys::signal::kill(server, nix::sys::signal::Signal::SIGQUIT);
        }
    }
}

/// The body of the test `owner_process`, which does nothing unless [`Owner::start`] runs it.
pub(crate) async fn be_the_owner() {
    let Some(data_dir) = std::env::var_os(OWNER_DATA_DIR).map(PathBuf::from) else { return };
    let mut settings = settings(&data_dir);
    if std::env::var_os(OWNER_IS_PATIENT).is_some() {
        settings.stop_timeout = FOR_EVER;
    }
    let postgres = PrivatePostgres::start(settings).await.unwrap();
    let note = data_dir.join("server.pid");
    let new = data_dir.join("server.pid.new");
    fs::write(&new, format!("{}\n", postgres.pid().unwrap())).unwrap();
    fs::rename(new, note).unwrap();
    // Until killed; bounded, in case the test itself is.
    tokio::time::sleep(2 * DEADLINE).await;
    drop(postgres);
}

/// Until the server of a cluster replays its log.
pub(crate) async fn until_recovering(data_dir: &Path) {
    until("PostgreSQL replays its log", || {
        let replaying = processes_naming("postgres: startup");
        let servers = processes_naming(&data_dir.to_string_lossy());
        servers.iter().any(|(pid, _)| replaying.iter().any(|(_, parent)| parent == pid))
    })
    .await;
}

/// A recovery that takes as long as the test wants: in the place of the log's newest file is a pipe in which nobody writes.
pub(crate) struct HeldLog {
    segment: PathBuf,
    away: PathBuf,
}

impl HeldLog {
    pub(crate) fn of(data_dir: &Path) -> Self {
        let cluster = data_dir.join("postgres/cluster");
        let owner = fs::metadata(&cluster).unwrap();
        let segment = cluster.join("pg_wal/000000010000000000000001");
        let away = cluster.join("held");
        fs::rename(&segment, &away).unwrap();
        nix::unistd::mkfifo(&segment, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        std::os::unix::fs::chown(&segment, Some(owner.uid()), Some(owner.gid())).unwrap();
        Self { segment, away }
    }

    /// Who opens the file from now on gets what is in it. Who waits goes on waiting.
    pub(crate) fn put_back(self) {
        fs::rename(self.away, self.segment).unwrap();
    }
}
