//! What a replica keeps in memory to hold guessing back: attempts that wait their turn, failures per
//! address, registrations per address, and attempts turned away that are yet to be posted.
//!
//! Throttles themselves are events, and bind every replica. What is lost with a replica is a count
//! that had not yet made one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{FailureReason, GuardSubject, SignInGuard, SignInGuardEvent, ThrottlePolicy};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Origin;

/// So many subjects are remembered at most; the least used go first.
const SUBJECTS: usize = 10_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Attempts on one subject are looked at a few at a time, so that a burst can't outrun the count of
/// its own failures.
pub(crate) struct Turns {
    subjects: Cache<String, Arc<Semaphore>>,
    at_once: usize,
}

impl Turns {
    pub(crate) fn new(at_once: usize) -> Self {
        Self { subjects: Cache::new(SUBJECTS), at_once }
    }

    /// Waits for a turn.
    pub(crate) async fn take(&self, subject: &str) -> Option<OwnedSemaphorePermit> {
        let made = self
            .subjects
            .get_or_insert_with(subject, || Ok::<_, ()>(Arc::new(Semaphore::new(self.at_once))));
        match made {
            Ok(semaphore) => semaphore.acquire_owned().await.ok(),
            Err(()) => None,
        }
    }
}

/// Failures per network, each a guard that lives in memory until it must throttle.
pub(crate) struct AddressFailures {
    networks: Cache<String, Arc<Mutex<SignInGuard>>>,
    policy: ThrottlePolicy,
}

impl AddressFailures {
    pub(crate) fn new(policy: ThrottlePolicy) -> Self {
        Self { networks: Cache::new(SUBJECTS), policy }
    }

    /// Counts a failure; answers the throttle that it earns, if it does: the failures, and until when.
    pub(crate) fn count(
        &self,
        subject: &GuardSubject,
        at: DateTime<Utc>,
    ) -> Option<(u32, DateTime<Utc>)> {
        let made = self
            .networks
            .get_or_insert_with(subject.stream_id().as_str(), || Ok::<_, ()>(Arc::default()));
        let guard = made.ok()?;
        let mut guard = lock(&guard);
        let mut throttle = None;
        for event in
            guard.fail(subject.clone(), FailureReason::WrongPassword, None, at, &self.policy)
        {
            if let SignInGuardEvent::Throttled { failures, until, .. } = &event {
                throttle = Some((*failures, *until));
            }
            guard.apply(event);
        }
        throttle
    }
}

/// An hour as it runs: when it began, and what was made in it.
struct Hour {
    began: DateTime<Utc>,
    made: u32,
    /// Whether it is posted that no more are made in it.
    is_told: bool,
}

/// No more accounts are made from a network in this hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMore {
    pub(crate) made: u32,
    pub(crate) until: DateTime<Utc>,
    /// Whether nobody has posted it yet.
    pub(crate) is_news: bool,
}

/// Accounts made per network in the running hour.
pub(crate) struct Registrations {
    networks: Cache<String, Arc<Mutex<Hour>>>,
    per_hour: u32,
}

impl Registrations {
    pub(crate) fn new(per_hour: u32) -> Self {
        Self { networks: Cache::new(SUBJECTS), per_hour }
    }

    /// Whether one more may be made; if not, until when. It is news to the first one who asks.
    pub(crate) fn admit(&self, network: &str, at: DateTime<Utc>) -> Result<(), NoMore> {
        let Some(hour) = self.networks.get(network) else { return Ok(()) };
        let mut hour = lock(&hour);
        let until = hour.began + TimeDelta::hours(1);
        if at >= until || hour.made < self.per_hour {
            return Ok(());
        }
        let is_news = !std::mem::replace(&mut hour.is_told, true);
        Err(NoMore { made: hour.made, until, is_news })
    }

    /// It could not be posted, so it is news to the next one as well.
    pub(crate) fn is_untold(&self, network: &str) {
        if let Some(hour) = self.networks.get(network) {
            lock(&hour).is_told = false;
        }
    }

    /// Counts one that was made.
    pub(crate) fn count(&self, network: &str, at: DateTime<Utc>) {
        let made = self.networks.get_or_insert_with(network, || {
            Ok::<_, ()>(Arc::new(Mutex::new(Hour { began: at, made: 0, is_told: false })))
        });
        if let Ok(hour) = made {
            let mut hour = lock(&hour);
            if at - hour.began >= TimeDelta::hours(1) {
                *hour = Hour { began: at, made: 0, is_told: false };
            }
            hour.made = hour.made.saturating_add(1);
        }
    }
}

/// Attempts that were turned away since they were last posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) subject: GuardSubject,
    pub(crate) count: u64,
    pub(crate) from: DateTime<Utc>,
    pub(crate) to: DateTime<Utc>,
    /// Where the last of them came from.
    pub(crate) last: Origin,
}

/// Counts attempts that were turned away, one line per subject and window, and no more lines than
/// [`SUBJECTS`]: past that the attempts count for the address they came from, or not at all.
#[derive(Default)]
pub(crate) struct BlockedAttempts(Mutex<HashMap<String, Blocked>>);

impl BlockedAttempts {
    pub(crate) fn count(&self, subject: &GuardSubject, origin: &Origin, at: DateTime<Utc>) {
        let mut waiting = lock(&self.0);
        let id = subject.stream_id();
        if let Some(blocked) = waiting.get_mut(&id) {
            blocked.count = blocked.count.saturating_add(1);
            blocked.to = blocked.to.max(at);
            blocked.last = origin.clone();
        } else if waiting.len() < SUBJECTS {
            let (subject, last) = (subject.clone(), origin.clone());
            waiting.insert(id, Blocked { subject, count: 1, from: at, to: at, last });
        }
    }

    /// Takes what is to be posted.
    pub(crate) fn take(&self) -> Vec<Blocked> {
        std::mem::take(&mut *lock(&self.0)).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use domain::Index;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_760_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn an_address_is_throttled_when_its_failures_pile_up() {
        let failures = AddressFailures::new(ThrottlePolicy {
            free_failures: 3,
            first_delay: TimeDelta::seconds(10),
            longest_delay: TimeDelta::minutes(15),
            forgotten_after: TimeDelta::hours(1),
        });
        let subject = GuardSubject::Address(Index("a".into()));
        assert_eq!(failures.count(&subject, at(0)), None);
        assert_eq!(failures.count(&subject, at(1)), None);
        assert_eq!(failures.count(&subject, at(2)), Some((3, at(12))));
        assert_eq!(failures.count(&GuardSubject::Address(Index("b".into())), at(3)), None);
        assert_eq!(failures.count(&subject, at(4_000)), None, "forgotten");
    }

    #[test]
    fn registrations_are_counted_by_the_hour() {
        let registrations = Registrations::new(2);
        registrations.count("n", at(0));
        assert!(registrations.admit("n", at(1)).is_ok());
        registrations.count("n", at(1));
        let no_more = |is_news| Err(NoMore { made: 2, until: at(3_600), is_news });
        assert_eq!(registrations.admit("n", at(600)), no_more(true));
        assert_eq!(registrations.admit("n", at(601)), no_more(false), "it is told once");
        registrations.is_untold("n");
        assert_eq!(registrations.admit("n", at(602)), no_more(true));
        assert!(registrations.admit("other", at(600)).is_ok());
        assert!(registrations.admit("n", at(3_600)).is_ok());
        registrations.count("n", at(3_600));
        assert!(registrations.admit("n", at(3_601)).is_ok(), "a new hour");
        registrations.count("n", at(3_601));
        let no_more = NoMore { made: 2, until: at(7_200), is_news: true };
        assert_eq!(registrations.admit("n", at(3_602)), Err(no_more), "and news");
    }

    #[test]
    fn blocked_attempts_wait_as_one_line_per_subject() {
        let blocked = BlockedAttempts::default();
        let subject = GuardSubject::Identifier(Index("x".into()));
        let from = |second: i64| Origin::system(second.to_string());
        for second in 0..1_000 {
            blocked.count(&subject, &from(second), at(second));
        }
        let (first, to, last) = (at(0), at(999), from(999));
        assert_eq!(blocked.take(), [Blocked { subject, count: 1_000, from: first, to, last }]);
        assert_eq!(blocked.take(), []);
    }
}
