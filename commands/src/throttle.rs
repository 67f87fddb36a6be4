//! What a replica keeps in memory to hold guessing back: attempts that wait their turn, failures per
//! address ([`addresses`]), names asked for per address and account, and attempts turned away that are
//! yet to be posted.
//!
//! Throttles themselves are events, and bind every replica. What is lost with a replica is a count
//! that had not yet made one.

pub(crate) mod addresses;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::{GuardSubject, UserId};
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::addresses::AddressPolicy;
pub(crate) use self::addresses::{AddressFailures, Bucket};
use crate::{
    Origin,
    origin::{Network, WIDTHS},
};

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

/// What was made under each name in its running hour.
struct Hours(Cache<String, Arc<Mutex<Hour>>>);

impl Hours {
    fn new() -> Self {
        Self(Cache::new(SUBJECTS))
    }

    /// Counts one more, if it may be; if not, until when. It is news to the first one who asks. Asked and counted in
    /// one, so that no burst outruns its count.
    fn take(&self, name: &str, most: u32, at: DateTime<Utc>) -> Result<(), NoMore> {
        let made = self.0.get_or_insert_with(name, || {
            Ok::<_, ()>(Arc::new(Mutex::new(Hour { began: at, made: 0, is_told: false })))
        });
        let Ok(hour) = made else { return Ok(()) };
        let mut hour = lock(&hour);
        if at - hour.began >= TimeDelta::hours(1) {
            *hour = Hour { began: at, made: 0, is_told: false };
        }
        if hour.made < most {
            hour.made += 1;
            return Ok(());
        }
        let is_news = !std::mem::replace(&mut hour.is_told, true);
        Err(NoMore { made: hour.made, until: hour.began + TimeDelta::hours(1), is_news })
    }

    fn is_untold(&self, name: &str) {
        if let Some(hour) = self.0.get(name) {
            lock(&hour).is_told = false;
        }
    }
}

/// An account asks for other names at most so many times in an hour.
const NAMES_OF_AN_ACCOUNT: u32 = 20;

/// Names asked for in the running hour: by those who register, and by accounts that take another one. Either is told
/// whether a name is taken, so both count for the network they come from.
pub(crate) struct Registrations {
    networks: [Hours; WIDTHS],
    accounts: Hours,
    per_hour: u32,
}

impl Registrations {
    pub(crate) fn new(per_hour: u32) -> Self {
        let networks = std::array::from_fn(|_| Hours::new());
        Self { networks, accounts: Hours::new(), per_hour }
    }

    /// Counts one for all networks that it comes from, if it may be made; if not, which of them has had enough.
    pub(crate) fn take<'a>(
        &self,
        networks: &'a [Network],
        at: DateTime<Utc>,
    ) -> Result<(), (&'a Network, NoMore)> {
        for network in networks {
            let Some(hours) = self.networks.get(network.width) else { continue };
            let most = self.per_hour.saturating_mul(network.share);
            hours.take(&network.name, most, at).map_err(|no_more| (network, no_more))?;
        }
        Ok(())
    }

    /// The same for an account that wants another name.
    pub(crate) fn take_of_account(&self, id: UserId, at: DateTime<Utc>) -> Result<(), NoMore> {
        self.accounts.take(&id.to_string(), NAMES_OF_AN_ACCOUNT.min(self.per_hour), at)
    }

    /// It could not be posted, so it is news to the next one as well.
    pub(crate) fn is_untold(&self, network: &Network) {
        if let Some(hours) = self.networks.get(network.width) {
            hours.is_untold(&network.name);
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

    fn networks(address: &str) -> Vec<Network> {
        let address = address.parse().ok();
        Origin { address, ..Origin::system(String::new()) }.networks()
    }

    #[test]
    fn registrations_are_counted_by_the_hour() {
        let registrations = Registrations::new(2);
        let take = |from: &str, second| {
            registrations.take(&networks(from), at(second)).map_err(|(_, no_more)| no_more)
        };
        let (here, there) = ("192.0.2.7", "192.0.2.8");
        assert!(take(here, 0).is_ok() && take(here, 1).is_ok());
        let no_more = |is_news| Err(NoMore { made: 2, until: at(3_600), is_news });
        assert_eq!(take(here, 600), no_more(true));
        assert_eq!(take(here, 601), no_more(false), "it is told once");
        registrations.is_untold(&networks(here)[0]);
        assert_eq!(take(here, 602), no_more(true));
        assert!(take(there, 600).is_ok());
        assert!(take(here, 3_600).is_ok() && take(here, 3_601).is_ok(), "a new hour");
        let no_more = NoMore { made: 2, until: at(7_200), is_news: true };
        assert_eq!(take(here, 3_602), Err(no_more), "and news");
    }

    #[test]
    fn registrations_from_many_networks_of_one_holder_are_counted_together() {
        let registrations = Registrations::new(2);
        let mut made = 0;
        for n in 0..1_000 {
            let networks = networks(&format!("2001:db8:7:{n:x}::1"));
            made += usize::from(registrations.take(&networks, at(n)).is_ok());
        }
        assert_eq!(made, 2 * 16, "the limits of sixteen, and not of a thousand");
    }

    #[test]
    fn an_account_asks_for_few_names_in_an_hour_from_wherever() {
        let registrations = Registrations::new(1_000);
        let (ada, ben) = (UserId(uuid::Uuid::from_u128(1)), UserId(uuid::Uuid::from_u128(2)));
        let taken = (0..100).filter(|n| registrations.take_of_account(ada, at(*n)).is_ok()).count();
        assert_eq!(taken, NAMES_OF_AN_ACCOUNT as usize);
        assert!(registrations.take_of_account(ben, at(0)).is_ok());
        assert!(registrations.take_of_account(ada, at(3_600)).is_ok());
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
