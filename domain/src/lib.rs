//! What may happen in Entrybook: streams, events, refusals, values.
//!
//! Pure and synchronous: no IO, no clock, no random source. Time, ids and hashes come in as facts,
//! decisions go out as events, and `apply` folds them.
//!
//! # How to add an event
//!
//! Add the variant, decide on it, and apply it; the compiler names each `match` that must know it:
//!
//! 1. here, in the file of its stream: the variant with its stored name, `name()`, the method that
//!    decides, `apply`;
//! 2. in `commands`, in the file of the same name: the command and its arm;
//! 3. in `projections`: an arm in each view that shows it;
//! 4. in `api`: the route; in `ui`: its label;
//! 5. in `domain/fixtures`: its lines, with `domain/src/fixtures/forms.rs` and its tests.
//!
//! ```
//! use domain::{Role, User, UserEvent, UserRefusal};
//!
//! // A decision is a function of the state and the facts …
//! let mut user = User::default();
//! assert_eq!(user.grant_role(Role::Auditor), Err(UserRefusal::NotRegistered));
//!
//! // … and an event is what is stored and folded.
//! user.apply(UserEvent::RoleGranted { role: Role::Auditor });
//! assert!(user.roles.contains(&Role::Auditor));
//! assert_eq!(user.version, 1);
//! ```
//!
//! # How to change an event
//!
//! What is stored is never rewritten, so every form that an event ever had is read for ever. Any change
//! of it is a new version: a field that comes, goes, or has another type, and a new value of an enum
//! in it. The tests of [`fixtures`] fail until there is one.
//!
//! **A new version is read one release before it is written.** While servers are upgraded, old and new
//! binaries share one book, and an operator may go back. What an older binary can't read, it refuses:
//! a 503 for the person concerned, and a read table that stops there. So, in one release:
//!
//! 1. in the file of the stream: change the variant, give `version_of` its next number, and write the
//!    function that makes the new payload of an old one (as `method_to_methods` in `session.rs`);
//! 2. in `event.rs`: put that function at the end of `UPCASTERS`;
//! 3. in `domain/fixtures`: lines of the new version, and its entry in `forms.rs`. The old ones stay;
//! 4. in `commands`: if what [`Session`], [`User`] or [`SignInGuard`] keep has changed, the next
//!    `Stream::SHAPE`, so that old snapshots are passed over; in `projections`: the arms, and the
//!    next version of the view whose rows come out differently;
//! 5. and let `version` and `Serialize` write the old form still, as by
//!    `#[serde(rename(serialize = "method"), serialize_with = "the_first")]`. The next release drops that.
//!
//! (Version 2 of `SessionStarted` and of `SessionEnded` was written at once: no release had gone
//! before it.)
//!
//! A new type of event goes the same way: one release knows it, the next one writes it.

mod characters;
mod event;
mod fixtures;
mod guard;
#[cfg(test)]
mod histories;
mod ids;
mod metadata;
mod reading;
mod role;
mod sealed;
mod service;
mod session;
mod user;
mod values;
#[cfg(test)]
mod values_tests;

pub use characters::is_unseen;
pub use event::{Event, StreamEvent, UnreadableEvent, read_stored, read_stored_text, stream};
pub use fixtures::{Fixture, fixtures};
pub use guard::{
    FailureReason, GuardSubject, SignInGuard, SignInGuardEvent, ThrottlePolicy, Throttled,
};
pub use ids::{SessionId, UserId};
pub use metadata::{Actor, MalformedMetadata, Metadata, SealedSource};
pub use reading::ReadingEvent;
pub use role::{Role, Roles, UnknownRole};
pub use sealed::{Index, Sealed, SealedIdentifier, TokenHash};
pub use service::{CLUSTER, ServerSettings, ServerStart, Service, ServiceEvent};
pub use session::{
    EndReason, Refresh, Session, SessionEvent, SessionRefusal, SignInMethod, Start, Started,
};
pub use user::{
    Change, Cut, Kept, Profile, ProfileChange, Registration, User, UserEvent, UserRefusal,
};
pub use values::{
    Email, FullName, Identifier, IdentifierKind, InvalidValue, Password, Username, lookalikes,
};
