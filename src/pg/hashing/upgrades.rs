//! Upgrades: a secret that was just proven is hashed again under today's cost if its stored hash is
//! weaker, and the better hash waits in memory for a flush to swap it in.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::core::handle::Handle;
use crate::core::upgrade::Upgrade;
use crate::core::usage::KeyRef;
use crate::core::{hash, legacy};
use crate::pg::hashing::secret::hash_secret;
use crate::pg::memory::{State, key_ref};
use crate::pg::raw::server;
use crate::pg::settings;

/// Whether a known secret should be hashed once more: its stored hash is a legacy one, and nothing
/// is on its way to replace it (an aborted import, a flush that failed).
pub fn is_due(state: &State, key_id: Uuid, stored: &[u8]) -> bool {
    stored.first() == Some(&b'{')
        && can_be_written(state)
        && !is_waiting(state, key_ref(key_id), Sha256::digest(stored).into())
}

/// Makes a better hash of a secret that matches `stored`, if there is one to be made. False if
/// there is one, but no room to keep it: then a later verify must try again.
///
/// `handle` is the one by which the secret itself is found, where the key has another or none.
/// The caller holds a hash slot.
pub fn offer(
    state: &State,
    key_id: Uuid,
    stored: &[u8],
    secret: &[u8],
    handle: Option<Handle>,
) -> bool {
    if !can_be_written(state) {
        return true;
    }
    let text = String::from_utf8_lossy(stored);
    let better_is_possible = handle.is_some()
        || legacy::is_legacy(&text)
        || hash::is_weaker(&text, settings::argon2_cost()).unwrap_or(false);
    if !better_is_possible {
        return true;
    }
    let key = key_ref(key_id);
    let replaces: [u8; 32] = Sha256::digest(stored).into();
    if is_waiting(state, key, replaces) {
        return true;
    }
    if state.upgrades.with(&key, |table| table.is_nearly_full()) {
        state.flush.hurry();
        return false;
    }
    let Ok(better) = hash_secret(secret) else {
        // The settings ask for what argon2 cannot do; callers who issue a key are told.
        return true;
    };
    let Some(upgrade) = Upgrade::new(replaces, handle, &better) else {
        return true;
    };
    let kept = state
        .upgrades
        .with(&key, |table| table.entry(key, || upgrade, |waiting| *waiting = upgrade).is_ok());
    if kept {
        // The secret matches the new hash too: its first verify needs no argon2.
        state.memo.insert(state.tag_key.tag(better.as_bytes(), secret));
    }
    kept
}

/// Whether an upgrade of this very hash waits already.
fn is_waiting(state: &State, key: KeyRef, replaces: [u8; 32]) -> bool {
    let waiting = state.upgrades.with(&key, |table| table.find(&key));
    waiting.is_some_and(|upgrade| upgrade.replaces == replaces)
}

/// Whether there is a worker that can write: not on a standby, and not without preloading.
fn can_be_written(state: &State) -> bool {
    state.is_shared() && !server::is_standby()
}
