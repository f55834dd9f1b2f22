//! Writes what verifies have left in memory.
//!
//! A launcher, in no database, looks every `api_key.flush_interval` which databases have
//! something to be written and starts a worker for each in turn, which connects, writes and ends.
//! So no database is occupied in between: DROP DATABASE finds nobody there.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime,
    SignalWakeFlags,
};
use pgrx::prelude::*;
use pgrx::{IntoDatum, PgTryBuilder, PgXactCallbackEvent, pg_sys, register_xact_callback};
use serde::Serialize;

use super::error::Error;
use super::foreign;
use super::shared::{self, EVERY_DATABASE, State, Upgrade};
use crate::core::usage::{KeyRef, RefusalKind, RefusalRecord, Refusals, Usage, UsageRecord};

/// `WorkerState::outcome`: the worker never got into its database.
const NOT_CONNECTED: u32 = 0;
/// It was in, and failed; what it had taken is back in memory.
const FAILED: u32 = 1;
/// It wrote everything.
const DONE: u32 = 2;

/// After so many times, a flush interval apart at least, that no worker got into a database, what
/// is kept for it is given up: it was dropped, or nobody may connect to it.
const MOST_REFUSALS: u32 = 3;
/// How long a worker may take, before the other databases go on without it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a launcher may take to start.
const LAUNCHER_START: Duration = Duration::from_secs(10);
/// Keys that are written in one transaction.
const BATCH: usize = 10_000;

/// Has the launcher started with the server; on a standby, when it is promoted.
pub fn register() {
    BackgroundWorkerBuilder::new("api_key launcher")
        .set_library("api_key")
        .set_function("api_key_launcher_main")
        // It connects to no database; but without this PostgreSQL has it ignore the signal that
        // tells of a worker's end.
        .enable_spi_access()
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

/// Has the launcher look now, as there is little room left. It is woken by the first to find so
/// since it looked last: thousands may, before a flush is done.
pub fn make_room(state: &State) {
    let needs_room = &state.worker().needs_room;
    if !needs_room.load(Ordering::Relaxed) && !needs_room.swap(true, Ordering::AcqRel) {
        wake(state);
    }
}

/// The launcher.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn api_key_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    shared::with(|state| {
        let worker = state.worker();
        // SAFETY: this process's own.
        let latch = unsafe { &raw mut (*pg_sys::MyProc).procLatch };
        worker.latch.store(latch, Ordering::Release);
        let mut launcher = Launcher { state, failing: HashMap::new(), stop: false };
        while !launcher.stop {
            if BackgroundWorker::sighup_received() {
                // SAFETY: as PostgreSQL's own workers do between two tasks.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            }
            worker.needs_room.store(false, Ordering::Release);
            let requested = worker.requested.load(Ordering::Acquire);
            let asked = requested != worker.done.load(Ordering::Acquire);
            let flushed = launcher.round(asked);
            worker.done.store(requested, Ordering::Release);
            // Waiting for a worker's end has taken in what has woken the launcher meanwhile. A
            // round that made no room is not repeated at once.
            let again = flushed && worker.needs_room.load(Ordering::Acquire);
            if worker.requested.load(Ordering::Acquire) == requested && !again {
                launcher.wait(super::settings::flush_interval());
            }
        }
        worker.latch.store(std::ptr::null_mut(), Ordering::Release);
    });
    // Not 0, which would have the postmaster never start it again. At a shutdown it does not.
    // SAFETY: ends this process.
    unsafe { pg_sys::proc_exit(1) }
}

/// A database that could not be flushed.
struct Failing {
    since: Instant,
    refusals: u32,
}

struct Launcher<'a> {
    state: &'a State,
    failing: HashMap<u32, Failing>,
    stop: bool,
}

impl Launcher<'_> {
    /// Flushes each database that has something. One that failed is left alone for an interval,
    /// unless somebody has `asked`. Whether any was flushed.
    fn round(&mut self, asked: bool) -> bool {
        let mut flushed = false;
        let databases = self.databases();
        for place in &self.state.worker().failing {
            place.store(0, Ordering::Relaxed);
        }
        if !databases.is_empty() {
            super::pending::forget_file();
        }
        for database in databases {
            let interval = super::settings::flush_interval();
            let rests = |failing: &Failing| failing.since.elapsed() < interval;
            if self.failing.get(&database).is_some_and(rests) && !asked {
                self.state.fails(database);
                continue;
            }
            self.stop |= BackgroundWorker::sigterm_received();
            if self.stop {
                break;
            }
            flushed |= self.flush(database);
        }
        flushed
    }

    /// The databases for which something is kept.
    fn databases(&self) -> HashSet<u32> {
        let mut found = HashSet::new();
        self.state.usage.each(|t| found.extend(t.iter().map(|(key, _)| key.database)));
        self.state.refusals.each(|t| found.extend(t.iter().map(|(kind, _)| kind.database)));
        self.state.upgrades.each(|t| found.extend(t.iter().map(|(key, _)| key.database)));
        found
    }

    /// Starts a worker for a database and waits for its end. Whether it wrote everything.
    fn flush(&mut self, database: u32) -> bool {
        let outcome = &self.state.worker().outcome;
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
        let Ok(worker) = started else {
            self.state.keep_error("no free background worker: raise max_worker_processes", now());
            self.state.fails(EVERY_DATABASE);
            return false;
        };
        let begun = Instant::now();
        loop {
            match worker.pid() {
                Err(BackgroundWorkerStatus::NotYetStarted) if self.stop => return false,
                Err(BackgroundWorkerStatus::NotYetStarted) | Ok(_) => {}
                Err(_) => break,
            }
            if begun.elapsed() > PATIENCE {
                // It puts back what it had taken.
                worker.terminate();
                self.state.keep_error("a worker took too long and was ended", now());
                break;
            }
            self.wait(Duration::from_secs(1));
        }
        match outcome.load(Ordering::Acquire) {
            DONE => {
                self.failing.remove(&database);
                true
            }
            outcome => {
                self.failed(database, outcome == NOT_CONNECTED);
                false
            }
        }
    }

    fn failed(&mut self, database: u32, refused: bool) {
        self.state.fails(database);
        let fresh = Failing { since: Instant::now(), refusals: 0 };
        let interval = super::settings::flush_interval();
        let first = !self.failing.contains_key(&database);
        let failing = self.failing.entry(database).or_insert(fresh);
        if !refused {
            failing.since = Instant::now();
            return;
        }
        if first || failing.since.elapsed() >= interval {
            failing.since = Instant::now();
            failing.refusals += 1;
        }
        if failing.refusals >= MOST_REFUSALS {
            self.failing.remove(&database);
            take(self.state, database);
            log!("api_key: gave up what was kept for database {database}: no worker got into it");
        }
    }

    /// Sleeps until woken, for at most `timeout`. Asking for SIGTERM forgets it, so that is kept.
    fn wait(&mut self, timeout: Duration) {
        self.stop |= BackgroundWorker::sigterm_received();
        if !self.stop {
            self.stop |= !BackgroundWorker::wait_latch(Some(timeout));
        }
    }
}

unsafe extern "C-unwind" {
    /// PostgreSQL's own handler of SIGTERM, without pgrx around it: it runs in a signal.
    fn die(signal: i32);
}

thread_local! {
    /// What the worker has taken out of memory and not yet written.
    static IN_HAND: RefCell<Vec<Taken>> = const { RefCell::new(Vec::new()) };
    /// Keys of the batch that is being written whose rows others hold: they are for the next flush.
    static HELD: RefCell<Vec<pgrx::Uuid>> = const { RefCell::new(Vec::new()) };
}

/// Puts back what an error, a termination or a shutdown kept from being written.
#[pg_guard]
unsafe extern "C-unwind" fn put_back(_code: i32, _argument: pg_sys::Datum) {
    let left = IN_HAND.take();
    shared::with(|state| left.iter().for_each(|taken| taken.put_back(state)));
}

/// The worker of one database, whose oid is the argument.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn api_key_worker_main(argument: pg_sys::Datum) {
    let database = u32::try_from(argument.value()).unwrap_or(0);
    // SAFETY: as a background worker begins: handlers, signals, database. `die` has a termination
    // end any wait, also that for the database.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM.cast_signed(), Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM.cast_signed(), Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::before_shmem_exit(Some(put_back), pg_sys::Datum::from(0));
    }
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), None);
    // What the database's owner may have set must neither stop a flush nor guide it; and nobody
    // waits for one to be durable.
    for (name, value) in [
        (c"role", c"none"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"5s"),
        (c"synchronous_commit", c"off"),
        // Pages that were not written since a checkpoint go to the WAL whole.
        (c"wal_compression", c"on"),
    ] {
        // SAFETY: names and values are C strings that live for ever.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
    shared::with(|state| {
        let worker = state.worker();
        worker.outcome.store(FAILED, Ordering::Release);
        IN_HAND.replace(take(state, database).batches());
        while write(state) {}
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

/// Ids of keys, uses, failures, times and addresses of the last use.
type UsageColumns = (Vec<pgrx::Uuid>, Vec<i64>, Vec<i64>, Vec<Option<i64>>, Vec<Option<String>>);

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

    /// Forgets all but the use counts of these keys.
    fn keep(&mut self, keys: &[pgrx::Uuid]) {
        self.usage
            .retain(|(key, _)| keys.iter().any(|kept| kept.as_bytes() == key.key_id.as_bytes()));
        self.refusals.clear();
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

    /// The arguments of `write_usage`.
    fn usage_columns(&self) -> UsageColumns {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let usage = self.usage.iter();
        (
            usage.clone().map(|(key, _)| pgrx::Uuid::from_bytes(key.key_id.into_bytes())).collect(),
            usage.clone().map(|(_, usage)| count(usage.uses)).collect(),
            usage.clone().map(|(_, usage)| count(usage.failures)).collect(),
            usage.clone().map(|(_, usage)| usage.last_used_at).collect(),
            usage.map(|(_, usage)| usage.last_used_ip.map(|ip| ip.to_string())).collect(),
        )
    }

    /// What there is besides use counts.
    fn others(&self) -> Option<Self> {
        let others = Self {
            usage: Vec::new(),
            refusals: self.refusals.clone(),
            upgrades: self.upgrades.clone(),
        };
        (!others.refusals.is_empty() || !others.upgrades.is_empty()).then_some(others)
    }

    /// As `write_pending` reads it.
    fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        #[derive(Serialize)]
        struct UpgradeRecord {
            key_id: String,
            replaces: String,
            hash: String,
            handle: Option<String>,
        }
        #[derive(Serialize)]
        struct Pending {
            usage: Vec<UsageRecord>,
            refusals: Vec<RefusalRecord>,
            upgrades: Vec<UpgradeRecord>,
        }
        let upgrades = self.upgrades.iter().map(|(key, upgrade)| UpgradeRecord {
            key_id: key.key_id.to_string(),
            replaces: base16ct::lower::encode_string(&upgrade.replaces),
            hash: String::from_utf8_lossy(&upgrade.hash.1[..upgrade.hash.0]).into_owned(),
            handle: upgrade.handle.map(|handle| base16ct::lower::encode_string(&handle)),
        });
        serde_json::to_value(Pending {
            usage: self.usage.iter().map(Into::into).collect(),
            refusals: self.refusals.iter().map(Into::into).collect(),
            upgrades: upgrades.collect(),
        })
    }
}

/// Writes the last batch in hand in a transaction of its own; false if there is none. An error is
/// kept for `api_key.stats` and ends the worker, which puts back what is in hand.
fn write(state: &State) -> bool {
    let batch = IN_HAND
        .with_borrow(|batches| batches.last().map(|taken| (taken.usage_columns(), taken.others())));
    let Some((usage, others)) = batch else {
        return false;
    };
    let state = AssertUnwindSafe(state);
    PgTryBuilder::new(|| {
        BackgroundWorker::transaction(|| {
            // From the commit on it is written, whatever comes next.
            register_xact_callback(PgXactCallbackEvent::Commit, || {
                if let Some(mut written) = IN_HAND.with_borrow_mut(Vec::pop) {
                    written.keep(&HELD.take());
                    shared::with(|state| written.put_back(state));
                }
            });
            // The extension, not a schema of its name: that one could be anybody's.
            // SAFETY: a catalog look-up in a transaction.
            let installed = unsafe { pg_sys::get_extension_oid(c"api_key".as_ptr(), true) };
            if installed == pg_sys::InvalidOid {
                // Dropped since: nobody misses these counts.
                return;
            }
            let written = others.map_or(Ok(()), |others| {
                let json = pgrx::JsonB(others.to_json().unwrap_or_default());
                Spi::run_with_args("SELECT api_key_internal.write_pending($1)", &[json.into()])
            });
            let (ids, uses, failures, times, addresses) = usage;
            let written = written.and_then(|()| {
                let held = Spi::get_one_with_args::<Vec<pgrx::Uuid>>(
                    "SELECT api_key_internal.write_free_usage($1, $2, $3, $4, $5)",
                    &[ids.into(), uses.into(), failures.into(), times.into(), addresses.into()],
                )?;
                HELD.set(held.unwrap_or_default());
                Ok(())
            });
            if written.is_err() {
                error!("the functions of api_key_internal that write cannot be called");
            }
        });
    })
    .catch_others(|cause| {
        let message = match &cause {
            pg_sys::panic::CaughtError::PostgresError(report)
            | pg_sys::panic::CaughtError::ErrorReport(report) => report.message().to_owned(),
            pg_sys::panic::CaughtError::RustPanic { ereport, .. } => ereport.message().to_owned(),
        };
        state.keep_error(&message, now());
        cause.rethrow()
    })
    .execute();
    true
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
        let begun = Instant::now();
        let ticket = worker.requested.fetch_add(1, Ordering::AcqRel) + 1;
        while worker.done.load(Ordering::Acquire) < ticket {
            // It needs a moment to start, with the server or anew.
            if worker.latch.load(Ordering::Acquire).is_null() && begun.elapsed() > LAUNCHER_START {
                Error::NoLauncher.raise();
            }
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
        // SAFETY: set since the backend has connected.
        if state.failed(unsafe { pg_sys::MyDatabaseId }.to_u32()) {
            Error::FlushFailed.raise();
        }
    });
}

/// Takes out what a standby has counted for this database, for `import_usage` on the primary.
#[pg_extern(sql = false)]
fn export_usage() -> pgrx::JsonB {
    if foreign::is_restricted() {
        Error::NotHere.raise();
    }
    // SAFETY: set since the backend has connected.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let taken = shared::with(|state| Taken { upgrades: Vec::new(), ..take(state, database) });
    pgrx::JsonB(taken.to_json().unwrap_or_default())
}

fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}
