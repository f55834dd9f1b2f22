//! The locks of the segment: a tranche of PostgreSQL's lightweight locks.

use std::cell::UnsafeCell;
use std::ffi::CStr;

use pgrx::pg_sys;

use crate::core::table;

/// Locks in a row; none in memory that only one process has.
#[derive(Clone, Copy)]
pub struct Locks(&'static [UnsafeCell<pg_sys::LWLockPadded>]);

impl Locks {
    /// For memory that only one process has.
    pub const NONE: Self = Self(&[]);

    /// The locks of a tranche.
    ///
    /// # Safety
    /// `count` locks were requested for the tranche, and PostgreSQL has made them.
    pub unsafe fn of_tranche(name: &CStr, count: usize) -> Self {
        // SAFETY: by the caller's promise; they stay until the server ends. `UnsafeCell` because
        // PostgreSQL changes them.
        unsafe {
            let first = pg_sys::GetNamedLWLockTranche(name.as_ptr());
            Self(std::slice::from_raw_parts(first.cast(), count))
        }
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The first `count` locks, and those after them.
    pub fn split(self, count: usize) -> (Self, Self) {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        (Self(first), Self(rest))
    }
}

impl table::Locks for Locks {
    type Held = Held;

    fn lock(&self, number: usize) -> Held {
        Held::wait(self.0.get(number))
    }
}

/// A lock that is held until this is dropped; nothing in memory that only one process has.
///
/// It is held for memory operations only, which raise no errors.
#[must_use]
pub struct Held(Option<*mut pg_sys::LWLock>);

impl Held {
    fn wait(lock: Option<&'static UnsafeCell<pg_sys::LWLockPadded>>) -> Self {
        Self(lock.map(|padded| {
            // SAFETY: a lock of the tranche; each member of the union contains it.
            unsafe {
                let lock = &raw mut (*padded.get()).lock;
                pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
                lock
            }
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lock) = self.0 {
            // SAFETY: held since `wait`.
            unsafe { pg_sys::LWLockRelease(lock) }
        }
    }
}

/// A value that is reached only under a lock of its own.
pub struct Guarded<T: 'static> {
    value: T,
    lock: Locks,
}

impl<T> Guarded<T> {
    /// `lock` is one lock, or none in memory that only one process has.
    pub const fn new(value: T, lock: Locks) -> Self {
        Self { value, lock }
    }

    /// Works on the value. `work` must not come back here, where it would wait for itself.
    pub fn with<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        let _held = table::Locks::lock(&self.lock, 0);
        work(&self.value)
    }
}
