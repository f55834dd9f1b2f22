//! The failure budget of each key id: how many wrong secrets it may be asked about.

use uuid::Uuid;

use super::recording::key_ref;
use super::settings;
use super::shared::State;

/// Whether there is some of the budget left. Nothing is taken while a check waits for room: those
/// who wait with the right secret, or give up waiting, leave it as it is.
pub fn is_left(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        table.find(&key).is_none_or(|arrival| {
            let mut trial = *arrival;
            settings::failure_rate().take(&mut trial, now, 1).is_ok()
        })
    })
}

/// Takes a wrong secret out of the budget before it is hashed; false if there is none left.
pub fn take(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        // A budget that is whole again needs no entry. Without room it is not counted: the bound
        // on concurrent hashes still holds.
        table
            .entry_reusing(key, || 0, |arrival| *arrival <= now)
            .map_or(true, |arrival| settings::failure_rate().take(arrival, now, 1).is_ok())
    })
}

/// Gives back what was taken for a secret that was right.
pub fn give_back(state: &State, key_id: Uuid) {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if let Some(arrival) = table.find(&key) {
            settings::failure_rate().give_back(arrival);
        }
    });
}
