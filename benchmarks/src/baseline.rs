//! The same `users` and `sessions` views, as cqrs-es itself would rebuild them: `QueryReplay` feeds a
//! `GenericQuery` over postgres-es's `PostgresViewRepository`.
//!
//! To be fair to it:
//! - the views hold what ours hold, folded by as little code as ours;
//! - it reads the same events, from a table of the same layout and indexes in the same database, and
//!   only those streams that the view is of, as it always does;
//! - its views have the one index that it needs, where ours have several;
//! - it runs in release mode, over the same Unix socket, with a pool that is warm;
//! - it is also measured with `synchronous_commit = off`, since a view can be replayed after a crash.
//!
//! What makes it slow is how it works, and nothing here: for each event one SELECT and one INSERT or
//! UPDATE, each a round trip, the latter a commit.

use std::collections::HashMap;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use commands::{SessionAggregate, UserAggregate};
use cqrs_es::{
    Aggregate, EventEnvelope, View,
    persist::{GenericQuery, QueryReplay},
};
use domain::{Sealed, SealedIdentifier, SessionEvent, UserEvent};
use postgres_es::{PostgresEventRepository, PostgresViewRepository};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use sqlx::PgPool;

use crate::{cluster::Database, measure};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Replay {
    pub(crate) view: String,
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// With `synchronous_commit = off`.
    pub(crate) seconds_asynchronous: f64,
}

/// What the view of an account holds; see `projections::users::Row`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct UserView {
    email: Option<SealedIdentifier>,
    username: Option<SealedIdentifier>,
    full_name: Option<Sealed>,
    roles: domain::Roles,
    disabled: bool,
    erased: bool,
    registered_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    version: u64,
}

impl View<UserAggregate> for UserView {
    fn update(&mut self, event: &EventEnvelope<UserAggregate>) {
        let at = happened_at(&event.metadata);
        match &event.payload {
            UserEvent::Registered { email, username, full_name, roles, .. } => {
                self.email = Some(email.clone());
                self.username = Some(username.clone());
                self.full_name.clone_from(full_name);
                self.roles.clone_from(roles);
                self.registered_at = at;
            }
            UserEvent::ProfileChanged { email, username, full_name } => {
                if let Some(change) = email {
                    self.email = Some(change.to.clone());
                }
                if let Some(change) = username {
                    self.username = Some(change.to.clone());
                }
                if let Some(change) = full_name {
                    self.full_name.clone_from(&change.to);
                }
            }
            UserEvent::RoleGranted { role } => {
                self.roles.insert(*role);
            }
            UserEvent::RoleRevoked { role } => {
                self.roles.remove(role);
            }
            UserEvent::Disabled {} => self.disabled = true,
            UserEvent::Enabled {} => self.disabled = false,
            UserEvent::Erased {} => {
                self.email = None;
                self.username = None;
                self.full_name = None;
                self.roles.clear();
                self.erased = true;
            }
            UserEvent::PasswordChanged { .. }
            | UserEvent::PasswordRehashed { .. }
            | UserEvent::SessionsEnded { .. } => {}
        }
        self.updated_at = at;
        self.version = event.sequence as u64;
    }
}

/// What the view of a session holds; see `projections::sessions::Row`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SessionView {
    user_id: Option<domain::UserId>,
    user_version: u64,
    /// How the person proved who they are, as the event has it.
    proved: Value,
    remember_me: bool,
    started_at: Option<DateTime<Utc>>,
    last_seen_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    refreshes: u64,
    started_source: Option<Sealed>,
    last_source: Option<Sealed>,
    ended_at: Option<DateTime<Utc>>,
    end_reason: Option<String>,
}

impl View<SessionAggregate> for SessionView {
    fn update(&mut self, event: &EventEnvelope<SessionAggregate>) {
        let source = event.metadata.get("source").cloned().map(Sealed);
        match &event.payload {
            SessionEvent::Started {
                user_id,
                user_version,
                remember_me,
                at,
                expires_at,
                methods,
                ..
            } => {
                self.user_id = Some(*user_id);
                self.user_version = *user_version;
                self.proved = serde_json::to_value(methods).unwrap_or_default();
                self.remember_me = *remember_me;
                self.started_at = Some(*at);
                self.last_seen_at = Some(*at);
                self.expires_at = Some(*expires_at);
                self.started_source.clone_from(&source);
                self.last_source = source;
            }
            SessionEvent::Refreshed { at, expires_at, .. } => {
                self.refreshes += 1;
                self.last_seen_at = Some(*at);
                self.expires_at = Some(*expires_at);
                if source.is_some() {
                    self.last_source = source;
                }
            }
            SessionEvent::Ended { at, reason, .. } => {
                self.ended_at = Some(*at);
                self.end_reason = Some(reason.as_str().to_owned());
            }
        }
    }
}

fn happened_at(metadata: &HashMap<String, String>) -> Option<DateTime<Utc>> {
    Some(DateTime::parse_from_rfc3339(metadata.get("at")?).ok()?.to_utc())
}

/// Replays the first `events` lines of the book into both views.
pub(crate) async fn measure(database: &Database, events: u64) -> Result<Vec<Replay>> {
    let mut owner = database.owner().await?;
    let events = i64::try_from(events)?;
    // The beginning of every stream, so every stream is sound.
    sqlx::raw_sql("DROP SCHEMA IF EXISTS baseline CASCADE; CREATE SCHEMA baseline")
        .execute(&mut owner)
        .await?;
    sqlx::raw_sql("CREATE TABLE baseline.events (LIKE public.events INCLUDING ALL)")
        .execute(&mut owner)
        .await?;
    sqlx::query(
        "INSERT INTO baseline.events OVERRIDING SYSTEM VALUE
         SELECT e.* FROM journal j JOIN events e ON e.tx = j.tx AND e.id = j.event_id
          WHERE j.position <= $1 ORDER BY j.position",
    )
    .bind(events)
    .execute(&mut owner)
    .await?;
    sqlx::raw_sql("VACUUM (ANALYZE) baseline.events").execute(&mut owner).await?;
    let mut replays = Vec::new();
    replays.push(replay::<UserView, UserAggregate>(database, "users").await?);
    replays.push(replay::<SessionView, SessionAggregate>(database, "sessions").await?);
    sqlx::raw_sql("DROP SCHEMA baseline CASCADE").execute(&mut owner).await?;
    Ok(replays)
}

async fn replay<V, A>(database: &Database, view: &str) -> Result<Replay>
where
    V: View<A> + Serialize + DeserializeOwned + 'static,
    A: Aggregate + 'static,
{
    let mut seconds = [0.0; 2];
    let mut events = 0;
    for (seconds, commit) in seconds.iter_mut().zip(["on", "off"]) {
        let setting = if commit == "on" {
            "SET synchronous_commit = on"
        } else {
            "SET synchronous_commit = off"
        };
        let pool = database.owner_pool(setting).await?;
        (events, *seconds) = replay_once::<V, A>(&pool, view).await?;
        pool.close().await;
    }
    let [seconds, seconds_asynchronous] = seconds;
    Ok(Replay { view: view.to_owned(), events, seconds, seconds_asynchronous })
}

async fn replay_once<V, A>(pool: &PgPool, view: &str) -> Result<(u64, f64)>
where
    V: View<A> + Serialize + DeserializeOwned + 'static,
    A: Aggregate + 'static,
{
    // The table that the documentation of postgres-es gives.
    let table = format!("baseline.{view}");
    sqlx::raw_sql(&format!(
        "DROP TABLE IF EXISTS {table};
         CREATE TABLE {table} (
             view_id text NOT NULL, version bigint CHECK (version >= 0) NOT NULL,
             payload json NOT NULL, PRIMARY KEY (view_id))"
    ))
    .execute(pool)
    .await?;
    let repository = PostgresEventRepository::new(pool.clone())
        .with_tables("baseline.events", "baseline.snapshots");
    let views = PostgresViewRepository::<V, A>::new(&table, pool.clone());
    let mut query = GenericQuery::<_, V, A>::new(std::sync::Arc::new(views));
    query.use_error_handler(Box::new(|error| crate::say(format!("GenericQuery: {error}"))));
    let mut replay = QueryReplay::new(repository, query);
    replay.use_error_handler(Box::new(|error| crate::say(format!("QueryReplay: {error}"))));
    let (_, seconds) = measure::timed(replay.replay_all())
        .await
        .map_err(|error| anyhow::anyhow!("the replay of {view} failed: {error}"))?;
    // It may end early without an error, so what it has done is counted.
    let done: i64 =
        sqlx::query_scalar(&format!("SELECT coalesce(sum(version), 0)::bigint FROM {table}"))
            .fetch_one(pool)
            .await?;
    let asked: i64 =
        sqlx::query_scalar("SELECT count(*) FROM baseline.events WHERE aggregate_type = $1")
            .bind(A::TYPE)
            .fetch_one(pool)
            .await?;
    if done != asked {
        bail!("QueryReplay saw {done} of {asked} events of {view}");
    }
    Ok((u64::try_from(done)?, seconds))
}
