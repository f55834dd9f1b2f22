//! Memory from which the parts of the segment are taken, one after another.
//!
//! The same code measures the segment, initialises it and attaches to it: it asks an arena for its
//! parts, and the kind of the arena decides.

use std::cell::Cell;
use std::hash::Hash;
use std::ptr::NonNull;
use std::sync::atomic::AtomicI64;

use super::lock::{Guarded, Locks};
use crate::core::table::{Memory, Shape, Shards, Value};
use crate::core::vacant::{AtomicU32, END};

/// A table in the segment.
pub type Table<K, V> = Shards<'static, K, V, Locks>;

/// The alignment of each part: two cache lines, which processors fetch together.
pub const ALIGNMENT: usize = 128;

/// How much memory, and how many locks.
#[derive(Clone, Copy, Default)]
pub struct Extent {
    /// Bytes, of which the first is aligned.
    pub bytes: usize,
    /// Locks.
    pub locks: usize,
}

/// The memory of an arena.
#[derive(Clone, Copy)]
struct Backing {
    first: NonNull<u8>,
    bytes: usize,
    is_new: bool,
}

/// Memory and locks, from which parts are taken.
pub struct Arena {
    /// `None` to measure only: then parts are empty, and nothing may be done with them.
    backing: Option<Backing>,
    locks: Locks,
    taken: Extent,
}

impl Arena {
    /// An arena that only measures what is taken.
    pub const fn measuring() -> Self {
        Self { backing: None, locks: Locks::NONE, taken: Extent { bytes: 0, locks: 0 } }
    }

    /// An arena over memory, which is initialised as it is taken if it `is_new`.
    ///
    /// # Safety
    /// There are so many bytes from `first` on, aligned to `ALIGNMENT`, which stay as long as the
    /// process and are reached only through arenas. If the memory is new, no other process sees it
    /// yet; otherwise the same parts were taken from it, in the same order, when it was new.
    pub const unsafe fn over(first: NonNull<u8>, bytes: usize, is_new: bool, locks: Locks) -> Self {
        let backing = Some(Backing { first, bytes, is_new });
        Self { backing, locks, taken: Extent { bytes: 0, locks: 0 } }
    }

    /// The room that was taken so far.
    pub const fn taken(&self) -> Extent {
        self.taken
    }

    /// Whether other processes see the memory too, and so there are locks.
    pub const fn is_shared(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Takes an array. Each element of a new one is made by `new`.
    ///
    /// `T` refers to nothing outside the segment but to what the library has: processes are forked,
    /// so that is at the same address in all of them. Elements that are no atomics are reached only
    /// under a lock.
    pub fn array<T: 'static>(&mut self, length: usize, new: impl Fn() -> T) -> &'static [T] {
        const { assert!(align_of::<T>() <= ALIGNMENT) }
        let begin = self.taken.bytes.next_multiple_of(ALIGNMENT);
        self.taken.bytes = begin.saturating_add(length.saturating_mul(size_of::<T>()));
        let backing = self.backing.filter(|backing| self.taken.bytes <= backing.bytes);
        let Some(Backing { first, is_new, .. }) = backing else { return &[] };
        // SAFETY: within the backing, aligned, and of nobody else (`over`). The elements are
        // written before there is a reference to them.
        unsafe {
            let first = first.add(begin).cast::<T>();
            if is_new {
                (0..length).for_each(|at| first.add(at).write(new()));
            }
            std::slice::from_raw_parts(first.as_ptr(), length)
        }
    }

    /// Takes a single value.
    pub fn one<T: 'static>(&mut self, new: impl Fn() -> T) -> &'static T {
        // While it is measured a value on the heap stands for it: few bytes, once or twice a process.
        self.array(1, &new).first().unwrap_or_else(|| Box::leak(Box::new(new())))
    }

    /// Takes a value with a lock.
    pub fn guarded<T: 'static>(&mut self, take: impl FnOnce(&mut Self) -> T) -> Guarded<T> {
        let lock = self.locks(1);
        Guarded::new(take(self), lock)
    }

    /// Takes a table, whose keys are placed by a hash with this seed.
    pub fn table<K, V>(&mut self, entries: usize, seed: u64) -> Table<K, V>
    where
        K: Copy + Eq + Hash + 'static,
        V: Value + 'static,
    {
        let Shape { places, shards, chains } = Shape::new(entries);
        let memory = Memory {
            vacant: self.one(Default::default),
            bounds: self.array(shards, AtomicI64::default),
            heads: self.array(shards * chains, || Cell::new(END)),
            links: self.array(places, || AtomicU32::new(END)),
            slots: self.array(places, || Cell::new(None)),
        };
        let table = Shards::new(memory, seed, self.locks(shards));
        if self.backing.is_some_and(|backing| backing.is_new) {
            table.clear();
        }
        table
    }

    fn locks(&mut self, count: usize) -> Locks {
        self.taken.locks += count;
        let (taken, rest) = self.locks.split(count);
        self.locks = rest;
        taken
    }
}
