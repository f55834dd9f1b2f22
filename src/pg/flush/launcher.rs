//! The launcher: starts a worker for each database that has something to be written.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::batch;
use crate::pg::memory::{self, Outcome, State};
use crate::pg::raw::background::{self, Launcher as Process, Progress};
use crate::pg::raw::server;
use crate::pg::{settings, usage};

/// After so many times, a flush interval apart at least, that no worker could connect to a database,
/// what is kept for it is given up: it was dropped, or nobody may connect to it.
const MOST_REFUSALS: u32 = 3;
/// How long a worker may take, before the other databases go on without it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the launcher looks whether its worker has ended.
const POLL: Duration = Duration::from_secs(1);

/// Runs until the server stops.
pub fn run(process: Process) {
    memory::with(|state| {
        state.flush.enter_launcher();
        let mut launcher = Launcher { state, process, failing: HashMap::new(), stop: false };
        while !launcher.stop {
            launcher.process.reload_settings_if_asked();
            let ticket = state.flush.begin_round();
            let flushed = launcher.round(!state.flush.is_done(ticket));
            state.flush.end_round(ticket);
            // Waiting for a worker's end has taken in what has woken the launcher meanwhile. A
            // round that made no room is not repeated at once.
            let again = flushed && state.flush.is_hurried();
            if state.flush.requested() == ticket && !again {
                launcher.wait(settings::flush_interval());
            }
        }
        state.flush.leave_launcher();
    });
}

/// A database that could not be flushed.
struct Failing {
    since: Instant,
    refusals: u32,
}

struct Launcher {
    state: &'static State,
    process: Process,
    failing: HashMap<u32, Failing>,
    stop: bool,
}

impl Launcher {
    /// Flushes each database that has something to be written. One that failed is left alone for an
    /// interval, unless a caller `asked`. The answer is whether any was flushed.
    fn round(&mut self, asked: bool) -> bool {
        let mut flushed = false;
        let databases = self.databases();
        if !databases.is_empty() {
            usage::forget_file();
        }
        for database in databases {
            let interval = settings::flush_interval();
            let rests = |failing: &Failing| failing.since.elapsed() < interval;
            if self.failing.get(&database).is_some_and(rests) && !asked {
                self.state.flush.note_failing(database);
                continue;
            }
            self.stop |= self.process.is_stopped();
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
        usage::each_database(self.state, |database| {
            found.insert(database);
        });
        self.state.upgrades.each(|table| found.extend(table.iter().map(|(key, _)| key.database)));
        found
    }

    /// Starts a worker for a database and waits for its end. The answer is whether it wrote
    /// everything.
    fn flush(&mut self, database: u32) -> bool {
        let status = &self.state.flush;
        status.set_outcome(Outcome::NotConnected);
        let Some(worker) = background::start("api_key worker", "api_key_worker_main", database)
        else {
            let error = "no free background worker: raise max_worker_processes";
            status.keep_error(error, server::now());
            status.note_all_failing();
            return false;
        };
        let begun = Instant::now();
        loop {
            match worker.progress() {
                Progress::NotYetStarted if self.stop => return false,
                Progress::NotYetStarted | Progress::Running => {}
                Progress::Ended => break,
            }
            if begun.elapsed() > PATIENCE {
                // It puts back what it had taken.
                worker.terminate();
                status.keep_error("a worker took too long and was ended", server::now());
                break;
            }
            self.wait(POLL);
        }
        match self.state.flush.outcome() {
            Outcome::Done => {
                self.failing.remove(&database);
                true
            }
            outcome => {
                self.note_failure(database, outcome == Outcome::NotConnected);
                false
            }
        }
    }

    fn note_failure(&mut self, database: u32, refused: bool) {
        self.state.flush.note_failing(database);
        let fresh = Failing { since: Instant::now(), refusals: 0 };
        let interval = settings::flush_interval();
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
            batch::drain(self.state, database);
            log!("api_key: gave up what was kept for database {database}: no worker got into it");
        }
    }

    /// Sleeps until woken, for at most `timeout`. Asking for a stop forgets it, so it is kept.
    fn wait(&mut self, timeout: Duration) {
        self.stop |= self.process.is_stopped();
        if !self.stop {
            self.stop |= !self.process.wait(timeout);
        }
    }
}
