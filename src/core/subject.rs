//! The subjects that rate limits count.

use std::hash::{Hash, Hasher};

use super::memo::Tag;
use super::table::Value;

/// A subject of a rate limit. Those of one owner are neighbours in a table, so that nobody who can
/// make many of them takes all of its room.
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

/// In `own`: what an owner's subjects share that are too many to be kept apart.
const SHARED: u64 = 0;

impl Subject {
    /// A subject that is nobody's: its tag is of the limit and the subject.
    #[must_use]
    pub fn alone(tag: Tag) -> Self {
        let [owner, own] = tag.words();
        Self { owner, own: own.max(1) }
    }

    /// A subject of an owner, whose tag is of the limit and the owner; `own` tells it apart.
    #[must_use]
    pub fn of_owner(tag: Tag, own: u64) -> Self {
        Self { owner: tag.words()[0], own: own.max(1) }
    }

    /// Where the subject is counted: apart from its owner's others if it is already, or if not yet
    /// `most` of them are in the middle of something; else together with all further ones.
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

    /// Where a subject is counted beside so many of the same owner.
    fn beside(others: u64, until: i64, of: Subject) -> Subject {
        of.place((1..=others).map(|own| (subject(1, own), until)), 4, 10)
    }

    #[test]
    fn an_owner_has_so_many_places_and_then_one() {
        assert_eq!(beside(3, 11, subject(1, 9)), subject(1, 9));
        let shared = beside(4, 11, subject(1, 9));
        assert_eq!(shared, beside(4, 11, subject(1, 10)));
        assert!(shared != subject(1, 9) && shared != subject(1, 0));
    }

    #[test]
    fn a_subject_that_is_counted_stays_where_it_is() {
        assert_eq!(beside(9, 11, subject(1, 8)), subject(1, 8));
    }

    #[test]
    fn stale_ones_and_those_of_others_do_not_matter() {
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
