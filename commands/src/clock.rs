//! Time, chance and new ids: the only way any of them enters Entrybook.
//!
//! Everything above takes a [`Clock`] and an [`Entropy`], so that a test can set the one and seed
//! the other. Nothing else may ask the operating system for either (`clippy.toml` holds that).

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use domain::{SessionId, UserId};
use rand::{
    Rng, SeedableRng,
    rand_core::UnwrapErr,
    rngs::{StdRng, SysRng},
};
use uuid::Uuid;

/// Tells the time, to the microsecond: what PostgreSQL keeps, so that a time read back is equal to
/// the one that was written.
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the ambient clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A clock that stands still until it is told otherwise. For tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    #[must_use]
    pub fn new(at: DateTime<Utc>) -> Self {
        Self(AtomicI64::new(at.timestamp_micros()))
    }

    pub fn set(&self, at: DateTime<Utc>) {
        self.0.store(at.timestamp_micros(), Ordering::SeqCst);
    }

    pub fn advance(&self, by: TimeDelta) {
        self.0.fetch_add(by.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(Ordering::SeqCst)).unwrap_or_default()
    }
}

/// A source of random bytes, fit for keys.
pub trait Entropy: Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

/// The operating system's random source, with no state in this process that a fork or a core dump
/// could repeat. Where the system has none to give, there is nothing safe left to do: it panics.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        UnwrapErr(SysRng).fill_bytes(bytes);
    }
}

/// Random bytes that are the same on every run. For tests, and for nothing else.
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeededEntropy(…)")
    }
}

/// Makes the ids of new streams: UUID version 7 (RFC 9562, section 5.7), 74 random bits behind the
/// millisecond.
#[derive(Clone)]
pub struct Ids {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl Ids {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self { clock, entropy }
    }

    #[must_use]
    pub fn user(&self) -> UserId {
        UserId(self.uuid_v7())
    }

    #[must_use]
    pub fn session(&self) -> SessionId {
        SessionId(self.uuid_v7())
    }

    #[must_use]
    pub fn uuid_v7(&self) -> Uuid {
        let mut random = [0; 10];
        self.entropy.fill(&mut random);
        // A clock before 1970 is wrong anyway; the id stays unique by its random bits.
        let millis = u64::try_from(self.clock.now().timestamp_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_the_clocks_time_and_differ() {
        let at = DateTime::from_timestamp_micros(1_760_000_000_123_456).unwrap();
        let clock = Arc::new(ManualClock::new(at));
        let ids = Ids::new(clock.clone(), Arc::new(SeededEntropy::new(1)));
        let (one, other) = (ids.uuid_v7(), ids.uuid_v7());
        assert_ne!(one, other);
        assert_eq!(one.get_version_num(), 7);
        assert_eq!(one.get_timestamp().unwrap().to_unix(), (1_760_000_000, 123_000_000));

        clock.advance(TimeDelta::milliseconds(1));
        assert!(ids.user().0 > one.max(other), "later ids sort behind earlier ones");
    }

    #[test]
    fn times_are_whole_microseconds() {
        assert_eq!(SystemClock.now().timestamp_subsec_nanos() % 1000, 0);
    }

    #[test]
    fn seeded_bytes_repeat_and_the_systems_do_not() {
        let bytes = |source: &dyn Entropy| {
            let mut bytes = [0; 32];
            source.fill(&mut bytes);
            bytes
        };
        assert_eq!(bytes(&SeededEntropy::new(7)), bytes(&SeededEntropy::new(7)));
        assert_ne!(bytes(&SeededEntropy::new(7)), bytes(&SeededEntropy::new(8)));
        assert_ne!(bytes(&SystemEntropy), bytes(&SystemEntropy));
    }
}
