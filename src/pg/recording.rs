//! What a verify records. It writes to memory only; the worker writes to tables.

use std::cell::Cell;
use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::array;
use super::shared::{self, Counter, State};
use crate::core::table::{Full, Table};
use crate::core::usage::{Address, KeyRef, RefusalKind, Refusals, Usage};
use crate::core::verdict::Code;

/// A key of the current database.
pub fn key_ref(key_id: Uuid) -> KeyRef {
    // SAFETY: set since the backend has connected.
    KeyRef { database: unsafe { pg_sys::MyDatabaseId }.to_u32(), key_id }
}

/// A VALID.
pub fn used(state: &State, key_id: Uuid, now: i64, client_ip: Option<pg_sys::Datum>) {
    let usage =
        Usage { uses: 1, failures: 0, last_used_at: Some(now), last_used_ip: address(client_ip) };
    if state.is_shared() {
        add_usage(state, key_ref(key_id), &usage);
    } else {
        warn_once();
    }
}

/// Any other answer. `key_id` is one that exists, or `None`; `wrong_secret` counts against it.
pub fn refused(
    state: &State,
    code: Code,
    key_id: Option<Uuid>,
    wrong_secret: bool,
    now: i64,
    client_ip: Option<pg_sys::Datum>,
) {
    if !state.is_shared() {
        return warn_once();
    }
    // SAFETY: set since the backend has connected.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let client_ip = address(client_ip).map(Address::network);
    let kind = RefusalKind { database, code, key_id, client_ip };
    add_refusals(state, kind, &Refusals::one(now));
    if let (Some(key_id), true) = (key_id, wrong_secret) {
        add_usage(state, key_ref(key_id), &Usage { failures: 1, ..Usage::default() });
    }
}

/// Adds to the use counts of a key.
pub fn add_usage(state: &State, key: KeyRef, usage: &Usage) {
    let (added, nearly_full) = state.usage.with(&key, |table| {
        let added = table.entry(key, Usage::default, |entry| entry.add(usage));
        (added, table.is_nearly_full())
    });
    if added.is_err() {
        state.count(Counter::UsageDropped);
    }
    if nearly_full {
        super::worker::make_room(state);
    }
}

/// Adds to the refusals of a kind, or of a coarser one where there is no room: a flood of
/// addresses ends up in few rows.
pub fn add_refusals(state: &State, kind: RefusalKind, refusals: &Refusals) {
    let none = || Refusals { count: 0, ..*refusals };
    let add = |table: &Table<'_, RefusalKind, Refusals>, kind| {
        table.entry(kind, none, |entry| entry.add(refusals))
    };
    let added = state.refusals.with(&kind, |table| {
        // Coarse kinds keep a place: a quarter of all.
        if table.is_nearly_full() && table.find(&kind).is_none() {
            return Err(Full);
        }
        add(table, kind)
    });
    if added.is_err() {
        let kind = kind.coarse();
        let _ = state.refusals.with(&kind, |table| add(table, kind));
    }
}

/// The family of IPv4 in an inet (utils/inet.h: AF_INET); IPv6 has the next number.
const PGSQL_AF_INET: u8 = 2;

/// An inet datum: family, prefix length and address (utils/inet.h).
pub fn address(inet: Option<pg_sys::Datum>) -> Option<Address> {
    // SAFETY: callers pass inet datums.
    let bytes = unsafe { array::text_bytes(inet?) };
    let (&[family, prefix], ip) = bytes.split_first_chunk()?;
    let ip = match family {
        PGSQL_AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*ip.first_chunk()?)),
        _ => IpAddr::V6(Ipv6Addr::from_octets(*ip.first_chunk()?)),
    };
    Some(Address { ip, prefix })
}

/// The inet datum of an address.
pub fn inet(ip: IpAddr) -> Option<pg_sys::Datum> {
    let text = CString::new(ip.to_string()).ok()?;
    // SAFETY: inet_in takes a C string, which lives over the call.
    unsafe {
        let argument = Some(pg_sys::Datum::from(text.as_ptr()));
        pgrx::direct_function_call_as_datum(pg_sys::inet_in, &[argument])
    }
}

/// Says once a session what is missing without preloading.
fn warn_once() {
    thread_local! {
        static SAID: Cell<bool> = const { Cell::new(false) };
    }
    if !shared::is_preloaded() && !SAID.replace(true) {
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
