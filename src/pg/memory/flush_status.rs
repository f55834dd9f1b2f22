//! The state of the launcher and its workers, and the requests of backends to them.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use super::arena::Arena;
use super::lock::Guarded;
use crate::pg::raw::server;

/// How the worker of a database ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It never connected to its database.
    NotConnected,
    /// It was connected, and failed; what it had taken is back in memory.
    Failed,
    /// It wrote everything.
    Done,
}

/// In `failing`: no database in particular.
const EVERY_DATABASE: u32 = u32::MAX;
/// In `launcher`: it does not run.
const NOBODY: u32 = u32::MAX;

/// All that is no text. Times are microseconds since 2000, 0 for never.
struct Shared {
    /// The process number of the launcher, or `NOBODY`.
    launcher: AtomicU32,
    /// A backend found little room left since the launcher looked last.
    is_hurried: AtomicBool,
    requested: AtomicU64,
    done: AtomicU64,
    flushes: AtomicU64,
    last_flush_at: AtomicI64,
    /// An `Outcome`.
    outcome: AtomicU32,
    /// Databases that the last round could not flush, or `EVERY_DATABASE`; 0 for none.
    failing: [AtomicU32; 16],
    last_error_at: AtomicI64,
}

/// The text of an error, cut to what there is room for; its length before it.
type ErrorText = (usize, [u8; 256]);

/// The state of flushes, for all processes.
pub struct FlushStatus {
    shared: &'static Shared,
    last_error: Guarded<&'static Cell<ErrorText>>,
}

impl FlushStatus {
    /// Takes the state.
    pub fn take(arena: &mut Arena) -> Self {
        let shared = arena.one(|| Shared {
            launcher: AtomicU32::new(NOBODY),
            is_hurried: AtomicBool::default(),
            requested: AtomicU64::default(),
            done: AtomicU64::default(),
            flushes: AtomicU64::default(),
            last_flush_at: AtomicI64::default(),
            outcome: AtomicU32::default(),
            failing: Default::default(),
            last_error_at: AtomicI64::default(),
        });
        Self { shared, last_error: arena.guarded(|arena| arena.one(|| Cell::new((0, [0; 256])))) }
    }

    /// Says that this process is the launcher from now on.
    pub fn enter_launcher(&self) {
        let number = u32::try_from(server::process_number()).unwrap_or(NOBODY);
        self.shared.launcher.store(number, Ordering::Release);
    }

    /// Says that the launcher has ended.
    pub fn leave_launcher(&self) {
        self.shared.launcher.store(NOBODY, Ordering::Release);
    }

    /// Whether a launcher runs.
    pub fn has_launcher(&self) -> bool {
        self.shared.launcher.load(Ordering::Acquire) != NOBODY
    }

    /// Wakes the launcher. If it has ended since it said where it is, this wakes another process,
    /// or none, in vain.
    pub fn wake(&self) {
        let number = self.shared.launcher.load(Ordering::Acquire);
        if number != NOBODY {
            server::wake(usize::try_from(number).unwrap_or(usize::MAX));
        }
    }

    /// Wakes the launcher because little room is left. Only the first backend that finds so since
    /// the launcher looked last does: thousands may, before a flush is done.
    pub fn hurry(&self) {
        let is_hurried = &self.shared.is_hurried;
        if !is_hurried.load(Ordering::Relaxed) && !is_hurried.swap(true, Ordering::AcqRel) {
            self.wake();
        }
    }

    /// Whether [`Self::hurry`] was called since the last round began.
    pub fn is_hurried(&self) -> bool {
        self.shared.is_hurried.load(Ordering::Acquire)
    }

    /// Asks for a round of flushes; the answer is its ticket.
    pub fn request(&self) -> u64 {
        self.shared.requested.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The ticket of the last request.
    pub fn requested(&self) -> u64 {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Whether the round of this ticket has ended.
    pub fn is_done(&self, ticket: u64) -> bool {
        self.shared.done.load(Ordering::Acquire) >= ticket
    }

    /// Begins a round, and forgets what the last one said. The answer is for [`Self::end_round`].
    pub fn begin_round(&self) -> u64 {
        self.shared.is_hurried.store(false, Ordering::Release);
        self.shared.failing.iter().for_each(|place| place.store(0, Ordering::Relaxed));
        self.requested()
    }

    /// Ends the round of all tickets up to this one.
    pub fn end_round(&self, ticket: u64) {
        self.shared.done.store(ticket, Ordering::Release);
    }

    /// Notes that the round could not flush a database.
    pub fn note_failing(&self, database: u32) {
        let failing = &self.shared.failing;
        let free = failing.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        match (free, failing.last()) {
            (Some(place), _) => place.store(database, Ordering::Relaxed),
            (None, Some(last)) => last.store(EVERY_DATABASE, Ordering::Relaxed),
            (None, None) => {}
        }
    }

    /// Notes that the round could flush no database.
    pub fn note_all_failing(&self) {
        self.note_failing(EVERY_DATABASE);
    }

    /// Whether the last round could not flush a database.
    pub fn is_failing(&self, database: u32) -> bool {
        self.shared.failing.iter().any(|place| {
            let failing = place.load(Ordering::Relaxed);
            failing == database || failing == EVERY_DATABASE
        })
    }

    /// Notes how the worker of a database fares. There is one worker at a time.
    pub fn set_outcome(&self, outcome: Outcome) {
        self.shared.outcome.store(outcome as u32, Ordering::Release);
    }

    /// How the last worker ended.
    pub fn outcome(&self) -> Outcome {
        let outcome = self.shared.outcome.load(Ordering::Acquire);
        let all = [Outcome::NotConnected, Outcome::Failed, Outcome::Done];
        all.into_iter().find(|known| *known as u32 == outcome).unwrap_or(Outcome::Failed)
    }

    /// Counts a database that was flushed.
    pub fn count_flush(&self, now: i64) {
        self.shared.flushes.fetch_add(1, Ordering::Relaxed);
        self.shared.last_flush_at.store(now, Ordering::Relaxed);
    }

    /// Databases flushed, ever.
    pub fn flushes(&self) -> u64 {
        self.shared.flushes.load(Ordering::Relaxed)
    }

    /// The last flush.
    pub fn last_flush_at(&self) -> i64 {
        self.shared.last_flush_at.load(Ordering::Relaxed)
    }

    /// Keeps the text of an error, cut to what there is room for.
    pub fn keep_error(&self, text: &str, now: i64) {
        let mut kept: ErrorText = (0, [0; 256]);
        kept.0 = text.floor_char_boundary(kept.1.len());
        kept.1[..kept.0].copy_from_slice(&text.as_bytes()[..kept.0]);
        self.last_error.with(|error| error.set(kept));
        self.shared.last_error_at.store(now, Ordering::Relaxed);
    }

    /// The text of the last error.
    pub fn last_error(&self) -> Option<String> {
        let (length, text) = self.last_error.with(|error| error.get());
        let text = text.get(..length).filter(|text| !text.is_empty())?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// The last error's time.
    pub fn last_error_at(&self) -> i64 {
        self.shared.last_error_at.load(Ordering::Relaxed)
    }
}
