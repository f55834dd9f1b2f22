//! The vacant places of a table: a stack that needs no lock (R. K. Treiber, "Systems Programming:
//! Coping with Parallelism", IBM RJ 5118, 1986).

#[cfg(loom)]
use loom::sync::atomic;
#[cfg(not(loom))]
use std::sync::atomic;

use atomic::Ordering::{Acquire, Relaxed, Release};
pub use atomic::{AtomicI64, AtomicU32, AtomicU64};

/// The link that ends a chain of places. Any other link is the index of a place plus one.
pub const END: u32 = 0;

/// The stack of vacant places. There is a link for each place.
#[derive(Clone, Copy)]
pub struct Vacant<'a> {
    /// Low half: the link to the topmost place. High half: a counter that each change increments,
    /// so that a compare-and-swap notices changes even if the same place is on top again (ABA).
    top: &'a AtomicU64,
    count: &'a AtomicU64,
    /// From each place to the one below. The user of a place may overwrite its link.
    links: &'a [AtomicU32],
}

impl<'a> Vacant<'a> {
    /// A stack over this memory. In zeroed memory, no place is vacant.
    #[must_use]
    pub const fn new(top: &'a AtomicU64, count: &'a AtomicU64, links: &'a [AtomicU32]) -> Self {
        Self { top, count, links }
    }

    /// Makes all places vacant. No other process may use the stack meanwhile.
    pub fn fill(&self) {
        self.top.store(0, Relaxed);
        self.count.store(0, Relaxed);
        (0..self.links.len()).rev().for_each(|place| self.push(place));
    }

    /// Number of vacant places.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count.load(Relaxed)).unwrap_or(0)
    }

    /// Whether no place is vacant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        place_of(top_link(self.top.load(Relaxed))).is_none()
    }

    /// Takes a vacant place, which the caller then owns. `None` if there is none.
    #[must_use]
    pub fn pop(&self) -> Option<usize> {
        let mut top = self.top.load(Acquire);
        loop {
            let place = place_of(top_link(top))?;
            // Another process may have taken this place and overwritten its link. Then `top` has
            // changed, and the exchange fails.
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

    /// Returns a place that the caller owns.
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

/// The place that a link leads to. `None` for [`END`].
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

    /// One thread takes and returns a place while another takes and returns two. No place has two
    /// owners at a time, and in the end all are vacant.
    #[test]
    fn a_place_has_one_owner_at_a_time() {
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
