//! Keys that were fetched a moment ago: bounded in number and in time.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

/// At most so many values, none of them older than the given time.
///
/// The age is what lets an erasure that another process carried out take effect in this one.
pub(super) struct Remembered<K, V> {
    values: Cache<K, (V, Instant)>,
    at_most: Duration,
}

impl<K: Eq + Hash + Clone, V: Clone> Remembered<K, V> {
    pub(super) fn new(capacity: usize, at_most: Duration) -> Self {
        Self { values: Cache::new(capacity), at_most }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let (value, since) = self.values.get(key)?;
        if since.elapsed() < self.at_most {
            return Some(value);
        }
        self.values.remove(key);
        None
    }

    pub(super) fn put(&self, key: K, value: V, since: Instant) {
        self.values.insert(key, (value, since));
    }

    pub(super) fn forget(&self, key: &K) {
        self.values.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_for_their_time_and_in_their_number() {
        let keys = Remembered::new(100, Duration::from_secs(60));
        let now = Instant::now();
        keys.put(1, 'a', now);
        keys.put(2, 'b', now.checked_sub(Duration::from_secs(60)).unwrap());
        assert_eq!(keys.get(&1), Some('a'));
        assert_eq!(keys.get(&2), None, "too old");
        keys.forget(&1);
        assert_eq!(keys.get(&1), None);
        for key in 0..1_000 {
            keys.put(key, 'c', now);
        }
        assert!(keys.values.len() <= 200, "{}", keys.values.len());
    }
}
