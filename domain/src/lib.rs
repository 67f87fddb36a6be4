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
//! 4. in `api`: the route; in `ui`: its label.
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

mod event;
mod guard;
#[cfg(test)]
mod histories;
mod ids;
mod metadata;
mod role;
mod sealed;
mod session;
mod user;
mod values;

pub use event::{Event, UnreadableEvent, stream, upcast};
pub use guard::{
    FailureReason, GuardSubject, SignInGuard, SignInGuardEvent, ThrottlePolicy, Throttled,
};
pub use ids::{SessionId, UserId};
pub use metadata::{Actor, MalformedMetadata, Metadata, SealedSource};
pub use role::{Role, Roles, UnknownRole};
pub use sealed::{Index, Sealed, SealedIdentifier, TokenHash};
pub use session::{
    EndReason, Refresh, Session, SessionEvent, SessionRefusal, SignInMethod, Start, Started,
};
pub use user::{Change, Cut, Profile, ProfileChange, Registration, User, UserEvent, UserRefusal};
pub use values::{Email, FullName, Identifier, IdentifierKind, InvalidValue, Password, Username};
