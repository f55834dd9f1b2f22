//! The memo of a pure function: "this secret matches this stored hash".
//!
//! For each pair that argon2 found to match, it keeps a tag: HMAC-SHA256(random key, stored hash ‖
//! presented secret), cut to 128 bits. A match never becomes false, so tags are never invalidated;
//! each verify reads from the row whether the key may be used.
//!
//! All backends share the memo without a lock. A reader may see a mixture of two tags while one is
//! being written. To exploit that, an attacker would need a pair whose tag equals the mixture,
//! which is as hard as matching any other 128 bits.

use hmac::Hmac;
use hmac::digest::{FixedOutput, KeyInit, Update};
use sha2::Sha256;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Tags in a set. With its cursor, a set fills two cache lines.
const WAYS: usize = 7;
/// Words in a set: the cursor, one unused word, and the tags.
const SET_WORDS: usize = 2 + 2 * WAYS;

/// Identifies a pair of stored hash and secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag([u64; 2]);

impl Tag {
    /// The two halves of the tag.
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        self.0
    }
}

/// The key of the tags: random, and new at each start of the server.
pub struct TagKey(Hmac<Sha256>);

impl TagKey {
    /// A key of 64 random bytes, the block size of SHA-256 (RFC 2104).
    #[must_use]
    pub fn new(key: &[u8; 64]) -> Self {
        Self(Hmac::new(&(*key).into()))
    }

    /// The tag of a pair.
    #[must_use]
    pub fn tag(&self, stored_hash: &[u8], secret: &[u8]) -> Tag {
        let mut mac = self.0.clone();
        // The length marks where the hash ends and the secret begins.
        mac.update(&(stored_hash.len() as u64).to_le_bytes());
        mac.update(stored_hash);
        mac.update(secret);
        let mac = mac.finalize_fixed();
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&mac[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Tag([word(0), word(8)])
    }
}

/// A bounded set of tags over initially zeroed memory. New tags replace the oldest.
#[derive(Clone, Copy)]
pub struct Memo<'a> {
    words: &'a [AtomicU64],
}

impl<'a> Memo<'a> {
    /// Number of words that a memo for at least `entries` tags needs.
    #[must_use]
    pub const fn words(entries: usize) -> usize {
        entries.div_ceil(WAYS) * SET_WORDS
    }

    /// A memo over `words`, as many as [`Memo::words`] returns for at least one entry.
    #[must_use]
    pub const fn new(words: &'a [AtomicU64]) -> Self {
        Self { words }
    }

    /// Number of tags that it can hold.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.words.len() / SET_WORDS * WAYS
    }

    /// Number of tags that it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.chunks_exact(SET_WORDS).flat_map(ways).filter(|way| !is_vacant(way)).count()
    }

    /// Whether it holds no tag.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it holds `tag`.
    #[must_use]
    pub fn contains(&self, tag: Tag) -> bool {
        self.sets(tag).into_iter().any(|set| {
            // Compares all ways of the set, without stopping at a match.
            ways(set).fold(false, |found, way| {
                let differs = (way[0].load(Relaxed) ^ tag.0[0]) | (way[1].load(Relaxed) ^ tag.0[1]);
                found | (differs == 0)
            })
        })
    }

    /// Adds `tag` to the emptier of its two sets. If both are full, it replaces the oldest tag of
    /// the first.
    pub fn insert(&self, tag: Tag) {
        if self.contains(tag) {
            return;
        }
        let vacant = |set: &'a [AtomicU64]| ways(set).filter(|way| is_vacant(way)).count();
        let [first, second] = self.sets(tag);
        let set = if vacant(second) > vacant(first) { second } else { first };
        let Some(cursor) = set.first() else {
            return;
        };
        let oldest = usize::try_from(cursor.fetch_add(1, Relaxed) % WAYS as u64).unwrap_or(0);
        if let Some(way) = ways(set).nth(oldest) {
            way[0].store(tag.0[0], Relaxed);
            way[1].store(tag.0[1], Relaxed);
        }
    }

    /// The two sets that may hold a tag. With one set each, tags would be replaced before the memo
    /// is half full; choosing the emptier of two fills it evenly (Azar, Broder, Karlin, Upfal,
    /// "Balanced allocations", 1994).
    fn sets(&self, tag: Tag) -> [&'a [AtomicU64]; 2] {
        let sets = self.words.len() / SET_WORDS;
        tag.0.map(|word| {
            // Maps a word evenly to a set (Lemire, "Fast random integer generation in an
            // interval", 2019).
            let set = (u128::from(word) * sets as u128) >> 64;
            let start = usize::try_from(set).unwrap_or(0) * SET_WORDS;
            self.words.get(start..start + SET_WORDS).unwrap_or_default()
        })
    }
}

fn ways(set: &[AtomicU64]) -> impl Iterator<Item = &[AtomicU64]> {
    set.get(2..).unwrap_or_default().chunks_exact(2)
}

fn is_vacant(way: &[AtomicU64]) -> bool {
    way[0].load(Relaxed) == 0 && way[1].load(Relaxed) == 0
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use hmac::SimpleHmac;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn memory(entries: usize) -> Vec<AtomicU64> {
        (0..Memo::words(entries)).map(|_| AtomicU64::new(0)).collect()
    }

    /// `SimpleHmac` is the crate's other implementation, which does not precompute the key's state.
    #[test]
    fn a_tag_is_the_hmac_of_length_hash_and_secret() {
        let key = TagKey::new(&[0x0b; 64]);
        let mut mac = SimpleHmac::<Sha256>::new(&[0x0b; 64].into());
        mac.update(b"\x02\0\0\0\0\0\0\0Hi There");
        let expected = mac.finalize_fixed();
        let Tag([low, high]) = key.tag(b"Hi", b" There");
        assert_eq!(low.to_le_bytes(), expected[..8]);
        assert_eq!(high.to_le_bytes(), expected[8..16]);
    }

    #[test]
    fn hash_and_secret_are_kept_apart() {
        let key = TagKey::new(&[7; 64]);
        assert!(key.tag(b"ab", b"c") != key.tag(b"a", b"bc"));
        assert!(key.tag(b"ab", b"c") != TagKey::new(&[8; 64]).tag(b"ab", b"c"));
    }

    proptest! {
        // Compared with a plain set: the memo holds no tag that was not inserted, and always holds
        // the last one.
        #[test]
        fn remembers_only_what_was_inserted(
            entries in 1usize..64,
            operations in prop::collection::vec((any::<bool>(), 0u64..200), 1..400),
        ) {
            let memory = memory(entries);
            let memo = Memo::new(&memory);
            let mut inserted = HashSet::new();
            for (insert, value) in operations {
                // Spread evenly, as an HMAC is.
                let tag = Tag([value.wrapping_mul(0x9e37_79b9_7f4a_7c15), value + 1]);
                if insert {
                    memo.insert(tag);
                    inserted.insert(value);
                    prop_assert!(memo.contains(tag));
                } else if memo.contains(tag) {
                    prop_assert!(inserted.contains(&value));
                }
            }
            prop_assert!(memo.len() <= memo.capacity());
            prop_assert!(memo.len() <= inserted.len());
            prop_assert!(memo.capacity() >= entries);
        }
    }

    #[test]
    fn a_memo_three_quarters_full_has_lost_almost_no_tags() {
        let entries = 70_000;
        let memory = memory(entries);
        let memo = Memo::new(&memory);
        let key = TagKey::new(&[7; 64]);
        let tags: Vec<_> =
            (0..entries * 3 / 4).map(|n| key.tag(b"hash", &n.to_le_bytes())).collect();
        tags.iter().for_each(|tag| memo.insert(*tag));
        let forgotten = tags.iter().filter(|tag| !memo.contains(**tag)).count();
        assert!(forgotten < 10, "{forgotten} of {}", tags.len());
    }

    #[test]
    fn a_new_tag_replaces_the_oldest() {
        let memory = memory(WAYS);
        let memo = Memo::new(&memory);
        for value in 1..=WAYS as u64 + 1 {
            memo.insert(Tag([value, value]));
        }
        assert!(!memo.contains(Tag([1, 1])));
        assert!((2..=WAYS as u64 + 1).all(|value| memo.contains(Tag([value, value]))));
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// In every interleaving of two writers and a reader, inserted tags are found afterwards and
    /// others are never found.
    #[test]
    fn writers_and_readers_together() {
        loom::model(|| {
            let memory: Arc<Vec<AtomicU64>> =
                Arc::new((0..SET_WORDS).map(|_| AtomicU64::new(0)).collect());
            let tags = [Tag([1, 2]), Tag([3, 4])];
            let writers = tags.map(|tag| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || Memo::new(&memory).insert(tag))
            });
            assert!(!Memo::new(&memory).contains(Tag([5, 6])));
            for writer in writers {
                assert!(writer.join().is_ok());
            }
            assert!(tags.iter().all(|tag| Memo::new(&memory).contains(*tag)));
        });
    }
}
