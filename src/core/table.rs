//! A bounded hash table in memory that it is given: what shared memory can hold.
//!
//! It has room for as many entries as it has places, whatever their keys are: the places are common
//! to all, and each shard chains those of its entries. Each shard has a lock, under which all work on
//! it is done. A table of n places has √n shards, so that work on all shards, or on all entries of
//! one, takes √n steps.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;

use super::vacant::{AtomicI64, AtomicU32, AtomicU64, END, Vacant, link_to, place_of};

/// A place for an entry.
pub type Slot<K, V> = Option<(K, V)>;

/// A value that a table keeps.
pub trait Value: Copy {
    /// The time from which on the entry says no more than its absence would: then it may give its
    /// place to another. Never, if not said otherwise.
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

/// There is no place left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A hash that is the same in every process and at every start.
pub fn hash<K: Hash>(key: &K) -> u64 {
    seeded_hash(0, key)
}

/// A hash whose collisions cannot be found without the seed.
pub fn seeded_hash<K: Hash>(seed: u64, key: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(seed);
    key.hash(&mut hasher);
    hasher.finish()
}

/// How many parts a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Places, all of which can be filled.
    pub places: usize,
    /// Parts, each under a lock of its own.
    pub shards: usize,
    /// Chains in each of them.
    pub chains: usize,
}

impl Shape {
    /// Of a table for so many entries.
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
    /// For each shard a time before which none of its entries is stale.
    pub bounds: &'a [AtomicI64],
    /// The beginnings of the chains of all shards.
    pub heads: &'a [Cell<u32>],
    /// From each place to the next in its chain.
    pub links: &'a [AtomicU32],
    /// The places. Each is touched only by the holder of the lock of the shard that it is in.
    pub slots: &'a [Cell<Slot<K, V>>],
}

/// The locks of a table.
pub trait Locks {
    /// Unlocks when dropped.
    type Held;

    /// Waits for the lock of a shard.
    fn lock(&self, shard: usize) -> Self::Held;
}

/// A table in shards.
pub struct Shards<'a, K, V, L> {
    memory: Memory<'a, K, V>,
    seed: u64,
    locks: L,
}

impl<'a, K: Copy + Eq + Hash, V: Value, L: Locks> Shards<'a, K, V, L> {
    /// A table over memory of one [`Shape`], and locks of as many shards.
    pub const fn new(memory: Memory<'a, K, V>, seed: u64, locks: L) -> Self {
        Self { memory, seed, locks }
    }

    /// Makes an empty table of memory whose slots are all `None`, before anybody uses it.
    pub fn clear(&self) {
        self.memory.heads.iter().for_each(|head| head.set(END));
        self.memory.bounds.iter().for_each(|bound| bound.store(i64::MAX, Relaxed));
        self.memory.places().fill();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.capacity() - self.memory.places().len().min(self.capacity())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries there can be.
    pub const fn capacity(&self) -> usize {
        self.memory.slots.len()
    }

    /// Works on the shard where `key` belongs.
    pub fn with<R>(&self, key: &K, work: impl FnOnce(&Table<'_, K, V>) -> R) -> R {
        self.on(self.shard(key), work)
    }

    /// As [`Shards::with`], with work that may find no place: then stale entries make room, wherever
    /// they are, and it begins anew.
    ///
    /// # Errors
    /// `Full` if all places are taken, by entries none of which is stale at `now`.
    pub fn with_room<R>(
        &self,
        key: &K,
        now: i64,
        mut work: impl FnMut(&Table<'_, K, V>) -> Result<R, Full>,
    ) -> Result<R, Full> {
        loop {
            let done = self.with(key, &mut work);
            // Another may be faster and take the place that was made.
            if done.is_ok() || !self.evict_stale(self.shard(key), now) {
                return done;
            }
        }
    }

    /// Works on each shard in turn.
    pub fn each<R>(&self, mut work: impl FnMut(&Table<'_, K, V>) -> R) -> Vec<R> {
        (0..self.memory.bounds.len()).map(|shard| self.on(shard, &mut work)).collect()
    }

    /// Takes out stale entries of some shard. Whether there is a vacant place then.
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

/// Maps 32 bits evenly to so many numbers (Lemire, "Fast random integer generation in an interval",
/// 2019).
fn scale(bits: u64, numbers: usize) -> usize {
    usize::try_from((bits * numbers as u64) >> 32).unwrap_or(0)
}

impl<K, V> Memory<'_, K, V> {
    fn places(&self) -> Vacant<'_> {
        Vacant::new(&self.vacant[0], &self.vacant[1], self.links)
    }
}

/// A shard of a table, whose lock is held.
pub struct Table<'a, K, V> {
    memory: &'a Memory<'a, K, V>,
    seed: u64,
    shard: usize,
}

/// An entry on the way along a chain.
#[derive(Clone, Copy)]
struct Found<K, V> {
    chain: usize,
    /// The place before it in the chain.
    before: Option<usize>,
    place: usize,
    key: K,
    value: V,
}

impl<K: Copy + Eq + Hash, V: Value> Table<'_, K, V> {
    /// The value of `key`.
    pub fn find(&self, key: &K) -> Option<V> {
        self.walk(self.chain(key)).find(|found| found.key == *key).map(|found| found.value)
    }

    /// Changes the value of `key`, if there is one.
    pub fn modify<R>(&self, key: &K, work: impl FnOnce(&mut V) -> R) -> Option<R> {
        let mut found = self.walk(self.chain(key)).find(|found| found.key == *key)?;
        let done = work(&mut found.value);
        self.set(found.place, found.key, found.value);
        Some(done)
    }

    /// Changes the value of `key`, made by `new` if there is none.
    ///
    /// # Errors
    /// `Full` if there is none and no place for it; then nothing is called.
    pub fn entry<R>(
        &self,
        key: K,
        new: impl FnOnce() -> V,
        work: impl FnOnce(&mut V) -> R,
    ) -> Result<R, Full> {
        self.entry_at(i64::MIN, key, new, work)
    }

    /// As [`Table::entry`], at a time: a new entry may take the place of one that is stale, and one
    /// that is stale afterwards is not kept.
    ///
    /// # Errors
    /// `Full` if there is none and no place for it; then nothing is called.
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

    /// Takes out the entry of `key`.
    pub fn remove(&self, key: &K) -> Option<V> {
        let found = self.walk(self.chain(key)).find(|found| found.key == *key)?;
        self.vacate(&found);
        Some(found.value)
    }

    /// Takes out the entries for which `wanted` holds.
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

    /// Takes out the entries that are not to be `kept`.
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

    /// The entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.chains().flat_map(|chain| self.walk(chain)).map(|found| (found.key, found.value))
    }

    /// The entries whose keys have the same hash as this one, and maybe others.
    pub fn neighbours(&self, key: &K) -> impl Iterator<Item = (K, V)> {
        self.walk(self.chain(key)).map(|found| (found.key, found.value))
    }

    /// Whether three quarters of all places, not only of this shard's entries, are taken.
    pub fn is_nearly_full(&self) -> bool {
        self.memory.places().len() <= self.memory.slots.len() / 4
    }

    /// Takes out what is stale. Whether there was something.
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

    /// Locks that no one may want twice, and that say how often they were wanted.
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

    /// Has an entry last until a time; whether there was room.
    fn put(table: &Limits<'_>, now: i64, key: Key, until: i64) -> bool {
        let last = |place: &mut i64| *place = until.max(*place);
        table.with_room(&key, now, |shard| shard.entry_at(now, key, || 0, last)).is_ok()
    }

    /// The same keys with all hashes alike, with few, and with one each.
    fn crowded(key: u16) -> [Key; 3] {
        [Key(0, key), Key(key % 5, key), Key(key, key)]
    }

    #[test]
    fn a_table_of_any_size_holds_what_it_says_under_any_seed() {
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
    fn keys_that_collide_have_the_same_room() {
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
    fn a_refusal_works_on_no_other_shard_while_nothing_there_is_stale() {
        let memory = Owned::new(4096);
        let table = memory.table(1);
        assert!((0..4096).all(|n| put(&table, 0, Key(n, 0), 10 + i64::from(n))));
        for n in 4096..5000 {
            let before = memory.locks.count.replace(0);
            assert!(before > 0 && !put(&table, 9, Key(n, 0), 10));
            assert_eq!(memory.locks.count.get(), 1);
        }
        // One that lasts longer than was known is looked at once, in its shard.
        assert!(put(&table, 9, Key(0, 0), 99));
        memory.locks.count.set(0);
        assert!(!put(&table, 10, Key(4096, 0), 99) && !put(&table, 10, Key(4096, 0), 99));
        assert_eq!(memory.locks.count.get(), 3);
    }

    #[test]
    fn what_is_stale_at_once_takes_no_room() {
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
        // Values are times from which an entry says nothing any more. An entry that is not stale is never
        // lost, and there is no room only where all places are taken by what is not stale.
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
        fn behaves_as_a_plain_map(
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
