//! Helpers of sql/20_keys.sql: the text of a key, its secret and its hash.

use pgrx::IntoDatum;
use pgrx::prelude::*;
use rand::rngs::SysRng;
use uuid::Uuid;

use super::array;
use super::call::{argument, sql_function};
use super::error::OrRaise;
use super::foreign;
use super::hash_slots::HashSlot;
use super::jsonb;
use super::memory::{self, WorkArea};
use super::settings;
use crate::core::verdict::Validity;
use crate::core::{hash, hash::HashError, key, scope};

sql_function!(mint, pg_finfo_mint, minted);
sql_function!(key_status, pg_finfo_key_status, status);

/// A key as it may be shown.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn mask(prefix: &str, key_id: pgrx::Uuid) -> String {
    key::mask(prefix, Uuid::from_bytes(*key_id.as_bytes()))
}

/// Whether a text is the prefix of a key.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn is_key_prefix(prefix: &str) -> bool {
    key::is_prefix(prefix.as_bytes())
}

/// Whether the granted scopes grant the required one.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn grants(granted: Vec<Option<String>>, required: &str) -> bool {
    scope::grants(granted.iter().flatten().map(String::as_bytes), required.as_bytes())
}

/// `mint(p_prefix text, p_key_id uuid)`: the text of a key with a new secret, and the hash under which
/// that is stored; NULL if there is no room to hash.
unsafe fn minted(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/21_issue.sql declares two arguments of these types, and the function STRICT.
    let (prefix, key_id) = unsafe {
        let key_id = argument(fcinfo, 1).and_then(|id| pgrx::Uuid::from_datum(id, false))?;
        (argument(fcinfo, 0).map(|datum| array::text_bytes(datum))?, key_id)
    };
    let prefix = std::str::from_utf8(prefix).unwrap_or_default();
    let secret = key::generate_secret(&mut operating_system_rng());
    let hash = memory::with(|state| {
        let _slot = HashSlot::for_command(state)?;
        Some(hash_secret(secret.expose().as_bytes()).or_raise())
    })?;
    let text = key::format(prefix, Uuid::from_bytes(*key_id.as_bytes()), &secret);
    Some(jsonb::object(&mut [
        ("api_key", text.expose().as_bytes().into()),
        ("secret_hash", hash.as_bytes().into()),
    ]))
}

/// `key_status(p_revoked_at timestamptz, p_enabled boolean, p_not_before timestamptz, p_expires_at
/// timestamptz)`: the state at this moment.
unsafe fn status(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/20_keys.sql declares four arguments of these types, all passed by value; reads the
    // clock.
    let (validity, now) = unsafe {
        let time = |number| argument(fcinfo, number).map(|time| time.value().cast_signed() as i64);
        let validity = Validity {
            revoked: argument(fcinfo, 0).is_some(),
            enabled: argument(fcinfo, 1).is_some_and(|enabled| enabled.value() != 0),
            not_before: time(2),
            expires_at: time(3),
        };
        (validity, pg_sys::GetCurrentTimestamp())
    };
    validity.status(now).as_str().into_datum()
}

/// Ends a hash, and what it is for, if the query was cancelled.
pub fn checkpoint() {
    pgrx::check_for_interrupts!();
}

/// The PHC string of a secret under today's cost. The caller has room to hash.
///
/// # Errors
/// `HashError::Cost` if argon2 refuses the settings.
pub fn hash_secret(secret: &[u8]) -> Result<String, HashError> {
    hash::hash(secret, settings::argon2_cost(), &mut operating_system_rng(), WorkArea::new)
}

/// The operating system's generator. Should it ever fail, the call that asked fails (XX000).
pub fn operating_system_rng() -> impl rand::CryptoRng {
    rand::rand_core::UnwrapErr(SysRng)
}

/// See [`foreign::is_restricted`].
#[pg_extern(sql = false)]
fn in_restricted_operation(takes_away: Option<bool>) -> bool {
    match takes_away {
        Some(true) => foreign::is_in_restricted_operation(),
        _ => foreign::is_restricted(),
    }
}

/// Active keys of a user in a tier, under a snapshot of this moment.
#[pg_extern(sql = false)]
fn count_active_keys_now(user_id: pgrx::Uuid, tier: &str) -> i64 {
    let query = c"SELECT pg_catalog.cardinality(api_key_internal.active_keys($1, $2))";
    let mut types = [pg_sys::UUIDOID, pg_sys::TEXTOID];
    let null = pg_sys::Datum::from(0);
    let mut values = [user_id.into_datum().unwrap_or(null), tier.into_datum().unwrap_or(null)];
    // SAFETY: a read-only SPI call (not pgrx's, which in a transaction that has written takes the
    // transaction's snapshot again) under a snapshot that is pushed and popped around it; after
    // an error both are undone by the end of the (sub)transaction. The array is never NULL.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        pg_sys::SPI_connect();
        pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            2,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            true,
            1,
        );
        let mut is_null = false;
        let table = pg_sys::SPI_tuptable;
        let count = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
        let count = i64::try_from(count.value()).unwrap_or(0);
        pg_sys::SPI_finish();
        pg_sys::PopActiveSnapshot();
        count
    }
}
