//! A program that ends when we end, by whatever way: run under `watchdog.sh`, which holds the reading end of a pipe of ours.

use crate::account::Account;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const WATCHDOG: &str = include_str!("watchdog.sh");
const GLANCE: Duration = Duration::from_millis(20);

/// What to run.
pub(crate) struct Program<'a> {
    pub(crate) account: &'a Account,
    pub(crate) path: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, String)>,
    /// Must be readable by the account.
    pub(crate) input: &'a Path,
    /// Takes what the program prints.
    pub(crate) output: File,
    /// How long a fast shutdown may take once we are gone.
    pub(crate) grace: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Fast,
    Immediate,
}

/// The pipe. As long as it is open the program runs.
#[derive(Clone, Default)]
pub(crate) struct Leash(Arc<Mutex<Option<ChildStdin>>>);

impl Leash {
    /// False when nobody is there to hear it.
    pub(crate) fn order(&self, order: Order) -> bool {
        let word: &[u8] = match order {
            Order::Fast => b"fast\n",
            Order::Immediate => b"immediate\n",
        };
        let mut pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.as_mut().is_some_and(|pipe| pipe.write_all(word).is_ok())
    }

    /// Whoever is still on it is stopped by its watchdog.
    pub(crate) fn let_go(&self) {
        self.take_over(&Self::default());
    }

    /// Puts this leash on another program.
    pub(crate) fn take_over(&self, other: &Self) {
        let pipe = other.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pipe;
    }
}

pub(crate) struct Guard {
    /// The watchdog.
    child: Child,
    pub(crate) leash: Leash,
    /// The program itself.
    pub(crate) pid: i32,
}

impl Guard {
    pub(crate) fn spawn(program: Program<'_>) -> io::Result<Self> {
        let mut command = program.account.command(Path::new("/bin/sh"));
        command
            .args(["-c", WATCHDOG, "entrybook-watchdog"])
            .arg(program.grace.as_secs().to_string())
            .arg(program.input)
            .arg(&program.path)
            .args(&program.args)
            .envs(program.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(program.output)
            // Ctrl-C in a terminal is for us alone: PostgreSQL stops when we have finished with it.
            .process_group(0);
        let mut child = command.spawn()?;
        let leash = Leash(Arc::new(Mutex::new(child.stdin.take())));
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Ok(pid) = line.trim().parse() else {
            let status = child.wait()?;
            return Err(io::Error::other(format!("the watchdog ended early ({status})")));
        };
        Ok(Self { child, leash, pid })
    }

    /// The program's exit, once it has ended. (The watchdog passes on the status, or was itself killed.)
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Orders the program to stop; by the pipe, or, if its reader was killed, by a signal of our own.
    pub(crate) fn tell(&mut self, leash: &Leash, order: Order) {
        // While the watchdog has not ended, the number is still the program's.
        if !leash.order(order) && matches!(self.ended(), Ok(None)) {
            let signal = match order {
                Order::Fast => Signal::SIGINT,
                Order::Immediate => Signal::SIGQUIT,
            };
            // It may have ended just now.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// For programs that end by themselves.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        loop {
            match self.ended()? {
                Some(status) => return Ok(Some(status)),
                None if Instant::now() > deadline => return Ok(None),
                None => thread::sleep(GLANCE),
            }
        }
    }
}
