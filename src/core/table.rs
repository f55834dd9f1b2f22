//! A bounded hash table in memory that it is given: what shared memory can hold.
//!
//! Open addressing with linear probing. Entries leave in bulk, by [`Table::take`], which builds
//! the rest anew, or give their place to another; so there are no tombstones. Whoever shares one between processes locks it.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A place for an entry.
pub type Slot<K, V> = Option<(K, V)>;

/// A table over slots that are all `None` at first.
pub struct Table<'a, K, V> {
    slots: &'a mut [Slot<K, V>],
    used: &'a mut usize,
}

/// How many slots tell whether it is worth the while to look for stale entries in all.
const NEIGHBOURS: usize = 64;

/// There is no place left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The hash that places a key, the same in every process.
pub fn hash<K: Hash>(key: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl<'a, K: Copy + Eq + Hash, V: Copy> Table<'a, K, V> {
    /// A table over `slots`, of which `used` are filled.
    pub const fn new(slots: &'a mut [Slot<K, V>], used: &'a mut usize) -> Self {
        Self { slots, used }
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        *self.used
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        *self.used == 0
    }

    /// How many entries `slots` slots hold: an eighth stays vacant, so that a search for what is
    /// not there ends soon.
    #[must_use]
    pub const fn capacity(slots: usize) -> usize {
        slots - slots / 8
    }

    /// Whether three quarters of the slots are filled.
    #[must_use]
    pub const fn is_nearly_full(&self) -> bool {
        *self.used >= self.slots.len() / 4 * 3
    }

    /// The value of `key`, made by `new` if there is none.
    ///
    /// # Errors
    /// `Full` if there is none and no place for it.
    pub fn entry(&mut self, key: K, new: impl FnOnce() -> V) -> Result<&mut V, Full> {
        let at = self.position(&key).ok_or(Full)?;
        let most = Self::capacity(self.slots.len());
        let slot = &mut self.slots[at];
        if slot.is_none() {
            if *self.used >= most {
                return Err(Full);
            }
            *self.used += 1;
        }
        Ok(&mut slot.get_or_insert_with(|| (key, new())).1)
    }

    /// As [`Table::entry`], but a new entry may take the place of one that is `stale`: one that
    /// says no more than its absence would.
    ///
    /// # Errors
    /// `Full` if there is none and no place for it.
    pub fn entry_reusing(
        &mut self,
        key: K,
        new: impl FnOnce() -> V,
        stale: impl Fn(&V) -> bool,
    ) -> Result<&mut V, Full> {
        let most = Self::capacity(self.slots.len());
        let mut place = None;
        for at in self.probe(&key) {
            match &self.slots[at] {
                Some((other, _)) if *other == key => {
                    place = Some(at);
                    break;
                }
                Some((_, value)) => place = place.or_else(|| stale(value).then_some(at)),
                None if place.is_some() => break,
                None if *self.used < most => {
                    *self.used += 1;
                    place = Some(at);
                    break;
                }
                None => {
                    // Building anew takes long, so not where none of the neighbours is stale.
                    let mut neighbours = self.slots.iter().cycle().skip(at).take(NEIGHBOURS);
                    if neighbours.any(|slot| slot.as_ref().is_some_and(|(_, value)| stale(value))) {
                        self.take(|_, value| stale(value));
                        return self.entry(key, new);
                    }
                    break;
                }
            }
        }
        let slot = &mut self.slots[place.ok_or(Full)?];
        // The chain that leads past a replaced entry to others stays closed.
        if slot.is_some_and(|(other, _)| other != key) {
            *slot = None;
        }
        Ok(&mut slot.get_or_insert_with(|| (key, new())).1)
    }

    /// The value of `key`.
    pub fn find(&mut self, key: &K) -> Option<&mut V> {
        let at = self.position(key)?;
        self.slots[at].as_mut().map(|(_, value)| value)
    }

    /// Takes out the entries for which `wanted` holds.
    pub fn take(&mut self, mut wanted: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let mut taken = Vec::new();
        let mut kept = Vec::new();
        for slot in self.slots.iter_mut() {
            if let Some((key, value)) = slot.take() {
                if wanted(&key, &value) { &mut taken } else { &mut kept }.push((key, value));
            }
        }
        *self.used = 0;
        for (key, value) in kept {
            // There was a place for each before.
            let _ = self.entry(key, || value);
        }
        taken
    }

    /// The entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.slots.iter().flatten()
    }

    /// Where `key` is, or may be put.
    fn position(&self, key: &K) -> Option<usize> {
        self.probe(key).find(|&at| self.slots[at].as_ref().is_none_or(|(other, _)| other == key))
    }

    /// The slots in the order in which `key` is looked for.
    fn probe(&self, key: &K) -> impl Iterator<Item = usize> + use<K, V> {
        let length = self.slots.len();
        let start = usize::try_from(hash(key) % length.max(1) as u64).unwrap_or(0);
        (start..length).chain(0..start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Debug, Clone)]
    enum Operation {
        Add(u8),
        TakeEven,
    }

    proptest! {
        // Values are times at which an entry says nothing any more. What is not stale is never
        // lost, and there is no room only where as many as fit are not stale.
        #[test]
        fn reuses_places_of_stale_entries_only(
            slots in 1usize..40,
            additions in prop::collection::vec((any::<u8>(), 1u32..30), 0..300),
        ) {
            let mut memory = vec![None; slots];
            let mut used = 0;
            let mut table = Table::new(&mut memory, &mut used);
            let mut map = HashMap::<u8, u32>::new();
            for ((key, lasts), now) in additions.into_iter().zip(0u32..) {
                map.retain(|_, until| *until > now);
                match table.entry_reusing(key, || 0, |until| *until <= now) {
                    Ok(until) => {
                        prop_assert_eq!(*until > now, map.contains_key(&key));
                        *until = (*until).max(now + lasts);
                        map.insert(key, *until);
                    }
                    Err(Full) => {
                        prop_assert!(!map.contains_key(&key));
                        prop_assert_eq!(map.len(), Table::<u8, u32>::capacity(slots));
                    }
                }
                prop_assert!(table.len() <= Table::<u8, u32>::capacity(slots));
                for (key, until) in &map {
                    prop_assert_eq!(table.find(key), Some(&mut until.clone()));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_plain_map(
            slots in 1usize..40,
            operations in prop::collection::vec(
                prop_oneof![
                    9 => any::<u8>().prop_map(|key| Operation::Add(key % 50)),
                    1 => Just(Operation::TakeEven),
                ],
                0..300,
            ),
        ) {
            let mut memory = vec![None; slots];
            let mut used = 0;
            let mut table = Table::new(&mut memory, &mut used);
            let mut map = HashMap::<u8, u32>::new();
            for operation in operations {
                match operation {
                    Operation::Add(key) => match table.entry(key, || 0) {
                        Ok(value) => {
                            *value += 1;
                            *map.entry(key).or_default() += 1;
                        }
                        Err(Full) => {
                            prop_assert_eq!(map.len(), Table::<u8, u32>::capacity(slots));
                            prop_assert!(!map.contains_key(&key));
                        }
                    },
                    Operation::TakeEven => {
                        let mut taken = table.take(|key, _| key % 2 == 0);
                        taken.sort_unstable();
                        let mut expected: Vec<_> =
                            map.extract_if(|key, _| key % 2 == 0).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(taken, expected);
                    }
                }
                prop_assert_eq!(table.len(), map.len());
            }
            for (key, value) in &map {
                prop_assert_eq!(table.find(key), Some(&mut value.clone()));
            }
            let all: HashMap<_, _> = table.iter().copied().collect();
            prop_assert_eq!(all, map);
        }
    }
}
