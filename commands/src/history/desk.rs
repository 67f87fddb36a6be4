//! Where a made-up history is written down: each append decided, applied and numbered, and put into
//! the chunk that the writer takes.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use domain::{
    Event, GuardSubject, IdentifierKind, Index, SessionEvent, SessionId, SignInGuardEvent,
    UserEvent, UserId,
};
use serde::Serialize;

use super::person::{Guarded, Open, Person};
use crate::{
    Entrybook, GuardAggregate, Origin, SessionAggregate, UserAggregate,
    clock::{Ids, ManualClock, SeededEntropy},
    keyring::{NewKey, PersonKey},
    store::{SNAPSHOT_EVERY, Stream},
};

/// The events of one append, as decided.
pub(super) struct Append {
    pub(super) stream: &'static str,
    pub(super) id: String,
    /// The number of the first of them in its stream.
    pub(super) first: u64,
    pub(super) events: Vec<Event>,
    pub(super) origin: Origin,
    pub(super) person: Option<PersonKey>,
    pub(super) at: DateTime<Utc>,
}

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) appends: Vec<Append>,
    pub(super) events: usize,
    pub(super) keys: Vec<NewKey>,
    pub(super) claimed: Vec<(IdentifierKind, Index, UserId)>,
    pub(super) released: Vec<(IdentifierKind, Index, UserId)>,
    pub(super) snapshots: HashMap<(&'static str, String), Snapshot>,
}

pub(super) struct Snapshot {
    pub(super) sequence: u64,
    pub(super) shape: i32,
    pub(super) payload: Vec<u8>,
    pub(super) mac: Vec<u8>,
}

/// Numbers and keeps appends. It stops at exactly as many events as were asked for: the beginning of
/// a sound stream is a sound stream.
pub(super) struct Desk {
    pub(super) book: Entrybook,
    ids: Ids,
    clock: Arc<ManualClock>,
    chunk: Chunk,
    left: u64,
}

impl Desk {
    pub(super) fn new(book: Entrybook, seed: u64, events: u64, at: DateTime<Utc>) -> Self {
        let clock = Arc::new(ManualClock::new(at));
        let ids = Ids::new(clock.clone(), Arc::new(SeededEntropy::new(seed)));
        Self { book, ids, clock, chunk: Chunk::default(), left: events }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    pub(super) fn waiting(&self) -> usize {
        self.chunk.events
    }

    pub(super) fn take(&mut self) -> Chunk {
        std::mem::take(&mut self.chunk)
    }

    pub(super) fn new_user(&mut self, at: DateTime<Utc>) -> (UserId, PersonKey) {
        self.clock.set(at);
        let id = self.ids.user();
        let (key, row) = self.book.keyring().new_person(id);
        self.chunk.keys.push(row);
        (id, key)
    }

    pub(super) fn new_session(&mut self, at: DateTime<Utc>) -> SessionId {
        self.clock.set(at);
        self.ids.session()
    }

    /// Events of an account.
    pub(super) fn user(
        &mut self,
        person: &mut Person,
        events: Vec<UserEvent>,
        origin: Origin,
        at: DateTime<Utc>,
    ) {
        let before = person.user.version;
        let claims = UserAggregate::claims(&events);
        let owned = |(kind, index)| (kind, index, person.id);
        self.chunk.claimed.extend(claims.claimed.into_iter().map(owned));
        self.chunk.released.extend(claims.released.into_iter().map(owned));
        for event in &events {
            person.user.apply(event.clone());
        }
        let events = events.into_iter().map(Event::User).collect();
        let id = person.id.to_string();
        self.snapshot::<UserAggregate>(&id, before, person.user.version, &person.user);
        self.append::<UserAggregate>(id, before, events, origin, Some(person.key.clone()), at);
    }

    /// Events of a session.
    pub(super) fn session(
        &mut self,
        open: &mut Open,
        person: &PersonKey,
        events: Vec<SessionEvent>,
        origin: Origin,
        at: DateTime<Utc>,
    ) {
        let before = open.sequence;
        for event in &events {
            open.session.apply(event.clone());
            open.sequence += 1;
        }
        let events = events.into_iter().map(Event::Session).collect();
        let id = open.id.to_string();
        self.snapshot::<SessionAggregate>(&id, before, open.sequence, &open.session);
        self.append::<SessionAggregate>(id, before, events, origin, Some(person.clone()), at);
    }

    /// Events of a guard.
    pub(super) fn guard(
        &mut self,
        subject: &GuardSubject,
        guarded: &mut Guarded,
        person: Option<&PersonKey>,
        events: Vec<SignInGuardEvent>,
        origin: Origin,
        at: DateTime<Utc>,
    ) {
        let before = guarded.sequence;
        for event in &events {
            guarded.guard.apply(event.clone());
            guarded.sequence += 1;
        }
        let events = events.into_iter().map(Event::SignInGuard).collect();
        let id = subject.stream_id();
        self.snapshot::<GuardAggregate>(&id, before, guarded.sequence, &guarded.guard);
        self.append::<GuardAggregate>(id, before, events, origin, person.cloned(), at);
    }

    /// As the store does: when the stream has grown over a multiple.
    fn snapshot<A: Stream>(&mut self, id: &str, before: u64, after: u64, state: &impl Serialize) {
        let due = after / SNAPSHOT_EVERY > before / SNAPSHOT_EVERY;
        // The last append may be cut short, and then the state is ahead of the stream.
        if !due || self.left < SNAPSHOT_EVERY {
            return;
        }
        // A state that can't be written needs no snapshot either: they are derived.
        let Ok(payload) = serde_json::to_vec(state) else { return };
        let mac = self.book.store().snapshot_mac::<A>(id, after, &payload);
        let mac = hmac::Mac::finalize(mac).into_bytes().to_vec();
        let snapshot = Snapshot { sequence: after, shape: A::SHAPE, payload, mac };
        self.chunk.snapshots.insert((A::TYPE, id.to_owned()), snapshot);
    }

    fn append<A: Stream>(
        &mut self,
        id: String,
        before: u64,
        mut events: Vec<Event>,
        mut origin: Origin,
        person: Option<PersonKey>,
        at: DateTime<Utc>,
    ) {
        events.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        if events.is_empty() {
            return;
        }
        self.clock.set(at);
        origin.request_id = self.ids.uuid_v7().to_string();
        self.left -= events.len() as u64;
        self.chunk.events += events.len();
        let stream = A::TYPE;
        self.chunk.appends.push(Append {
            stream,
            id,
            first: before + 1,
            events,
            origin,
            person,
            at,
        });
    }
}
