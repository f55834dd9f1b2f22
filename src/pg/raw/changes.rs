//! Notices of PostgreSQL about changes of relations: of every table, index, policy or partition that anybody
//! changes.

use std::cell::{Cell, RefCell};

use pgrx::prelude::*;

thread_local! {
    /// How often PostgreSQL has said that something has changed.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static LISTENERS: RefCell<Vec<fn(pg_sys::Oid)>> = const { RefCell::new(Vec::new()) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Counts from now on.
pub fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(at_change), pg_sys::Datum::from(0));
        }
    }
}

/// As [`listen`], and calls `work` with the oid of what has changed, `InvalidOid` for all relations.
pub(super) fn call(work: fn(pg_sys::Oid)) {
    listen();
    LISTENERS.with_borrow_mut(|listeners| listeners.push(work));
}

/// How often something has changed.
pub fn count() -> u64 {
    COUNT.get()
}

#[pg_guard]
unsafe extern "C-unwind" fn at_change(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    COUNT.set(COUNT.get().wrapping_add(1));
    LISTENERS.with_borrow(|listeners| listeners.iter().for_each(|work| work(relation)));
}
