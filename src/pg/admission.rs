//! A bounded number of hashes at a time, over all backends.

use std::sync::atomic::Ordering;

use pgrx::pg_sys;

use super::settings;
use super::shared::{Counter, State};

/// Room for one hash; given back when dropped.
pub struct Room<'a> {
    state: &'a State,
    has_waited: bool,
}

impl<'a> Room<'a> {
    /// Waits for room, for at most `api_key.hash_queue_timeout`; `None` if there was none.
    /// A query cancel or a termination ends the wait.
    pub fn wait(state: &'a State) -> Option<Self> {
        if !state.is_shared() || Self::take(state) {
            return Some(Self { state, has_waited: false });
        }
        state.count(Counter::HashesWaited);
        // SAFETY: the usual loop (storage/condition_variable.h). An error that ends a sleep
        // leaves the queue by PostgreSQL's own clean-up.
        unsafe {
            let timeout = settings::hash_queue_timeout();
            let deadline = pg_sys::GetCurrentTimestamp() + timeout * 1000;
            pg_sys::ConditionVariablePrepareToSleep(state.room());
            let mut taken = Self::take(state);
            while !taken {
                let left = (deadline - pg_sys::GetCurrentTimestamp()) / 1000;
                if left <= 0 {
                    break;
                }
                // A wake-up that goes to someone who gives up is made good by looking again.
                pg_sys::ConditionVariableTimedSleep(
                    state.room(),
                    left.min(50),
                    pg_sys::PG_WAIT_EXTENSION,
                );
                taken = Self::take(state);
            }
            pg_sys::ConditionVariableCancelSleep();
            if taken {
                return Some(Self { state, has_waited: true });
            }
        }
        state.count(Counter::HashesRefused);
        None
    }

    /// Whether there was none at first.
    pub const fn has_waited(&self) -> bool {
        self.has_waited
    }

    fn take(state: &State) -> bool {
        let most = settings::max_concurrent_hashes();
        state
            .hashing()
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |n| (n < most).then_some(n + 1))
            .is_ok()
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.state.is_shared() {
            self.state.hashing().fetch_sub(1, Ordering::AcqRel);
            // SAFETY: initialised with the segment; raises no errors.
            unsafe { pg_sys::ConditionVariableSignal(self.state.room()) }
        }
    }
}
