//! Helpers of sql/20_keys.sql and sql/21_issue.sql: the text of a key, its secret and its state.

use crate::core::jsonb::object;
use crate::core::legacy::{self, Stage};
use crate::core::verdict::Validity;
use crate::core::{key, scope};
use crate::pg::error::OrRaise;
use crate::pg::foreign;
use crate::pg::hashing::secret::{hash_secret, operating_system_rng};
use crate::pg::hashing::slots::HashSlot;
use crate::pg::memory;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::server;
use crate::pg::raw::spi::{self, Mode};
use crate::pg::raw::types::{Array, Bool, Int4, Int8, Jsonb, Str, Text, Timestamp, Uuid, oid};

sql_function! {
    /// A key as it may be shown.
    fn mask(prefix: Str, key_id: Uuid) -> Str {
        key::mask(prefix, key_id)
    }

    /// Whether a text is the prefix of a key.
    fn is_key_prefix(prefix: Text) -> Bool {
        key::is_prefix(prefix)
    }

    /// Whether the granted scopes grant the required one.
    fn grants(granted: Array<Text>, required: Text) -> Bool {
        scope::grants(granted.into_iter().flatten(), required)
    }

    /// The text of a key with a new secret, and the hash under which that is stored; NULL if there is no
    /// room to hash.
    fn mint(prefix: Text, key_id: Uuid) -> Option<Jsonb> {
        let prefix = std::str::from_utf8(prefix).unwrap_or_default();
        let secret = key::generate_secret(&mut operating_system_rng());
        let hash = memory::with(|state| {
            let _slot = HashSlot::for_command(state)?;
            Some(hash_secret(secret.expose().as_bytes()).or_raise())
        })?;
        let text = key::format(prefix, key_id, &secret);
        let minted = object(&mut [
            ("api_key", text.expose().as_bytes().into()),
            ("secret_hash", hash.as_bytes().into()),
        ]);
        Some(minted.or_raise())
    }

    /// How far a stored hash is on its way to argon2id of the text itself: bare, wrapped or own.
    fn hash_stage(stored: Str) -> Str {
        Stage::of(stored).as_str().to_owned()
    }

    /// Whether the secret of this version is the text that an imported key came with.
    fn is_legacy_secret(scheme: Option<Text>, version: Option<Int4>) -> Bool {
        legacy::is_legacy_secret(scheme.is_some(), version.unwrap_or(0).into())
    }

    /// The state of a key at this moment.
    fn key_status(
        revoked_at: Option<Timestamp>,
        enabled: Option<Bool>,
        not_before: Option<Timestamp>,
        expires_at: Option<Timestamp>,
    ) -> Str {
        let validity = Validity {
            revoked: revoked_at.is_some(),
            enabled: enabled == Some(true),
            not_before,
            expires_at,
        };
        validity.status(server::now()).as_str().to_owned()
    }

    /// See [`foreign::is_restricted`].
    fn in_restricted_operation(takes_away: Option<Bool>) -> Bool {
        match takes_away {
            Some(true) => foreign::is_in_restricted_operation(),
            _ => foreign::is_restricted(),
        }
    }

    /// Active keys of a user in a tier, under a snapshot of this moment. Not by pgrx's SPI, which in a
    /// transaction that has written takes the transaction's snapshot again.
    fn count_active_keys_now(user_id: Uuid, tier: Str) -> Int8 {
        let query = c"SELECT pg_catalog.cardinality(api_key_internal.active_keys($1, $2))";
        spi::with_latest_snapshot(|| {
            spi::session(|session| {
                let plan = session.prepare(query, &[oid::<Uuid>(), oid::<Str>()]);
                let user_id = session.value::<Uuid>(user_id);
                let tier = session.value::<Str>(tier.to_owned());
                let rows = plan.execute(&[Some(user_id), Some(tier)], Mode::ReadOnly, 1);
                rows.get::<Int4>(1).unwrap_or_default().into()
            })
        })
    }
}
