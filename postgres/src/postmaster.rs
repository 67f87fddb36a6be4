//! `postmaster.pid`: what a running, or crashed, server of a cluster has left there.

use crate::account::Account;
use crate::error::Error;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const GLANCE: Duration = Duration::from_millis(50);
/// How often it is looked whether a server that is to stop replays its log.
const LOOK: Duration = Duration::from_millis(500);
/// A postmaster told to stop at once kills its own children after five seconds.
const IMMEDIATE: Duration = Duration::from_secs(20);

/// The process that `postmaster.pid` names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// No file, or no such process any more.
    Nobody,
    /// A live server of this very cluster.
    Server(i32),
    /// A live process that has been given the number of a dead server. Not ours to touch.
    Stranger(i32),
}

pub(crate) fn look(cluster: &Path, account: &Account) -> Named {
    let Some(pid) = pid(cluster) else { return Named::Nobody };
    if !alive(pid) {
        Named::Nobody
    } else if is_server(pid, cluster, account) {
        Named::Server(pid)
    } else {
        Named::Stranger(pid)
    }
}

/// Whether the server `pid` takes connections. The postmaster writes its state into the eighth line, which is also what
/// `pg_ctl --wait` reads.
pub(crate) fn ready(cluster: &Path, server: i32) -> bool {
    let Ok(text) = fs::read_to_string(cluster.join("postmaster.pid")) else { return false };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.trim().parse().ok()) == Some(server)
        && lines.nth(6).is_some_and(|state| state.trim() == "ready")
}

/// Whether the server `pid` replays its log, after a crash of its own or of the whole. A fast shutdown waits for that, as long
/// as it takes; an immediate one does not, and loses nothing: nobody has written since, and the next start replays the same log.
pub(crate) fn is_recovering(pid: i32) -> bool {
    children(pid).iter().any(|title| title.starts_with("postgres: startup"))
}

/// What the processes that a server has started call themselves.
fn children(parent: i32) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return children_by_ps(parent) };
    let mut seen = false;
    let mut titles = Vec::new();
    for process in processes.flatten() {
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
        seen = true;
        // `pid (name) state parent …`, and the name may hold anything.
        let parents = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parents.and_then(|parent| parent.parse().ok()) == Some(parent) {
            let title = fs::read(process.path().join("cmdline")).unwrap_or_default();
            titles.push(String::from_utf8_lossy(&title).into_owned());
        }
    }
    if seen { titles } else { children_by_ps(parent) }
}

/// Where there is no /proc.
fn children_by_ps(parent: i32) -> Vec<String> {
    let ps = Command::new("ps")
        .args(["-A", "-o", "ppid=", "-o", "command="])
        .stdin(Stdio::null())
        .output();
    let Ok(printed) = ps else { return Vec::new() };
    String::from_utf8_lossy(&printed.stdout)
        .lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(of, _)| of.parse() == Ok(parent))
        .map(|(_, title)| title.trim().to_owned())
        .collect()
}

/// How long a server that was left over may take for a fast shutdown. One that was told to stop in the middle of its recovery may
/// stay for ever, with nothing that tells it from one that writes its last checkpoint; ending it at once loses nothing that was
/// answered, and costs no more than the next start's replay.
const LEFT_OVER: Duration = Duration::from_secs(5);

/// Stops a server that is nobody's child: fast, and if that takes longer than `grace` or five seconds, or would wait for the end of
/// a recovery, at once.
pub(crate) fn end(
    pid: i32,
    cluster: &Path,
    account: &Account,
    grace: Duration,
) -> Result<(), Error> {
    let stays = || Error::OrphanStays { cluster: cluster.to_owned(), pid };
    for (signal, patience) in [(Signal::SIGINT, grace.min(LEFT_OVER)), (Signal::SIGQUIT, IMMEDIATE)]
    {
        let fast = signal == Signal::SIGINT;
        if fast && is_recovering(pid) {
            continue;
        }
        let until = Instant::now() + patience;
        let mut look_again = Instant::now() + LOOK;
        // Looked at again before each signal: the number may have passed to another process.
        if alive(pid) && is_server(pid, cluster, account) {
            match kill(Pid::from_raw(pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(_) => return Err(stays()),
            }
        }
        while Instant::now() < until {
            if !alive(pid) || !is_server(pid, cluster, account) {
                return Ok(());
            }
            if fast && Instant::now() >= look_again {
                // Somebody else may have told it to stop before it came so far.
                if is_recovering(pid) {
                    break;
                }
                look_again = Instant::now() + LOOK;
            }
            thread::sleep(GLANCE);
        }
    }
    Err(stays())
}

/// A single-user server writes its number negated.
fn pid(cluster: &Path) -> Option<i32> {
    let text = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    pid.checked_abs().filter(|pid| *pid > 1)
}

fn alive(pid: i32) -> bool {
    !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH))
}

/// Runs under the account, is called postgres, and was given this cluster or works in it. A zombie has no command line and is none.
fn is_server(pid: i32, cluster: &Path, account: &Account) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let (Ok(about), Ok(command_line)) = (fs::metadata(&proc), fs::read(proc.join("cmdline")))
    else {
        return is_server_by_ps(pid, cluster, account);
    };
    let mut words = command_line.split(|byte| *byte == 0);
    let called = words.next().map(|word| Path::new(OsStr::from_bytes(word)));
    let given = words.any(|word| word == cluster.as_os_str().as_bytes());
    // The working directory of another account's process is hidden from a root without CAP_SYS_PTRACE.
    about.uid() == account.uid
        && is_postgres(called)
        && (given || fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd == cluster))
}

/// Where there is no /proc.
fn is_server_by_ps(pid: i32, cluster: &Path, account: &Account) -> bool {
    let ps = Command::new("ps")
        .args(["-o", "uid=", "-o", "command=", "-p", &pid.to_string()])
        .stdin(Stdio::null())
        .output();
    let Ok(printed) = ps else { return false };
    let printed = String::from_utf8_lossy(&printed.stdout);
    let Some((uid, command_line)) = printed.trim().split_once(char::is_whitespace) else {
        return false;
    };
    let command_line = command_line.trim();
    let program = command_line.split(" -").next().map(Path::new);
    uid.parse() == Ok(account.uid)
        && is_postgres(program)
        && command_line.contains(&*cluster.to_string_lossy())
}

fn is_postgres(program: Option<&Path>) -> bool {
    program.and_then(Path::file_name).is_some_and(|name| name == "postgres" || name == "postmaster")
}
