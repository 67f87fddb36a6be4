//! The event store: loading a stream, and appending to one.
//!
//! It implements `cqrs_es::EventStore` on the table layout of postgres-es, with a commit of its own:
//! one statement, one round trip, holding the events, the identifiers they claim and release, a new
//! person's key, and now and then a snapshot. Nothing of it can be there without the rest.
//!
//! Loading is one round trip too, and flat: the snapshot, if it is ours and sound, and the events
//! after it, at most [`SNAPSHOT_EVERY`] of them. A snapshot bears a MAC, because unlike the book it
//! may be rewritten by whoever has the application's rights; one that doesn't fit is not used.

mod cqrs;
mod lookalikes;
mod statements;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use cqrs_es::{Aggregate, AggregateContext, DomainEvent};
use domain::{IdentifierKind, Index, StreamEvent, UnreadableEvent, UserId};
use hmac::{Hmac, KeyInit, Mac};
use proof::{EventAuthenticator, EventFields, MAC, NUMBER, number_in_stream};
use serde_json::Value;
use sha2::Sha256;
use sqlx::{PgPool, Row, postgres::PgRow, types::Json};
use zeroize::Zeroizing;

use self::lookalikes::texts;
use self::statements::{APPEND, APPEND_DESTROYING, APPEND_ONE, APPEND_WITH, LOAD};
use crate::{Budget, StorageError, connections::Connections, keyring::NewKey, provable::provable};

/// A stream gets a snapshot whenever it has grown by so many events.
pub const SNAPSHOT_EVERY: u64 = 32;

/// What the store must know of an aggregate beside cqrs-es's trait.
pub trait Stream: Aggregate<Event: StreamEvent> {
    /// The shape of its stored state. Change it with the state, and old snapshots are passed over.
    const SHAPE: i32;

    /// The budget that appending these events is counted in ([`crate::Budget`]); none, where something else bounds how
    /// many there can be.
    fn budget(events: &[Self::Event]) -> Option<Budget>;

    /// The identifiers that the events claim and release.
    fn claims(_events: &[Self::Event]) -> Claims {
        Claims::default()
    }

    /// The refusal for an identifier that another account holds, where the stream can claim any.
    fn taken(_kind: IdentifierKind) -> Option<Self::Error> {
        None
    }
}

/// Identifiers that one commit takes and gives back, for the account whose stream it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    pub claimed: Vec<(IdentifierKind, Index)>,
    pub released: Vec<(IdentifierKind, Index)>,
}

/// Where the last event of an append stands: `(tx, id)` is its place in the order of the book, and
/// a reader that must see it waits for that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub tx: u64,
    pub event_id: i64,
}

/// A stream as loaded, and what its next commit carries beside events.
pub struct Loaded<A> {
    pub aggregate: A,
    id: String,
    /// That of its last event.
    sequence: u64,
    /// How many events it has that the service wrote.
    number: u64,
    /// Sequence numbers behind it that somebody else's events have taken.
    taken: BTreeSet<u64>,
    new_key: Option<NewKey>,
    lookalikes: Option<Vec<Index>>,
}

impl<A: Default> Loaded<A> {
    /// A stream that is known to have no event: one with a new id. If it has one after all, appending
    /// to it is a conflict.
    #[must_use]
    pub fn new_stream(id: String) -> Self {
        let taken = BTreeSet::new();
        Self {
            aggregate: A::default(),
            id,
            sequence: 0,
            number: 0,
            taken,
            new_key: None,
            lookalikes: None,
        }
    }
}

impl<A> Loaded<A> {
    /// Stores the key together with the events: a person and their key come to be at once.
    pub fn with_key(&mut self, key: NewKey) {
        self.new_key = Some(key);
    }

    /// Claims what the account's username looks like together with the events, in place of what it
    /// claimed before. Looks that another account has claimed are a name that is taken.
    pub fn with_lookalikes(&mut self, lookalikes: Vec<Index>) {
        self.lookalikes = Some(lookalikes);
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How many events the stream had that the service wrote.
    pub fn events(&self) -> u64 {
        self.number
    }

    /// The sequence number of the last of them.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The sequence numbers and the numbers that its next events get.
    pub(crate) fn next(&self, events: usize) -> Vec<(u64, u64)> {
        let free = (self.sequence.saturating_add(1)..).filter(|next| !self.taken.contains(next));
        free.zip(self.number + 1..).take(events).collect()
    }
}

impl<A: Aggregate> AggregateContext<A> for Loaded<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

/// Why an append was not done.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error("another writer came first")]
    Conflict,
    #[error("the {} is taken", .0.as_str())]
    Taken(IdentifierKind),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The event store on PostgreSQL.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    connections: Connections,
    snapshot_key: Zeroizing<[u8; 32]>,
    permit: Zeroizing<[u8; 32]>,
    events: EventAuthenticator,
}

impl Store {
    /// It opens at most `connections` of its own, to where those of the pool lead. What it writes beside events
    /// comes with this permit ([`Keyring::permit`](crate::keyring::Keyring::permit)).
    #[must_use]
    pub fn new(
        pool: PgPool,
        connections: usize,
        snapshot_key: Zeroizing<[u8; 32]>,
        permit: Zeroizing<[u8; 32]>,
        events: EventAuthenticator,
    ) -> Self {
        let connections = Connections::like(&pool, connections);
        Self { connections, pool, snapshot_key, permit, events }
    }

    /// How many connections there are, and how many of them nobody uses.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        self.connections.count()
    }

    /// From now on nothing is loaded and nothing appended; waits for what is on its way.
    pub async fn close(&self) {
        self.connections.close().await;
    }

    /// The state of a stream; a stream without events is the default state.
    pub async fn load<A: Stream>(&self, id: &str) -> Result<Loaded<A>, StorageError> {
        let rows = self.rows::<A>(id, true).await?;
        match self.fold(id, rows) {
            Ok(loaded) => Ok(loaded),
            Err(Unfit::Snapshot) => {
                tracing::warn!(
                    stream = A::TYPE,
                    id,
                    "the snapshot of {} {id} is not sound; folding its events instead",
                    A::TYPE
                );
                let rows = self.rows::<A>(id, false).await?;
                self.fold(id, rows).map_err(|unfit| unfit.into_error::<A>(id))
            }
            Err(unfit) => Err(unfit.into_error::<A>(id)),
        }
    }

    async fn rows<A: Stream>(&self, id: &str, snapshot: bool) -> Result<Vec<PgRow>, StorageError> {
        let query = sqlx::query(LOAD).bind(A::TYPE).bind(id).bind(A::SHAPE).bind(snapshot);
        Ok(self.connections.fetch_all(query).await?)
    }

    fn fold<A: Stream>(&self, id: &str, rows: Vec<PgRow>) -> Result<Loaded<A>, Unfit> {
        let mut loaded = Loaded::<A>::new_stream(id.to_owned());
        for row in rows {
            let sequence = u64::try_from(row.try_get::<i64, _>("sequence")?).unwrap_or(0);
            if let Some(snapshot) = row.try_get::<Option<Vec<u8>>, _>("snapshot")? {
                let mac: Vec<u8> = row.try_get("mac")?;
                self.snapshot_mac::<A>(id, sequence, &snapshot)
                    .verify_slice(&mac)
                    .map_err(|_| Unfit::Snapshot)?;
                loaded.aggregate =
                    serde_json::from_slice(&snapshot).map_err(|_| Unfit::Snapshot)?;
                // There are none of streams in which the two differ.
                loaded.number = sequence;
            } else {
                let metadata: &str = row.try_get("metadata")?;
                let Some(event) = self.read_event::<A>(id, sequence, metadata, &row)? else {
                    loaded.taken.insert(sequence);
                    continue;
                };
                let number = number_in_stream(sequence.cast_signed(), metadata).cast_unsigned();
                if number != loaded.number + 1 {
                    return Err(Unfit::Event(format!(
                        "event {} is missing before event {sequence}",
                        loaded.number + 1
                    )));
                }
                loaded.number = number;
                loaded.aggregate.apply(event);
            }
            loaded.sequence = sequence;
        }
        Ok(loaded)
    }

    /// Appends to the stream as it was loaded. Nothing is repeated here: after a lost connection the
    /// caller can't know whether the append counts.
    pub async fn append<A: Stream>(
        &self,
        loaded: &Loaded<A>,
        events: &[A::Event],
        metadata: &HashMap<String, String>,
    ) -> Result<Receipt, AppendError> {
        let places = loaded.next(events.len());
        let (last, number) = places.last().copied().unwrap_or((loaded.sequence, loaded.number));
        let sequences: Vec<i64> = places.iter().map(|(sequence, _)| *sequence as i64).collect();
        let types: Vec<String> = events.iter().map(DomainEvent::event_type).collect();
        let versions: Vec<String> = events.iter().map(DomainEvent::event_version).collect();
        let payloads: Vec<Value> =
            events.iter().map(serde_json::to_value).collect::<Result<_, _>>().map_err(|cause| {
                StorageError::Unreadable { stream: A::TYPE.to_owned(), cause: cause.to_string() }
            })?;
        let names = types.iter().chain(&versions).map(String::len).sum();
        for payload in &payloads {
            provable(A::TYPE, &loaded.id, names, payload, metadata)?;
        }
        let named = types.iter().zip(&versions).zip(&payloads);
        let mut sealed = Vec::with_capacity(events.len());
        for (place, ((event_type, version), payload)) in places.iter().zip(named) {
            let event = (event_type.as_str(), version.as_str(), payload);
            sealed.push(self.sealed::<A>(&loaded.id, *place, event, metadata)?);
        }
        let claims = A::claims(events);
        let owner: Option<UserId> = loaded.id.parse().ok();
        // A stream in which somebody else's events take numbers gets none: a snapshot tells one number alone.
        let snapshot = (last == number && last / SNAPSHOT_EVERY > loaded.sequence / SNAPSHOT_EVERY)
            .then(|| serde_json::to_vec(&loaded.aggregate))
            .transpose()
            .map_err(|cause| StorageError::Unreadable {
                stream: A::TYPE.to_owned(),
                cause: cause.to_string(),
            })?;
        let plain = claims == Claims::default()
            && loaded.new_key.is_none()
            && loaded.lookalikes.is_none()
            && snapshot.is_none();
        let statement = match (plain, events.len()) {
            (true, 1) => APPEND_ONE,
            (true, _) => APPEND,
            (false, _) => APPEND_WITH,
        };
        let query = sqlx::query(statement).bind(A::TYPE).bind(&loaded.id);
        let query = if statement == APPEND_ONE {
            query
                .bind(sealed.into_iter().next().map(Json))
                .bind(last as i64)
                .bind(types.into_iter().next())
                .bind(versions.into_iter().next())
                .bind(payloads.into_iter().next())
        } else {
            let sealed: Vec<_> = sealed.into_iter().map(Json).collect();
            query.bind(sealed).bind(sequences).bind(types).bind(versions).bind(payloads)
        };
        let query = if plain {
            query
        } else {
            let (released_kinds, released) = columns(&claims.released);
            let (claimed_kinds, claimed) = columns(&claims.claimed);
            let mac = snapshot.as_ref().map(|payload| {
                self.snapshot_mac::<A>(&loaded.id, last, payload).finalize().into_bytes().to_vec()
            });
            let key = loaded.new_key.as_ref();
            query
                .bind(released_kinds)
                .bind(released)
                .bind(owner.map(|UserId(id)| id))
                .bind(claimed_kinds)
                .bind(claimed)
                .bind(key.map(|key| &key.id))
                .bind(key.map(|key| &key.wrapped))
                .bind(key.map(|key| &key.master_key))
                .bind(last as i64)
                .bind(A::SHAPE)
                .bind(snapshot)
                .bind(mac)
                .bind(loaded.lookalikes.as_deref().map(texts))
                .bind(self.permit.as_slice())
        };
        match self.connections.fetch_all(query).await {
            Ok(rows) => receipt(&rows).map_err(|error| AppendError::Storage(error.into())),
            Err(error) => {
                let looks = loaded.lookalikes.as_deref().unwrap_or_default();
                Err(self.explain(error, &claims, looks, owner).await)
            }
        }
    }

    /// How long it takes until the stream has taken fewer than so many events within an hour, whichever replicas
    /// appended them; nothing, if it has. A stream that never had as many is not looked at.
    pub async fn wait_of<A: Stream>(
        &self,
        loaded: &Loaded<A>,
        most: u64,
    ) -> Result<Option<Duration>, StorageError> {
        let Some(first) = (loaded.sequence + 1).checked_sub(most).filter(|first| *first > 0) else {
            return Ok(None);
        };
        let query = sqlx::query(
            "SELECT extract(epoch FROM recorded_at + interval '1 hour' - clock_timestamp())::float8 AS wait
               FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence <= $3
              ORDER BY sequence DESC LIMIT 1",
        )
        .bind(A::TYPE)
        .bind(&loaded.id)
        .bind(first as i64);
        let rows = self.connections.fetch_all(query).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let wait = Duration::try_from_secs_f64(row.try_get("wait")?);
        Ok(wait.ok().filter(|wait| !wait.is_zero()))
    }

    /// Appends an event that ends a key to the stream as it was loaded, destroys the key, gives back the
    /// identifiers that the account held, and drops the snapshot: all of it, or nothing.
    pub(crate) async fn append_destroying<A: Stream>(
        &self,
        loaded: &Loaded<A>,
        event: &A::Event,
        key: &str,
        held: &[(IdentifierKind, Index)],
        metadata: &HashMap<String, String>,
    ) -> Result<Receipt, AppendError> {
        let owner: Option<UserId> = loaded.id.parse().ok();
        let payload = serde_json::to_value(event).map_err(|cause| StorageError::Unreadable {
            stream: A::TYPE.to_owned(),
            cause: cause.to_string(),
        })?;
        let names = event.event_type().len() + event.event_version().len();
        provable(A::TYPE, &loaded.id, names, &payload, metadata)?;
        let (kinds, indexes) = columns(held);
        let place = loaded.next(1).pop().unwrap_or((loaded.sequence + 1, loaded.number + 1));
        let (event_type, version) = (event.event_type(), event.event_version());
        let named = (event_type.as_str(), version.as_str(), &payload);
        let sealed = self.sealed::<A>(&loaded.id, place, named, metadata)?;
        let query = sqlx::query(APPEND_DESTROYING)
            .bind(A::TYPE)
            .bind(&loaded.id)
            .bind(Json(sealed))
            .bind(place.0 as i64)
            .bind(event_type)
            .bind(version)
            .bind(payload)
            .bind(kinds)
            .bind(indexes)
            .bind(owner.map(|UserId(id)| id))
            .bind(key)
            .bind(self.permit.as_slice());
        match self.connections.fetch_all(query).await {
            Ok(rows) => receipt(&rows).map_err(|error| AppendError::Storage(error.into())),
            Err(error) => Err(self.explain(error, &Claims::default(), &[], owner).await),
        }
    }

    /// Takes away what an erasure would have, where it was broken off.
    pub(crate) async fn clear_erased<A: Stream>(&self, id: &str) -> Result<(), StorageError> {
        let owner: Option<UserId> = id.parse().ok();
        let query = sqlx::query(
            "WITH dropped AS (
                 DELETE FROM snapshots WHERE aggregate_type = $1 AND aggregate_id = $2
             ), unlike AS (
                 DELETE FROM username_lookalikes WHERE user_id = $3
             )
             SELECT release_identifiers($4, $3, NULL, NULL)",
        )
        .bind(A::TYPE)
        .bind(id)
        .bind(owner.map(|UserId(id)| id))
        .bind(self.permit.as_slice());
        self.connections.fetch_all(query).await?;
        Ok(())
    }

    /// Tells a version conflict from a taken identifier: PostgreSQL says 23505 for both.
    async fn explain(
        &self,
        error: sqlx::Error,
        claims: &Claims,
        looks: &[Index],
        owner: Option<UserId>,
    ) -> AppendError {
        let constraint =
            error.as_database_error().and_then(|error| error.constraint().map(str::to_owned));
        match constraint.as_deref() {
            Some("events_pkey") => AppendError::Conflict,
            Some("identifiers_pkey") => match self.holder(claims, owner).await {
                Ok(Some(kind)) => AppendError::Taken(kind),
                // Released again in between: the next try finds out.
                Ok(None) => AppendError::Conflict,
                Err(error) => AppendError::Storage(error),
            },
            Some("username_lookalikes_pkey") => match self.find_lookalike(looks).await {
                Ok(Some(holder)) if Some(holder) != owner => {
                    AppendError::Taken(IdentifierKind::Username)
                }
                Ok(_) => AppendError::Conflict,
                Err(error) => AppendError::Storage(error),
            },
            _ => match error.as_database_error().and_then(|error| error.code()) {
                // A deadlock or a serialisation failure has written nothing.
                Some(code) if matches!(code.as_ref(), "40001" | "40P01") => AppendError::Conflict,
                _ => AppendError::Storage(error.into()),
            },
        }
    }

    async fn holder(
        &self,
        claims: &Claims,
        owner: Option<UserId>,
    ) -> Result<Option<IdentifierKind>, StorageError> {
        for (kind, index) in &claims.claimed {
            let holder = self.find(*kind, index).await?;
            if holder.is_some() && holder != owner {
                return Ok(Some(*kind));
            }
        }
        Ok(None)
    }

    /// The account that holds an identifier. This is the table that registration writes, so it is
    /// never behind.
    pub async fn find(
        &self,
        kind: IdentifierKind,
        index: &Index,
    ) -> Result<Option<UserId>, StorageError> {
        let query = sqlx::query("SELECT user_id FROM identifiers WHERE kind = $1 AND index = $2")
            .bind(kind.as_str())
            .bind(&index.0);
        let found = self.connections.fetch_all(query).await?;
        Ok(found.first().map(|row| row.try_get(0)).transpose()?.map(UserId))
    }

    /// The metadata of one event, with its code.
    fn sealed<A: Stream>(
        &self,
        id: &str,
        place: (u64, u64),
        event: (&str, &str, &Value),
        metadata: &HashMap<String, String>,
    ) -> Result<HashMap<String, String>, StorageError> {
        let (event_type, event_version, payload) = event;
        let payload = payload.to_string();
        let event = StoredForm { stream: (A::TYPE, id), place, event_type, event_version, payload };
        event.seal(&self.events, metadata.clone())
    }

    /// An event as loaded; nothing where somebody else has added it.
    fn read_event<A: Stream>(
        &self,
        id: &str,
        sequence: u64,
        metadata: &str,
        row: &PgRow,
    ) -> Result<Option<A::Event>, Unfit> {
        let (event_type, event_version, payload): (&str, &str, &str) =
            (row.try_get("event_type")?, row.try_get("event_version")?, row.try_get("payload")?);
        let fields = EventFields {
            stream_type: A::TYPE,
            stream_id: id,
            sequence: sequence.cast_signed(),
            event_type,
            event_version,
            payload,
        };
        if !self.events.is_authentic(row.try_get("id")?, &fields, metadata) {
            return Ok(None);
        }
        let read = domain::read_stored_text(event_type, event_version, payload);
        read.map(Some).map_err(|unreadable: UnreadableEvent| {
            let cause = format!("event {sequence}: {unreadable}");
            if unreadable.is_newer() { Unfit::Newer(cause) } else { Unfit::Event(cause) }
        })
    }

    pub(crate) fn snapshot_mac<A: Stream>(
        &self,
        id: &str,
        sequence: u64,
        payload: &[u8],
    ) -> Hmac<Sha256> {
        // HMAC takes a key of any length, so this can't fail.
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes a key of any length (RFC 2104 section 2)"
        )]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.snapshot_key.as_slice())
            .expect("HMAC takes a key of any length");
        for part in [
            A::TYPE.as_bytes(),
            id.as_bytes(),
            &sequence.to_be_bytes(),
            &A::SHAPE.to_be_bytes(),
            payload,
        ] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// What of a loaded stream doesn't fit.
enum Unfit {
    Snapshot,
    Event(String),
    /// An event of a newer binary.
    Newer(String),
}

impl Unfit {
    fn into_error<A: Stream>(self, id: &str) -> StorageError {
        let stream = format!("{} {id}", A::TYPE);
        match self {
            Self::Snapshot => {
                StorageError::Unreadable { stream, cause: "its snapshot is not sound".to_owned() }
            }
            Self::Event(cause) => StorageError::Unreadable { stream, cause },
            Self::Newer(cause) => StorageError::Newer { stream, cause },
        }
    }
}

impl From<sqlx::Error> for Unfit {
    fn from(error: sqlx::Error) -> Self {
        Self::Event(error.to_string())
    }
}

/// An event as it will be stored.
pub(crate) struct StoredForm<'a> {
    /// The type and the id of its stream.
    pub(crate) stream: (&'a str, &'a str),
    /// Its sequence number, and its number among the events that the service wrote.
    pub(crate) place: (u64, u64),
    pub(crate) event_type: &'a str,
    pub(crate) event_version: &'a str,
    pub(crate) payload: String,
}

impl StoredForm<'_> {
    /// Adds to the metadata what authenticates the event.
    pub(crate) fn seal(
        &self,
        events: &EventAuthenticator,
        mut metadata: HashMap<String, String>,
    ) -> Result<HashMap<String, String>, StorageError> {
        let ((stream_type, stream_id), (sequence, number)) = (self.stream, self.place);
        if sequence != number {
            metadata.insert(NUMBER.to_owned(), number.to_string());
        }
        let fields = EventFields {
            stream_type,
            stream_id,
            sequence: sequence.cast_signed(),
            event_type: self.event_type,
            event_version: self.event_version,
            payload: &self.payload,
        };
        let members = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let mac = events.mac(&fields, members).map_err(|cause| StorageError::Unprovable {
            stream: format!("{stream_type} {stream_id}"),
            cause: cause.to_string(),
        })?;
        metadata.insert(MAC.to_owned(), mac);
        Ok(metadata)
    }
}

fn columns(claims: &[(IdentifierKind, Index)]) -> (Vec<&'static str>, Vec<String>) {
    claims.iter().map(|(kind, index)| (kind.as_str(), index.0.clone())).unzip()
}

fn receipt(rows: &[PgRow]) -> Result<Receipt, sqlx::Error> {
    let mut last = Receipt { tx: 0, event_id: 0 };
    for row in rows {
        let tx: String = row.try_get("tx")?;
        let tx = tx.parse().map_err(|_| sqlx::Error::Decode("xid8 is not a number".into()))?;
        last = last.max(Receipt { tx, event_id: row.try_get("id")? });
    }
    Ok(last)
}
