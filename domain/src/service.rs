//! What happens to the service as a whole: its servers, its keys, its tables.
//!
//! Nothing here is personal data and nothing a secret: keys have names here, and settings are those
//! that the caller has chosen to tell.

use std::collections::{BTreeMap, BTreeSet};

use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Change, StreamEvent, stream};

/// The settings of a server by their names, as text. One that is not set is not there.
pub type ServerSettings = BTreeMap<String, String>;

/// The setting that names the cluster of databases where the book is.
pub const CLUSTER: &str = "cluster";
/// What differs between two starts without being a setting that somebody has changed: where one server
/// listens, and the cluster, of which there is an event of its own.
const NO_CHANGE: [&str; 2] = ["listen", CLUSTER];

/// What has happened to the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceEvent {
    /// A server has started. The id is its own: the next start has another one.
    ServerStarted {
        replica: Uuid,
        /// The program and its version.
        program: String,
        settings: ServerSettings,
        /// Servers that had started, never said that they stopped, and are not seen any more: they
        /// were killed, or their machine was.
        unstopped: Vec<Uuid>,
    },
    ServerStopped {
        replica: Uuid,
    },
    /// A server has started with other settings than the one that started before it.
    SettingsChanged {
        changed: BTreeMap<String, Change<Option<String>>>,
    },
    SchemaMigrated {
        versions: Vec<i64>,
    },
    /// A key that signs access tokens.
    SigningKeyAdded {
        kid: String,
        algorithm: String,
    },
    /// A key that signed access tokens signs no more, and nothing that it signed is accepted any longer. The event is in a
    /// stream of its own, `signing_key:<kid>`, so that whoever reads keys finds it by the primary key.
    SigningKeyRetired {
        kid: String,
    },
    /// A transparency log begins; `key` is its verifier key.
    LogBegun {
        origin: String,
        key: String,
    },
    /// A key was made that is to sign the log later. Nobody trusts it for this.
    LogKeyAdded {
        origin: String,
        key: String,
    },
    /// The key that signed the log until now has handed over to another, which signs from here on.
    LogKeyHandedOver {
        origin: String,
        /// The verifier key that signs now.
        key: String,
        /// The statement, signed by both keys: a note, as docs/transparency-log.md has it.
        hand_over: String,
    },
    /// What kept the log from signing was lifted, by who looked into it.
    LogResumed {
        origin: String,
        /// What it had found, and what the choices were.
        refusal: String,
    },
    /// A server has started on a book that was restored into another cluster of databases, or moved
    /// there with it. Clusters go by PostgreSQL's system identifiers.
    BookRestored {
        from: String,
        to: String,
    },
    /// Somebody has asked for read tables to be rebuilt. `ProjectionsRebuilt` follows, unless the
    /// process that did it was killed.
    ProjectionsRebuildBegun {
        projections: Vec<String>,
        repair: bool,
    },
    /// Somebody has asked whoever rebuilds to stop.
    ProjectionsRebuildCancelled {
        projections: Vec<String>,
    },
    /// Read tables were rebuilt, or should have been: `outcome` tells.
    ProjectionsRebuilt {
        projections: Vec<String>,
        outcome: String,
        repair: bool,
    },
    /// Somebody has asked for these to be dropped. `ProjectionsPruned` follows, with those that were.
    ProjectionsPruneBegun {
        unused: Vec<String>,
    },
    /// Tables of versions that no server uses were dropped.
    ProjectionsPruned {
        dropped: Vec<String>,
    },
    /// Keys were wrapped anew, by another master key; both are named, not shown.
    MasterKeyRotated {
        from: String,
        to: String,
        keys: u64,
    },
    /// The addresses and user agents of a month, as `2026-01`, can't be read any more.
    MonthForgotten {
        month: String,
    },
}

impl ServiceEvent {
    /// The names under which the events are stored. They never change.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ServerStarted { .. } => "ServerStarted",
            Self::ServerStopped { .. } => "ServerStopped",
            Self::SettingsChanged { .. } => "SettingsChanged",
            Self::SchemaMigrated { .. } => "SchemaMigrated",
            Self::SigningKeyAdded { .. } => "SigningKeyAdded",
            Self::SigningKeyRetired { .. } => "SigningKeyRetired",
            Self::LogBegun { .. } => "LogBegun",
            Self::LogKeyAdded { .. } => "LogKeyAdded",
            Self::LogKeyHandedOver { .. } => "LogKeyHandedOver",
            Self::LogResumed { .. } => "LogResumed",
            Self::BookRestored { .. } => "BookRestored",
            Self::ProjectionsRebuildBegun { .. } => "ProjectionsRebuildBegun",
            Self::ProjectionsRebuildCancelled { .. } => "ProjectionsRebuildCancelled",
            Self::ProjectionsRebuilt { .. } => "ProjectionsRebuilt",
            Self::ProjectionsPruneBegun { .. } => "ProjectionsPruneBegun",
            Self::ProjectionsPruned { .. } => "ProjectionsPruned",
            Self::MasterKeyRotated { .. } => "MasterKeyRotated",
            Self::MonthForgotten { .. } => "MonthForgotten",
        }
    }

    /// The version in which each is written.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self {
            Self::ServerStarted { .. }
            | Self::ServerStopped { .. }
            | Self::SettingsChanged { .. }
            | Self::SchemaMigrated { .. }
            | Self::SigningKeyAdded { .. }
            | Self::SigningKeyRetired { .. }
            | Self::LogBegun { .. }
            | Self::LogKeyAdded { .. }
            | Self::LogKeyHandedOver { .. }
            | Self::LogResumed { .. }
            | Self::BookRestored { .. }
            | Self::ProjectionsRebuildBegun { .. }
            | Self::ProjectionsRebuildCancelled { .. }
            | Self::ProjectionsRebuilt { .. }
            | Self::ProjectionsPruneBegun { .. }
            | Self::ProjectionsPruned { .. }
            | Self::MasterKeyRotated { .. }
            | Self::MonthForgotten { .. } => "1",
        }
    }
}

impl StreamEvent for ServiceEvent {
    const STREAM: &'static str = stream::SERVICE;

    fn version_of(name: &str) -> Option<&'static str> {
        match name {
            "ServerStarted"
            | "ServerStopped"
            | "SettingsChanged"
            | "SchemaMigrated"
            | "SigningKeyAdded"
            | "SigningKeyRetired"
            | "LogBegun"
            | "LogKeyAdded"
            | "LogKeyHandedOver"
            | "LogResumed"
            | "BookRestored"
            | "ProjectionsRebuildBegun"
            | "ProjectionsRebuildCancelled"
            | "ProjectionsRebuilt"
            | "ProjectionsPruneBegun"
            | "ProjectionsPruned"
            | "MasterKeyRotated"
            | "MonthForgotten" => Some("1"),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        self.name()
    }
}

impl DomainEvent for ServiceEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}

/// The facts of a server's start.
#[derive(Debug, Clone)]
pub struct ServerStart {
    pub replica: Uuid,
    pub program: String,
    pub settings: ServerSettings,
    /// The servers that are seen to run.
    pub alive: BTreeSet<Uuid>,
}

/// The service, as the events of one of its streams tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The servers that have started and not stopped.
    pub running: BTreeSet<Uuid>,
    /// Those of the server that started last.
    pub settings: Option<ServerSettings>,
    /// The migrations that were told of.
    pub migrations: BTreeSet<i64>,
    /// The keys that sign access tokens, as far as they were told of.
    pub signing_keys: BTreeSet<String>,
    /// The keys among them that were retired.
    pub retired_keys: BTreeSet<String>,
}

impl Service {
    /// Tells of a start; of a book that was elsewhere at the start before, and of what was set
    /// otherwise there; and of servers that never said that they stopped.
    #[must_use]
    pub fn start(&self, facts: ServerStart) -> Vec<ServiceEvent> {
        let ServerStart { replica, program, settings, alive } = facts;
        if self.running.contains(&replica) {
            return Vec::new();
        }
        let cluster = |settings: &ServerSettings| settings.get(CLUSTER).cloned();
        let restored = self
            .settings
            .as_ref()
            .and_then(cluster)
            .zip(cluster(&settings))
            .filter(|(from, to)| from != to)
            .map(|(from, to)| ServiceEvent::BookRestored { from, to });
        let changed = self
            .settings
            .as_ref()
            .map(|before| differences(before, &settings))
            .filter(|changed| !changed.is_empty());
        let unstopped = self.running.difference(&alive).copied().collect();
        let mut events =
            vec![ServiceEvent::ServerStarted { replica, program, settings, unstopped }];
        events.extend(restored);
        events.extend(changed.map(|changed| ServiceEvent::SettingsChanged { changed }));
        events
    }

    /// Tells of a stop, once.
    #[must_use]
    pub fn stop(&self, replica: Uuid) -> Vec<ServiceEvent> {
        if !self.running.contains(&replica) {
            return Vec::new();
        }
        vec![ServiceEvent::ServerStopped { replica }]
    }

    /// Tells of the migrations that the database has and nobody has told of: whoever applied them may
    /// have had no key to seal their name with.
    #[must_use]
    pub fn migrated(&self, versions: &BTreeSet<i64>) -> Vec<ServiceEvent> {
        let versions: Vec<i64> = versions.difference(&self.migrations).copied().collect();
        if versions.is_empty() {
            return Vec::new();
        }
        vec![ServiceEvent::SchemaMigrated { versions }]
    }

    /// Tells of the signing keys that nobody has told of, each with its algorithm.
    #[must_use]
    pub fn signing_keys_added(&self, keys: &BTreeMap<String, String>) -> Vec<ServiceEvent> {
        keys.iter()
            .filter(|(kid, _)| !self.signing_keys.contains(*kid))
            .map(|(kid, algorithm)| ServiceEvent::SigningKeyAdded {
                kid: kid.clone(),
                algorithm: algorithm.clone(),
            })
            .collect()
    }

    /// Retires a signing key, once.
    #[must_use]
    pub fn retire_signing_key(&self, kid: &str) -> Vec<ServiceEvent> {
        if self.retired_keys.contains(kid) {
            return Vec::new();
        }
        vec![ServiceEvent::SigningKeyRetired { kid: kid.to_owned() }]
    }

    /// Folds one event in. Total: no history that `decide` can write makes it fail.
    pub fn apply(&mut self, event: ServiceEvent) {
        match event {
            ServiceEvent::ServerStarted { replica, program: _, settings, unstopped } => {
                for gone in unstopped {
                    self.running.remove(&gone);
                }
                self.running.insert(replica);
                self.settings = Some(settings);
            }
            ServiceEvent::ServerStopped { replica } => {
                self.running.remove(&replica);
            }
            ServiceEvent::SchemaMigrated { versions } => self.migrations.extend(versions),
            ServiceEvent::SigningKeyAdded { kid, algorithm: _ } => {
                self.signing_keys.insert(kid);
            }
            ServiceEvent::SigningKeyRetired { kid } => {
                self.retired_keys.insert(kid);
            }
            ServiceEvent::SettingsChanged { .. }
            | ServiceEvent::LogBegun { .. }
            | ServiceEvent::LogKeyAdded { .. }
            | ServiceEvent::LogKeyHandedOver { .. }
            | ServiceEvent::LogResumed { .. }
            | ServiceEvent::BookRestored { .. }
            | ServiceEvent::ProjectionsRebuildBegun { .. }
            | ServiceEvent::ProjectionsRebuildCancelled { .. }
            | ServiceEvent::ProjectionsRebuilt { .. }
            | ServiceEvent::ProjectionsPruneBegun { .. }
            | ServiceEvent::ProjectionsPruned { .. }
            | ServiceEvent::MasterKeyRotated { .. }
            | ServiceEvent::MonthForgotten { .. } => {}
        }
    }
}

fn differences(
    before: &ServerSettings,
    now: &ServerSettings,
) -> BTreeMap<String, Change<Option<String>>> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    names
        .into_iter()
        .filter(|name| !NO_CHANGE.contains(&name.as_str()))
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| {
            let (from, to) = (before.get(name).cloned(), now.get(name).cloned());
            (name.clone(), Change { from, to })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn settings(of: &[(&str, &str)]) -> ServerSettings {
        of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn start(number: u128, of: &[(&str, &str)], alive: &[u128]) -> ServerStart {
        ServerStart {
            replica: replica(number),
            program: "entrybook 0.1.0".into(),
            settings: settings(of),
            alive: alive.iter().copied().map(replica).collect(),
        }
    }

    fn folded(events: &[Vec<ServiceEvent>]) -> Service {
        let mut service = Service::default();
        events.iter().flatten().for_each(|event| service.apply(event.clone()));
        service
    }

    fn started(number: u128, of: &[(&str, &str)], unstopped: &[u128]) -> ServiceEvent {
        ServiceEvent::ServerStarted {
            replica: replica(number),
            program: "entrybook 0.1.0".into(),
            settings: settings(of),
            unstopped: unstopped.iter().copied().map(replica).collect(),
        }
    }

    #[test]
    fn a_server_that_was_killed_is_told_of_at_the_next_start_and_once() {
        let first = Service::default().start(start(1, &[], &[]));
        assert_eq!(first, [started(1, &[], &[])]);
        let service = folded(std::slice::from_ref(&first));
        // The second runs beside the first …
        let beside = service.start(start(2, &[], &[1]));
        assert_eq!(beside, [started(2, &[], &[])]);
        // … and the third finds the first gone.
        let service = folded(&[first.clone(), beside.clone()]);
        let third = service.start(start(3, &[], &[2]));
        assert_eq!(third, [started(3, &[], &[1])]);
        let service = folded(&[first, beside, third]);
        assert_eq!(service.start(start(4, &[], &[2, 3])), [started(4, &[], &[])]);
        // What it had to say after all, nobody needs.
        assert_eq!(service.stop(replica(1)), []);
    }

    #[test]
    fn a_stop_is_told_once() {
        let begun = Service::default().start(start(1, &[], &[]));
        let service = folded(std::slice::from_ref(&begun));
        assert_eq!(service.start(start(1, &[], &[])), [], "it has started");
        let stopped = service.stop(replica(1));
        assert_eq!(stopped, [ServiceEvent::ServerStopped { replica: replica(1) }]);
        let service = folded(&[begun, stopped]);
        assert_eq!(service.stop(replica(1)), []);
        assert_eq!(service.start(start(2, &[], &[])), [started(2, &[], &[])]);
    }

    #[test]
    fn migrations_and_keys_are_told_of_once() {
        let service = folded(&[Service::default().migrated(&[1, 2].into())]);
        assert_eq!(service.migrated(&[1, 2].into()), []);
        let later = service.migrated(&[1, 2, 3, 4].into());
        assert_eq!(later, [ServiceEvent::SchemaMigrated { versions: vec![3, 4] }]);
        let keys = |of: &[&str]| -> BTreeMap<String, String> {
            of.iter().map(|kid| ((*kid).to_owned(), "ES256".to_owned())).collect()
        };
        let service = folded(&[Service::default().signing_keys_added(&keys(&["a"]))]);
        assert_eq!(service.signing_keys_added(&keys(&["a"])), []);
        let added = ServiceEvent::SigningKeyAdded { kid: "b".into(), algorithm: "ES256".into() };
        assert_eq!(service.signing_keys_added(&keys(&["a", "b"])), [added]);
    }

    #[test]
    fn a_signing_key_is_retired_once() {
        let retired = Service::default().retire_signing_key("a");
        assert_eq!(retired, [ServiceEvent::SigningKeyRetired { kid: "a".into() }]);
        let service = folded(std::slice::from_ref(&retired));
        assert_eq!(service.retire_signing_key("a"), []);
        assert_eq!(service.retire_signing_key("b").len(), 1);
    }

    #[test]
    fn a_book_that_was_restored_into_another_cluster_is_told_of_once() {
        let service = folded(&[Service::default().start(start(1, &[], &[]))]);
        let here = [("cluster", "7400")];
        let first = service.start(start(2, &here, &[1]));
        assert_eq!(first, [started(2, &here, &[])], "nobody knows where it was");
        let service = folded(std::slice::from_ref(&first));
        assert_eq!(service.start(start(3, &here, &[2])), [started(3, &here, &[])]);
        let there = [("cluster", "7500")];
        let restored = ServiceEvent::BookRestored { from: "7400".into(), to: "7500".into() };
        let moved = service.start(start(4, &there, &[]));
        assert_eq!(moved, [started(4, &there, &[2]), restored]);
        let service = folded(&[first, moved]);
        assert_eq!(service.start(start(5, &there, &[4])), [started(5, &there, &[])]);
    }

    #[test]
    fn changed_settings_are_told_but_not_where_a_server_listens() {
        let before = [("listen", "a:1"), ("registration", "open"), ("retention", "400d")];
        let now = [("listen", "b:1"), ("log_interval", "2s"), ("registration", "closed")];
        let service = folded(&[Service::default().start(start(1, &before, &[]))]);
        let change = |from: Option<&str>, to: Option<&str>| Change {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let changed = BTreeMap::from([
            ("log_interval".to_owned(), change(None, Some("2s"))),
            ("registration".to_owned(), change(Some("open"), Some("closed"))),
            ("retention".to_owned(), change(Some("400d"), None)),
        ]);
        assert_eq!(
            service.start(start(2, &now, &[1])),
            [started(2, &now, &[]), ServiceEvent::SettingsChanged { changed }]
        );
        let elsewhere = [("listen", "c:1"), ("registration", "open"), ("retention", "400d")];
        assert_eq!(service.start(start(3, &elsewhere, &[1])), [started(3, &elsewhere, &[])]);
    }
}
