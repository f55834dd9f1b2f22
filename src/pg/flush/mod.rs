//! Flush: writes what waits in memory (usage and upgrades) to tables.
//!
//! A launcher, which is connected to no database, looks every `api_key.flush_interval` for databases
//! with something to be written, and starts a worker for each in turn. The worker connects, writes
//! and ends, so that no database is occupied in between: DROP DATABASE finds nobody there.

mod batch;
mod launcher;
mod worker;

use std::time::{Duration, Instant};

use crate::pg::error::Error;
use crate::pg::foreign;
use crate::pg::memory;
use crate::pg::raw::background::{self, background_workers};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::server;
use crate::pg::raw::types::{JsonValue, Void};
use crate::pg::usage;

background_workers! {
    fn api_key_launcher_main() = launcher::run;
    fn api_key_worker_main(database: u32) = worker::run;
}

/// How long a launcher may take to start.
const LAUNCHER_START: Duration = Duration::from_secs(10);
/// How often a waiting call looks whether its flush is done.
const POLL: Duration = Duration::from_millis(10);

/// Has the launcher start with the server; on a standby, when it is promoted.
pub fn register() {
    background::register("api_key launcher", "api_key_launcher_main");
}

sql_function! {
    /// Has everything written now, and waits for it.
    fn flush_usage() -> Void {
        if !memory::is_preloaded() || server::is_standby() {
            Error::NothingToFlush.raise();
        }
        memory::with(|state| {
            let begun = Instant::now();
            let ticket = state.flush.request();
            while !state.flush.is_done(ticket) {
                // It needs a moment to start, with the server or anew.
                if !state.flush.has_launcher() && begun.elapsed() > LAUNCHER_START {
                    Error::NoLauncher.raise();
                }
                state.flush.wake();
                server::sleep(POLL);
                server::check_for_interrupts();
            }
            if state.flush.is_failing(server::database()) {
                Error::FlushFailed.raise();
            }
        });
    }
}

sql_function! {
    /// Takes out what a standby has counted for this database, for `import_usage` on the primary.
    fn export_usage() -> JsonValue {
        if foreign::is_restricted() {
            Error::NotHere.raise();
        }
        let database = server::database();
        let drained = memory::with(|state| usage::drain(state, |of| of == database));
        serde_json::to_value(drained.records()).unwrap_or_default()
    }
}
