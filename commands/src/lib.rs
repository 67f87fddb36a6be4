//! The write side of Entrybook: commands, the event store, hashing, sealing, tokens.
//!
//! [`Entrybook`] is the door: one method per command. Each loads the stream it concerns, lets the
//! pure domain decide, and appends what was decided in one statement (`store`). What spans several
//! streams is a process of several commits that may stop after any of them: an account without its
//! first session is an account, and a session that its account has cut is over, whether or not its
//! end has been posted yet.
//!
//! Nothing here knows HTTP, and nothing here reads a projection: a password changed or an account
//! disabled a millisecond ago counts.

mod accounts;
mod admission;
mod authentic;
mod budgets;
pub mod clock;
mod connections;
mod damage;
pub mod database;
mod device;
mod erasure;
mod error;
mod executor;
mod guard;
mod hand_over;
pub mod hashing;
pub mod history;
pub mod keyring;
pub mod leases;
pub mod log_keys;
mod origin;
mod profile;
mod provable;
mod readings;
mod retention;
mod retiring;
pub mod rights;
mod service;
mod service_events;
mod session;
mod sessions;
mod sign_in;
pub mod store;
mod throttle;
pub mod tokens;
mod user;

pub use accounts::{
    Account, ChangePasswordError, CommandError, NewAccount, PasswordChanged, RegisterError,
};
pub use budgets::{Budget, Budgets, Hourly, OverBudget, Spender};
pub use damage::DAMAGED;
pub use device::{DEVICE_LIFETIME, DeviceToken};
pub use error::{StorageError, is_temporary};
pub use executor::{ExecuteError, Executed};
pub use guard::{GuardAggregate, GuardCommand};
pub use hand_over::{BrowserHash, HandOverError};
pub use origin::{By, CLI_ACTOR, Origin, Source, source_place};
pub use profile::{ChangeProfileError, NewProfile};
pub use provable::MAX_EVENT;
pub use readings::{CLI_READER, PastReading, ReadingAggregate, filter_place};
pub use retiring::{RetireError, RetiredKeys, Which};
pub use service::{Counters, Entrybook, LocalChange, Settings};
pub use service_events::{PROJECTIONS, ServiceAggregate, ServiceCommand};
pub use session::{SessionAggregate, SessionCommand};
pub use sessions::{LiveSession, RefreshError};
pub use sign_in::{SignInError, SignedIn};
pub use store::Receipt;
pub use throttle::AddressPolicy;
pub use user::{UserAggregate, UserCommand};
