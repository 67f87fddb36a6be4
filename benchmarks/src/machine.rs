//! What the figures were measured on, and with.

use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, PARAMETERS};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) system: String,
    pub(crate) postgres: String,
    pub(crate) rustc: String,
    pub(crate) entrybook: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl Machine {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let memory = field_of("/proc/meminfo", "MemTotal", ':');
        let kib: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
        let commit = output("git", &["rev-parse", "--short", "HEAD"]);
        let changed = !output("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        Self {
            processor: field_of("/proc/cpuinfo", "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib / 1024.0 / 1024.0).round(),
            system: format!(
                "{}, {}",
                field_of("/etc/os-release", "PRETTY_NAME", '=').trim_matches('"'),
                output("uname", &["-s", "-m"])
            ),
            postgres: cluster.version(),
            rustc: output("rustc", &["--version"]),
            entrybook: format!("{commit}{}", if changed { ", with changes" } else { "" }),
            parameters: PARAMETERS
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }
}

fn field_of(file: &str, name: &str, sign: char) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(sign))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
