//! Writes a book for the projections to read: events straight into the table, as an append would.

use std::{collections::HashMap, time::Duration};

use ::projections::{Projection, Projector, Receipt, Sequencer, check_journal};
use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Actor, Change, FailureReason, GuardSubject, Index, Metadata, Role, Sealed, SealedIdentifier,
    SealedSource, SessionEvent, SessionId, SignInGuardEvent, SignInMethod, TokenHash, UserEvent,
    UserId, stream,
};
use serde_json::Value;
use sqlx::{PgPool, Row};
use tokio::time::Instant;
use uuid::Uuid;

/// The time at which each book begins.
pub fn dawn() -> DateTime<Utc> {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

pub fn user(number: u128) -> UserId {
    UserId(Uuid::from_u128(0xA000 + number))
}

pub fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(0xB000 + number))
}

pub fn identifier(text: &str) -> SealedIdentifier {
    SealedIdentifier { sealed: Sealed(format!("sealed {text}")), index: Index(format!("#{text}")) }
}

/// A writer that knows how far each stream is. Each event happens a second after the one before.
pub struct Book {
    pool: PgPool,
    sequences: HashMap<(String, String), i64>,
    pub now: DateTime<Utc>,
    pub actor: Actor,
    /// Where events come from: what stands for the hashes of the address and of its network.
    pub address: &'static str,
    pub network: Option<&'static str>,
    /// Written by `write_held`, where there is one.
    held: Option<Held>,
}

/// Events to be written at once: what stands in each column.
#[derive(Default)]
struct Held {
    streams: Vec<String>,
    ids: Vec<String>,
    sequences: Vec<i64>,
    names: Vec<String>,
    versions: Vec<String>,
    payloads: Vec<Value>,
    metadata: Vec<Value>,
}

impl Book {
    pub fn new(pool: &PgPool) -> Self {
        Self {
            pool: pool.clone(),
            sequences: HashMap::new(),
            now: dawn(),
            actor: Actor::Anonymous,
            address: "address",
            network: None,
            held: None,
        }
    }

    pub fn pool(&self) -> PgPool {
        self.pool.clone()
    }

    pub fn metadata(&self) -> Value {
        let metadata = Metadata {
            actor: self.actor.clone(),
            source: Some(SealedSource {
                sealed: Sealed(format!("source at {}", self.now.timestamp())),
                address: Index(self.address.into()),
                network: self.network.map(|network| Index(network.into())),
            }),
            request_id: "request".into(),
            at: self.now,
        };
        serde_json::to_value(metadata.to_map()).unwrap()
    }

    /// An event of version 1.
    pub async fn raw(&mut self, stream: &str, id: &str, name: &str, payload: Value) -> Receipt {
        self.stored(stream, id, (name, "1"), payload).await
    }

    pub async fn stored(
        &mut self,
        stream: &str,
        id: &str,
        (name, version): (&str, &str),
        payload: Value,
    ) -> Receipt {
        self.now += TimeDelta::seconds(1);
        let key = (stream.to_owned(), id.to_owned());
        let sequence = self.sequences.entry(key).or_insert(0);
        *sequence += 1;
        let sequence = *sequence;
        let metadata = self.metadata();
        if let Some(held) = &mut self.held {
            held.streams.push(stream.to_owned());
            held.ids.push(id.to_owned());
            held.sequences.push(sequence);
            held.names.push(name.to_owned());
            held.versions.push(version.to_owned());
            held.payloads.push(payload);
            held.metadata.push(metadata);
            return Receipt { tx: 0, event_id: 0 };
        }
        let row = sqlx::query(INSERT)
            .bind(stream)
            .bind(id)
            .bind(sequence)
            .bind(name)
            .bind(payload)
            .bind(metadata)
            .bind(version)
            .fetch_one(&self.pool)
            .await
            .unwrap();
        Receipt { tx: row.get::<String, _>("tx").parse().unwrap(), event_id: row.get("id") }
    }

    /// Leaves so many numbers of a stream to somebody else's writing; returns the last number before them.
    pub fn leave_numbers(&mut self, stream: &str, id: &str, count: i64) -> i64 {
        let last = self.sequences.entry((stream.to_owned(), id.to_owned())).or_insert(0);
        *last += count;
        *last - count
    }

    /// From now on events are held, until they are written all at once. Their receipts say nothing.
    pub fn hold(&mut self) {
        self.held = Some(Held::default());
    }

    pub async fn write_held(&mut self) {
        let held = self.held.take().unwrap();
        sqlx::query(
            "INSERT INTO events
                 (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             SELECT stream, id, sequence, name, version, payload, metadata
               FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::jsonb[],
                           $7::jsonb[]) WITH ORDINALITY
                    AS t (stream, id, sequence, name, version, payload, metadata, place)
              ORDER BY place",
        )
        .bind(held.streams)
        .bind(held.ids)
        .bind(held.sequences)
        .bind(held.names)
        .bind(held.versions)
        .bind(held.payloads)
        .bind(held.metadata)
        .execute(&self.pool)
        .await
        .unwrap();
    }

    pub async fn user(&mut self, id: UserId, event: UserEvent) -> Receipt {
        self.stored(stream::USER, &id.to_string(), (event.name(), event.version()), body(&event))
            .await
    }

    pub async fn session(&mut self, id: SessionId, event: SessionEvent) -> Receipt {
        self.stored(stream::SESSION, &id.to_string(), (event.name(), event.version()), body(&event))
            .await
    }

    pub async fn guard(&mut self, event: SignInGuardEvent) -> Receipt {
        let id = event.subject().stream_id();
        self.stored(stream::SIGN_IN_GUARD, &id, (event.name(), event.version()), body(&event)).await
    }

    /// An account with the identifiers `<name>@x` and `<name>`, and its claims.
    pub async fn register(&mut self, id: UserId, name: &str) -> Receipt {
        for (kind, index) in [("email", format!("#{name}@x")), ("username", format!("#{name}"))] {
            sqlx::query("INSERT INTO identifiers (kind, index, user_id) VALUES ($1, $2, $3)")
                .bind(kind)
                .bind(index)
                .bind(id.0)
                .execute(&self.pool)
                .await
                .unwrap();
        }
        self.user(
            id,
            UserEvent::Registered {
                email: identifier(&format!("{name}@x")),
                username: identifier(name),
                full_name: None,
                password: Sealed("password".into()),
                roles: [Role::User].into(),
            },
        )
        .await
    }

    pub async fn rename(&mut self, id: UserId, from: &str, to: &str) -> Receipt {
        sqlx::query("UPDATE identifiers SET index = $2 WHERE kind = 'username' AND index = $1")
            .bind(format!("#{from}"))
            .bind(format!("#{to}"))
            .execute(&self.pool)
            .await
            .unwrap();
        self.user(
            id,
            UserEvent::ProfileChanged {
                email: None,
                username: Some(Change { from: identifier(from), to: identifier(to) }),
                full_name: Some(Change { from: None, to: Some(Sealed("full name".into())) }),
            },
        )
        .await
    }

    pub async fn start(&mut self, id: SessionId, user_id: UserId, user_version: u64) -> Receipt {
        let at = self.now + TimeDelta::seconds(1);
        self.session(
            id,
            SessionEvent::Started {
                user_id,
                user_version,
                methods: vec![SignInMethod::Password],
                refresh: TokenHash("hash".into()),
                remember_me: false,
                at,
                expires_at: at + TimeDelta::hours(24),
            },
        )
        .await
    }

    pub async fn refresh(&mut self, id: SessionId, user_id: UserId) -> Receipt {
        let at = self.now + TimeDelta::seconds(1);
        self.session(
            id,
            SessionEvent::Refreshed {
                user_id,
                refresh: TokenHash("hash".into()),
                in_grace: false,
                at,
                expires_at: at + TimeDelta::hours(24),
            },
        )
        .await
    }

    pub async fn end(
        &mut self,
        id: SessionId,
        user_id: UserId,
        reason: domain::EndReason,
    ) -> Receipt {
        let at = self.now + TimeDelta::seconds(1);
        self.session(id, SessionEvent::Ended { user_id, reason, at }).await
    }

    pub async fn fail(&mut self, subject: GuardSubject, typed: Option<&str>) -> Receipt {
        let at = self.now + TimeDelta::seconds(1);
        let reason = match subject {
            GuardSubject::Account(_) => FailureReason::WrongPassword,
            _ => FailureReason::UnknownIdentifier,
        };
        let identifier = typed.map(|text| Sealed(text.to_owned()));
        self.guard(SignInGuardEvent::Failed { subject, reason, identifier, at }).await
    }

    /// A history with something of everything.
    pub async fn fill(&mut self) {
        for (number, name) in [(1, "ada"), (2, "bob"), (3, "eve")] {
            self.register(user(number), name).await;
            self.start(session(number), user(number), 1).await;
        }
        self.refresh(session(1), user(1)).await;
        self.fail(GuardSubject::Account(user(2)), None).await;
        self.fail(GuardSubject::Identifier(Index("#nobody".into())), Some("nobody")).await;
        self.rename(user(2), "bob", "robert").await;
        self.user(user(1), UserEvent::RoleGranted { role: Role::Auditor }).await;
        self.refresh(session(1), user(1)).await;
        self.end(session(3), user(3), domain::EndReason::SignedOut).await;
        self.user(user(3), UserEvent::Disabled {}).await;
    }
}

pub const INSERT: &str = "INSERT INTO events
     (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
     VALUES ($1, $2, $3, $4, $7, $5, $6) RETURNING tx::text AS tx, id";

/// The payload of an event.
fn body(event: &impl serde::Serialize) -> Value {
    serde_json::to_value(event).unwrap()
}

/// A sequencer and a projector over a database, not running.
pub struct Reader {
    pool: PgPool,
    pub sequencer: Sequencer,
    pub projector: Projector,
}

impl Reader {
    pub async fn new(pool: &PgPool) -> Self {
        Self::of(pool, ::projections::all()).await
    }

    pub async fn of(pool: &PgPool, all: Vec<&'static dyn Projection>) -> Self {
        let sequencer = Sequencer::new(pool.clone());
        let projector =
            Projector::new(crate::support::reading::source_of(pool), all, sequencer.head())
                .trying_again_after(Duration::from_millis(50));
        projector.ensure().await.unwrap();
        Self { pool: pool.clone(), sequencer, projector }
    }

    /// Settles all there is. Other tests hold the horizon of the cluster for moments, so this waits.
    pub async fn settle(&self) -> i64 {
        eventually("all events are settled", || async {
            self.sequencer.drain().await.unwrap();
            check_journal(&self.pool).await.unwrap().waiting == 0
        })
        .await;
        self.sequencer.head().borrow().position
    }

    /// Settles and applies all there is.
    pub async fn read(&self) {
        self.settle().await;
        self.projector.catch_up().await.unwrap();
    }
}

/// Waits until something is so.
pub async fn eventually<F, Fut>(what: &str, mut is_so: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let deadline = Instant::now() + Duration::from_secs(180);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so in three minutes: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
