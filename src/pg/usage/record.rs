//! Records uses and denials, in memory only.

use std::cell::Cell;

use pgrx::prelude::*;
use uuid::Uuid;

use crate::core::table::{Full, Table};
use crate::core::usage::{Address, DenialKind, Denials, KeyRef, Usage};
use crate::core::verdict::Code;
use crate::pg::memory::{Counter, State, is_preloaded, key_ref};
use crate::pg::raw::server;

/// Records a VALID.
pub fn record_use(state: &State, key_id: Uuid, now: i64, client_ip: Option<Address>) {
    let usage = Usage { uses: 1, failures: 0, last_used_at: Some(now), last_used_ip: client_ip };
    if state.is_shared() {
        add_uses(state, key_ref(key_id), &usage);
    } else {
        warn_once();
    }
}

/// Records any other answer. `key_id` is a key that exists, or `None`; `wrong_secret` counts
/// against it.
pub fn record_denial(
    state: &State,
    code: Code,
    key_id: Option<Uuid>,
    wrong_secret: bool,
    now: i64,
    client_ip: Option<Address>,
) {
    if !state.is_shared() {
        return warn_once();
    }
    let client_ip = client_ip.map(Address::network);
    let kind = DenialKind { database: server::database(), code, key_id, client_ip };
    add_denials(state, kind, &Denials::one(now));
    if let (Some(key_id), true) = (key_id, wrong_secret) {
        add_uses(state, key_ref(key_id), &Usage { failures: 1, ..Usage::default() });
    }
}

/// Adds to the use counts of a key.
pub fn add_uses(state: &State, key: KeyRef, usage: &Usage) {
    let (added, nearly_full) = state.usage.with(&key, |table| {
        let added = table.entry(key, Usage::default, |entry| entry.add(usage));
        (added, table.is_nearly_full())
    });
    if added.is_err() {
        state.count(Counter::UsageDropped);
    }
    if nearly_full {
        state.flush.hurry();
    }
}

/// Adds to the denials of a kind, or of a coarser one where there is no room: a flood of
/// addresses ends up in few rows.
pub fn add_denials(state: &State, kind: DenialKind, denials: &Denials) {
    let none = || Denials { count: 0, ..*denials };
    let add = |table: &Table<'_, DenialKind, Denials>, kind| {
        table.entry(kind, none, |entry| entry.add(denials))
    };
    let added = state.denials.with(&kind, |table| {
        // A quarter of the places is kept for coarse kinds.
        if table.is_nearly_full() && table.find(&kind).is_none() {
            return Err(Full);
        }
        add(table, kind)
    });
    if added.is_err() {
        let kind = kind.coarse();
        let _ = state.denials.with(&kind, |table| add(table, kind));
    }
}

/// Warns once a session that nothing is recorded without preloading.
fn warn_once() {
    thread_local! {
        static WARNED: Cell<bool> = const { Cell::new(false) };
    }
    if !is_preloaded() && !WARNED.replace(true) {
        pgrx::pg_sys::panic::ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            "api_key is not preloaded: use counts and refusals are not recorded",
            function_name!(),
        )
        .set_detail("Known secrets and failure budgets are kept by each backend for itself.")
        .set_hint("Add api_key to shared_preload_libraries and restart the server.")
        .report(PgLogLevel::WARNING);
    }
}
