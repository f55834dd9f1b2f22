//! Room to hash: a bounded number of hashes at a time, over all backends. Whose turn it is,
//! `core::desk` decides.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::settings;
use super::shared::{self, Counter, State};
use crate::core::desk::Purpose;

/// The longest sleep: then it is looked again whether the settings have changed.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);
/// How many times as long as a check a command waits that makes a key: it cannot be asked again as
/// easily.
const PATIENCE_OF_COMMANDS: u32 = 5;

/// Room for one hash at a time; given back when dropped.
///
/// A FATAL error unwinds no Rust frames, so the end of a backend gives it back too.
pub struct Room<'a> {
    state: &'a State,
    seat: usize,
    has_waited: bool,
}

impl<'a> Room<'a> {
    /// Waits for room, for at most `patience`; `None` if there was none. A query cancel or a
    /// termination ends the wait.
    pub fn wait(state: &'a State, purpose: Purpose, patience: Duration) -> Option<Self> {
        let mut room = Self { state, seat: seat(), has_waited: false };
        if !state.is_shared() {
            return Some(room);
        }
        leave_at_exit();
        state.desk(|desk| desk.enter(room.seat, purpose));
        if room.begin() {
            return Some(room);
        }
        state.count(Counter::HashesWaited);
        room.has_waited = true;
        let begun = Instant::now();
        while !room.begin() {
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                state.count(Counter::HashesRefused);
                return None;
            }
            sleep(left.min(LONGEST_SLEEP));
            pgrx::check_for_interrupts!();
        }
        Some(room)
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

    /// Takes room if there is some now.
    pub fn if_free(state: &'a State) -> Option<Self> {
        let room = Self { state, seat: seat(), has_waited: false };
        if !state.is_shared() {
            return Some(room);
        }
        leave_at_exit();
        state.desk(|desk| desk.enter(room.seat, Purpose::Key));
        room.begin().then_some(room)
    }

    /// Whether there was none at first.
    pub const fn has_waited(&self) -> bool {
        self.has_waited
    }

    fn begin(&self) -> bool {
        let most = settings::max_concurrent_hashes();
        let (begun, next) = self.state.desk(|desk| {
            let begun = desk.begin(self.seat, most);
            // There may be a slot for one more.
            (begun, if begun { desk.next(most) } else { None })
        });
        wake(next);
        begun
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        leave(self.state, self.seat);
    }
}

fn leave(state: &State, seat: usize) {
    if state.is_shared() {
        wake(state.desk(|desk| {
            desk.leave(seat);
            desk.next(settings::max_concurrent_hashes())
        }));
    }
}

/// This process's own.
fn seat() -> usize {
    // SAFETY: set since the process began to use shared memory.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let number = (*pg_sys::MyProc).pgprocno;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let number = pg_sys::MyProcNumber;
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}

fn wake(seat: Option<usize>) {
    if let Some(seat) = seat {
        // SAFETY: a seat that is taken is a process's number. If that has ended meanwhile, it is a
        // wake-up that nobody minds.
        unsafe { pg_sys::SetLatch(&raw mut (*(*pg_sys::ProcGlobal).allProcs.add(seat)).procLatch) }
    }
}

fn sleep(most: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // Rounded up, so as not to wake too early.
    let milliseconds = i64::try_from(most.as_millis()).unwrap_or(0) + 1;
    // SAFETY: waits for this process's own latch.
    unsafe {
        let events = events.cast_signed();
        pg_sys::WaitLatch(pg_sys::MyLatch, events, milliseconds, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

fn leave_at_exit() {
    thread_local! {
        static LISTENING: Cell<bool> = const { Cell::new(false) };
    }
    if !LISTENING.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded. It runs
        // while this process still has its number and its locks.
        unsafe { pg_sys::before_shmem_exit(Some(exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exit(_code: i32, _argument: pg_sys::Datum) {
    shared::with(|state| leave(state, seat()));
}
