//! The failure budget of each key id: how many wrong secrets it may be asked about.

use uuid::Uuid;

use super::recording::key_ref;
use super::settings;
use super::shared::State;

/// Takes one from the budget before a hash; false if there is none left.
pub fn take(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if table.find(&key).is_none() && table.is_nearly_full() {
            // Those whose budget is whole again need no entry.
            table.take(|_, arrival| *arrival <= now);
        }
        table
            .entry(key, || 0)
            // No room to count: the bound on concurrent hashes still holds.
            .map_or(true, |arrival| settings::failure_rate().take(arrival, now, 1).is_ok())
    })
}

/// Gives it back after a hash that was no failure.
pub fn give_back(state: &State, key_id: Uuid) {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if let Some(arrival) = table.find(&key) {
            settings::failure_rate().give_back(arrival);
        }
    });
}
