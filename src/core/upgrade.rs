//! Upgrades: stronger hashes, computed after a successful verify, that wait for a flush.

use super::handle::Handle;
use super::table::Value;

/// The longest PHC string that an upgrade holds, in bytes. argon2id with 32 bytes of hash takes 97.
const LONGEST_HASH: usize = 192;

/// A hash that will replace a weaker one.
#[derive(Clone, Copy)]
pub struct Upgrade {
    /// SHA-256 of the hash that it replaces. If a rotation has changed that hash, the upgrade is
    /// dropped.
    pub replaces: [u8; 32],
    /// The handle of a legacy key, for later look-ups.
    pub handle: Option<Handle>,
    length: usize,
    hash: [u8; LONGEST_HASH],
}

impl Value for Upgrade {}

impl Upgrade {
    /// An upgrade to `hash`, a PHC string. `None` if it is longer than 192 bytes.
    #[must_use]
    pub fn new(replaces: [u8; 32], handle: Option<Handle>, hash: &str) -> Option<Self> {
        let mut kept = [0; LONGEST_HASH];
        kept.get_mut(..hash.len())?.copy_from_slice(hash.as_bytes());
        Some(Self { replaces, handle, length: hash.len(), hash: kept })
    }

    /// The stronger hash, a PHC string.
    #[must_use]
    pub fn hash(&self) -> &str {
        let hash = self.hash.get(..self.length).unwrap_or_default();
        std::str::from_utf8(hash).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_returns_its_hash_and_refuses_one_that_is_too_long() {
        for length in [0, 97, LONGEST_HASH] {
            let hash = "x".repeat(length);
            let upgrade = Upgrade::new([1; 32], None, &hash);
            assert_eq!(upgrade.as_ref().map(Upgrade::hash), Some(hash.as_str()));
        }
        assert!(Upgrade::new([1; 32], None, &"x".repeat(LONGEST_HASH + 1)).is_none());
    }
}
