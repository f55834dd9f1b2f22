//! The search for a text's key among legacy keys with salted hashes that share its prefix.
//!
//! It costs a slow hash for each of them, and anybody may ask for it. So it has a time, its hashes
//! take turns with those of others, and what it has done is remembered for the next call.

use std::cell::Cell;
use std::time::Instant;

use crate::core::handle::{Handle, TextHandle};
use crate::core::hash_queue::Purpose;
use crate::core::scan::{Cursor, Progress};
use crate::core::verdict::Code;
use crate::pg::hashing::slots::HashSlot;
use crate::pg::keys::rows::{Keys, Row};
use crate::pg::keys::suspects::{Candidate, Suspects};
use crate::pg::legacy::known_texts;
use crate::pg::memory::{Counter, State, text_handle};
use crate::pg::raw::server;
use crate::pg::settings;

/// Rows that are read at a time.
pub const PAGE: usize = 32;

/// Looks for the key of the suspects' text: first among their rows, then among those that come
/// after. The slot is for what else is to be hashed of the text; none if it was known meanwhile.
///
/// # Errors
/// `Overloaded` if the time was over first, `NotFound` if there is no such key.
pub fn run<'a>(
    state: &'a State,
    suspects: &mut Suspects<'_>,
    handle: Handle,
    now: i64,
) -> Result<(Candidate, Option<HashSlot<'a>>), Code> {
    let scan = Scan::begin(state, handle, now);
    let mut known = known_texts::recall(state, handle);
    'pages: while !suspects.rows.is_empty() {
        server::check_for_interrupts();
        // Nothing is read from tables while this one holds a slot: there might be a lock to wait for,
        // of a process that waits for a slot.
        let mut held = None;
        for candidate in suspects.candidates(now) {
            let here = suspects.rows.get(candidate.row).and_then(cursor);
            // Another call with this text may be ahead.
            if scan.tried() >= here {
                continue;
            }
            let slot: HashSlot<'_> = match held.take() {
                Some(slot) => slot,
                None => scan.wait()?,
            };
            if slot.has_waited() {
                let found = known_texts::recall(state, handle);
                if found != std::mem::replace(&mut known, found) {
                    drop(slot);
                    let rows = found.and_then(Row::find).into_iter().collect();
                    let page = std::mem::replace(&mut suspects.rows, rows);
                    if let Some(known) = suspects.known(state, &suspects.candidates(now)) {
                        return Ok((known, None));
                    }
                    suspects.rows = page;
                    continue 'pages;
                }
                if scan.tried() >= here {
                    held = Some(slot);
                    continue;
                }
            }
            if suspects.matches(state, &candidate) {
                scan.update(Progress::succeed);
                return Ok((candidate, Some(slot)));
            }
            drop(slot);
            if let Some(here) = here {
                scan.update(|progress| progress.advance(here, server::now()));
            }
        }
        drop(held);
        let last = suspects.rows.last().and_then(cursor);
        suspects.rows = Row::find_by_prefix(suspects.secret, last.max(scan.tried()), PAGE);
    }
    scan.update(|progress| progress.fail(server::now()));
    Err(Code::NotFound)
}

struct Scan<'a> {
    state: &'a State,
    text: TextHandle,
    purpose: Purpose,
    begun: Instant,
    hashes: Cell<u32>,
}

impl<'a> Scan<'a> {
    fn begin(state: &'a State, handle: Handle, now: i64) -> Self {
        let text = text_handle(handle);
        let begun = Instant::now();
        let hashes = Cell::new(0);
        let mut scan = Self { state, text, purpose: Purpose::Fresh, begun, hashes };
        scan.purpose = Progress::purpose(scan.progress(), now);
        if scan.purpose == Purpose::Resumed {
            state.count(Counter::ScansResumed);
        }
        scan
    }

    /// The last candidate that this call or another one with the same text has tried.
    fn tried(&self) -> Option<Cursor> {
        self.progress().and_then(|progress| progress.tried(server::now()))
    }

    fn progress(&self) -> Option<Progress> {
        self.state.scans.with(&self.text, |table| table.find(&self.text))
    }

    /// Waits for a slot, for one hash.
    fn wait(&self) -> Result<HashSlot<'a>, Code> {
        let left = settings::legacy_scan_time().saturating_sub(self.begun.elapsed());
        // A text that comes back has waited before.
        let patience = match self.purpose {
            Purpose::Resumed => left,
            _ => left.min(settings::hash_queue_timeout()),
        };
        // Each call gets further by one hash at least, if there is a slot.
        let slot = if left.is_zero() && self.hashes.get() > 0 {
            None
        } else {
            HashSlot::wait(self.state, self.purpose, patience)
        };
        self.hashes.set(self.hashes.get() + 1);
        slot.ok_or_else(|| {
            self.update(|progress| progress.pause(server::now()));
            self.state.count(Counter::ScansPaused);
            Code::Overloaded
        })
    }

    /// Changes what is remembered of the text.
    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let now = server::now();
        let mut change = Some(change);
        let mut remember = || {
            self.state.scans.with_room(&self.text, now, |table| {
                table.entry_at(
                    now,
                    self.text,
                    || Progress::new(now),
                    |progress| {
                        if let Some(change) = change.take() {
                            change(progress);
                        }
                    },
                )
            })
        };
        // Those go first that would lose the fewest hashes: to push out a search, others have to
        // hash more.
        let mut worth = 0;
        while remember().is_err() {
            self.state.scans.each(|table| table.retain(|_, progress| progress.worth(now) > worth));
            worth = 2 * worth + 1;
        }
    }
}

fn cursor(row: &Row) -> Option<Cursor> {
    let prefix = row.get(Keys::LEGACY_PREFIX)?.len();
    row.get(Keys::KEY_ID).map(|key_id| Cursor::new(prefix, key_id))
}
