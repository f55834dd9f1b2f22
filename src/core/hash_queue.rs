//! The queue for hash slots: a bounded number of processes hash at a time, and the others wait.
//!
//! Anonymous callers can cause scans of legacy keys. Scans therefore use at most half of the slots,
//! and a hash for a single key takes precedence. A scan queues again for each hash, so that scans
//! take turns and delay a single key by one hash at most.

use std::cell::Cell;

/// The purpose of a hash, which decides its precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To issue one key, or to verify a text that contains a key id.
    Key,
    /// An administrator's import or wrap, which waits without limit.
    Job,
    /// A scan that continues one of an earlier call with the same text.
    Resumed,
    /// A scan for a new text.
    Fresh,
    /// A scan for a text that recently matched no key.
    Spent,
}

impl Purpose {
    /// Lower values go first. A job takes turns with resumed scans: behind all scans it would
    /// starve while anonymous callers keep causing them.
    const fn turn(self) -> u8 {
        match self {
            Self::Key => 0,
            Self::Job | Self::Resumed => 1,
            Self::Fresh => 2,
            Self::Spent => 3,
        }
    }

    /// Whether it is a scan, which may use only half of the slots.
    #[must_use]
    pub const fn is_scan(self) -> bool {
        matches!(self, Self::Resumed | Self::Fresh | Self::Spent)
    }
}

/// The state of one process in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seat {
    /// It neither waits nor hashes.
    #[default]
    Empty,
    /// It waits. The lower ticket arrived first.
    Waiting(Purpose, u64),
    /// It hashes.
    Hashing(Purpose),
}

/// The queue. Processes that share it must hold a lock during each call.
#[derive(Clone, Copy)]
pub struct HashQueue<'a> {
    seats: &'a [Cell<Seat>],
    tickets: &'a Cell<u64>,
}

impl<'a> HashQueue<'a> {
    /// A queue over `seats`, one for each process and initially empty. `tickets` counts arrivals.
    #[must_use]
    pub const fn new(seats: &'a [Cell<Seat>], tickets: &'a Cell<u64>) -> Self {
        Self { seats, tickets }
    }

    /// Adds the process of `seat` to the queue.
    pub fn enter(&self, seat: usize, purpose: Purpose) {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        self.put(seat, Seat::Waiting(purpose, ticket));
    }

    /// Takes one of `most` slots if it is the turn of `seat`. Returns whether it did.
    pub fn begin(&self, seat: usize, most: usize) -> bool {
        let Some(Seat::Waiting(purpose, ticket)) = self.seats.get(seat).map(Cell::get) else {
            return false;
        };
        let (slots, for_scans) = self.free(most);
        let mine = (purpose.turn(), ticket);
        let (mut scans, mut others) = (0, 0);
        for (_, purpose, turn) in self.waiting().filter(|&(_, _, turn)| turn < mine) {
            debug_assert_ne!(turn, mine);
            *if purpose.is_scan() { &mut scans } else { &mut others } += 1;
        }
        // Earlier scans that exceed the share of scans cannot begin, so they are not waited for.
        let scans = for_scans.min(scans);
        let may = scans + others < slots && (!purpose.is_scan() || scans < for_scans);
        if may {
            self.put(seat, Seat::Hashing(purpose));
        }
        may
    }

    /// Releases the slot, or stops waiting.
    pub fn leave(&self, seat: usize) {
        self.put(seat, Seat::Empty);
    }

    /// The seat of the process whose turn it is, if one of `most` slots is free for it.
    #[must_use]
    pub fn next(&self, most: usize) -> Option<usize> {
        let (slots, for_scans) = self.free(most);
        self.waiting()
            .filter(|(_, purpose, _)| if purpose.is_scan() { for_scans > 0 } else { slots > 0 })
            .min_by_key(|&(_, _, turn)| turn)
            .map(|(seat, _, _)| seat)
    }

    /// Number of processes that hash.
    #[must_use]
    pub fn hashing(&self) -> usize {
        self.seats.iter().filter(|seat| matches!(seat.get(), Seat::Hashing(_))).count()
    }

    /// Number of free slots, and how many of them scans may take. Scans may use half of all slots,
    /// and at least one.
    fn free(&self, most: usize) -> (usize, usize) {
        let scans = self.seats.iter().filter(|seat| match seat.get() {
            Seat::Hashing(purpose) => purpose.is_scan(),
            _ => false,
        });
        let slots = most.saturating_sub(self.hashing());
        (slots, (most / 2).max(1).saturating_sub(scans.count()).min(slots))
    }

    /// The waiting processes: seat, purpose and sort key.
    fn waiting(&self) -> impl Iterator<Item = (usize, Purpose, (u8, u64))> {
        self.seats.iter().enumerate().filter_map(|(at, seat)| match seat.get() {
            Seat::Waiting(purpose, ticket) => Some((at, purpose, (purpose.turn(), ticket))),
            _ => None,
        })
    }

    fn put(&self, seat: usize, state: Seat) {
        if let Some(place) = self.seats.get(seat) {
            place.set(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Purpose::{Fresh, Job, Key, Resumed, Spent};
    use proptest::prelude::*;

    fn seats<const N: usize>() -> [Cell<Seat>; N] {
        std::array::from_fn(|_| Cell::default())
    }

    /// The order in which seats begin if each leaves before the next begins.
    fn order(most: usize, arrivals: &[Purpose]) -> Vec<usize> {
        let (seats, tickets) = (vec![Cell::new(Seat::Empty); arrivals.len()], Cell::new(0));
        let queue = HashQueue::new(&seats, &tickets);
        for (seat, purpose) in arrivals.iter().enumerate() {
            queue.enter(seat, *purpose);
        }
        let mut order = Vec::new();
        while let Some(next) = queue.next(most) {
            assert!(queue.begin(next, most));
            queue.leave(next);
            order.push(next);
        }
        order
    }

    #[test]
    fn a_named_key_goes_first_and_a_spent_text_last() {
        for (arrivals, expected) in [
            (&[Spent, Fresh, Resumed, Key][..], &[3, 2, 1, 0][..]),
            (&[Key, Key, Key], &[0, 1, 2]),
            (&[Fresh, Resumed, Fresh, Resumed], &[1, 3, 0, 2]),
            (&[Resumed, Job, Resumed, Job], &[0, 1, 2, 3]),
            (&[Spent, Job, Key, Fresh], &[2, 1, 3, 0]),
        ] {
            for most in 1..4 {
                assert_eq!(order(most, arrivals), expected, "{arrivals:?} with {most} slots");
            }
        }
    }

    #[test]
    fn scans_have_half_of_the_slots_and_one_at_least() {
        for (most, scans) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (16, 8)] {
            let (seats, tickets) = (seats::<40>(), Cell::new(0));
            let queue = HashQueue::new(&seats, &tickets);
            (0..20).for_each(|seat| queue.enter(seat, Fresh));
            assert_eq!((0..20).filter(|&seat| queue.begin(seat, most)).count(), scans, "of {most}");
            (20..40).for_each(|seat| queue.enter(seat, Key));
            let keys = (20..40).filter(|&seat| queue.begin(seat, most)).count();
            assert_eq!(keys, most - scans, "of {most}");
        }
    }

    #[test]
    fn scans_take_turns_hash_by_hash() {
        let (seats, tickets) = (seats::<3>(), Cell::new(0));
        let queue = HashQueue::new(&seats, &tickets);
        (0..3).for_each(|seat| queue.enter(seat, Fresh));
        let mut hashes = [0; 3];
        for _ in 0..30 {
            let next = queue.next(1).unwrap_or_default();
            assert!(queue.begin(next, 1));
            hashes[next] += 1;
            queue.leave(next);
            queue.enter(next, Fresh);
        }
        assert_eq!(hashes, [10; 3]);
    }

    #[test]
    fn a_free_slot_is_not_kept_for_a_scan_that_has_no_share_left() {
        let (seats, tickets) = (seats::<4>(), Cell::new(0));
        let queue = HashQueue::new(&seats, &tickets);
        queue.enter(0, Fresh);
        assert!(queue.begin(0, 2));
        queue.enter(1, Resumed);
        assert!(!queue.begin(1, 2));
        queue.enter(2, Job);
        assert!(queue.begin(2, 2), "behind a scan that cannot begin anyway");
        queue.leave(2);
        queue.enter(3, Key);
        assert_eq!(queue.next(2), Some(3));
    }

    #[test]
    fn entering_a_seat_again_does_not_use_a_second_slot() {
        let (seats, tickets) = (seats::<1>(), Cell::new(0));
        let queue = HashQueue::new(&seats, &tickets);
        for purpose in [Key, Fresh, Key] {
            queue.enter(0, purpose);
            assert!(queue.begin(0, 1) && !queue.begin(0, 1));
            assert_eq!(queue.hashing(), 1);
        }
        queue.enter(7, Key);
        assert!(!queue.begin(7, 9), "there is no such seat");
    }

    fn purposes() -> impl Strategy<Value = Purpose> {
        prop::sample::select(vec![Key, Job, Resumed, Fresh, Spent])
    }

    proptest! {
        // In any order of arrivals and departures: slots and the share of scans are never exceeded,
        // no process overtakes another, and none waits while a slot is free for it.
        #[test]
        fn slots_are_neither_exceeded_nor_wasted(
            most in 1usize..6,
            steps in prop::collection::vec((0usize..12, prop::option::of(purposes())), 1..200),
        ) {
            let (seats, tickets) = (seats::<12>(), Cell::new(0));
            let share = (most / 2).max(1);
            for (seat, step) in steps {
                let queue = HashQueue::new(&seats, &tickets);
                match step {
                    Some(purpose) => queue.enter(seat, purpose),
                    None => queue.leave(seat),
                }
                while let Some(next) = queue.next(most) {
                    let first = queue.waiting().map(|(_, _, turn)| turn).min();
                    let turn = queue.waiting().find(|(at, _, _)| *at == next).map(|w| w.2);
                    prop_assert!(turn == first || !matches!(queue.seats[next].get(),
                        Seat::Waiting(purpose, _) if purpose.is_scan()));
                    prop_assert!(queue.begin(next, most));
                }
                for seat in 0..12 {
                    prop_assert!(!queue.begin(seat, most), "nobody else may");
                }
                let scans = seats.iter().filter(|seat|
                    matches!(seat.get(), Seat::Hashing(purpose) if purpose.is_scan())).count();
                let hashing = seats.iter().filter(|seat| matches!(seat.get(), Seat::Hashing(_))).count();
                let waiting = seats.iter().filter_map(|seat| match seat.get() {
                    Seat::Waiting(purpose, _) => Some(purpose.is_scan()),
                    _ => None,
                });
                prop_assert!(hashing <= most && scans <= share);
                for is_scan in waiting {
                    prop_assert!(hashing == most || is_scan && scans == share);
                }
            }
        }
    }
}
