//! The server, and this process of it.

use std::cell::RefCell;
use std::os::fd::AsRawFd;
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Microseconds since 2000-01-01 UTC.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Microseconds of a clock that nobody sets, the same in all processes.
pub fn monotonic_now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// The oid of the current database.
pub fn database() -> u32 {
    // SAFETY: set since the backend has connected.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// Whether the server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The operating system's id of this process.
pub fn process_id() -> i32 {
    // SAFETY: set since the process began.
    unsafe { pg_sys::MyProcPid }
}

/// This process's number among all of the server, from 0 on.
pub fn process_number() -> usize {
    // SAFETY: set since the process began to use shared memory.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let number = (*pg_sys::MyProc).pgprocno;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let number = pg_sys::MyProcNumber;
        usize::try_from(number).unwrap_or(usize::MAX)
    }
}

/// Wakes the process with this number, or one that has taken it since.
pub fn wake(process: usize) {
    // SAFETY: PGPROCs stay.
    unsafe {
        let all = pg_sys::ProcGlobal;
        if process < usize::try_from((*all).allProcCount).unwrap_or(0) {
            pg_sys::SetLatch(&raw mut (*(*all).allProcs.add(process)).procLatch);
        }
    }
}

/// Sleeps until woken, for at most so long.
pub fn sleep(most: Duration) {
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

/// Sleeps until woken or until there is something to read, for at most so long.
pub fn wait_for(readable: Option<&impl AsRawFd>, most: Duration) {
    let socket = if readable.is_some() { pg_sys::WL_SOCKET_READABLE } else { 0 };
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH | socket;
    // SAFETY: waits for this process's own latch, which interrupts set, and for a file that stays open
    // meanwhile.
    unsafe {
        pg_sys::WaitLatchOrSocket(
            pg_sys::MyLatch,
            events.cast_signed(),
            readable.map_or(pg_sys::PGINVALID_SOCKET, AsRawFd::as_raw_fd),
            i64::try_from(most.as_millis()).unwrap_or(1),
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Raises an error if the query was cancelled or the session is to end.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// `statement_timeout` in milliseconds; 0 if there is none.
pub fn statement_timeout() -> i32 {
    // SAFETY: reads a setting.
    unsafe { pg_sys::StatementTimeout }
}

/// The most processes that the server runs at a time.
pub fn max_backends() -> usize {
    // SAFETY: set before libraries are asked for the shared memory that they need.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

thread_local! {
    static AT_EXIT: RefCell<Vec<fn()>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` once when this process ends, while it still has its number and its locks.
pub fn at_exit(work: fn()) {
    let first = AT_EXIT.with_borrow_mut(|all| {
        let first = all.is_empty();
        if !all.iter().any(|known| std::ptr::fn_addr_eq(*known, work)) {
            all.push(work);
        }
        first
    });
    if first {
        // SAFETY: a function of this library, which is never unloaded.
        unsafe { pg_sys::before_shmem_exit(Some(exit), pg_sys::Datum::from(0)) }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn exit(_code: i32, _argument: pg_sys::Datum) {
    while let Some(work) = AT_EXIT.with_borrow_mut(Vec::pop) {
        work();
    }
}
