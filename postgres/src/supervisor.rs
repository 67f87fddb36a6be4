//! Keeping the server running, on a thread of its own: independent of any runtime, and of the order in which they shut down.

use crate::cluster::{self, APPLICATION, SUPERUSER};
use crate::connect::ConnectParts;
use crate::error::{Error, io};
use crate::guard::{Guard, Leash, Order};
use crate::install::Installation;
use crate::launch::Launch;
use crate::place::{PORT, Place};
use crate::postmaster::{self, Named};
use crate::settings::Settings;
use crate::version::Version;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

const GLANCE: Duration = Duration::from_millis(50);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A server that ran so long is restarted without a pause again.
const STEADY: Duration = Duration::from_secs(60);
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// The sessions of a server that was killed may need a moment to notice; until then its shared memory is taken.
const LINGERING: Duration = Duration::from_secs(30);
/// After the fast shutdown ran out of time.
const IMMEDIATE: Duration = Duration::from_secs(20);

/// What the private PostgreSQL is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not ready yet.
    Starting,
    /// Takes connections.
    Running,
    /// Ended by itself and is being started again. It comes back on the same socket, so pools reconnect.
    Restarting,
    /// Stopped for good.
    Stopped,
}

/// A PostgreSQL that lives as long as this value: stop it with [`stop`](Self::stop). Dropped, it is told to stop, without waiting;
/// should the whole process end, by whatever way, its watchdog stops it.
#[derive(Debug)]
pub struct PrivatePostgres {
    shared: Arc<Shared>,
    application: ConnectParts,
    superuser: ConnectParts,
    version: Version,
    bin_dir: PathBuf,
    log_dir: PathBuf,
    stop_timeout: Duration,
    ended_orphan: bool,
}

struct Shared {
    state: watch::Sender<State>,
    leash: Leash,
    stopping: AtomicBool,
    /// Zero while none runs.
    pid: AtomicI32,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("state", &*self.state.borrow())
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl PrivatePostgres {
    /// Finds PostgreSQL, makes the cluster if there is none, ends a server that a crash left over, starts one and waits until it
    /// takes connections. A first start takes a few seconds.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while another Entrybook has the data directory; the others say what is wrong and what to do.
    pub async fn start(settings: Settings) -> Result<Self, Error> {
        let (send, started) = oneshot::channel();
        thread::Builder::new()
            .name("private-postgres".to_owned())
            .spawn(move || run(settings, send))
            .map_err(io("start a thread for", Path::new("PostgreSQL")))?;
        // The sender is only dropped unused if the thread was.
        started.await.unwrap_or(Err(Error::BrokenOff))
    }

    /// How the application connects: as `entrybook`, no superuser, owner of the database `entrybook`.
    pub fn connect_parts(&self) -> &ConnectParts {
        &self.application
    }

    /// How the owner of the machine may connect for repairs: as the superuser.
    pub fn superuser_parts(&self) -> &ConnectParts {
        &self.superuser
    }

    /// [`ConnectParts::url`] of the application. It contains the password.
    pub fn url(&self) -> String {
        self.application.url()
    }

    /// The server's process, while there is one.
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.shared.pid.load(Ordering::SeqCst)).ok().filter(|pid| *pid != 0)
    }

    /// The server's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where its programs are.
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// Where its log is: the five newest files of at most 10 MB.
    pub fn log_dir(&self) -> &Path {
        &self.log_dir
    }

    /// Whether the start found a server that a crash had left over, and ended it.
    pub fn ended_orphan(&self) -> bool {
        self.ended_orphan
    }

    /// What the server is doing now.
    pub fn state(&self) -> State {
        *self.shared.state.borrow()
    }

    /// To be told of changes. Never begins with [`State::Starting`], for [`start`](Self::start) waits that out.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// A fast shutdown: open transactions are rolled back, everything committed is written. After
    /// [`Settings::stop_timeout`](crate::Settings::stop_timeout), or where it would wait for a recovery, an immediate one, which loses nothing either but must replay its log at the next start.
    /// When it returns no process is left and the data directory is free. Stopping twice is no error.
    ///
    /// # Errors
    ///
    /// [`Error::StopTimedOut`] if not even the immediate shutdown ended it.
    pub async fn stop(&self) -> Result<(), Error> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // A little more than the thread gives the server.
        let patience = self.stop_timeout + IMMEDIATE + Duration::from_secs(1);
        let mut state = self.shared.state.subscribe();
        if let Ok(Ok(_)) =
            tokio::time::timeout(patience, state.wait_for(|state| *state == State::Stopped)).await
        {
            return Ok(());
        }
        Err(Error::StopTimedOut { pid: self.pid(), log: self.log_dir.clone() })
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.leash.order(Order::Fast);
    }
}

type Started = oneshot::Sender<Result<PrivatePostgres, Error>>;

/// The whole life of the server, on its thread.
fn run(settings: Settings, started: Started) {
    let (launch, ended_orphan) = match prepare(settings) {
        Ok(prepared) => prepared,
        Err(error) => {
            // Nobody waits any more: then nobody needs to know.
            let _ = started.send(Err(error));
            return;
        }
    };
    let shared = Arc::new(Shared {
        state: watch::Sender::new(State::Starting),
        leash: Leash::default(),
        stopping: AtomicBool::new(false),
        pid: AtomicI32::new(0),
    });
    match first_start(&launch, &shared, &started) {
        Ok(guard) => {
            let handle = handle(&launch, &shared, ended_orphan);
            tracing::info!(
                pid = guard.pid,
                "PostgreSQL {} runs on {} (process {})",
                launch.installation.version,
                launch.place.cluster().display(),
                guard.pid
            );
            // If nobody waits any more, the handle comes back and its drop stops the server.
            drop(started.send(Ok(handle)));
            keep_running(&launch, &shared, guard);
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
    shared.leash.let_go();
    launch.place.leave();
    // Frees the data directory before anybody is told that it is free.
    drop(launch);
    shared.state.send_replace(State::Stopped);
}

fn prepare(settings: Settings) -> Result<(Launch, bool), Error> {
    let (place, account) = Place::open(&settings)?;
    let cluster = place.cluster();
    let major = cluster::major_version(&place)?;
    let installation =
        Installation::find(&settings, &account, major.map(|major| (cluster.as_path(), major)))?;
    tracing::debug!("PostgreSQL {} found in {}", installation.version, installation.bin.display());
    let mut launch = Launch { settings, place, installation, account };
    let ended_orphan = launch.end_orphan()?;
    cluster::ensure(&mut launch.place, &launch.installation, &launch.account)?;
    Ok((launch, ended_orphan))
}

fn handle(launch: &Launch, shared: &Arc<Shared>, ended_orphan: bool) -> PrivatePostgres {
    let parts = |user: &str, password: &crate::Password| ConnectParts {
        socket_dir: launch.place.socket_dir.clone(),
        port: PORT,
        user: user.to_owned(),
        password: password.clone(),
        database: user.to_owned(),
    };
    PrivatePostgres {
        shared: Arc::clone(shared),
        application: parts(APPLICATION, &launch.place.record.password),
        superuser: parts(SUPERUSER, &launch.place.record.superuser_password),
        version: launch.installation.version,
        bin_dir: launch.installation.bin.clone(),
        log_dir: launch.place.log_dir(),
        stop_timeout: launch.settings.stop_timeout,
        ended_orphan,
    }
}

fn first_start(launch: &Launch, shared: &Shared, started: &Started) -> Result<Guard, Error> {
    let began = Instant::now();
    loop {
        match start_once(launch, shared, || started.is_closed()) {
            Err(Error::StartFailed { detail, .. })
                if detail.contains("shared memory block") && began.elapsed() < LINGERING =>
            {
                tracing::warn!(
                    "sessions of a PostgreSQL that was killed have not ended yet: trying again"
                );
                thread::sleep(Duration::from_millis(500));
            }
            other => return other,
        }
    }
}

fn start_once(
    launch: &Launch,
    shared: &Shared,
    broken_off: impl Fn() -> bool,
) -> Result<Guard, Error> {
    let guard = launch.start(&shared.leash, broken_off)?;
    shared.pid.store(guard.pid, Ordering::SeqCst);
    shared.state.send_replace(State::Running);
    Ok(guard)
}

/// Until told to stop.
fn keep_running(launch: &Launch, shared: &Shared, mut guard: Guard) {
    let mut pause = SHORTEST_PAUSE;
    loop {
        let began = Instant::now();
        let how = wait_for_end(launch, shared, &mut guard);
        if let Named::Server(pid) = postmaster::look(&launch.place.cluster(), &launch.account)
            && let Err(error) = end_unguarded(launch, pid)
        {
            tracing::error!("{error}");
        }
        shared.pid.store(0, Ordering::SeqCst);
        if shared.stopping() {
            tracing::info!("PostgreSQL has stopped ({how})");
            return;
        }
        shared.state.send_replace(State::Restarting);
        tracing::error!(
            "PostgreSQL ended by itself ({how}); it is being started again. Its log is in {}",
            launch.place.log_dir().display()
        );
        if began.elapsed() > STEADY {
            pause = SHORTEST_PAUSE;
        }
        guard = loop {
            if !rest(pause, shared) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match start_once(launch, shared, || shared.stopping()) {
                Ok(guard) => break guard,
                Err(Error::BrokenOff) => return,
                Err(error) => tracing::error!("{error} Trying again in {} ms.", pause.as_millis()),
            }
        };
        tracing::info!(pid = guard.pid, "PostgreSQL runs again (process {})", guard.pid);
    }
}

fn end_unguarded(launch: &Launch, pid: i32) -> Result<(), Error> {
    tracing::warn!(
        pid,
        "the watchdog of PostgreSQL (process {pid}) has gone: PostgreSQL is being stopped"
    );
    postmaster::end(pid, &launch.place.cluster(), &launch.account, launch.settings.stop_timeout)
}

/// Until the server has ended, by itself or, once we are to stop, by our order.
fn wait_for_end(launch: &Launch, shared: &Shared, guard: &mut Guard) -> String {
    let mut pruned = Instant::now();
    let mut stopping_since = None;
    let mut next_order = Instant::now();
    loop {
        match guard.ended() {
            Ok(None) => {}
            Ok(Some(status)) => return status.to_string(),
            Err(error) => return error.to_string(),
        }
        if shared.stopping() && Instant::now() >= next_order {
            let since = *stopping_since.get_or_insert_with(Instant::now);
            let in_time = since.elapsed() < launch.settings.stop_timeout
                && !postmaster::is_recovering(guard.pid);
            guard.tell(&shared.leash, if in_time { Order::Fast } else { Order::Immediate });
            // Again each second: a server that has only just started does not hear the first.
            next_order = Instant::now() + Duration::from_secs(1);
        }
        if pruned.elapsed() > PRUNE_EVERY {
            launch.prune_logs();
            pruned = Instant::now();
        }
        thread::sleep(GLANCE);
    }
}

/// False if told to stop meanwhile.
fn rest(pause: Duration, shared: &Shared) -> bool {
    let until = Instant::now() + pause;
    while Instant::now() < until && !shared.stopping() {
        thread::sleep(GLANCE.min(pause));
    }
    !shared.stopping()
}
