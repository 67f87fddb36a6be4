//! The service itself: what every command needs, and what it tells the rest of the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use domain::{Cut, Roles, SessionId, ThrottlePolicy, User, UserId};
use sqlx::PgPool;
use tokio::sync::{Notify, broadcast};

use crate::{
    Source, StorageError, UserAggregate,
    budgets::{Budgets, Hourly},
    clock::{Clock, Entropy, Ids},
    damage::{DAMAGED, Damage},
    hashing::HashPool,
    keyring::{Keyring, KeyringError, Opened},
    origin::source_place,
    store::Store,
    throttle::{AddressFailures, AddressPolicy, BlockedAttempts, Registrations, Turns},
    tokens::Tokens,
};

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How failures on one account, or on one identifier that is nobody's, slow down.
    pub throttle: ThrottlePolicy,
    /// How failures from one address slow down; an address may have many people behind it.
    pub address_throttle: AddressPolicy,
    /// Accounts that may be registered from one address in an hour, and names asked for.
    pub registrations_per_hour: u32,
    /// What one person, and one address, may append of each kind in an hour.
    pub changes_per_hour: Hourly,
    /// How long a refresh token is good for.
    pub refresh_lifetime: TimeDelta,
    /// The same with "remember me".
    pub remember_lifetime: TimeDelta,
    /// How long a session lasts at most, however often it is refreshed: then the person signs in again.
    pub session_lifetime: TimeDelta,
    /// How long a spent refresh token is answered once more.
    pub refresh_grace: TimeDelta,
    /// How many connections of their own loading and appending have at most.
    pub stream_connections: usize,
    /// Attempts that were turned away are posted once in so long.
    pub blocked_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            throttle: ThrottlePolicy {
                free_failures: 5,
                first_delay: TimeDelta::seconds(1),
                longest_delay: TimeDelta::minutes(15),
                forgotten_after: TimeDelta::hours(24),
            },
            // An office that mistypes a hundred times on one morning waits for nobody, and all that a guesser gets from
            // one address in a day are the first hundred and 240 more.
            address_throttle: AddressPolicy {
                free_failures: 100,
                forget_each: TimeDelta::minutes(6),
            },
            registrations_per_hour: 1_000,
            changes_per_hour: Hourly { person: 360, address: 36_000 },
            refresh_lifetime: TimeDelta::hours(24),
            remember_lifetime: TimeDelta::days(30),
            session_lifetime: TimeDelta::days(90),
            refresh_grace: TimeDelta::seconds(10),
            stream_connections: 8,
            blocked_window: Duration::from_secs(60),
        }
    }
}

/// What a command of this process has changed that tokens must know at once; other replicas learn
/// it from the journal.
#[derive(Debug, Clone)]
pub enum LocalChange {
    SessionEnded {
        session: SessionId,
        user: UserId,
    },
    UserChanged {
        user: UserId,
        version: u64,
        cut: Option<Cut>,
        roles_version: u64,
        roles: Roles,
        disabled: bool,
    },
}

/// Counts for the metrics.
#[derive(Debug, Default)]
pub struct Counters {
    pub appends: AtomicU64,
    pub conflicts: AtomicU64,
    pub registrations: AtomicU64,
    pub sign_ins_succeeded: AtomicU64,
    pub sign_ins_failed: AtomicU64,
    pub sign_ins_throttled: AtomicU64,
    pub refreshes: AtomicU64,
    pub token_reuses: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The write side of Entrybook. Clones share everything.
#[derive(Clone)]
pub struct Entrybook(Arc<Inner>);

struct Inner {
    pool: PgPool,
    store: Store,
    keyring: Arc<Keyring>,
    tokens: Arc<Tokens>,
    hasher: Arc<HashPool>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    ids: Ids,
    settings: Settings,
    counters: Counters,
    appended: Arc<Notify>,
    changes: broadcast::Sender<LocalChange>,
    turns: Turns,
    names: Turns,
    address_failures: AddressFailures,
    registrations: Registrations,
    budgets: Budgets,
    blocked: BlockedAttempts,
    damage: Damage,
}

/// Attempts on one subject that this replica looks at side by side.
const ATTEMPTS_AT_ONCE: usize = 4;

impl Entrybook {
    #[must_use]
    pub fn new(
        pool: PgPool,
        keyring: Arc<Keyring>,
        tokens: Arc<Tokens>,
        hasher: Arc<HashPool>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: Settings,
    ) -> Self {
        Self(Arc::new(Inner {
            store: Store::new(
                pool.clone(),
                settings.stream_connections,
                keyring.service_secret("snapshots"),
                keyring.permit(),
                keyring.events().clone(),
            ),
            ids: Ids::new(clock.clone(), entropy.clone()),
            counters: Counters::default(),
            appended: Arc::default(),
            changes: broadcast::channel(1_024).0,
            turns: Turns::new(ATTEMPTS_AT_ONCE),
            names: Turns::new(1),
            address_failures: AddressFailures::new(settings.address_throttle),
            registrations: Registrations::new(settings.registrations_per_hour),
            budgets: Budgets::new(settings.changes_per_hour),
            blocked: BlockedAttempts::default(),
            damage: Damage::default(),
            pool,
            keyring,
            tokens,
            hasher,
            clock,
            entropy,
            settings,
        }))
    }

    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    #[must_use]
    pub fn hasher(&self) -> &HashPool {
        &self.0.hasher
    }

    #[must_use]
    pub fn clock(&self) -> &dyn Clock {
        self.0.clock.as_ref()
    }

    #[must_use]
    pub fn entropy(&self) -> &dyn Entropy {
        self.0.entropy.as_ref()
    }

    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.0.ids
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Notified at each append: it wakes the sequencer of this process.
    #[must_use]
    pub fn appended(&self) -> Arc<Notify> {
        self.0.appended.clone()
    }

    /// What this process's commands change for tokens that are out already.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<LocalChange> {
        self.0.changes.subscribe()
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Turns for claiming a name.
    pub(crate) fn names(&self) -> &Turns {
        &self.0.names
    }

    pub(crate) fn address_failures(&self) -> &AddressFailures {
        &self.0.address_failures
    }

    pub(crate) fn registrations(&self) -> &Registrations {
        &self.0.registrations
    }

    /// What of the book people and addresses may still fill.
    #[must_use]
    pub fn budgets(&self) -> &Budgets {
        &self.0.budgets
    }

    pub(crate) fn blocked(&self) -> &BlockedAttempts {
        &self.0.blocked
    }

    pub(crate) fn announce(&self, change: LocalChange) {
        // Nobody listening is no fault: a command line has no tokens to check.
        let _ = self.0.changes.send(change);
    }

    pub(crate) fn announce_user(&self, id: UserId, user: &User) {
        self.announce(LocalChange::UserChanged {
            user: id,
            version: user.version,
            cut: user.cut,
            roles_version: user.roles_version,
            roles: user.roles.clone(),
            disabled: user.disabled,
        });
    }

    /// The state of an account, folded from its stream: never behind.
    pub async fn user(&self, id: UserId) -> Result<User, StorageError> {
        Ok(self.store().load::<UserAggregate>(&id.to_string()).await?.aggregate.0)
    }

    /// A sealed text in the clear, to be shown: `None` when its key was destroyed, [`DAMAGED`] where it
    /// or its key was changed. `place` is where it stands:
    /// `User/<id>/email`, `User/<id>/username`, `User/<id>/full_name`,
    /// `SignInGuard/<stream id>/identifier`, [`crate::CLI_ACTOR`].
    pub async fn open_text(
        &self,
        sealed: &domain::Sealed,
        place: &str,
    ) -> Result<Option<String>, KeyringError> {
        match self.keyring().open(sealed, place).await {
            Ok(Opened::Plain(bytes)) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Ok(Opened::Gone) => Ok(None),
            Err(error) if self.0.damage.is(&error) => Ok(Some(DAMAGED.to_owned())),
            Err(error) => Err(error),
        }
    }

    /// The source of an event in the clear, or `None` when one of its keys was destroyed; [`DAMAGED`] in
    /// all its parts where it was changed.
    pub async fn open_source(
        &self,
        sealed: &domain::Sealed,
        aggregate_type: &str,
        aggregate_id: &str,
    ) -> Result<Option<Source>, KeyringError> {
        match self.keyring().open(sealed, &source_place(aggregate_type, aggregate_id)).await {
            Ok(Opened::Plain(bytes)) => Ok(serde_json::from_slice(&bytes).ok()),
            Ok(Opened::Gone) => Ok(None),
            Err(error) if self.0.damage.is(&error) => {
                let damaged = Some(DAMAGED.to_owned());
                Ok(Some(Source { address: damaged.clone(), user_agent: damaged }))
            }
            Err(error) => Err(error),
        }
    }

    /// Posts the attempts that were turned away since the last call. Called once per window, and
    /// before the process ends.
    pub async fn post_blocked(&self) {
        for blocked in self.blocked().take() {
            let count = blocked.count;
            if let Err(error) = self.post_blocked_on(blocked).await {
                tracing::warn!(count, "blocked sign-in attempts could not be posted: {error}");
            }
        }
    }
}
