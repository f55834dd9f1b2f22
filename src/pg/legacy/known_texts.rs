//! Texts of legacy keys whose key is known: they are not searched again.

use uuid::Uuid;

use crate::core::handle::Handle;
use crate::pg::memory::{State, text_handle};

/// The key of a text, if that was found before.
pub fn recall(state: &State, handle: Handle) -> Option<Uuid> {
    let text = text_handle(handle);
    state.known_texts.with(&text, |table| table.find(&text))
}

/// Remembers where a text was found that is not looked up by its own handle yet.
pub fn remember(state: &State, handle: Handle, key_id: Uuid) {
    let text = text_handle(handle);
    state.known_texts.with(&text, |table| {
        let insert = || table.entry(text, || key_id, |found| *found = key_id);
        if insert().is_err() {
            // Others of its shard are forgotten: they are found again by a search.
            table.retain(|_, _| false);
            let _ = insert();
        }
    });
}
