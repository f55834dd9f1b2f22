//! The failure budget of each key id: how many wrong secrets it may be asked about.

use uuid::Uuid;

use super::recording::key_ref;
use super::settings;
use super::shared::State;

/// Whether there is some of the budget left. Nothing is taken while a check waits for room: those
/// who wait with the right secret, or give up waiting, leave it as it is.
pub fn is_left(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    let arrival = state.failures.with(&key, |table| table.find(&key));
    arrival.is_none_or(|mut trial| settings::failure_rate().take(&mut trial, now, 1).is_ok())
}

/// Takes a wrong secret out of the budget before it is hashed; false if there is none left.
pub fn take(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    let rate = settings::failure_rate();
    let take = |arrival: &mut i64| rate.take(arrival, now, 1).is_ok();
    // A budget that is whole again needs no entry. While all the room is taken by those that are
    // not, it is not counted: the bound on concurrent hashes still holds.
    let taken = state.failures.with_room(&key, now, |table| table.entry_at(now, key, || 0, take));
    taken.unwrap_or(true)
}

/// Gives back what was taken for a secret that was right.
pub fn give_back(state: &State, key_id: Uuid) {
    let key = key_ref(key_id);
    let rate = settings::failure_rate();
    state.failures.with(&key, |table| table.modify(&key, |arrival| rate.give_back(arrival)));
}
