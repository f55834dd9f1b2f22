//! The queue for hash slots: a bounded number of processes hash at a time, the others wait.
//!
//! Strangers can cause scans of legacy keys, so scans get at most half of the slots, and a hash for
//! a named key goes before them. A scan queues up again for each hash, so that scans take turns and
//! none keeps a slot from a named key for longer than one hash.

use std::cell::Cell;

/// The purpose for which a process wants to hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// One key: it is issued, or a text names it.
    Key,
    /// An administrator's import or wrap, which waits as long as it takes.
    Job,
    /// A scan for a text that has been waiting since an earlier call.
    Resumed,
    /// A scan for a text that is new.
    Fresh,
    /// A scan for a text that matched no key a moment ago.
    Spent,
}

impl Purpose {
    /// Lower ones go first. A job takes turns with the scans that were resumed: behind all others
    /// it would never end while strangers ask.
    const fn turn(self) -> u8 {
        match self {
            Self::Key => 0,
            Self::Job | Self::Resumed => 1,
            Self::Fresh => 2,
            Self::Spent => 3,
        }
    }

    /// Whether it is a scan, of which only so many hash at a time.
    #[must_use]
    pub const fn is_scan(self) -> bool {
        matches!(self, Self::Resumed | Self::Fresh | Self::Spent)
    }
}

/// The state of one process in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Seat {
    /// It does not hash.
    #[default]
    Empty,
    /// It waits; the lower ticket came first.
    Waiting(Purpose, u64),
    /// It hashes.
    Hashing(Purpose),
}

/// The queue. Callers that share it between processes hold a lock while they use it.
#[derive(Clone, Copy)]
pub struct HashQueue<'a> {
    seats: &'a [Cell<Seat>],
    tickets: &'a Cell<u64>,
}

impl<'a> HashQueue<'a> {
    /// A queue over `seats`, one for each process, all empty at first. `tickets` counts arrivals.
    #[must_use]
    pub const fn new(seats: &'a [Cell<Seat>], tickets: &'a Cell<u64>) -> Self {
        Self { seats, tickets }
    }

    /// Queues up.
    pub fn enter(&self, seat: usize, purpose: Purpose) {
        let ticket = self.tickets.get() + 1;
        self.tickets.set(ticket);
        self.put(seat, Seat::Waiting(purpose, ticket));
    }

    /// Takes a slot, if it is this process's turn with `most` slots in all.
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
        // Of the scans before this one only those count that could begin.
        let scans = for_scans.min(scans);
        let may = scans + others < slots && (!purpose.is_scan() || scans < for_scans);
        if may {
            self.put(seat, Seat::Hashing(purpose));
        }
        may
    }

    /// Gives the slot back, or stops waiting.
    pub fn leave(&self, seat: usize) {
        self.put(seat, Seat::Empty);
    }

    /// The seat of the process that may take a slot now.
    #[must_use]
    pub fn next(&self, most: usize) -> Option<usize> {
        let (slots, for_scans) = self.free(most);
        self.waiting()
            .filter(|(_, purpose, _)| if purpose.is_scan() { for_scans > 0 } else { slots > 0 })
            .min_by_key(|&(_, _, turn)| turn)
            .map(|(seat, _, _)| seat)
    }

    /// How many processes hash.
    #[must_use]
    pub fn hashing(&self) -> usize {
        self.seats.iter().filter(|seat| matches!(seat.get(), Seat::Hashing(_))).count()
    }

    /// Free slots, and how many of them scans may take: all scans together have half of the slots,
    /// but one at least.
    fn free(&self, most: usize) -> (usize, usize) {
        let scans = self.seats.iter().filter(|seat| match seat.get() {
            Seat::Hashing(purpose) => purpose.is_scan(),
            _ => false,
        });
        let slots = most.saturating_sub(self.hashing());
        (slots, (most / 2).max(1).saturating_sub(scans.count()).min(slots))
    }

    /// The waiting processes: seat, purpose, and what they are ordered by.
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

    /// The order in which seats begin, when each ends before the next one is told.
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
    fn a_seat_that_is_taken_again_is_one_seat() {
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
        // In every order of arrivals and departures: never more than there are slots, never more scans than their
        // share, nobody overtakes, and nobody waits while there is a slot that it may have.
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
