//! The failure budget of each key id: how many hashes wrong secrets of it may cost.

use uuid::Uuid;

use crate::pg::memory::{State, key_ref};
use crate::pg::settings;

/// Whether there is some of the budget left. Nothing is taken while a check waits for a hash slot:
/// checks that wait with the right secret, or give up waiting, leave it as it is.
pub fn is_left(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    let arrival = state.failures.with(&key, |table| table.find(&key));
    arrival.is_none_or(|mut trial| settings::failure_rate().take(&mut trial, now, 1).is_ok())
}

/// Takes a hash out of the budget before it is run; false if there is none left.
pub fn take(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    let rate = settings::failure_rate();
    let take = |arrival: &mut i64| rate.take(arrival, now, 1).is_ok();
    // A budget that is whole again needs no entry. While all the room is taken by those that are
    // not, it is not counted: the bound on concurrent hashes still holds.
    let taken = state.failures.with_room(&key, now, |table| table.entry_at(now, key, || 0, take));
    taken.unwrap_or(true)
}

/// Charges for one hash more of a secret that a hash was taken for: a key in its grace has two.
pub fn owe(state: &State, key_id: Uuid, now: i64) {
    let key = key_ref(key_id);
    let rate = settings::failure_rate();
    state.failures.with(&key, |table| table.modify(&key, |arrival| rate.owe(arrival, now)));
}

/// Gives back what was charged for a secret that was right.
pub fn give_back(state: &State, key_id: Uuid, hashes: usize) {
    let key = key_ref(key_id);
    let rate = settings::failure_rate();
    let give_back = |arrival: &mut i64| (0..hashes).for_each(|_| rate.give_back(arrival));
    state.failures.with(&key, |table| table.modify(&key, give_back));
}
