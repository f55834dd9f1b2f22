//! The ends of transactions and subtransactions.

use std::cell::Cell;
use std::ffi::c_void;

use pgrx::prelude::*;

/// A subtransaction, or the transaction itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Subtransaction(pg_sys::SubTransactionId);

/// The one that runs.
pub fn current() -> Subtransaction {
    // SAFETY: reads this process's state.
    Subtransaction(unsafe { pg_sys::GetCurrentSubTransactionId() })
}

/// The kind of end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The transaction, however it does, after deferred triggers have run.
    Transaction,
    /// A subtransaction is rolled back.
    Aborted(Subtransaction),
    /// A subtransaction becomes part of another.
    Committed(Subtransaction, Subtransaction),
}

thread_local! {
    static LISTENER: Cell<Option<fn(End)>> = const { Cell::new(None) };
}

/// Calls `listener` at each end from now on. There is one listener.
pub fn listen(listener: fn(End)) {
    if LISTENER.replace(Some(listener)).is_none() {
        // SAFETY: the callbacks are functions of this library, which is never unloaded.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
        }
    }
}

fn tell(end: End) {
    if let Some(listener) = LISTENER.get() {
        listener(end);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
    };
    // Before a commit, deferred triggers and cursors that are held still run.
    let before = [XACT_EVENT_PRE_COMMIT, XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_PREPARE];
    if !before.contains(&event) {
        tell(End::Transaction);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    let subtransaction = Subtransaction(subtransaction);
    if event == SUBXACT_EVENT_ABORT_SUB {
        tell(End::Aborted(subtransaction));
    } else if event == SUBXACT_EVENT_COMMIT_SUB {
        tell(End::Committed(subtransaction, Subtransaction(parent)));
    }
}
