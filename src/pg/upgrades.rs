//! Better hashes: a secret that was just proven is hashed again under today's cost if its stored
//! hash is weaker, and waits in memory for the worker to swap it in.

use pgrx::pg_sys;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::keys::hash_secret;
use super::recording::key_ref;
use super::root_key::Handle;
use super::settings;
use super::shared::{State, Upgrade};
use crate::core::{hash, legacy};

/// Whether a known secret should be hashed once more: its stored hash is a legacy one, and nothing
/// is on its way to replace it (an aborted import, a flush that failed).
pub fn is_due(state: &State, key_id: Uuid, stored: &[u8]) -> bool {
    if stored.first() != Some(&b'{') || !can_be_written(state) {
        return false;
    }
    let key = key_ref(key_id);
    let replaces: [u8; 32] = Sha256::digest(stored).into();
    !state
        .upgrades
        .with(&key, |table| table.find(&key).is_some_and(|upgrade| upgrade.replaces == replaces))
}

/// Makes a better hash of a secret that matches `stored`, if there is one to be made. False if
/// there is one, but no room to keep it: then a later verify has to come here again.
///
/// `handle` is the one by which the secret itself is found, where the key has another or none.
/// The caller has room to hash.
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
    let (queued, full) = state.upgrades.with(&key, |table| {
        let queued = table.find(&key).is_some_and(|upgrade| upgrade.replaces == replaces);
        (queued, table.is_nearly_full())
    });
    if queued {
        return true;
    }
    if full {
        super::worker::make_room(state);
        return false;
    }
    let Ok(better) = hash_secret(secret) else {
        // The settings ask for what argon2 cannot do; whoever issues a key is told.
        return true;
    };
    let mut text = [0; 192];
    let Some(place) = text.get_mut(..better.len()) else {
        return true;
    };
    place.copy_from_slice(better.as_bytes());
    let upgrade = Upgrade { replaces, handle, hash: (better.len(), text) };
    let kept = state
        .upgrades
        .with(&key, |table| table.entry(key, || upgrade, |place| *place = upgrade).is_ok());
    if kept {
        // The secret matches the new hash too: its first verify needs no argon2.
        state.memo.insert(state.tag_key.tag(better.as_bytes(), secret));
    }
    kept
}

/// Whether there is a worker that can write: not on a standby, and not without preloading.
fn can_be_written(state: &State) -> bool {
    // SAFETY: asks whether the server is a standby.
    state.is_shared() && unsafe { !pg_sys::RecoveryInProgress() }
}
