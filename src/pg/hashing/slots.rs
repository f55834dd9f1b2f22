//! Hash slots: the semaphore that bounds concurrent hashes over all backends. The order in which
//! processes get a slot is that of [`crate::core::hash_queue`].

use std::time::{Duration, Instant};

use crate::core::hash_queue::Purpose;
use crate::pg::memory::{self, Counter, State};
use crate::pg::raw::server;
use crate::pg::settings;

/// The longest sleep: then the settings are looked at again.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How many times as long as a check a command waits that makes a key: it cannot be asked again as
/// easily.
const PATIENCE_OF_COMMANDS: u32 = 5;

/// The right to run one hash at a time; given back when dropped.
///
/// A FATAL error unwinds no Rust frames, so the end of a backend gives it back too.
pub struct HashSlot<'a> {
    state: &'a State,
    seat: usize,
    has_waited: bool,
}

impl<'a> HashSlot<'a> {
    /// Waits for a slot, for at most `patience`; `None` if there was none. A query cancel or a
    /// termination ends the wait.
    pub fn wait(state: &'a State, purpose: Purpose, patience: Duration) -> Option<Self> {
        let (mut slot, begun) = Self::enter(state, purpose);
        if begun {
            return Some(slot);
        }
        state.count(Counter::HashesWaited);
        slot.has_waited = true;
        let begun = Instant::now();
        while !slot.begin() {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                state.count(Counter::HashesRefused);
                return None;
            }
            server::sleep(left.min(LONGEST_SLEEP));
            pgrx::check_for_interrupts!();
        }
        Some(slot)
    }

    /// Waits as a check of a key does.
    pub fn for_check(state: &'a State) -> Option<Self> {
        Self::wait(state, Purpose::Key, settings::hash_queue_timeout())
    }

    /// Waits as a command does that makes a key.
    pub fn for_command(state: &'a State) -> Option<Self> {
        Self::wait(state, Purpose::Key, settings::hash_queue_timeout() * PATIENCE_OF_COMMANDS)
    }

    /// Waits as long as it takes.
    pub fn for_job(state: &'a State) -> Option<Self> {
        Self::wait(state, Purpose::Job, Duration::MAX)
    }

    /// Takes a slot if one is free now.
    pub fn if_free(state: &'a State) -> Option<Self> {
        let (slot, begun) = Self::enter(state, Purpose::Key);
        begun.then_some(slot)
    }

    /// Whether no slot was free at first.
    pub const fn has_waited(&self) -> bool {
        self.has_waited
    }

    /// Queues up, and says whether the slot is there already. Without shared memory there is no
    /// bound.
    fn enter(state: &'a State, purpose: Purpose) -> (Self, bool) {
        let slot = Self { state, seat: server::process_number(), has_waited: false };
        if !state.is_shared() {
            return (slot, true);
        }
        server::at_exit(leave_at_exit);
        state.hash_queue(|queue| queue.enter(slot.seat, purpose));
        let begun = slot.begin();
        (slot, begun)
    }

    fn begin(&self) -> bool {
        let most = settings::max_concurrent_hashes();
        let (begun, next) = self.state.hash_queue(|queue| {
            let begun = queue.begin(self.seat, most);
            // There may be a slot for one more.
            (begun, if begun { queue.next(most) } else { None })
        });
        wake(next);
        begun
    }
}

impl Drop for HashSlot<'_> {
    fn drop(&mut self) {
        leave(self.state, self.seat);
    }
}

fn leave(state: &State, seat: usize) {
    if state.is_shared() {
        let next = state.hash_queue(|queue| {
            queue.leave(seat);
            queue.next(settings::max_concurrent_hashes())
        });
        wake(next);
    }
}

fn wake(process: Option<usize>) {
    if let Some(process) = process {
        server::wake(process);
    }
}

/// Runs while this process still has its number and its locks.
fn leave_at_exit() {
    memory::with(|state| leave(state, server::process_number()));
}
