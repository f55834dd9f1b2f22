//! The vacant places of a table: a stack that needs no lock (R. K. Treiber, "Systems Programming:
//! Coping with Parallelism", IBM RJ 5118, 1986).

#[cfg(loom)]
use loom::sync::atomic;
#[cfg(not(loom))]
use std::sync::atomic;

use atomic::Ordering::{Acquire, Relaxed, Release};
pub use atomic::{AtomicI64, AtomicU32, AtomicU64};

/// The end of a chain of places. Any other link is the number of a place plus one.
pub const END: u32 = 0;

/// The vacant ones of as many places as there are links.
#[derive(Clone, Copy)]
pub struct Vacant<'a> {
    /// A link to the topmost place, below a number that each change raises: the same place on top
    /// again is not taken for the same stack.
    top: &'a AtomicU64,
    count: &'a AtomicU64,
    /// From each place to the one below. Those of places in use are their users'.
    links: &'a [AtomicU32],
}

impl<'a> Vacant<'a> {
    /// A stack in memory that says that no place is vacant if it is all zero.
    #[must_use]
    pub const fn new(top: &'a AtomicU64, count: &'a AtomicU64, links: &'a [AtomicU32]) -> Self {
        Self { top, count, links }
    }

    /// Makes all places vacant. No other process may work on them meanwhile.
    pub fn fill(&self) {
        self.top.store(0, Relaxed);
        self.count.store(0, Relaxed);
        (0..self.links.len()).rev().for_each(|place| self.push(place));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count.load(Relaxed)).unwrap_or(0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        place_of(top_link(self.top.load(Relaxed))).is_none()
    }

    /// Takes a place, which is the caller's from then on.
    #[must_use]
    pub fn pop(&self) -> Option<usize> {
        let mut top = self.top.load(Acquire);
        loop {
            let place = place_of(top_link(top))?;
            // Another may have taken it meanwhile and say anything here: then `top` has changed.
            let below = self.links.get(place)?.load(Relaxed);
            match self.top.compare_exchange(top, changed(top, below), Acquire, Acquire) {
                Ok(_) => {
                    self.count.fetch_sub(1, Relaxed);
                    return Some(place);
                }
                Err(other) => top = other,
            }
        }
    }

    /// Gives back a place that is the caller's.
    pub fn push(&self, place: usize) {
        let Some(link) = self.links.get(place) else { return };
        self.count.fetch_add(1, Relaxed);
        let mut top = self.top.load(Relaxed);
        loop {
            link.store(top_link(top), Relaxed);
            match self.top.compare_exchange(top, changed(top, link_to(place)), Release, Relaxed) {
                Ok(_) => return,
                Err(other) => top = other,
            }
        }
    }
}

/// The link to a place.
#[must_use]
pub fn link_to(place: usize) -> u32 {
    u32::try_from(place).map_or(END, |place| place.wrapping_add(1))
}

/// The place that a link leads to.
#[must_use]
pub fn place_of(link: u32) -> Option<usize> {
    usize::try_from(link.checked_sub(1)?).ok()
}

fn top_link(top: u64) -> u32 {
    u32::try_from(top & u64::from(u32::MAX)).unwrap_or(END)
}

const fn changed(top: u64, link: u32) -> u64 {
    (top >> 32).wrapping_add(1) << 32 | link as u64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn gives_each_place_once() {
        let (top, count) = (AtomicU64::new(0), AtomicU64::new(0));
        let links: Vec<_> = (0..5).map(|_| AtomicU32::new(0)).collect();
        let vacant = Vacant::new(&top, &count, &links);
        assert_eq!((vacant.pop(), vacant.len()), (None, 0));
        vacant.fill();
        assert_eq!(vacant.len(), 5);
        let mut places: Vec<_> = std::iter::from_fn(|| vacant.pop()).collect();
        places.sort_unstable();
        assert_eq!((places, vacant.is_empty()), (vec![0, 1, 2, 3, 4], true));
        vacant.push(3);
        assert_eq!((vacant.pop(), vacant.pop(), vacant.len()), (Some(3), None, 0));
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Interleavings of one who takes a place with one who takes two and gives back the first: nobody
    /// has another's place, and in the end all are there.
    #[test]
    fn vacant_places_are_one_users_at_a_time() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let memory = Arc::new((
                AtomicU64::new(0),
                AtomicU64::new(0),
                (0..3).map(|_| AtomicU32::new(0)).collect::<Vec<_>>(),
                (0..3).map(|_| AtomicU32::new(0)).collect::<Vec<_>>(),
            ));
            Vacant::new(&memory.0, &memory.1, &memory.2).fill();
            let user = |most: usize| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let vacant = Vacant::new(&memory.0, &memory.1, &memory.2);
                    let places: Vec<_> = (0..most).filter_map(|_| vacant.pop()).collect();
                    for place in places {
                        assert_eq!(memory.3[place].fetch_add(1, Relaxed), 0);
                        // The stack ignores what a user writes into the link.
                        memory.2[place].store(7, Relaxed);
                        memory.3[place].fetch_sub(1, Relaxed);
                        vacant.push(place);
                    }
                })
            };
            for user in [user(1), user(2)] {
                assert!(user.join().is_ok());
            }
            let vacant = Vacant::new(&memory.0, &memory.1, &memory.2);
            assert_eq!(vacant.len(), 3);
            let mut places: Vec<_> = std::iter::from_fn(|| vacant.pop()).collect();
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2]);
        });
    }
}
