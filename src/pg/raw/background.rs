//! Background workers: a launcher that runs as long as the server, and workers that it starts.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BackgroundWorkerStatus, BgWorkerStartTime,
    DynamicBackgroundWorker, SignalWakeFlags,
};
use pgrx::{IntoDatum, pg_sys};

use super::server;

/// Exports the main functions of the launcher, `fn(Launcher)`, and of the worker of a database,
/// `fn(u32)`, which is given the database's oid.
macro_rules! background_workers {
    (
        fn $launcher:ident() = $run_launcher:path;
        fn $worker:ident(database: u32) = $run_worker:path;
    ) => {
        /// The launcher.
        #[allow(unsafe_code, reason = "PostgreSQL finds it by its name")]
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub extern "C-unwind" fn $launcher(_argument: pgrx::pg_sys::Datum) {
            $run_launcher($crate::pg::raw::background::Launcher::begin());
            $crate::pg::raw::background::end_launcher();
        }

        /// The worker of the database whose oid is the argument.
        #[allow(unsafe_code, reason = "PostgreSQL finds it by its name")]
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub extern "C-unwind" fn $worker(argument: pgrx::pg_sys::Datum) {
            $run_worker(u32::try_from(argument.value()).unwrap_or(0));
        }
    };
}
pub(in crate::pg) use background_workers;

const LIBRARY: &str = "api_key";

/// Has a launcher start with the server, and again when it has ended; on a standby, when it is
/// promoted.
pub fn register(name: &str, function: &str) {
    BackgroundWorkerBuilder::new(name)
        .set_library(LIBRARY)
        .set_function(function)
        // It connects to no database; but without this PostgreSQL has it ignore the signal that
        // tells of a worker's end.
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

/// The process of the launcher.
pub struct Launcher(());

impl Launcher {
    /// Begins to heed signals.
    pub fn begin() -> Self {
        let signals = SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM;
        BackgroundWorker::attach_signal_handlers(signals);
        Self(())
    }

    /// Reads the settings again if the server was told to.
    pub fn reload_settings_if_asked(&self) {
        if BackgroundWorker::sighup_received() {
            // SAFETY: as PostgreSQL's own workers do between two tasks.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) }
        }
    }

    /// Whether it was told to stop since this was last asked.
    pub fn is_stopped(&self) -> bool {
        BackgroundWorker::sigterm_received()
    }

    /// Sleeps until woken, for at most `timeout`; false if it has to stop.
    pub fn wait(&self, timeout: Duration) -> bool {
        BackgroundWorker::wait_latch(Some(timeout))
    }
}

/// Ends the launcher.
pub fn end_launcher() {
    // Not 0, which would have the postmaster never start it again. At a shutdown it does not.
    // SAFETY: ends this process.
    unsafe { pg_sys::proc_exit(1) }
}

/// A worker that was started.
pub struct Worker(DynamicBackgroundWorker);

/// How far a worker is.
pub enum Progress {
    /// The postmaster has not started it yet.
    NotYetStarted,
    /// It runs.
    Running,
    /// It has ended.
    Ended,
}

/// Starts a worker for a database; `None` if no worker is free. Its end wakes this process.
pub fn start(name: &str, function: &str, database: u32) -> Option<Worker> {
    BackgroundWorkerBuilder::new(name)
        .set_library(LIBRARY)
        .set_function(function)
        .enable_spi_access()
        .set_restart_time(None)
        .set_argument(pg_sys::Oid::from(database).into_datum())
        .set_notify_pid(server::process_id())
        .load_dynamic()
        .ok()
        .map(Worker)
}

impl Worker {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        match self.0.pid() {
            Ok(_) => Progress::Running,
            Err(BackgroundWorkerStatus::NotYetStarted) => Progress::NotYetStarted,
            Err(_) => Progress::Ended,
        }
    }

    /// Tells it to end.
    pub fn terminate(self) {
        self.0.terminate();
    }
}

unsafe extern "C-unwind" {
    /// PostgreSQL's own handler of SIGTERM, without pgrx around it: it runs in a signal.
    fn die(signal: i32);
}

/// Connects this worker to its database. A termination ends any wait from now on, also that for the
/// database; `at_exit` is called when the worker ends, however it does.
pub fn connect(database: u32, at_exit: fn()) {
    let terminate = pg_sys::SIGTERM.cast_signed();
    // SAFETY: as a background worker begins: handlers, then signals.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
        pg_sys::pqsignal(terminate, Some(die));
        #[cfg(not(any(feature = "pg15", feature = "pg16", feature = "pg17")))]
        pg_sys::pqsignal_be(terminate, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    server::at_exit(at_exit);
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), None);
}

/// Sets a setting of this session, above what the database or the role has set.
pub fn set_option(name: &CStr, value: &CStr) {
    // SAFETY: C strings, which PostgreSQL copies.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// Whether an extension is installed in this database. Called in a transaction.
pub fn has_extension(name: &CStr) -> bool {
    // SAFETY: a catalog look-up in a transaction.
    unsafe { pg_sys::get_extension_oid(name.as_ptr(), true) != pg_sys::InvalidOid }
}
