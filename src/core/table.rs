//! A bounded hash table over memory that the caller provides, such as shared memory.
//!
//! All shards share the places, so the table can be filled completely whatever the keys are. Each
//! shard chains its entries and has a lock, which is held during all work on it. A table of n
//! places has √n shards, so that visiting all shards, or on average all entries of one, takes √n
//! steps.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;

use super::vacant::{AtomicI64, AtomicU32, AtomicU64, END, Vacant, link_to, place_of};

/// A place for an entry.
pub type Slot<K, V> = Option<(K, V)>;

/// A value that a table keeps.
pub trait Value: Copy {
    /// The time from which the entry means the same as its absence, so that another may take its
    /// place. By default never.
    fn stale_from(&self) -> i64 {
        i64::MAX
    }
}

/// The state of a [`crate::core::gcra::Rate`].
impl Value for i64 {
    fn stale_from(&self) -> i64 {
        *self
    }
}

impl Value for uuid::Uuid {}

/// The table has no vacant place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Hashes `key` to the same value in every process and at every start.
pub fn hash<K: Hash>(key: &K) -> u64 {
    seeded_hash(0, key)
}

/// Hashes `key` so that collisions cannot be found without knowing the seed.
pub fn seeded_hash<K: Hash>(seed: u64, key: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    key.hash(&mut hasher);
    hasher.finish()
}

/// The dimensions of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Places, all of which can be filled.
    pub places: usize,
    /// Shards, each with its own lock.
    pub shards: usize,
    /// Chains in each shard.
    pub chains: usize,
}

impl Shape {
    /// The dimensions of a table for `places` entries, at least one.
    #[must_use]
    pub const fn new(places: usize) -> Self {
        let places = if places == 0 { 1 } else { places };
        let shards = places.isqrt();
        Self { places, shards, chains: places.div_ceil(shards) }
    }
}

/// The memory of a table.
pub struct Memory<'a, K, V> {
    /// The head of the stack of vacant places: see [`Vacant`].
    pub vacant: &'a [AtomicU64; 2],
    /// For each shard, a time before which none of its entries is stale.
    pub bounds: &'a [AtomicI64],
    /// The first link of each chain, shard by shard.
    pub heads: &'a [Cell<u32>],
    /// From each place to the next one in its chain.
    pub links: &'a [AtomicU32],
    /// The places. Only the holder of a shard's lock accesses the places of its entries.
    pub slots: &'a [Cell<Slot<K, V>>],
}

/// The locks of a table.
pub trait Locks {
    /// A held lock, released on drop.
    type Held;

    /// Waits for the lock of a shard and takes it.
    fn lock(&self, shard: usize) -> Self::Held;
}

/// A hash table, divided into shards.
pub struct Shards<'a, K, V, L> {
    memory: Memory<'a, K, V>,
    seed: u64,
    locks: L,
}

impl<'a, K: Copy + Eq + Hash, V: Value, L: Locks> Shards<'a, K, V, L> {
    /// A table over memory and locks of the same [`Shape`].
    pub const fn new(memory: Memory<'a, K, V>, seed: u64, locks: L) -> Self {
        Self { memory, seed, locks }
    }

    /// Initialises an empty table. All slots must be `None`, and no other process may use the table
    /// yet.
    pub fn clear(&self) {
        self.memory.heads.iter().for_each(|head| head.set(END));
        self.memory.bounds.iter().for_each(|bound| bound.store(i64::MAX, Relaxed));
        self.memory.places().fill();
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.capacity() - self.memory.places().len().min(self.capacity())
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Largest number of entries.
    pub const fn capacity(&self) -> usize {
        self.memory.slots.len()
    }

    /// Runs `work` on the shard of `key`, with its lock held.
    pub fn with<R>(&self, key: &K, work: impl FnOnce(&Table<'_, K, V>) -> R) -> R {
        self.on(self.shard(key), work)
    }

    /// As [`Shards::with`]; but if `work` returns `Full`, removes stale entries of any shard and
    /// repeats it.
    ///
    /// # Errors
    /// `Full` if all places are taken and no entry is stale at `now`.
    pub fn with_room<R>(
        &self,
        key: &K,
        now: i64,
        mut work: impl FnMut(&Table<'_, K, V>) -> Result<R, Full>,
    ) -> Result<R, Full> {
        loop {
            let done = self.with(key, &mut work);
            // Another process may have taken the freed place first, hence the loop.
            if done.is_ok() || !self.evict_stale(self.shard(key), now) {
                return done;
            }
        }
    }

    /// Runs `work` on each shard in turn, with that shard's lock held.
    pub fn each<R>(&self, mut work: impl FnMut(&Table<'_, K, V>) -> R) -> Vec<R> {
        (0..self.memory.bounds.len()).map(|shard| self.on(shard, &mut work)).collect()
    }

    /// Removes the stale entries of one shard, looking from `first` on. Returns whether any place
    /// is vacant then.
    fn evict_stale(&self, first: usize, now: i64) -> bool {
        let shards = self.memory.bounds.len();
        let made = (first..shards).chain(0..first).any(|shard| {
            self.memory.bounds[shard].load(Relaxed) <= now
                && self.on(shard, |table| table.sweep(now))
        });
        made || !self.memory.places().is_empty()
    }

    fn on<R>(&self, shard: usize, work: impl FnOnce(&Table<'_, K, V>) -> R) -> R {
        let _held = self.locks.lock(shard);
        work(&Table { memory: &self.memory, seed: self.seed, shard })
    }

    fn shard(&self, key: &K) -> usize {
        scale(seeded_hash(self.seed, key) >> 32, self.memory.bounds.len())
    }
}

/// Maps 32 bits evenly to the range below `numbers` (Lemire, "Fast random integer generation in an
/// interval", 2019).
fn scale(bits: u64, numbers: usize) -> usize {
    usize::try_from((bits * numbers as u64) >> 32).unwrap_or(0)
}

impl<K, V> Memory<'_, K, V> {
    fn places(&self) -> Vacant<'_> {
        Vacant::new(&self.vacant[0], &self.vacant[1], self.links)
    }
}

/// One shard of a table. Its lock is held.
pub struct Table<'a, K, V> {
    memory: &'a Memory<'a, K, V>,
    seed: u64,
    shard: usize,
}

/// An entry, found by following a chain.
#[derive(Clone, Copy)]
struct Found<K, V> {
    chain: usize,
    /// The previous place in the chain.
    before: Option<usize>,
    place: usize,
    key: K,
    value: V,
}

impl<K: Copy + Eq + Hash, V: Value> Table<'_, K, V> {
    /// The value of `key`, if it has an entry.
    pub fn find(&self, key: &K) -> Option<V> {
        self.walk(self.chain(key)).find(|found| found.key == *key).map(|found| found.value)
    }

    /// Runs `work` on the value of `key` and stores the changed value. `None` if there is no entry.
    pub fn modify<R>(&self, key: &K, work: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut found = self.walk(self.chain(key)).find(|found| found.key == *key)?;
        let done = work(&mut found.value);
        self.set(found.place, found.key, found.value);
        Some(done)
    }

    /// Runs `work` on the value of `key` and stores the changed value. `new` makes the value if
    /// there is no entry.
    ///
    /// # Errors
    /// `Full` if there is no entry and no vacant place. Then neither closure is called.
    pub fn entry<R>(
        &self,
        key: K,
        new: impl FnOnce() -> V,
        work: impl FnOnce(&mut V) -> R,
    ) -> Result<R, Full> {
        self.entry_at(i64::MIN, key, new, work)
    }

    /// As [`Table::entry`], except that a new entry may replace one that is stale at `now`, and an
    /// entry that is stale afterwards is removed.
    ///
    /// # Errors
    /// `Full` if there is no entry and no vacant place. Then neither closure is called.
    pub fn entry_at<R>(
        &self,
        now: i64,
        key: K,
        new: impl FnOnce() -> V,
        work: impl FnOnce(&mut V) -> R,
    ) -> Result<R, Full> {
        let chain = self.chain(&key);
        let mut stale = None;
        let mut own = None;
        for found in self.walk(chain) {
            if found.key == key {
                own = Some(found);
                break;
            }
            if stale.is_none() && found.value.stale_from() <= now {
                stale = Some(found);
            }
        }
        let mut entry = match own.or(stale) {
            Some(found) if found.key == key => found,
            Some(found) => Found { key, value: new(), ..found },
            None => {
                let place = self.memory.places().pop().ok_or(Full)?;
                let head = &self.memory.heads[chain];
                self.memory.links[place].store(head.replace(link_to(place)), Relaxed);
                Found { chain, before: None, place, key, value: new() }
            }
        };
        let done = work(&mut entry.value);
        if entry.value.stale_from() <= now {
            self.vacate(&entry);
        } else {
            self.set(entry.place, key, entry.value);
        }
        Ok(done)
    }

    /// Removes the entry of `key` and returns its value.
    pub fn remove(&self, key: &K) -> Option<V> {
        let found = self.walk(self.chain(key)).find(|found| found.key == *key)?;
        self.vacate(&found);
        Some(found.value)
    }

    /// Removes and returns the entries for which `wanted` returns true.
    pub fn take(&self, mut wanted: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let mut taken = Vec::new();
        self.retain(|key, value| {
            let wanted = wanted(key, value);
            if wanted {
                taken.push((*key, *value));
            }
            !wanted
        });
        taken
    }

    /// Removes the entries for which `kept` returns false.
    pub fn retain(&self, mut kept: impl FnMut(&K, &V) -> bool) {
        for chain in self.chains() {
            let mut before = None;
            while let Some(found) = self.next(chain, before) {
                if kept(&found.key, &found.value) {
                    before = Some(found.place);
                } else {
                    self.vacate(&found);
                }
            }
        }
    }

    /// The entries of the shard, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.chains().flat_map(|chain| self.walk(chain)).map(|found| (found.key, found.value))
    }

    /// The entries in the chain of `key`: all whose keys have the same hash, and possibly others.
    pub fn neighbours(&self, key: &K) -> impl Iterator<Item = (K, V)> {
        self.walk(self.chain(key)).map(|found| (found.key, found.value))
    }

    /// Whether at least three quarters of the places of the whole table are taken.
    pub fn is_nearly_full(&self) -> bool {
        self.memory.places().len() <= self.memory.slots.len() / 4
    }

    /// Removes stale entries. Returns whether there were any.
    fn sweep(&self, now: i64) -> bool {
        let (mut bound, mut found) = (i64::MAX, false);
        self.retain(|_, value| {
            let is_stale = value.stale_from() <= now;
            found |= is_stale;
            bound = if is_stale { bound } else { bound.min(value.stale_from()) };
            !is_stale
        });
        self.memory.bounds[self.shard].store(bound, Relaxed);
        found
    }

    fn set(&self, place: usize, key: K, value: V) {
        self.memory.slots[place].set(Some((key, value)));
        let bound = &self.memory.bounds[self.shard];
        if value.stale_from() < bound.load(Relaxed) {
            bound.store(value.stale_from(), Relaxed);
        }
    }

    fn vacate(&self, found: &Found<K, V>) {
        let next = self.memory.links[found.place].load(Relaxed);
        match found.before {
            Some(before) => self.memory.links[before].store(next, Relaxed),
            None => self.memory.heads[found.chain].set(next),
        }
        self.memory.slots[found.place].set(None);
        self.memory.places().push(found.place);
    }

    /// The entries of a chain.
    fn walk(&self, chain: usize) -> impl Iterator<Item = Found<K, V>> {
        let mut before = None;
        std::iter::from_fn(move || {
            let found = self.next(chain, before)?;
            before = Some(found.place);
            Some(found)
        })
    }

    fn next(&self, chain: usize, before: Option<usize>) -> Option<Found<K, V>> {
        let place = place_of(match before {
            Some(before) => self.memory.links[before].load(Relaxed),
            None => self.memory.heads[chain].get(),
        })?;
        let (key, value) = self.memory.slots[place].get()?;
        Some(Found { chain, before, place, key, value })
    }

    /// The chains of this shard.
    fn chains(&self) -> std::ops::Range<usize> {
        let chains = self.memory.heads.len() / self.memory.bounds.len();
        self.shard * chains..(self.shard + 1) * chains
    }

    /// The chain of a key of this shard.
    fn chain(&self, key: &K) -> usize {
        let chains = self.chains();
        let low = seeded_hash(self.seed, key) & u64::from(u32::MAX);
        chains.start + scale(low, chains.len())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A key whose hash is that of its group only.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Key(u16, u16);

    impl Hash for Key {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.0.hash(state);
        }
    }

    /// A value that is never stale.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    struct Count(u32);
    impl Value for Count {}

    /// Locks that panic if taken while held, and count how often they are taken.
    struct Counted {
        held: Vec<Cell<bool>>,
        count: Cell<usize>,
    }

    struct Held<'a>(&'a Cell<bool>);

    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.0.set(false);
        }
    }

    impl<'a> Locks for &'a Counted {
        type Held = Held<'a>;

        fn lock(&self, shard: usize) -> Held<'a> {
            assert!(!self.held[shard].replace(true), "a shard within itself");
            self.count.set(self.count.get() + 1);
            Held(&self.held[shard])
        }
    }

    struct Owned<V> {
        vacant: [AtomicU64; 2],
        bounds: Vec<AtomicI64>,
        heads: Vec<Cell<u32>>,
        links: Vec<AtomicU32>,
        slots: Vec<Cell<Slot<Key, V>>>,
        locks: Counted,
    }

    impl<V: Value> Owned<V> {
        fn new(places: usize) -> Self {
            let Shape { places, shards, chains } = Shape::new(places);
            Self {
                vacant: Default::default(),
                bounds: (0..shards).map(|_| AtomicI64::new(0)).collect(),
                heads: vec![Cell::new(7); shards * chains],
                links: (0..places).map(|_| AtomicU32::new(7)).collect(),
                slots: vec![Cell::new(None); places],
                locks: Counted { held: vec![Cell::new(false); shards], count: Cell::new(0) },
            }
        }

        fn table(&self, seed: u64) -> Shards<'_, Key, V, &Counted> {
            let Self { vacant, bounds, heads, links, slots, locks } = self;
            let table = Shards::new(Memory { vacant, bounds, heads, links, slots }, seed, locks);
            table.clear();
            table
        }
    }

    type Limits<'a> = Shards<'a, Key, i64, &'a Counted>;

    /// Makes an entry that is stale from `until` on, or extends it. Returns whether there was room.
    fn put(table: &Limits<'_>, now: i64, key: Key, until: i64) -> bool {
        let last = |place: &mut i64| *place = until.max(*place);
        table.with_room(&key, now, |shard| shard.entry_at(now, key, || 0, last)).is_ok()
    }

    /// A key for each degree of collision: all hashes equal, five hashes, and one hash for each
    /// key.
    fn crowded(key: u16) -> [Key; 3] {
        [Key(0, key), Key(key % 5, key), Key(key, key)]
    }

    #[test]
    fn a_table_of_any_size_can_be_filled_under_any_seed() {
        let sizes = (1..=130).chain([255, 256, 257, 1000, 4096]);
        for (size, seed) in sizes.flat_map(|size| (0..24).map(move |seed| (size, seed))) {
            let memory = Owned::new(size);
            let table = memory.table(seed);
            let key = |n: usize| Key(u16::try_from(n).unwrap_or(0), 0);
            assert!((0..size).all(|n| put(&table, 0, key(n), 10)), "{size} places, seed {seed}");
            assert!(!put(&table, 0, key(size), 10), "{size} places, seed {seed}");
            assert_eq!((table.len(), table.capacity()), (size, size));
            assert!((0..size).all(|n| table.with(&key(n), |t| t.find(&key(n))) == Some(10)));
        }
    }

    #[test]
    fn colliding_keys_can_fill_the_table() {
        for kind in 0..3 {
            let memory = Owned::new(200);
            let table = memory.table(1);
            assert!((0..200).all(|n| put(&table, 0, crowded(n)[kind], 10)));
            assert!(!put(&table, 0, crowded(200)[kind], 10));
        }
    }

    #[test]
    fn the_one_stale_entry_is_found_wherever_it_is() {
        for (stale, kind) in (0..100).flat_map(|stale| (0..3).map(move |kind| (stale, kind))) {
            let memory = Owned::new(100);
            let table = memory.table(u64::from(stale));
            let until = |n| if n == stale { 5 } else { 10 };
            assert!((0..100).all(|n| put(&table, 0, crowded(n)[kind], until(n))));
            assert!(!put(&table, 4, crowded(100)[kind], 10));
            assert!(put(&table, 5, crowded(100)[kind], 10));
            assert!(!put(&table, 5, crowded(101)[kind], 10));
            assert!(!put(&table, 5, crowded(stale)[kind], 10));
        }
    }

    #[test]
    fn a_full_table_locks_no_other_shard_unless_one_may_hold_stale_entries() {
        let memory = Owned::new(4096);
        let table = memory.table(1);
        assert!((0..4096).all(|n| put(&table, 0, Key(n, 0), 10 + i64::from(n))));
        for n in 4096..5000 {
            let before = memory.locks.count.replace(0);
            assert!(before > 0 && !put(&table, 9, Key(n, 0), 10));
            assert_eq!(memory.locks.count.get(), 1);
        }
        // Extending an entry leaves its shard's bound too early: the shard is swept once.
        assert!(put(&table, 9, Key(0, 0), 99));
        memory.locks.count.set(0);
        assert!(!put(&table, 10, Key(4096, 0), 99) && !put(&table, 10, Key(4096, 0), 99));
        assert_eq!(memory.locks.count.get(), 3);
    }

    #[test]
    fn an_entry_that_is_stale_at_once_takes_no_place() {
        let memory = Owned::new(4);
        let table = memory.table(1);
        assert!((0..100).all(|n| put(&table, 10, Key(n, 0), 10)));
        assert_eq!(table.len(), 0);
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Add(u16),
        Remove(u16),
        Modify(u16),
        TakeEven,
    }

    proptest! {
        // A value is the time from which its entry is stale. Entries that are not stale are never
        // lost, and the table is full only if no entry is stale.
        #[test]
        fn only_stale_entries_give_way(
            places in 1usize..80,
            seed: u64,
            kind in 0usize..3,
            additions in prop::collection::vec((0u16..120, 1i64..40, 0i64..3), 0..400),
        ) {
            let memory = Owned::new(places);
            let table = memory.table(seed);
            let mut map = HashMap::<Key, i64>::new();
            let mut now = 0;
            for (key, lasts, passes) in additions {
                now += passes;
                let key = crowded(key)[kind];
                map.retain(|_, until| *until > now);
                let room = map.len() < places || map.contains_key(&key);
                prop_assert_eq!(put(&table, now, key, now + lasts), room);
                if room {
                    let until = map.entry(key).or_default();
                    *until = (now + lasts).max(*until);
                }
                prop_assert!(table.len() >= map.len());
                for (key, until) in &map {
                    prop_assert_eq!(table.with(key, |shard| shard.find(key)), Some(*until));
                }
            }
            let all: Vec<_> = table.each(|shard| shard.iter().collect::<Vec<_>>()).concat();
            prop_assert_eq!(all.len(), table.len());
        }

        #[test]
        fn behaves_like_a_hash_map(
            places in 1usize..60,
            seed: u64,
            kind in 0usize..3,
            operations in prop::collection::vec(
                prop_oneof![
                    9 => (0u16..80).prop_map(Operation::Add),
                    3 => (0u16..80).prop_map(Operation::Remove),
                    3 => (0u16..80).prop_map(Operation::Modify),
                    1 => Just(Operation::TakeEven),
                ],
                0..300,
            ),
        ) {
            let memory = Owned::new(places);
            let table = memory.table(seed);
            let mut map = HashMap::<Key, Count>::new();
            for operation in operations {
                match operation {
                    Operation::Add(key) => {
                        let key = crowded(key)[kind];
                        let room = map.len() < places || map.contains_key(&key);
                        let add = |count: &mut Count| count.0 += 1;
                        let added = table.with(&key, |shard| shard.entry(key, || Count(0), add));
                        prop_assert_eq!(added.is_ok(), room);
                        if room {
                            map.entry(key).or_insert(Count(0)).0 += 1;
                        }
                    }
                    Operation::Remove(key) => {
                        let key = crowded(key)[kind];
                        let removed = table.with(&key, |shard| shard.remove(&key));
                        prop_assert_eq!(removed, map.remove(&key));
                    }
                    Operation::Modify(key) => {
                        let key = crowded(key)[kind];
                        let double = |count: &mut Count| count.0 *= 2;
                        let found = table.with(&key, |shard| shard.modify(&key, double));
                        prop_assert_eq!(found.is_some(), map.contains_key(&key));
                        map.entry(key).and_modify(double);
                    }
                    Operation::TakeEven => {
                        let even = |key: &Key| key.1.is_multiple_of(2);
                        let mut taken = table.each(|shard| shard.take(|key, _| even(key))).concat();
                        let mut expected: Vec<_> = map.extract_if(|key, _| even(key)).collect();
                        taken.sort_unstable();
                        expected.sort_unstable();
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(table.len(), map.len());
                let nearly_full = map.len() + places / 4 >= places;
                prop_assert_eq!(table.with(&Key(0, 0), |t| t.is_nearly_full()), nearly_full);
            }
            let all: HashMap<_, _> = table.each(|t| t.iter().collect::<Vec<_>>()).concat().into_iter().collect();
            prop_assert_eq!(all, map);
        }
    }
}
