//! What happens to the service itself: servers, keys and tables, posted into streams of their own.
//!
//! Servers that start at once agree, because each decides on the stream as it then stands.

use std::collections::{BTreeMap, BTreeSet};

use cqrs_es::{Aggregate, event_sink::EventSink};
use domain::{CLUSTER, ServerStart, Service, ServiceEvent, stream};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::{Duration, sleep};
use uuid::Uuid;

use crate::{
    Budget, Entrybook, ExecuteError, Executed, Origin, Receipt, StorageError, executor::Order,
    store::Stream,
};

/// Streams of the service that this module writes itself.
const SERVERS: &str = "servers";
const SCHEMA: &str = "schema";
const SIGNING_KEYS: &str = "signing_keys";
/// The stream of what was done to the read tables.
pub const PROJECTIONS: &str = "projections";

/// What a connection is called that says which server lives; the server's id follows.
const PRESENCE: &str = "entrybook-server ";
/// A server whose connections broke opens them again within that time.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// What may be asked of a stream of the service.
#[derive(Debug, Clone)]
pub enum ServiceCommand {
    Start(ServerStart),
    Stop(Uuid),
    /// The migrations that the database has.
    Migrated(BTreeSet<i64>),
    /// The signing keys that there are, each with its algorithm.
    SigningKeys(BTreeMap<String, String>),
    /// The id of a signing key that is to be retired.
    RetireSigningKey(String),
    /// What somebody else has decided.
    Post(Box<ServiceEvent>),
}

/// The service refuses nothing: it only remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ServiceRefusal {}

/// `Service` as cqrs-es wants it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceAggregate(pub Service);

impl Aggregate for ServiceAggregate {
    const TYPE: &'static str = stream::SERVICE;
    type Command = ServiceCommand;
    type Event = ServiceEvent;
    type Error = ServiceRefusal;
    type Services = ();

    async fn handle(
        &mut self,
        command: ServiceCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), ServiceRefusal> {
        let events = match command {
            ServiceCommand::Start(facts) => self.0.start(facts),
            ServiceCommand::Stop(replica) => self.0.stop(replica),
            ServiceCommand::Migrated(versions) => self.0.migrated(&versions),
            ServiceCommand::SigningKeys(keys) => self.0.signing_keys_added(&keys),
            ServiceCommand::RetireSigningKey(kid) => self.0.retire_signing_key(&kid),
            ServiceCommand::Post(event) => vec![*event],
        };
        for event in events {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: ServiceEvent) {
        self.0.apply(event);
    }
}

impl Stream for ServiceAggregate {
    const SHAPE: i32 = 2;

    /// What the service itself does, and its operators.
    fn budget(_events: &[ServiceEvent]) -> Option<Budget> {
        None
    }
}

impl Entrybook {
    /// Posts an event of the service.
    pub async fn record(
        &self,
        stream_id: &str,
        event: ServiceEvent,
        origin: &Origin,
    ) -> Result<Receipt, StorageError> {
        let done = self.service(stream_id, ServiceCommand::Post(Box::new(event)), origin).await?;
        Ok(done.receipt.unwrap_or(Receipt { tx: 0, event_id: 0 }))
    }

    /// Posts that a server has started, whether the book was elsewhere before, what is set otherwise,
    /// and who never said that they stopped. `facts.alive` is found out here, and so is the cluster.
    pub async fn record_start(
        &self,
        mut facts: ServerStart,
        origin: &Origin,
    ) -> Result<(), StorageError> {
        // The cluster in which the order of the book was last settled.
        let cluster = sqlx::query_scalar("SELECT system_identifier::text FROM sequencer")
            .fetch_one(self.pool())
            .await?;
        facts.settings.insert(CLUSTER.to_owned(), cluster);
        let running = self.store().load::<ServiceAggregate>(SERVERS).await?.aggregate.0.running;
        facts.alive = self.alive_servers().await?;
        if !running.is_subset(&facts.alive) {
            // A database that was restarted is connected to again one by one.
            sleep(SECOND_LOOK).await;
            facts.alive.extend(self.alive_servers().await?);
        }
        self.service(SERVERS, ServiceCommand::Start(facts), origin).await.map(drop)
    }

    /// Posts that a server has stopped.
    pub async fn record_stop(&self, replica: Uuid, origin: &Origin) -> Result<(), StorageError> {
        self.service(SERVERS, ServiceCommand::Stop(replica), origin).await.map(drop)
    }

    /// Posts the migrations that were applied and not told of.
    pub async fn record_migrations(&self, origin: &Origin) -> Result<(), StorageError> {
        let versions: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
                .fetch_all(self.pool())
                .await?;
        let versions = ServiceCommand::Migrated(versions.into_iter().collect());
        self.service(SCHEMA, versions, origin).await.map(drop)
    }

    /// Posts the signing keys that were made and not told of.
    pub async fn record_signing_keys(&self, origin: &Origin) -> Result<(), StorageError> {
        let keys: Vec<(String, String)> = sqlx::query_as("SELECT kid, algorithm FROM signing_keys")
            .fetch_all(self.pool())
            .await?;
        let keys = ServiceCommand::SigningKeys(keys.into_iter().collect());
        self.service(SIGNING_KEYS, keys, origin).await.map(drop)
    }

    /// A connection that says that a server lives, for as long as it does: the database sees at once
    /// that it is gone, however the server ended.
    pub async fn presence(&self, replica: Uuid) -> Result<PgConnection, StorageError> {
        let options = self.pool().connect_options().as_ref().clone();
        let options = options.application_name(&format!("{PRESENCE}{replica}"));
        Ok(PgConnection::connect_with(&options).await?)
    }

    /// The servers that have a connection of [`presence`](Self::presence).
    async fn alive_servers(&self) -> Result<BTreeSet<Uuid>, StorageError> {
        let rows = sqlx::query(
            "SELECT application_name FROM pg_stat_activity
              WHERE datname = current_database() AND starts_with(application_name, $1)",
        )
        .bind(PRESENCE)
        .fetch_all(self.pool())
        .await?;
        let mut alive = BTreeSet::new();
        for row in rows {
            let name: String = row.try_get("application_name")?;
            alive.extend(name.strip_prefix(PRESENCE).and_then(|id| id.parse::<Uuid>().ok()));
        }
        Ok(alive)
    }

    pub(crate) async fn service(
        &self,
        stream_id: &str,
        command: ServiceCommand,
        origin: &Origin,
    ) -> Result<Executed<ServiceAggregate>, StorageError> {
        let at = self.clock().now();
        let order = Order { stream_id, origin, person: None, new_key: None, at };
        match self.execute::<ServiceAggregate>(order, command, &()).await {
            Ok(done) => Ok(done),
            Err(ExecuteError::Refused(never)) => match never {},
            Err(ExecuteError::Storage(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use cqrs_es::test::TestFramework;

    use super::*;

    type Framework = TestFramework<ServiceAggregate>;

    fn start(number: u128) -> ServiceCommand {
        ServiceCommand::Start(ServerStart {
            replica: Uuid::from_u128(number),
            program: "entrybook 0.1.0".into(),
            settings: BTreeMap::new(),
            alive: BTreeSet::new(),
        })
    }

    fn started(number: u128, unstopped: Vec<Uuid>) -> ServiceEvent {
        ServiceEvent::ServerStarted {
            replica: Uuid::from_u128(number),
            program: "entrybook 0.1.0".into(),
            settings: BTreeMap::new(),
            unstopped,
        }
    }

    #[test]
    fn a_start_tells_who_never_stopped() {
        Framework::with(())
            .given(vec![started(1, vec![])])
            .when(start(2))
            .then_expect_events(vec![started(2, vec![Uuid::from_u128(1)])]);
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let key = || ServiceEvent::SigningKeyAdded { kid: "a".into(), algorithm: "ES256".into() };
        let keys = ServiceCommand::SigningKeys([("a".to_owned(), "ES256".to_owned())].into());
        Framework::with(()).given(vec![key()]).when(keys.clone()).then_expect_events(vec![]);
        Framework::with(()).given_no_previous_events().when(keys).then_expect_events(vec![key()]);
        Framework::with(())
            .given(vec![ServiceEvent::SchemaMigrated { versions: vec![1] }])
            .when(ServiceCommand::Migrated([1, 2].into()))
            .then_expect_events(vec![ServiceEvent::SchemaMigrated { versions: vec![2] }]);
        Framework::with(())
            .given_no_previous_events()
            .when(ServiceCommand::Stop(Uuid::nil()))
            .then_expect_events(vec![]);
    }

    #[test]
    fn what_others_decide_is_posted_as_it_is() {
        let pruned = ServiceEvent::ProjectionsPruned { dropped: vec!["users version 1".into()] };
        Framework::with(())
            .given_no_previous_events()
            .when(ServiceCommand::Post(Box::new(pruned.clone())))
            .then_expect_events(vec![pruned]);
    }
}
