//! Better hashes: a secret that was just proven is hashed again under today's cost if its stored
//! hash is weaker, and waits in memory for the worker to swap it in.

use pgrx::pg_sys;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::OrRaise;
use super::keys::hash_secret;
use super::recording::key_ref;
use super::settings;
use super::shared::{State, Upgrade};
use crate::core::hash;

/// Makes a better hash of a secret that matches `stored`, if there is one to be made.
///
/// The caller has room to hash.
pub fn offer(state: &State, key_id: Uuid, stored: &[u8], secret: &[u8]) {
    // SAFETY: asks whether the server is a standby, where nothing can be written.
    if !state.is_shared() || unsafe { pg_sys::RecoveryInProgress() } {
        return;
    }
    let weaker =
        hash::is_weaker(&String::from_utf8_lossy(stored), settings::argon2_cost()).or_raise();
    let key = key_ref(key_id);
    if !weaker || state.upgrades.with(&key, |table| table.find(&key).is_some()) {
        return;
    }
    let better = hash_secret(secret);
    let mut text = [0; 192];
    let Some(place) = text.get_mut(..better.len()) else {
        return;
    };
    place.copy_from_slice(better.as_bytes());
    let upgrade = Upgrade { replaces: Sha256::digest(stored).into(), hash: (better.len(), text) };
    // Without room it is left to a later verify.
    let queued = state.upgrades.with(&key, |table| table.entry(key, || upgrade).is_ok());
    if queued {
        // The secret matches the new hash too: its first verify needs no argon2.
        state.memo.insert(state.tag_key.tag(better.as_bytes(), secret));
    }
}
