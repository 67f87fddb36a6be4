//! Failures per network: leaky buckets.
//!
//! Each failure puts one in, and one runs out each [`AddressPolicy::forget_each`]. While there is no room for another
//! one the network is throttled. So from a network come at most `free_failures` guesses at once, and in the long run
//! no more than run out, however they are spread over time and accounts; and what people mistype runs out again,
//! whatever the gaps between.
//!
//! **A success takes out what failures of that very account have put in,** at most [`TYPOS`] of them in a day. That is a
//! person who mistyped. It takes out nothing that failures of other accounts have put in, so whoever signs in to an
//! account of their own between guesses gains nothing: with `F` failures of accounts that nobody signs in to, `O` of
//! those that somebody does, and `B` taken back, `F + O <= free + run out + B`, and `B <= O`, so that `F <= free + run
//! out` stands as if there were no successes. Whoever guesses at somebody who signs in from the same network gains
//! [`TYPOS`] a day for each of them, which that account's own throttle would have let through anyway.
//!
//! **Networks are counted at several widths.** Who has a /48 of IPv6 has 65,536 networks of the usual width. A wide one
//! has a multiple of the limits, because more people share it, and lines of its own in memory, so that nobody pushes it
//! out by coming from many narrow ones.
//!
//! **Replicas learn from each other's throttles.** Each has its own buckets, but a throttle is an event, and it says
//! when the bucket that earned it has room for one again: whoever reads it fills its own as far. The first of them
//! costs up to a bucket per replica; afterwards they run out together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, TimeDelta, Utc};
use domain::UserId;
use quick_cache::sync::Cache;

use super::{SUBJECTS, lock};
use crate::origin::{Network, WIDTHS};

/// How failures from a network slow it down; an address may have many people behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPolicy {
    /// So many failures are free, if they come at once.
    pub free_failures: u32,
    /// One failure is forgotten each so long.
    pub forget_each: TimeDelta,
}

impl AddressPolicy {
    /// For a network with the limits of so many.
    fn times(self, share: u32) -> Self {
        let parts = i32::try_from(share).unwrap_or(i32::MAX).max(1);
        Self {
            free_failures: self.free_failures.saturating_mul(share),
            forget_each: (self.forget_each / parts).max(TimeDelta::milliseconds(1)),
        }
    }

    /// How long so many failures take to run out.
    fn run_out(self, failures: u32) -> TimeDelta {
        let one = self.forget_each.num_milliseconds().max(1);
        TimeDelta::milliseconds(one.saturating_mul(failures.into()).min(i64::from(u32::MAX) * 1000))
    }

    /// The same where there is room for one more and no more than one.
    fn nearly_full(self) -> TimeDelta {
        self.run_out(self.free_failures.saturating_sub(1))
    }
}

/// A leaky bucket. It is known by when it will be empty (ITU-T I.371, the virtual scheduling of the generic cell rate
/// algorithm), so that nothing has to be done as time goes by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    empty_at: Option<DateTime<Utc>>,
}

impl Bucket {
    pub(crate) fn is_empty(&self, at: DateTime<Utc>) -> bool {
        self.empty_at.is_none_or(|empty_at| empty_at <= at)
    }

    /// Puts a failure in.
    pub(crate) fn add(&mut self, at: DateTime<Utc>, policy: &AddressPolicy) {
        let from = self.empty_at.map_or(at, |empty_at| empty_at.max(at));
        self.empty_at = Some(from + policy.run_out(1));
    }

    /// Takes failures out again.
    fn take_out(&mut self, failures: u32, policy: &AddressPolicy) {
        self.empty_at = self.empty_at.map(|empty_at| empty_at - policy.run_out(failures));
    }

    /// Fills it so far that it has room for one at `until`.
    fn fill(&mut self, until: DateTime<Utc>, policy: &AddressPolicy) {
        let empty_at = until + policy.nearly_full();
        self.empty_at = Some(self.empty_at.map_or(empty_at, |known| known.max(empty_at)));
    }

    /// If there is no room for another failure: how many are in it, and when there is.
    pub(crate) fn full(
        &self,
        at: DateTime<Utc>,
        policy: &AddressPolicy,
    ) -> Option<(u32, DateTime<Utc>)> {
        let empty_at = self.empty_at?;
        let until = empty_at - policy.nearly_full();
        if until <= at {
            return None;
        }
        let one = policy.run_out(1).num_milliseconds().max(1);
        let failures = (empty_at - at).num_milliseconds().saturating_add(one - 1) / one;
        Some((u32::try_from(failures).unwrap_or(u32::MAX), until))
    }
}

/// A success takes back at most so many failures of its account in a [`DAY`].
const TYPOS: u32 = 3;
/// Of so many accounts failures are remembered by name in a network. Those of more can't be taken back; they run out.
const ACCOUNTS: usize = 64;
const DAY: TimeDelta = TimeDelta::days(1);

/// What the failures of one account have put in, and how much of it was taken out.
#[derive(Default)]
struct Typed {
    put_in: u32,
    taken_out: u32,
}

#[derive(Default)]
struct Watched {
    bucket: Bucket,
    accounts: HashMap<UserId, Typed>,
    accounts_since: Option<DateTime<Utc>>,
    /// The last throttle that the bucket knows of, its own or another replica's.
    throttled_until: Option<DateTime<Utc>>,
}

impl Watched {
    /// Nothing is to be taken out of what is empty.
    fn forget(&mut self, at: DateTime<Utc>) {
        let is_over = self.accounts_since.is_some_and(|since| at - since >= DAY);
        if is_over || self.bucket.is_empty(at) {
            self.accounts.clear();
            self.accounts_since = None;
        }
    }
}

/// Failures per network, in the memory of this replica until they must throttle.
pub(crate) struct AddressFailures {
    networks: [Cache<String, Arc<Mutex<Watched>>>; WIDTHS],
    policy: AddressPolicy,
}

impl AddressFailures {
    pub(crate) fn new(policy: AddressPolicy) -> Self {
        Self { networks: std::array::from_fn(|_| Cache::new(SUBJECTS)), policy }
    }

    fn known(&self, network: &Network) -> Option<Arc<Mutex<Watched>>> {
        self.networks.get(network.width)?.get(&network.name)
    }

    fn watched(&self, network: &Network) -> Option<Arc<Mutex<Watched>>> {
        let networks = self.networks.get(network.width)?;
        let made = networks.get_or_insert_with(&network.name, || Ok::<_, ()>(Arc::default()));
        made.ok()
    }

    /// Counts a failure, on an account if there is one; answers the throttle that the network earns, if it does: the
    /// failures, and until when.
    pub(crate) fn count(
        &self,
        network: &Network,
        account: Option<UserId>,
        at: DateTime<Utc>,
    ) -> Option<(u32, DateTime<Utc>)> {
        let policy = self.policy.times(network.share);
        let watched = self.watched(network)?;
        let mut watched = lock(&watched);
        watched.forget(at);
        watched.bucket.add(at, &policy);
        watched.accounts_since.get_or_insert(at);
        let has_room = watched.accounts.len() < ACCOUNTS;
        if let Some(id) = account.filter(|id| has_room || watched.accounts.contains_key(id)) {
            let typed = watched.accounts.entry(id).or_default();
            typed.put_in = typed.put_in.saturating_add(1);
        }
        let throttle = watched.bucket.full(at, &policy)?;
        watched.throttled_until = watched.throttled_until.max(Some(throttle.1));
        Some(throttle)
    }

    /// A right password, which takes back what the failures of its account had put in.
    pub(crate) fn succeed(&self, network: &Network, account: UserId, at: DateTime<Utc>) {
        let policy = self.policy.times(network.share);
        let Some(watched) = self.known(network) else { return };
        let mut watched = lock(&watched);
        watched.forget(at);
        let Some(typed) = watched.accounts.get_mut(&account) else { return };
        let back = typed.put_in.min(TYPOS.saturating_sub(typed.taken_out));
        typed.put_in -= back;
        typed.taken_out += back;
        watched.bucket.take_out(back, &policy);
    }

    /// Until when the network must wait; `posted` is the end of the last throttle of it that is in the book.
    pub(crate) fn wait(
        &self,
        network: &Network,
        posted: Option<DateTime<Utc>>,
        at: DateTime<Utc>,
    ) -> Option<DateTime<Utc>> {
        let policy = self.policy.times(network.share);
        let news = posted.filter(|until| *until + policy.nearly_full() > at);
        let watched = if news.is_some() { self.watched(network) } else { self.known(network) }?;
        let mut watched = lock(&watched);
        if let Some(until) = news.filter(|_| news > watched.throttled_until) {
            watched.bucket.fill(until, &policy);
            watched.throttled_until = news;
        }
        Some(watched.bucket.full(at, &policy)?.1)
    }
}

#[cfg(test)]
mod tests;
