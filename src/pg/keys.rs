//! Helpers of sql/20_keys.sql: the text of a key, its secret and its hash.

use pgrx::IntoDatum;
use pgrx::prelude::*;
use rand::rngs::SysRng;
use uuid::Uuid;

use super::admission::Room;
use super::array;
use super::call::{argument, sql_function};
use super::error::{Error, OrRaise};
use super::foreign;
use super::settings;
use super::shared;
use super::work_area::WorkArea;
use crate::core::key::PresentedKey;
use crate::core::{hash, hash::HashError, key, scope};

sql_function!(grants, pg_finfo_grants, is_granted);

/// A key as it may be shown.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn mask(prefix: &str, key_id: pgrx::Uuid) -> String {
    key::mask(prefix, Uuid::from_bytes(*key_id.as_bytes()))
}

/// `grants(p_granted text[], p_required text)`: whether the granted scopes grant the required one.
unsafe fn is_granted(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/20_keys.sql declares two arguments of these types.
    let (granted, required) =
        unsafe { (array::texts(argument(fcinfo, 0)?), array::text_bytes(argument(fcinfo, 1)?)) };
    scope::grants(granted.into_iter().flatten(), required).into_datum()
}

/// The text of a key with a secret of its own.
#[pg_extern(sql = false)]
fn make_key(prefix: &str, key_id: pgrx::Uuid) -> String {
    let secret = key::generate_secret(&mut operating_system_rng());
    let text = key::format(prefix, Uuid::from_bytes(*key_id.as_bytes()), &secret);
    text.expose().to_owned()
}

/// The hash under which the secret of a key is stored; NULL if there is no room to hash.
#[pg_extern(sql = false)]
fn hash_key(api_key: &str) -> Option<String> {
    let key =
        PresentedKey::parse(api_key.as_bytes()).unwrap_or_else(|_malformed| Error::NotAKey.raise());
    shared::with(|state| {
        let _room = Room::for_command(state)?;
        Some(hash_secret(key.secret).or_raise())
    })
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
