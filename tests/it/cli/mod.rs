//! The `entrybook` program as people run it: what it prints, how it exits, and what it leaves behind.

mod as_compose;
mod backing_up;
mod configuring;
mod projections;
mod replay;
mod running;
mod shells;
mod verbs;

use crate::support::server::{Setup, client, eventually, free_port};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Output};

/// No admin given, no database given: as in an empty directory.
fn bare(data_dir: &Path) -> Setup {
    Setup {
        port: free_port(),
        data_dir: data_dir.to_owned(),
        database_url: None,
        extra: Vec::new(),
    }
}

/// What a verb answered.
struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Answer {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed, if it succeeded.
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// What it said, if it ended with this code.
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self.err
    }
}

/// Runs a verb to its end.
fn run(setup: &Setup, arguments: &[&str]) -> Answer {
    Answer::of(setup.command(arguments).output().unwrap())
}

/// A server whose answers and log are kept apart.
struct Serving {
    child: Child,
    setup: Setup,
    out: PathBuf,
    err: PathBuf,
}

impl Serving {
    async fn start(setup: &Setup) -> Self {
        let name = setup.data_dir.with_file_name(format!("serve-{}", free_port()));
        let (out, err) = (name.with_extension("out"), name.with_extension("err"));
        let child = setup
            .command(&["serve"])
            .env("ENTRYBOOK_LOG", "debug")
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let mut serving = Self { child, setup: setup.clone(), out, err };
        serving.ready().await;
        serving
    }

    async fn ready(&mut self) {
        let (http, url) = (client(), format!("http://127.0.0.1:{}/readyz", self.setup.port));
        eventually("the server is ready", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended:\n{}{}", self.printed(), self.log());
            http.get(&url).send().await.ok()?.status().is_success().then_some(())
        })
        .await;
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        let status = eventually("the server ends", async || self.child.try_wait().unwrap()).await;
        status.code()
    }

    async fn sign_in(&self, identifier: &str, password: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}/api/v1/auth/login", self.setup.port);
        let body = serde_json::json!({"identifier": identifier, "password": password});
        client().post(url).json(&body).send().await.unwrap().status().as_u16()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes that work on a data directory.
fn processes_on(data_dir: &Path) -> Vec<String> {
    let dir = data_dir.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(dir) {
            found.push(line);
        }
    }
    found
}

async fn nothing_left_on(data_dir: &Path) {
    eventually("no process is left", async || processes_on(data_dir).is_empty().then_some(()))
        .await;
}

/// The value of a line `Password  …`, however it is framed.
fn printed_password(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("Password")?;
    let after = after.trim_start_matches(", shown this once:");
    after.split_whitespace().next()
}
