//! A server of any build, which a test starts and ends as it likes.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::server::{Setup, eventually};

/// A process of `entrybook serve`. Dropping it kills it.
pub struct Replica {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Replica {
    /// Starts `program` and waits for nothing. What it prints goes to `<data_dir>.log`.
    pub fn launch(program: &Path, setup: &Setup) -> Self {
        std::fs::create_dir_all(&setup.data_dir).unwrap();
        let path = setup.data_dir.with_extension("log");
        let log = File::options().create(true).append(true).open(&path).unwrap();
        let child = command(program, setup, &["serve"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, port: setup.port, log: path }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the replica has ended", async || self.child.try_wait().unwrap()).await
    }

    /// SIGTERM, and until it has ended.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// SIGKILL: no goodbye.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&mut self) {
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        eventually("the replica is ready", async || {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended:\n{}", self.log());
            let answer = http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of another build, in the same surroundings.
pub fn command(program: &Path, setup: &Setup, arguments: &[&str]) -> Command {
    let usual = setup.command(arguments);
    let mut command = Command::new(program);
    command.args(usual.get_args()).stdin(std::process::Stdio::null());
    for (key, value) in usual.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}

/// Runs a verb of `program` to its end; it must succeed.
pub async fn run(program: &Path, setup: &Setup, arguments: &[&str]) -> String {
    let mut command = command(program, setup, arguments);
    let output: Output =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
