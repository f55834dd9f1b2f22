//! The keys that a text may be the text of, and the stored hashes that its secret may match.

use uuid::Uuid;

use crate::core;
use crate::core::handle::Handle;
use crate::pg::error::OrRaise;
use crate::pg::hashing::secret::checkpoint;
use crate::pg::keys::rows::{Keys, Row};
use crate::pg::memory::{Counter, State, WorkArea};
use crate::pg::raw::relation::Column;
use crate::pg::raw::types::Text;

/// The key of a text, or what may be it, before its secret is checked.
pub struct Suspects<'a> {
    /// Rows that may be the key's.
    pub rows: Vec<Row>,
    /// The text that has to match a stored hash: the secret part, or the whole text of a legacy key.
    pub secret: &'a [u8],
    /// Whether the text is that of a legacy key.
    pub legacy: bool,
    /// The one key that is meant, if it is one: it has a failure budget. Otherwise more rows may
    /// follow these.
    pub key_id: Option<Uuid>,
    /// The handle by which the text itself is found, if the rows are not found by it.
    pub handle: Option<Handle>,
}

impl Suspects<'_> {
    /// The stored hashes that the secret may match.
    pub fn candidates(&self, now: i64) -> Vec<Candidate> {
        let rows = self.rows.iter().enumerate();
        rows.flat_map(|(at, row)| Candidate::of(at, row, self.legacy, now)).collect()
    }

    /// The candidate that is known to match.
    pub fn known(&self, state: &State, candidates: &[Candidate]) -> Option<Candidate> {
        let is_known = |candidate: &&Candidate| {
            state.memo.contains(state.tag_key.tag(self.stored(candidate), self.secret))
        };
        candidates.iter().find(is_known).copied()
    }

    /// Whether the secret is the one that the candidate's hash was made of.
    pub fn matches(&self, state: &State, candidate: &Candidate) -> bool {
        state.count(Counter::HashesRun);
        let stored = String::from_utf8_lossy(self.stored(candidate));
        core::legacy::verify(self.secret, &stored, WorkArea::new, checkpoint).or_raise()
    }

    /// The stored hash of a candidate.
    pub fn stored(&self, candidate: &Candidate) -> &[u8] {
        let row = self.rows.get(candidate.row);
        row.and_then(|row| row.get(candidate.column)).unwrap_or_default()
    }
}

/// A stored hash: in which row, and whether it is of the secret before the last rotation.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// In the suspects' rows.
    pub row: usize,
    column: Column<Keys, Text>,
    /// Whether it is of the secret before the last rotation.
    pub by_previous_secret: bool,
}

impl Candidate {
    /// The hashes of a row that a secret may match. The text of a legacy key is its first
    /// secret; all others are ours.
    fn of(row: usize, of: &Row, legacy: bool, now: i64) -> impl Iterator<Item = Self> {
        let is_imported = !of.is_null(Keys::LEGACY_SCHEME);
        let version = of.secret_version();
        let in_grace = of.get(Keys::GRACE_EXPIRES_AT).is_some_and(|until| now < until);
        let current = Self { row, column: Keys::SECRET_HASH, by_previous_secret: false };
        let previous = Self { row, column: Keys::PREVIOUS_SECRET_HASH, by_previous_secret: true };
        let is_ours = |version| !core::legacy::is_legacy_secret(is_imported, version);
        [
            Some(current).filter(|_| is_ours(version) != legacy),
            Some(previous).filter(|_| in_grace && is_ours(version - 1) != legacy),
        ]
        .into_iter()
        .flatten()
    }
}
