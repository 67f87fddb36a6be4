//! Keys that were fetched a moment ago: bounded in number and in time.

use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use quick_cache::sync::Cache;

/// At most so many values, none of them older than the given time.
///
/// The age is what lets an erasure that another process carried out take effect in this one.
pub(super) struct Remembered<K, V> {
    values: Cache<K, (V, Instant)>,
    at_most: Duration,
    /// How often anything was forgotten. A value that was asked for before is not put in after it.
    forgotten: AtomicU64,
}

/// The moment in which a value was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    at: Instant,
    forgotten: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> Remembered<K, V> {
    pub(super) fn new(capacity: usize, at_most: Duration) -> Self {
        Self { values: Cache::new(capacity), at_most, forgotten: AtomicU64::new(0) }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let (value, since) = self.values.get(key)?;
        if since.elapsed() < self.at_most {
            return Some(value);
        }
        self.values.remove(key);
        None
    }

    /// To be called before the value is asked for.
    pub(super) fn ask(&self) -> Asked {
        Asked { at: Instant::now(), forgotten: self.forgotten.load(Ordering::SeqCst) }
    }

    /// Remembers what was found, unless something was forgotten meanwhile: the answer may be from
    /// before.
    pub(super) fn put(&self, key: K, value: V, asked: Asked) {
        self.values.insert(key.clone(), (value, asked.at));
        if self.forgotten.load(Ordering::SeqCst) != asked.forgotten {
            self.values.remove(&key);
        }
    }

    pub(super) fn forget(&self, key: &K) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.values.remove(key);
    }

    pub(super) fn forget_all(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        self.values.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_for_their_time_and_in_their_number() {
        let keys = Remembered::new(100, Duration::from_secs(60));
        let now = keys.ask();
        let long_ago = now.at.checked_sub(Duration::from_secs(60)).unwrap();
        keys.put(1, 'a', now);
        keys.put(2, 'b', Asked { at: long_ago, ..now });
        assert_eq!(keys.get(&1), Some('a'));
        assert_eq!(keys.get(&2), None, "too old");
        for key in 0..1_000 {
            keys.put(key, 'c', now);
        }
        assert!(keys.values.len() <= 200, "{}", keys.values.len());
    }

    #[test]
    fn what_is_forgotten_does_not_come_back_with_an_answer_from_before() {
        let keys = Remembered::new(100, Duration::from_secs(60));
        let before = keys.ask();
        keys.put(1, 'a', before);
        keys.forget(&1);
        assert_eq!(keys.get(&1), None);
        keys.put(1, 'a', before);
        assert_eq!(keys.get(&1), None, "it was asked for before it was forgotten");
        keys.put(1, 'a', keys.ask());
        assert_eq!(keys.get(&1), Some('a'));
        keys.forget_all();
        assert_eq!(keys.get(&1), None);
    }
}
