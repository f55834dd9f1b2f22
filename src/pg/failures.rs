//! The failure budget of each key id: how many hashes wrong secrets of it may cost.

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

/// Takes a hash out of the budget before it is run; false if there is none left.
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

/// Charges for one hash more of a secret that a hash was taken for: a key in its grace has two.
pub fn owe(state: &State, key_id: Uuid, now: i64) {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if let Some(arrival) = table.find(&key) {
            settings::failure_rate().owe(arrival, now);
        }
    });
}

/// Gives back what was charged for a secret that was right.
pub fn give_back(state: &State, key_id: Uuid, hashes: usize) {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if let Some(arrival) = table.find(&key) {
            for _ in 0..hashes {
                settings::failure_rate().give_back(arrival);
            }
        }
    });
}
