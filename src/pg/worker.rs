//! Writes what verifies have left in memory.
//!
//! A launcher, in no database, looks every `api_key.flush_interval` which databases have
//! something to be written and starts a worker for each in turn, which connects, writes and ends.
//! So no database is occupied in between: DROP DATABASE finds nobody there.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::prelude::*;
use pgrx::{IntoDatum, PgTryBuilder, pg_sys};
use serde::Serialize;

use super::error::Error;
use super::shared::{self, State, Upgrade};
use crate::core::usage::{KeyRef, RefusalKind, RefusalRecord, Refusals, Usage, UsageRecord};

/// `WorkerState::outcome`: the worker never got into its database.
const NOT_CONNECTED: u32 = 0;
/// It was in, and failed; what it had taken is back in memory.
const FAILED: u32 = 1;
/// It wrote everything.
const DONE: u32 = 2;

/// After so many times that no worker got into a database, what is kept for it is given up: it
/// was dropped, or nobody may connect to it.
const MOST_REFUSALS: u32 = 3;
/// Keys that are written in one transaction.
const BATCH: usize = 10_000;

/// Has the launcher started with the server; on a standby, when it is promoted.
pub fn register() {
    BackgroundWorkerBuilder::new("api_key launcher")
        .set_library("api_key")
        .set_function("api_key_launcher_main")
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// Has the launcher look now.
pub fn wake(state: &State) {
    let latch = state.worker().latch.load(Ordering::Acquire);
    if !latch.is_null() {
        // SAFETY: the latch of a PGPROC, which stays; if the launcher has ended since, someone
        // is woken in vain.
        unsafe { pg_sys::SetLatch(latch) }
    }
}

/// The launcher.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn api_key_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    let mut refusals = HashMap::new();
    shared::with(|state| {
        let worker = state.worker();
        // SAFETY: this process's own.
        worker.latch.store(unsafe { &raw mut (*pg_sys::MyProc).procLatch }, Ordering::Release);
        // Asking after SIGTERM forgets it, and so does `wait_latch`: each answer counts.
        loop {
            if BackgroundWorker::sighup_received() {
                // SAFETY: as PostgreSQL's own workers do between two tasks.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            }
            let requested = worker.requested.load(Ordering::Acquire);
            for database in databases(state) {
                flush(state, database, &mut refusals);
            }
            worker.done.store(requested, Ordering::Release);
            if BackgroundWorker::sigterm_received()
                || worker.requested.load(Ordering::Acquire) == requested
                    && !BackgroundWorker::wait_latch(Some(super::settings::flush_interval()))
            {
                break;
            }
        }
        worker.latch.store(std::ptr::null_mut(), Ordering::Release);
    });
}

/// The databases for which something is kept.
fn databases(state: &State) -> HashSet<u32> {
    let mut databases = HashSet::new();
    state.usage.each(|table| databases.extend(table.iter().map(|(key, _)| key.database)));
    state.refusals.each(|table| databases.extend(table.iter().map(|(kind, _)| kind.database)));
    state.upgrades.each(|table| databases.extend(table.iter().map(|(key, _)| key.database)));
    databases
}

/// Starts a worker for a database and waits for its end.
fn flush(state: &State, database: u32, refusals: &mut HashMap<u32, u32>) {
    let outcome = &state.worker().outcome;
    outcome.store(NOT_CONNECTED, Ordering::Release);
    let started = BackgroundWorkerBuilder::new("api_key worker")
        .set_library("api_key")
        .set_function("api_key_worker_main")
        .enable_spi_access()
        .set_restart_time(None)
        .set_argument(pg_sys::Oid::from(database).into_datum())
        // SAFETY: this process's own.
        .set_notify_pid(unsafe { pg_sys::MyProcPid })
        .load_dynamic();
    let Ok(started) = started else {
        state.keep_error("no free background worker: raise max_worker_processes", now());
        return;
    };
    let _ = started.wait_for_shutdown();
    if outcome.load(Ordering::Acquire) != NOT_CONNECTED {
        refusals.remove(&database);
        return;
    }
    let refused = refusals.entry(database).or_insert(0);
    *refused += 1;
    if *refused >= MOST_REFUSALS {
        refusals.remove(&database);
        take(state, database);
        log!("api_key: gave up what was kept for database {database}: no worker got into it");
    }
}

/// The worker of one database, whose oid is the argument.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn api_key_worker_main(argument: pg_sys::Datum) {
    // A shutdown lets the flush that runs come to its end.
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGTERM);
    let database = u32::try_from(argument.value()).unwrap_or(0);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), None);
    shared::with(|state| {
        let worker = state.worker();
        worker.outcome.store(FAILED, Ordering::Release);
        let taken = take(state, database);
        let mut batches = taken.batches();
        while let Some(batch) = batches.pop() {
            write(state, batch, &batches);
        }
        worker.outcome.store(DONE, Ordering::Release);
        worker.flushes.fetch_add(1, Ordering::Relaxed);
        worker.last_flush_at.store(now(), Ordering::Relaxed);
    });
}

/// What is kept for a database, taken out of memory.
#[derive(Default)]
struct Taken {
    usage: Vec<(KeyRef, Usage)>,
    refusals: Vec<(RefusalKind, Refusals)>,
    upgrades: Vec<(KeyRef, Upgrade)>,
}

fn take(state: &State, database: u32) -> Taken {
    Taken {
        usage: state.usage.each(|t| t.take(|key, _| key.database == database)).concat(),
        refusals: state.refusals.each(|t| t.take(|kind, _| kind.database == database)).concat(),
        upgrades: state.upgrades.each(|t| t.take(|key, _| key.database == database)).concat(),
    }
}

impl Taken {
    fn batches(mut self) -> Vec<Self> {
        // Rows are written in one order: what else writes them waits and does not deadlock.
        self.usage.sort_unstable_by_key(|(key, _)| key.key_id);
        let mut usage = self.usage.chunks(BATCH).map(<[_]>::to_vec);
        let first = Self {
            usage: usage.next().unwrap_or_default(),
            refusals: self.refusals,
            upgrades: self.upgrades,
        };
        std::iter::once(first).chain(usage.map(|usage| Self { usage, ..Self::default() })).collect()
    }

    fn put_back(&self, state: &State) {
        for (key, usage) in &self.usage {
            super::recording::add_usage(state, *key, usage);
        }
        for (kind, refusals) in &self.refusals {
            super::recording::add_refusals(state, *kind, refusals);
        }
        // A better hash is not put back: the next verify that misses the memo makes it again.
    }

    /// As `write_pending` reads it.
    fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        #[derive(Serialize)]
        struct UpgradeRecord {
            key_id: String,
            replaces: String,
            hash: String,
        }
        #[derive(Serialize)]
        struct Pending {
            usage: Vec<UsageRecord>,
            refusals: Vec<RefusalRecord>,
            upgrades: Vec<UpgradeRecord>,
        }
        let upgrades = self.upgrades.iter().map(|(key, upgrade)| UpgradeRecord {
            key_id: key.key_id.to_string(),
            replaces: upgrade.replaces.iter().map(|byte| format!("{byte:02x}")).collect(),
            hash: String::from_utf8_lossy(&upgrade.hash.1[..upgrade.hash.0]).into_owned(),
        });
        serde_json::to_value(Pending {
            usage: self.usage.iter().map(Into::into).collect(),
            refusals: self.refusals.iter().map(Into::into).collect(),
            upgrades: upgrades.collect(),
        })
    }
}

/// Writes a batch in a transaction of its own. An error puts it and what `follows` back, is kept
/// for `api_key.stats`, and ends the worker.
fn write(state: &State, batch: Taken, follows: &[Taken]) {
    // What unwinding could leave half done is memory under locks, which no error interrupts.
    let (state, batch, follows) =
        (AssertUnwindSafe(state), AssertUnwindSafe(&batch), AssertUnwindSafe(follows));
    PgTryBuilder::new(|| {
        BackgroundWorker::transaction(|| {
            // SAFETY: a catalog look-up in a transaction.
            let installed =
                unsafe { pg_sys::get_namespace_oid(c"api_key_internal".as_ptr(), true) };
            if installed == pg_sys::InvalidOid {
                // Dropped since: nobody misses these counts.
                return;
            }
            let written = batch.to_json().map(|json| {
                Spi::run_with_args(
                    "SELECT api_key_internal.write_pending($1)",
                    &[pgrx::JsonB(json).into()],
                )
            });
            if !matches!(written, Ok(Ok(()))) {
                error!("api_key_internal.write_pending cannot be called");
            }
        });
    })
    .catch_others(|cause| {
        batch.put_back(&state);
        follows.iter().for_each(|taken| taken.put_back(&state));
        let message = match &cause {
            pg_sys::panic::CaughtError::PostgresError(report)
            | pg_sys::panic::CaughtError::ErrorReport(report) => report.message().to_owned(),
            pg_sys::panic::CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        };
        state.keep_error(&message, now());
        cause.rethrow()
    })
    .execute();
}

/// Has everything written now, and waits for it.
#[pg_extern(sql = false)]
fn flush_usage() {
    // SAFETY: asks whether the server is a standby.
    if !shared::is_preloaded() || unsafe { pg_sys::RecoveryInProgress() } {
        Error::NothingToFlush.raise();
    }
    shared::with(|state| {
        let worker = state.worker();
        let errors = worker.last_error_at.load(Ordering::Acquire);
        let ticket = worker.requested.fetch_add(1, Ordering::AcqRel) + 1;
        while worker.done.load(Ordering::Acquire) < ticket {
            wake(state);
            // SAFETY: waits for this process's own latch, which nobody sets for this; 10 ms.
            unsafe {
                let events =
                    pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
                pg_sys::WaitLatch(
                    pg_sys::MyLatch,
                    events.cast_signed(),
                    10,
                    pg_sys::PG_WAIT_EXTENSION,
                );
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
            pgrx::check_for_interrupts!();
        }
        if worker.last_error_at.load(Ordering::Acquire) != errors {
            Error::FlushFailed.raise();
        }
    });
}

/// Takes out what a standby has counted for this database, for `import_usage` on the primary.
#[pg_extern(sql = false)]
fn export_usage() -> pgrx::JsonB {
    // SAFETY: set since the backend has connected.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let taken = shared::with(|state| Taken { upgrades: Vec::new(), ..take(state, database) });
    pgrx::JsonB(taken.to_json().unwrap_or_default())
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
