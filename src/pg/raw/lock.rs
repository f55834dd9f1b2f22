//! Locks of PostgreSQL's lock manager that nobody can name in SQL. Waits heed deadlocks, lock_timeout
//! and interrupts.

use pgrx::pg_sys;

/// A lock by a number, which one session holds at a time.
#[derive(Clone, Copy)]
pub struct Lock(u64);

impl Lock {
    /// The lock of this number.
    pub const fn of(number: u64) -> Self {
        Self(number)
    }

    /// Waits for the lock and takes it, until the end of the transaction at the latest.
    pub fn take(self) {
        // SAFETY: the tag lives over the call; an error leaves nothing behind.
        unsafe {
            pg_sys::LockAcquire(&self.tag(), pg_sys::ExclusiveLock.cast_signed(), false, false);
        }
    }

    /// Gives the lock back before the end of the transaction that has taken it.
    pub fn release(self) {
        // SAFETY: as above.
        unsafe {
            pg_sys::LockRelease(&self.tag(), pg_sys::ExclusiveLock.cast_signed(), false);
        }
    }

    /// An advisory lock as to its kind, but of no database, and of a class that
    /// `pg_advisory_lock` and its like do not have (1 and 2).
    fn tag(self) -> pg_sys::LOCKTAG {
        let [low, high] =
            [self.0, self.0 >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
        pg_sys::LOCKTAG {
            locktag_field1: pg_sys::InvalidOid.to_u32(),
            locktag_field2: high,
            locktag_field3: low,
            locktag_field4: 3,
            locktag_type: u8::try_from(pg_sys::LockTagType::LOCKTAG_ADVISORY).unwrap_or(0),
            locktag_lockmethodid: u8::try_from(pg_sys::USER_LOCKMETHOD).unwrap_or(0),
        }
    }
}
