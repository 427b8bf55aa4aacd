//! One cache: bounded by entries, each entry by time.

use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// By DID. Many read; one thread puts.
pub struct Cache<V> {
    map: DashMap<Box<str>, Entry<V>>,
    limit: usize,
    /// Counts what was put. An era is a quarter of the limit: what was not used in the last two goes first.
    puts: AtomicUsize,
}

struct Entry<V> {
    /// `None`: it is known that there is nothing.
    value: Option<V>,
    /// Milliseconds since 1970.
    until_ms: i64,
    used: AtomicUsize,
}

impl<V: Clone> Cache<V> {
    /// Keeps `limit` entries at most.
    pub fn new(limit: usize) -> Self {
        Cache { map: DashMap::new(), limit, puts: AtomicUsize::new(0) }
    }

    /// `None`: not known, or no longer.
    pub fn get(&self, did: &str, now_ms: i64) -> Option<Option<V>> {
        let entry = self.map.get(did)?;
        if entry.until_ms <= now_ms {
            return None;
        }
        entry.used.store(self.era(), Ordering::Relaxed);
        Some(entry.value.clone())
    }

    pub fn put(&self, did: &str, value: Option<V>, until_ms: i64) {
        if self.map.len() >= self.limit && !self.map.contains_key(did) {
            self.sweep();
        }
        self.puts.fetch_add(1, Ordering::Relaxed);
        let used = AtomicUsize::new(self.era());
        self.map.insert(did.into(), Entry { value, until_ms, used });
    }

    fn era(&self) -> usize {
        self.puts.load(Ordering::Relaxed) / self.quarter()
    }

    fn quarter(&self) -> usize {
        (self.limit / 4).max(1)
    }

    pub fn remove(&self, did: &str) {
        self.map.remove(did);
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Every entry that still holds at `now_ms`, until `each` says `false`.
    pub fn each(&self, now_ms: i64, mut each: impl FnMut(&str, Option<&V>, i64) -> bool) {
        for entry in self.map.iter() {
            if entry.until_ms > now_ms && !each(entry.key(), entry.value.as_ref(), entry.until_ms) {
                return;
            }
        }
    }

    /// Makes room: at least a quarter of the entries go, those first that nobody asked for lately.
    fn sweep(&self) {
        let era = self.era();
        let mut left = self.limit - self.quarter();
        self.map.retain(|_, entry| {
            let keep = left > 0 && entry.used.load(Ordering::Relaxed) + 1 >= era;
            left -= keep as usize;
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_its_limit_and_keeps_what_is_used() {
        let cache = Cache::new(100);
        for i in 0..1000 {
            cache.put(&format!("did:{i}"), Some(i), 1_000);
            assert!(cache.len() <= 100, "{}", cache.len());
            assert_eq!(cache.get("did:0", 0), Some(Some(0)), "asked for all the time, at {i}");
        }
        assert!(cache.len() > 10, "{}", cache.len());
    }

    #[test]
    fn a_cache_whose_every_entry_is_used_still_makes_room() {
        let cache = Cache::new(8);
        for i in 0..100 {
            cache.put(&format!("did:{i}"), Some(i), 1_000);
            for j in 0..100 {
                cache.get(&format!("did:{j}"), 0);
            }
            assert!(cache.len() <= 8);
            assert_eq!(cache.get(&format!("did:{i}"), 0), Some(Some(i)), "the last one is there");
        }
    }

    #[test]
    fn forgets_in_time() {
        let cache = Cache::new(10);
        cache.put("a", Some(1), 50);
        cache.put("b", None, 50);
        assert_eq!((cache.get("a", 49), cache.get("b", 49), cache.get("c", 49)), (Some(Some(1)), Some(None), None));
        assert_eq!((cache.get("a", 50), cache.get("b", 50)), (None, None));
        cache.put("a", Some(2), 90);
        cache.remove("b");
        assert_eq!((cache.get("a", 60), cache.len()), (Some(Some(2)), 1));
    }
}
