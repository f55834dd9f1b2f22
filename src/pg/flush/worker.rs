//! The worker of one database: takes out of memory what is kept for the database, and writes it.

use std::cell::RefCell;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use pgrx::bgworkers::BackgroundWorker;
use pgrx::prelude::*;
use pgrx::{PgTryBuilder, PgXactCallbackEvent, register_xact_callback};
use uuid::Uuid;

use super::batch::{self, Batch, Columns};
use crate::pg::memory::{self, Outcome, State};
use crate::pg::raw::background;
use crate::pg::raw::server;

thread_local! {
    /// Taken out of memory and not yet written.
    static IN_HAND: RefCell<Vec<Batch>> = const { RefCell::new(Vec::new()) };
    /// Keys of the batch that is being written whose rows others have locked: they wait for the next
    /// flush.
    static LOCKED: RefCell<Vec<Uuid>> = const { RefCell::new(Vec::new()) };
}

/// Settings of the session. A database's owner may have set them to stop a flush, or to guide it; and
/// a flush need not be durable when it ends.
const SETTINGS: [(&CStr, &CStr); 7] = [
    (c"role", c"none"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"statement_timeout", c"0"),
    (c"lock_timeout", c"5s"),
    (c"synchronous_commit", c"off"),
    // Pages that were not written since a checkpoint go to the WAL whole.
    (c"wal_compression", c"on"),
];

/// Flushes a database.
pub fn run(database: u32) {
    background::connect(database, put_back);
    for (name, value) in SETTINGS {
        background::set_option(name, value);
    }
    memory::with(|state| {
        state.flush.set_outcome(Outcome::Failed);
        IN_HAND.replace(batch::drain(state, database));
        while write(state) {}
        state.flush.set_outcome(Outcome::Done);
        state.flush.count_flush(server::now());
    });
}

/// Puts back what an error, a termination or a shutdown kept from being written.
fn put_back() {
    let left = IN_HAND.take();
    memory::with(|state| left.iter().for_each(|batch| batch.put_back(state)));
}

/// Writes the last batch in hand in a transaction of its own; false if there is none. An error is
/// kept for `api_key.stats` and ends the worker, which puts back what is in hand.
fn write(state: &State) -> bool {
    let batch = IN_HAND.with_borrow(|batches| {
        batches.last().map(|batch| (batch.upgrades(), batch.denials(), batch.use_counts()))
    });
    let Some((upgrades, denials, use_counts)) = batch else {
        return false;
    };
    let state = AssertUnwindSafe(state);
    PgTryBuilder::new(|| {
        BackgroundWorker::transaction(|| {
            // From the commit on it is written, whatever comes next.
            register_xact_callback(PgXactCallbackEvent::Commit, || {
                if let Some(mut written) = IN_HAND.with_borrow_mut(Vec::pop) {
                    written.keep_only(&LOCKED.take());
                    memory::with(|state| written.put_back(state));
                }
            });
            // The extension, not a schema of its name, which could be anybody's. If it was dropped
            // since, nobody misses these counts.
            if background::has_extension(c"api_key")
                && write_rows(upgrades, denials, use_counts).is_err()
            {
                error!("the functions of api_key_internal that flush cannot be called");
            }
        });
    })
    .catch_others(|cause| {
        let message = match &cause {
            pg_sys::panic::CaughtError::PostgresError(report)
            | pg_sys::panic::CaughtError::ErrorReport(report) => report.message().to_owned(),
            pg_sys::panic::CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        };
        state.flush.keep_error(&message, server::now());
        cause.rethrow()
    })
    .execute();
    true
}

fn write_rows(
    upgrades: Option<serde_json::Value>,
    denials: Option<serde_json::Value>,
    use_counts: Columns,
) -> spi::Result<()> {
    for (function, records) in [("flush_upgrades", upgrades), ("flush_denials", denials)] {
        if let Some(records) = records {
            let call = format!("SELECT api_key_internal.{function}($1)");
            Spi::run_with_args(&call, &[pgrx::JsonB(records).into()])?;
        }
    }
    let Columns { key_ids, uses, failures, last_used_at, last_used_ip } = use_counts;
    let locked = Spi::get_one_with_args::<Vec<pgrx::Uuid>>(
        "SELECT api_key_internal.flush_unlocked_use_counts($1, $2, $3, $4, $5)",
        &[key_ids.into(), uses.into(), failures.into(), last_used_at.into(), last_used_ip.into()],
    )?;
    let locked = locked.unwrap_or_default();
    LOCKED.set(locked.iter().map(|id| Uuid::from_bytes(*id.as_bytes())).collect());
    Ok(())
}
