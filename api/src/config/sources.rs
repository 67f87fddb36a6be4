//! Where values come from: flags over environment over file over default.

use super::keys::{KEYS, Key};
use super::{ConfigError, values};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names the configuration file.
pub const FILE_VARIABLE: &str = "ENTRYBOOK_CONFIG";

/// Set for other programs of Entrybook, and no keys.
const OTHER_VARIABLES: [&str; 2] = [FILE_VARIABLE, "ENTRYBOOK_POSTGRES_VERSION"];

/// Who set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment,
    File(PathBuf),
    Default,
}

/// A setting for people to look at.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// In the configuration file.
    pub name: &'static str,
    /// In the environment.
    pub variable: &'static str,
    /// As it was written; of a secret only that it is set. Nothing where there is neither a value nor a default.
    pub value: Option<String>,
    /// `flag`, `environment`, `file` or `default`.
    pub source: &'static str,
    /// The configuration file, where it comes from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// The values as they were written, each with who set it.
#[derive(Clone, Default)]
pub struct Sources {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// What is odd, and no error.
    pub(super) warnings: Vec<String>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.values.iter().map(|(name, (_, origin))| (name, origin))).finish()
    }
}

impl Sources {
    /// Merges all layers. `environment` is what `std::env::vars_os` gives.
    pub fn gather(
        flags: &[(&'static Key, String)],
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let mut sources = Self::default();
        let mut problems = Vec::new();
        let environment = sources.read_environment(environment, &mut problems);
        let file = file.map(Path::to_owned).or_else(|| {
            environment.get(FILE_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        if let Some(file) = file {
            sources.read_file(&file, &mut problems);
        }
        for key in KEYS {
            // Compose files and unit files pass on empty variables for "not set".
            if let Some(value) = environment.get(key.env).filter(|value| !value.is_empty()) {
                sources.values.insert(key.name, (value.clone(), Origin::Environment));
            }
        }
        for (key, value) in flags {
            sources.values.insert(key.name, (value.clone(), Origin::Flag));
        }
        if problems.is_empty() { Ok(sources) } else { Err(ConfigError { problems }) }
    }

    /// The value as it was written, or the default.
    pub(super) fn get(&self, key: &'static Key) -> Option<(&str, Origin)> {
        match self.values.get(key.name) {
            Some((value, origin)) => Some((value, origin.clone())),
            None if key.default.is_empty() => None,
            None => Some((key.default, Origin::Default)),
        }
    }

    /// Every setting, in the order of the help.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = |key: &'static Key| {
            let (value, origin) =
                self.get(key).map_or((None, Origin::Default), |(value, origin)| {
                    let value =
                        if key.is_secret() { "(set)".to_owned() } else { without_passwords(value) };
                    (Some(value), origin)
                });
            let (source, file) = match origin {
                Origin::Flag => ("flag", None),
                Origin::Environment => ("environment", None),
                Origin::File(path) => ("file", Some(path)),
                Origin::Default => ("default", None),
            };
            Shown { name: key.name, variable: key.env, value, source, file }
        };
        KEYS.iter().map(shown).collect()
    }

    fn read_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        problems: &mut Vec<String>,
    ) -> BTreeMap<String, String> {
        let known =
            |name: &str| KEYS.iter().any(|key| key.env == name) || OTHER_VARIABLES.contains(&name);
        let mut ours = BTreeMap::new();
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            if known(name) {
                match value.into_string() {
                    Ok(value) => _ = ours.insert(name.to_owned(), value),
                    Err(_) => problems.push(format!("{name} is not valid UTF-8.")),
                }
            } else if name.starts_with("ENTRYBOOK_") {
                let names = KEYS.iter().map(|key| key.env).chain(OTHER_VARIABLES);
                self.warnings.push(format!("{name} is no setting.{}", did_you_mean(name, names)));
            }
        }
        ours
    }

    fn read_file(&mut self, path: &Path, problems: &mut Vec<String>) {
        let shown = path.display();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                problems.push(format!("The configuration file {shown} cannot be read: {error}."));
                return;
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                // Its own display quotes the line, which may hold a secret.
                let error: toml::de::Error = error;
                let start = error.span().map_or(0, |span| span.start);
                let line = text.get(..start).map_or(0, |before| before.matches('\n').count()) + 1;
                problems.push(format!("{shown}, line {line}: {}.", error.message()));
                return;
            }
        };
        let mut secret = false;
        for (name, value) in &table {
            let Some(key) = Key::named(name) else {
                let names = KEYS.iter().map(|key| key.name);
                problems
                    .push(format!("{shown}: {name} is no setting.{}", did_you_mean(name, names)));
                continue;
            };
            secret |= key.is_secret();
            match values::as_text(value) {
                Some(value) => {
                    self.values.insert(key.name, (value, Origin::File(path.to_owned())));
                }
                None => problems
                    .push(format!("{shown}: {name} takes one value, such as \"{}\".", key.value)),
            }
        }
        if secret && std::fs::metadata(path).is_ok_and(|about| about.mode() & 0o077 != 0) {
            self.warnings.push(format!(
                "{shown} holds secrets, and others may read it. Run: chmod 600 {shown}"
            ));
        }
    }
}

/// Without what stands before the host of an address: the user and the password.
pub(super) fn without_passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let authority = part.find(['/', '?', '#', ',', ';', ' ']).unwrap_or(part.len());
        let host =
            part.get(..authority).and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
        shown.push_str(if host == 0 { "://" } else { "://…@" });
        shown.push_str(part.get(host..).unwrap_or_default());
    }
    shown
}

/// How to name the key to whoever set it.
pub(super) fn name_for(key: &Key, origin: &Origin) -> String {
    match origin {
        Origin::Flag => key.flag(),
        Origin::Environment | Origin::Default => key.env.to_owned(),
        Origin::File(path) => format!("{} in {}", key.name, path.display()),
    }
}

fn did_you_mean<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> String {
    // The prefix that all share would make everything look alike.
    let bare = |name: &str| name.trim_start_matches("ENTRYBOOK_").to_lowercase().replace('-', "_");
    let wrong = bare(wrong);
    names
        .map(|name| (strsim::damerau_levenshtein(&wrong, &bare(name)), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 4))
        .map(|(_, name)| format!(" Did you mean {name}?"))
        .unwrap_or_else(|| " `entrybook serve --help` lists them all.".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        for (text, shown) in [
            ("15m", "15m"),
            ("https://login.example.org", "https://login.example.org"),
            ("https://ada:s3cret@anchor.example/a@b?x=@y", "https://…@anchor.example/a@b?x=@y"),
            (
                "k1+aa https://a:b@w1/ k2+bb https://w2/ k3+cc https://token@w3",
                "k1+aa https://…@w1/ k2+bb https://w2/ k3+cc https://…@w3",
            ),
            ("https://a:p@ss@host", "https://…@host"),
            ("://", "://"),
        ] {
            assert_eq!(without_passwords(text), shown);
        }
    }
}
