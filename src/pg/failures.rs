//! The failure budget of each key id: how many wrong secrets it may be asked about.

use uuid::Uuid;

use super::recording::key_ref;
use super::settings;
use super::shared::State;

/// Whether there is some of the budget left. Nothing is taken before argon2 has said no, so that
/// those who hold the right secret, or give up waiting, cost nothing; as many wrong secrets more
/// may be hashed as are hashed at a time.
pub fn is_left(state: &State, key_id: Uuid, now: i64) -> bool {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        table.find(&key).is_none_or(|arrival| {
            let mut trial = *arrival;
            settings::failure_rate().take(&mut trial, now, 1).is_ok()
        })
    })
}

/// Takes a wrong secret out of the budget.
pub fn take(state: &State, key_id: Uuid, now: i64) {
    let key = key_ref(key_id);
    state.failures.with(&key, |table| {
        if table.find(&key).is_none() && table.is_nearly_full() {
            // Those whose budget is whole again need no entry.
            table.take(|_, arrival| *arrival <= now);
        }
        // Without room it is not counted: the bound on concurrent hashes still holds.
        if let Ok(arrival) = table.entry(key, || 0) {
            let _ = settings::failure_rate().take(arrival, now, 1);
        }
    });
}
