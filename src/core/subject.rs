//! The subjects that rate limits count.

use std::hash::{Hash, Hasher};

use super::memo::Tag;
use super::table::Value;

/// A subject of a rate limit. Subjects of one owner share a chain of the table, where they can be
/// counted, so that an owner with many subjects cannot fill it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    owner: u64,
    own: u64,
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.owner.hash(state);
    }
}

/// The value of `own` for subjects that exceed their owner's quota and are counted together.
const SHARED: u64 = 0;

impl Subject {
    /// A subject without an owner. `tag` is made of the limit and the subject.
    #[must_use]
    pub fn alone(tag: Tag) -> Self {
        let [owner, own] = tag.words();
        Self { owner, own: own.max(1) }
    }

    /// A subject of an owner. `tag` is made of the limit and the owner; `own` identifies the
    /// subject.
    #[must_use]
    pub fn of_owner(tag: Tag, own: u64) -> Self {
        Self { owner: tag.words()[0], own: own.max(1) }
    }

    /// The subject to count under: the subject itself if it has an entry already or fewer than
    /// `most` of its owner's subjects have an entry that is not stale at `now`; otherwise the one
    /// that the owner's remaining subjects share.
    #[must_use]
    pub fn place<V: Value>(
        self,
        neighbours: impl Iterator<Item = (Self, V)>,
        most: usize,
        now: i64,
    ) -> Self {
        let mut apart = 0;
        for (other, value) in neighbours {
            if other == self {
                return self;
            }
            let counts = other.owner == self.owner && other.own != SHARED;
            apart += usize::from(counts && value.stale_from() > now);
        }
        if apart < most { self } else { Self { own: SHARED, ..self } }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::core::memo::TagKey;

    fn subject(owner: u8, own: u64) -> Subject {
        Subject::of_owner(TagKey::new(&[7; 64]).tag(b"limit", &[owner]), own)
    }

    /// Where a subject is counted if `others` of owner 1 have entries.
    fn beside(others: u64, until: i64, of: Subject) -> Subject {
        of.place((1..=others).map(|own| (subject(1, own), until)), 4, 10)
    }

    #[test]
    fn subjects_beyond_an_owners_quota_share_one_entry() {
        assert_eq!(beside(3, 11, subject(1, 9)), subject(1, 9));
        let shared = beside(4, 11, subject(1, 9));
        assert_eq!(shared, beside(4, 11, subject(1, 10)));
        assert!(shared != subject(1, 9) && shared != subject(1, 0));
    }

    #[test]
    fn a_subject_that_has_an_entry_keeps_it() {
        assert_eq!(beside(9, 11, subject(1, 8)), subject(1, 8));
    }

    #[test]
    fn stale_entries_and_other_owners_do_not_count() {
        assert_eq!(beside(9, 10, subject(1, 10)), subject(1, 10));
        assert_eq!(beside(9, 11, subject(2, 10)), subject(2, 10));
    }

    #[test]
    fn subjects_of_one_owner_are_neighbours() {
        let hash = crate::core::table::hash::<Subject>;
        assert_eq!(hash(&subject(1, 1)), hash(&subject(1, 2)));
        assert_ne!(hash(&subject(1, 1)), hash(&subject(2, 1)));
    }
}
