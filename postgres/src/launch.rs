//! One start of the server: its parameters, and waiting until it takes connections.

use crate::account::Account;
use crate::cluster::last_lines;
use crate::error::{Error, io};
use crate::guard::{Guard, Leash, Order, Program};
use crate::install::Installation;
use crate::place::{PORT, Place};
use crate::postmaster::{self, Named};
use crate::settings::Settings;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

const GLANCE: Duration = Duration::from_millis(20);
const LOGS_KEPT: usize = 5;

/// Modest, and for the caller to change.
const DEFAULTS: [(&str, &str); 9] = [
    ("max_connections", "100"),
    ("shared_buffers", "128MB"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] "),
    // DETAIL lines would quote the values of a row, which are personal data.
    ("log_error_verbosity", "terse"),
    ("log_statement", "none"),
];

/// Not for anybody to change: they come last, and a parameter of the command line cannot be changed by ALTER SYSTEM.
const FIXED: [(&str, &str); 14] = [
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("password_encryption", "scram-sha-256"),
    ("restart_after_crash", "on"),
    ("log_parameter_max_length_on_error", "0"),
    ("logging_collector", "on"),
    ("log_destination", "stderr"),
    ("log_filename", "postgresql-%Y%m%d-%H%M%S.log"),
    ("log_file_mode", "0600"),
    ("log_rotation_age", "1d"),
    ("log_rotation_size", "10MB"),
];

pub(crate) struct Launch {
    pub(crate) settings: Settings,
    pub(crate) place: Place,
    pub(crate) installation: Installation,
    pub(crate) account: Account,
}

impl Launch {
    /// Ends a server that was left over. True if there was one.
    pub(crate) fn end_orphan(&self) -> Result<bool, Error> {
        let cluster = self.place.cluster();
        let Named::Server(pid) = postmaster::look(&cluster, &self.account) else {
            return Ok(false);
        };
        tracing::warn!(
            pid,
            "a PostgreSQL left over on {} (process {pid}) is being stopped",
            cluster.display()
        );
        postmaster::end(pid, &cluster, &self.account, self.settings.stop_timeout)?;
        Ok(true)
    }

    /// Starts the server and waits until it takes connections. `leash` is put on it at once, so that it can be told to stop while it is
    /// still starting; `broken_off` is asked meanwhile.
    pub(crate) fn start(
        &self,
        leash: &Leash,
        broken_off: impl Fn() -> bool,
    ) -> Result<Guard, Error> {
        self.end_orphan()?;
        self.place.clear_sockets();
        self.prune_logs();
        self.write_hba()?;
        let cluster = self.place.cluster();
        let mut env = Vec::new();
        if let Named::Stranger(pid) = postmaster::look(&cluster, &self.account) {
            // The server would take that process for another server and refuse. What pg_ctl uses to say "this one is not" says
            // it here too; the file stays, and with it the server's check for the shared memory of a crashed one.
            tracing::info!(
                pid,
                "process {pid}, named by a stale postmaster.pid, is not PostgreSQL: left alone"
            );
            env.push(("PG_GRANDPARENT_PID", pid.to_string()));
        }
        let output = self.place.output();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&output)
            .map_err(io("write", &output))?;
        let program = Program {
            account: &self.account,
            path: self.installation.program("postgres"),
            args: self.args(&cluster),
            env,
            input: Path::new("/dev/null"),
            output: file,
            grace: self.settings.stop_timeout,
        };
        let mut guard = Guard::spawn(program).map_err(|error| self.failed(error.to_string()))?;
        leash.take_over(&guard.leash);
        self.wait_until_ready(&mut guard, leash, broken_off)?;
        Ok(guard)
    }

    fn wait_until_ready(
        &self,
        guard: &mut Guard,
        leash: &Leash,
        broken_off: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let mut told = 0;
        while !postmaster::ready(&self.place.cluster(), guard.pid) {
            if let Some(status) = guard.ended().map_err(|error| self.failed(error.to_string()))? {
                return Err(self.failed(format!("it ended with {status}: {}", self.last_words())));
            }
            // A recovery is never begun again because it takes its time.
            let late = began.elapsed() > self.settings.start_timeout
                && !postmaster::is_recovering(guard.pid);
            if late || broken_off() {
                return Err(self.give_up(guard, leash, late));
            }
            if began.elapsed().as_secs() >= told + 10 {
                told = began.elapsed().as_secs();
                tracing::info!(
                    "PostgreSQL is not ready yet after {told} seconds; after a crash it replays its log"
                );
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn give_up(&self, guard: &mut Guard, leash: &Leash, late: bool) -> Error {
        loop {
            // It has taken no connection yet: a fast shutdown would only wait until it has replayed its log.
            guard.tell(leash, Order::Immediate);
            match guard.wait_until(Instant::now() + Duration::from_secs(1)) {
                Ok(None) => {}
                Err(error) => return self.failed(error.to_string()),
                Ok(Some(_)) if late => {
                    return self.failed(format!(
                        "it was not ready after {} seconds",
                        self.settings.start_timeout.as_secs()
                    ));
                }
                Ok(Some(_)) => return Error::BrokenOff,
            }
        }
    }

    fn args(&self, cluster: &Path) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["-D".into(), cluster.into()];
        let mut set = |key: &str, value: OsString| {
            let mut pair = OsString::from(format!("{key}="));
            pair.push(value);
            args.extend(["-c".into(), pair]);
        };
        for (key, value) in DEFAULTS {
            set(key, value.into());
        }
        for (key, value) in &self.settings.parameters {
            set(key, value.into());
        }
        for (key, value) in FIXED {
            set(key, value.into());
        }
        set("port", PORT.to_string().into());
        set("unix_socket_directories", list_item(&self.place.socket_dir));
        set("log_directory", self.place.log_dir().into());
        set("hba_file", self.place.hba().into());
        args
    }

    fn failed(&self, detail: String) -> Error {
        Error::StartFailed { cluster: self.place.cluster(), log: self.place.log_dir(), detail }
    }

    /// The log, once it took over, else what was printed before.
    fn last_words(&self) -> String {
        let output = self.place.output();
        let printed = last_lines(&output);
        match self.logs().last() {
            Some(log)
                if printed.contains("logging collector") || printed.contains("log output") =>
            {
                last_lines(log)
            }
            _ => printed,
        }
    }

    /// Oldest first: their names are times.
    fn logs(&self) -> Vec<PathBuf> {
        let listing = self.place.log_dir().read_dir().into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = listing
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .collect();
        logs.sort();
        logs
    }

    /// The server rotates its log and never deletes one.
    pub(crate) fn prune_logs(&self) {
        let logs = self.logs();
        for old in logs.iter().take(logs.len().saturating_sub(LOGS_KEPT)) {
            if let Err(error) = fs::remove_file(old) {
                tracing::warn!("could not delete the old log {}: {error}", old.display());
            }
        }
    }

    /// Ours and not the account's, beside the cluster and not in it, so that who breaks into the server cannot open it further.
    fn write_hba(&self) -> Result<(), Error> {
        let path = self.place.hba();
        let write = || {
            let new = path.with_extension("conf.new");
            let mut file = fs::File::create(&new)?;
            file.write_all(
                b"# Written by Entrybook at each start.\nlocal all all scram-sha-256\n",
            )?;
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, &path)
        };
        write().map_err(io("write", &path))
    }
}

/// For a parameter that is a comma-separated list.
fn list_item(path: &Path) -> OsString {
    match path.to_str() {
        Some(text) => format!("\"{}\"", text.replace('"', "\"\"")).into(),
        None => path.into(),
    }
}
