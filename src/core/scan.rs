//! The progress of a scan: the search for the key of a text among the legacy keys whose prefix it
//! begins with. The next call with the same text continues where the last one stopped.
//!
//! Each candidate costs a deliberately slow hash, so one call may not try them all. A guesser moves
//! on to other texts; the holder of a key retries the same one, so continued scans go first.

use std::cmp::Reverse;

use uuid::Uuid;

use super::hash_queue::Purpose;
use super::table::Value;

/// How long progress is kept after the last call, in microseconds.
const KEPT: i64 = 120_000_000;
/// How long a text that matched no key goes last, in microseconds.
const SPENT: i64 = 60_000_000;

/// A candidate's position in the search: longest prefix first, then by key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    prefix: Reverse<usize>,
    /// The candidate's id.
    pub key_id: Uuid,
}

impl Cursor {
    /// The position of a key whose prefix has `prefix` bytes.
    #[must_use]
    pub const fn new(prefix: usize, key_id: Uuid) -> Self {
        Self { prefix: Reverse(prefix), key_id }
    }

    /// Length of the candidate's prefix in bytes.
    #[must_use]
    pub const fn prefix(self) -> usize {
        self.prefix.0
    }
}

/// Progress of the search for one text. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last candidate that was tried. It and all before it do not match.
    tried: Option<Cursor>,
    hashes: u32,
    spent_until: i64,
    expires_at: i64,
}

impl Value for Progress {
    fn stale_from(&self) -> i64 {
        self.expires_at
    }
}

impl Progress {
    /// A search that begins at `now`.
    #[must_use]
    pub const fn new(now: i64) -> Self {
        Self { tried: None, hashes: 0, spent_until: 0, expires_at: now + KEPT }
    }

    /// The purpose of the next call with a text, given its progress, if any.
    #[must_use]
    pub fn purpose(remembered: Option<Self>, now: i64) -> Purpose {
        match remembered {
            Some(progress) if progress.is_over(now) => Purpose::Fresh,
            Some(progress) if now < progress.spent_until => Purpose::Spent,
            Some(_) => Purpose::Resumed,
            None => Purpose::Fresh,
        }
    }

    /// The last candidate that was tried, unless the progress has expired.
    #[must_use]
    pub fn tried(self, now: i64) -> Option<Cursor> {
        self.tried.filter(|_| !self.is_over(now))
    }

    /// Whether the progress has expired.
    #[must_use]
    pub const fn is_over(self, now: i64) -> bool {
        self.expires_at <= now
    }

    /// Records that a call ended before the search was complete.
    pub fn pause(&mut self, now: i64) {
        if self.is_over(now) {
            *self = Self::new(now);
        }
        self.expires_at = now + KEPT;
    }

    /// Records that a candidate did not match.
    pub fn advance(&mut self, tried: Cursor, now: i64) {
        self.pause(now);
        // Of two concurrent calls with the same text, the further one counts.
        self.tried = self.tried.max(Some(tried));
        self.hashes = self.hashes.saturating_add(1);
    }

    /// Records that no candidate matched: searches start over, and go last for a minute.
    pub fn fail(&mut self, now: i64) {
        *self = Self { spent_until: now + SPENT, ..Self::new(now) };
    }

    /// Records that a candidate matched: the progress is no longer needed.
    pub fn succeed(&mut self) {
        self.expires_at = 0;
    }

    /// Number of hashes that would have to be repeated if the progress were discarded.
    #[must_use]
    pub fn worth(self, now: i64) -> u32 {
        if self.is_over(now) || now < self.spent_until { 0 } else { self.hashes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000_000;

    fn cursor(prefix: usize, id: u128) -> Cursor {
        Cursor::new(prefix, Uuid::from_u128(id))
    }

    #[test]
    fn longer_prefixes_come_first_then_lower_ids() {
        let mut order = [cursor(3, 9), cursor(0, 1), cursor(7, 5), cursor(3, 2), cursor(7, 4)];
        order.sort_unstable();
        assert_eq!(order, [cursor(7, 4), cursor(7, 5), cursor(3, 2), cursor(3, 9), cursor(0, 1)]);
    }

    #[test]
    fn a_retried_text_goes_before_new_ones_and_continues_where_it_stopped() {
        assert_eq!(Progress::purpose(None, NOW), Purpose::Fresh);
        let mut progress = Progress::new(NOW);
        progress.pause(NOW);
        assert_eq!(Progress::purpose(Some(progress), NOW + 1), Purpose::Resumed);
        assert_eq!(progress.tried(NOW), None, "no hash yet");
        progress.advance(cursor(7, 5), NOW);
        assert_eq!(progress.tried(NOW + 1), Some(cursor(7, 5)));
    }

    #[test]
    fn of_two_calls_with_one_text_the_further_one_counts() {
        let mut progress = Progress::new(NOW);
        progress.advance(cursor(7, 5), NOW);
        progress.advance(cursor(7, 4), NOW);
        assert_eq!(progress.tried(NOW), Some(cursor(7, 5)));
        progress.advance(cursor(3, 1), NOW);
        assert_eq!(progress.tried(NOW), Some(cursor(3, 1)));
    }

    #[test]
    fn a_text_that_matched_no_key_starts_over_and_goes_last_for_a_while() {
        let mut progress = Progress::new(NOW);
        progress.advance(cursor(7, 5), NOW);
        progress.fail(NOW);
        assert_eq!(progress.tried(NOW), None);
        assert_eq!(Progress::purpose(Some(progress), NOW + SPENT - 1), Purpose::Spent);
        // Calls in the meantime change nothing.
        progress.advance(cursor(7, 4), NOW + 1);
        progress.pause(NOW + 2);
        assert_eq!(Progress::purpose(Some(progress), NOW + SPENT - 1), Purpose::Spent);
        assert_eq!(Progress::purpose(Some(progress), NOW + SPENT), Purpose::Resumed);
    }

    #[test]
    fn progress_ends_on_expiry_and_on_success() {
        let mut progress = Progress::new(NOW);
        progress.advance(cursor(7, 5), NOW);
        for (now, purpose) in [(NOW + KEPT - 1, Purpose::Resumed), (NOW + KEPT, Purpose::Fresh)] {
            assert_eq!(Progress::purpose(Some(progress), now), purpose);
        }
        assert_eq!(progress.tried(NOW + KEPT), None);
        let mut late = progress;
        late.advance(cursor(9, 1), NOW + KEPT);
        assert_eq!(late.tried(NOW + KEPT), Some(cursor(9, 1)), "not what was forgotten");
        progress.succeed();
        assert_eq!(Progress::purpose(Some(progress), NOW), Purpose::Fresh);
    }

    #[test]
    fn progress_is_worth_the_hashes_spent_on_it() {
        let mut progress = Progress::new(NOW);
        assert_eq!(progress.worth(NOW), 0);
        progress.advance(cursor(7, 5), NOW);
        progress.advance(cursor(7, 6), NOW);
        assert_eq!(progress.worth(NOW), 2);
        assert_eq!(progress.worth(NOW + KEPT), 0);
        progress.fail(NOW);
        progress.advance(cursor(7, 5), NOW);
        assert_eq!(progress.worth(NOW), 0);
    }
}
