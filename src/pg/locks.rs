//! Locks of PostgreSQL's lock manager that nobody can name in SQL: whoever may run statements must
//! not be able to stop others by holding one. Waits heed deadlocks, lock_timeout and interrupts.

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::memory::key_ref;
use crate::core::table;

/// What is locked. Each is held by one session at a time.
#[derive(Hash)]
pub enum Lock<'a> {
    /// The active keys of a user in a tier, in a database.
    Tier(u32, Uuid, &'a str),
    /// Running the command of the root key.
    RootKeyCommand,
}

impl Lock<'_> {
    /// Waits for the lock and takes it, until the end of the transaction at the latest.
    pub fn take(&self) {
        // SAFETY: the tag lives over the call; an error leaves nothing behind.
        unsafe {
            pg_sys::LockAcquire(&self.tag(), pg_sys::ExclusiveLock.cast_signed(), false, false);
        }
    }

    /// Gives the lock back before the end of the transaction that has taken it.
    pub fn release(&self) {
        // SAFETY: as above.
        unsafe {
            pg_sys::LockRelease(&self.tag(), pg_sys::ExclusiveLock.cast_signed(), false);
        }
    }

    /// An advisory lock as to its kind, but of no database, and of a class that
    /// `pg_advisory_lock` and its like do not have (1 and 2).
    fn tag(&self) -> pg_sys::LOCKTAG {
        let hash = table::hash(&("api_key", self));
        let [low, high] =
            [hash, hash >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
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

/// Has those who make room in a tier for a key of the same user take turns, to the end of the
/// transaction.
#[pg_extern(sql = false)]
fn lock_tier(user_id: pgrx::Uuid, tier: &str) {
    let user_id = Uuid::from_bytes(*user_id.as_bytes());
    Lock::Tier(key_ref(user_id).database, user_id, tier).take();
}
