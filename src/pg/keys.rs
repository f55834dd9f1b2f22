//! Helpers of sql/20_keys.sql: the text of a key, its secret and its hash.

use pgrx::prelude::*;
use rand::rngs::SysRng;
use uuid::Uuid;

use super::error::{Error, OrRaise};
use super::settings;
use super::work_area::WorkArea;
use crate::core::key::PresentedKey;
use crate::core::{hash, key, scope};

/// A key as it may be shown.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn mask(prefix: &str, key_id: pgrx::Uuid) -> String {
    key::mask(prefix, Uuid::from_bytes(*key_id.as_bytes()))
}

/// Whether the granted scopes grant the required one.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn grants(granted: Vec<Option<String>>, required: &str) -> bool {
    scope::grants(granted.iter().flatten().map(String::as_bytes), required.as_bytes())
}

/// The text of a key with a secret of its own.
#[pg_extern(sql = false)]
fn make_key(prefix: &str, key_id: pgrx::Uuid) -> String {
    let secret = key::generate_secret(&mut operating_system_rng());
    let text = key::format(prefix, Uuid::from_bytes(*key_id.as_bytes()), &secret);
    text.expose().to_owned()
}

/// The hash under which the secret of a key is stored.
#[pg_extern(sql = false)]
fn hash_key(api_key: &str) -> String {
    let key =
        PresentedKey::parse(api_key.as_bytes()).unwrap_or_else(|_malformed| Error::NotAKey.raise());
    hash_secret(key.secret)
}

/// The PHC string of a secret under today's cost.
pub fn hash_secret(secret: &[u8]) -> String {
    hash::hash(secret, settings::argon2_cost(), &mut operating_system_rng(), WorkArea::new)
        .or_raise()
}

/// The operating system's generator. Should it ever fail, the call that asked fails (XX000).
fn operating_system_rng() -> impl rand::CryptoRng {
    rand::rand_core::UnwrapErr(SysRng)
}

/// Active keys of a user in a tier, under a snapshot of this moment.
#[pg_extern(sql = false)]
fn count_active_keys_now(user_id: pgrx::Uuid, tier: &str) -> i64 {
    // SAFETY: the snapshot is pushed and popped around one read-only query; an error in between
    // leaves popping to the end of the (sub)transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let count = Spi::connect(|client| {
        client
            .select(
                "SELECT pg_catalog.count(*) FROM api_key_internal.keys AS k
                 WHERE k.user_id OPERATOR(pg_catalog.=) $1 AND k.tier OPERATOR(pg_catalog.=) $2
                   AND k.revoked_at IS NULL AND k.enabled
                   AND (k.expires_at IS NULL
                        OR k.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp())",
                Some(1),
                &[user_id.into(), tier.into()],
            )?
            .first()
            .get_one::<i64>()
    });
    // SAFETY: the snapshot pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    count.ok().flatten().unwrap_or(0)
}
