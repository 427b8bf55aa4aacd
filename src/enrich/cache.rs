//! One cache: each entry is bounded by time, and all caches of a [`Clock`] together by bytes.
//!
//! Shared by the threads that read it; one thread puts. What an entry takes is charged by its worst case: the table's
//! slots, and blocks as large as the allocator may make them.

use std::mem::size_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// What is known of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<V> {
    /// What it is.
    Value(V),
    /// That there is nothing.
    Absent,
    /// That nobody could say it a moment ago.
    Failed,
}

impl<V> Found<V> {
    /// The value, where there is one.
    pub fn value(self) -> Option<V> {
        match self {
            Found::Value(value) => Some(value),
            Found::Absent | Found::Failed => None,
        }
    }

    /// The same with another form of the value.
    pub fn map<T>(self, map: impl FnOnce(V) -> T) -> Found<T> {
        self.and_then(|value| Some(map(value)))
    }

    /// A value that `of` takes for none is absent.
    pub fn and_then<T>(self, of: impl FnOnce(V) -> Option<T>) -> Found<T> {
        match self {
            Found::Value(value) => of(value).map_or(Found::Absent, Found::Value),
            Found::Absent => Found::Absent,
            Found::Failed => Found::Failed,
        }
    }
}

/// A value that knows the memory behind it.
pub trait Weigh {
    /// Bytes on the heap.
    fn heap(&self) -> usize;
}

/// What a heap block of so many bytes takes: size classes of mimalloc are an eighth apart, in steps of 16 at least, and pages
/// whose blocks come and go are not quite full.
pub fn block(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + bytes / 4).next_multiple_of(16) }
}

/// Tells old entries from new ones, by the bytes that were put since. An era is a quarter of the limit.
pub struct Clock {
    era: usize,
    put: AtomicUsize,
}

impl Clock {
    /// `limit` in bytes, of all caches with this clock.
    pub fn new(limit: usize) -> Self {
        Clock { era: (limit / 4).max(1), put: AtomicUsize::new(0) }
    }

    fn era(&self) -> usize {
        self.put.load(Ordering::Relaxed) / self.era
    }
}

/// By DID.
pub struct Cache<V> {
    map: DashMap<Box<str>, Entry<V>>,
    bytes: AtomicUsize,
    clock: Arc<Clock>,
}

struct Entry<V> {
    found: Found<V>,
    /// Milliseconds since 1970.
    until_ms: i64,
    /// The era of its last use.
    used: AtomicUsize,
}

impl<V: Clone + Weigh> Cache<V> {
    /// A table is at least 7/16 full when it has grown, and has a byte of its own for each slot.
    const SLOT: usize = (size_of::<Box<str>>() + size_of::<Entry<V>>() + 1) * 16 / 7;

    /// An empty cache that ages with `clock`.
    pub fn new(clock: Arc<Clock>) -> Self {
        Cache { map: DashMap::new(), bytes: AtomicUsize::new(0), clock }
    }

    /// `None`: not known, or no longer.
    pub fn get(&self, did: &str, now_ms: i64) -> Option<Found<V>> {
        let entry = self.map.get(did)?;
        if entry.until_ms <= now_ms {
            return None;
        }
        entry.used.store(self.clock.era(), Ordering::Relaxed);
        Some(entry.found.clone())
    }

    /// Keeps an entry, in place of an older one. Whoever puts calls [`Cache::shrink`] when it is too much.
    pub fn put(&self, did: &str, found: Found<V>, until_ms: i64) {
        let cost = Self::cost(did, &found);
        self.clock.put.fetch_add(cost, Ordering::Relaxed);
        let entry = Entry { found, until_ms, used: AtomicUsize::new(self.clock.era()) };
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        if let Some(old) = self.map.insert(did.into(), entry) {
            self.bytes.fetch_sub(Self::cost(did, &old.found), Ordering::Relaxed);
        }
    }

    /// Drops an entry.
    pub fn remove(&self, did: &str) {
        if let Some((_, old)) = self.map.remove(did) {
            self.bytes.fetch_sub(Self::cost(did, &old.found), Ordering::Relaxed);
        }
    }

    /// Entries, old ones included.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// What all entries take.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Every entry that still holds at `now_ms`, until `each` says `false`.
    pub fn each(&self, now_ms: i64, mut each: impl FnMut(&str, &Found<V>, i64) -> bool) {
        for entry in self.map.iter() {
            if entry.until_ms > now_ms && !each(entry.key(), &entry.found, entry.until_ms) {
                return;
            }
        }
    }

    /// Makes room: what was not used in the last two eras goes, and then as many others as it takes to hold `left` bytes.
    pub fn shrink(&self, mut left: usize) {
        let era = self.clock.era();
        let mut gone = 0;
        self.map.retain(|did, entry| {
            let cost = Self::cost(did, &entry.found);
            let keep = cost <= left && entry.used.load(Ordering::Relaxed) + 1 >= era;
            if keep {
                left -= cost;
            } else {
                gone += cost;
            }
            keep
        });
        self.bytes.fetch_sub(gone, Ordering::Relaxed);
    }

    fn cost(did: &str, found: &Found<V>) -> usize {
        let heap = if let Found::Value(value) = found { value.heap() } else { 0 };
        Self::SLOT + block(did.len()) + heap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weigh for usize {
        fn heap(&self) -> usize {
            *self
        }
    }

    const SLOT: usize = Cache::<usize>::SLOT;

    /// Puts, and makes room as the caches' owner does.
    fn put(cache: &Cache<usize>, limit: usize, did: &str, heap: usize) {
        cache.put(did, Found::Value(heap), 1_000);
        if cache.bytes() > limit {
            cache.shrink(limit - limit / 4);
        }
    }

    #[test]
    fn holds_its_limit_and_keeps_what_is_used() {
        let limit = 100 * (SLOT + 16);
        let cache = Cache::new(Arc::new(Clock::new(limit)));
        for i in 0..1000 {
            put(&cache, limit, &format!("did:{i}"), 0);
            assert!(cache.len() <= 100 && cache.bytes() <= limit, "{}", cache.len());
            assert_eq!(cache.get("did:0", 0), Some(Found::Value(0)), "asked for all the time, at {i}");
        }
        assert!(cache.len() > 10, "{}", cache.len());
    }

    #[test]
    fn a_cache_whose_every_entry_is_used_still_makes_room() {
        let limit = 8 * (SLOT + 16);
        let cache = Cache::new(Arc::new(Clock::new(limit)));
        for i in 0..100 {
            put(&cache, limit, &format!("did:{i}"), 0);
            for j in 0..100 {
                cache.get(&format!("did:{j}"), 0);
            }
            assert!((4..=8).contains(&cache.len()) || i < 4, "{}", cache.len());
        }
    }

    /// Few large entries are as much as many small ones, and one that is larger than everything is not kept.
    #[test]
    fn every_byte_is_counted_once() {
        let limit = 1 << 20;
        let cache = Cache::new(Arc::new(Clock::new(limit)));
        for i in 0..5_000_usize {
            put(&cache, limit, &format!("did:{}", i % 700), i * 7919 % 20_000);
            assert!(cache.bytes() <= limit);
            if i % 3 == 0 {
                cache.remove(&format!("did:{}", i % 350));
            }
        }
        let mut sum = 0;
        cache.each(0, |did, found, _| {
            sum += Cache::cost(did, found);
            true
        });
        assert_eq!(cache.bytes(), sum);
        put(&cache, limit, "did:large", 2 * limit);
        assert!(cache.get("did:large", 0).is_none() && cache.bytes() <= limit);
        cache.shrink(0);
        assert_eq!((cache.bytes(), cache.len()), (0, 0));
    }

    #[test]
    fn forgets_in_time() {
        let cache = Cache::new(Arc::new(Clock::new(1 << 20)));
        cache.put("a", Found::Value(1), 50);
        cache.put("b", Found::Absent, 50);
        assert_eq!(
            (cache.get("a", 49), cache.get("b", 49), cache.get("c", 49)),
            (Some(Found::Value(1)), Some(Found::Absent), None)
        );
        assert_eq!((cache.get("a", 50), cache.get("b", 50)), (None, None));
        cache.put("a", Found::Value(2), 90);
        cache.remove("b");
        assert_eq!((cache.get("a", 60), cache.len()), (Some(Found::Value(2)), 1));
    }
}
