//! Locks of PostgreSQL's lock manager that nobody can name in SQL: whoever may run statements must
//! not be able to stop others by holding one. Waits heed deadlocks, lock_timeout and interrupts.

use uuid::Uuid;

use crate::core::table;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::lock;
use crate::pg::raw::server;
use crate::pg::raw::types::{Str, Uuid as UuidType, Void};

/// A thing to lock. Each lock is held by one session at a time.
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
        self.lock().take();
    }

    /// Gives the lock back before the end of the transaction that has taken it.
    pub fn release(&self) {
        self.lock().release();
    }

    fn lock(&self) -> lock::Lock {
        lock::Lock::of(table::hash(&("api_key", self)))
    }
}

sql_function! {
    /// Has those who make room in a tier for a key of the same user take turns, to the end of the
    /// transaction.
    fn lock_tier(user_id: UuidType, tier: Str) -> Void {
        Lock::Tier(server::database(), user_id, tier).take();
    }
}
