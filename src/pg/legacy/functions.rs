//! Helpers of sql/30_legacy.sql: hashes that come from elsewhere.

use crate::core::key::PresentedKey;
use crate::core::legacy::{self, Imported, Refused, Scheme};
use crate::pg::error::{Error, OrRaise};
use crate::pg::hashing::secret::{checkpoint, hash_secret, operating_system_rng};
use crate::pg::hashing::slots::HashSlot;
use crate::pg::legacy::root_key::RootKey;
use crate::pg::memory::{self, Counter, WorkArea};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::server;
use crate::pg::raw::types::{Bool, JsonValue, Str, Text};
use crate::pg::settings;

sql_function! {
    /// The credential to store for a hash from elsewhere: `{scheme, stored, handle, imported}`, or NULL if it is
    /// not a hash of the scheme. `scheme` NULL has it told by its form.
    fn legacy_credential(hash: Option<Text>, scheme: Option<Text>) -> Option<JsonValue> {
        let hash = hash?;
        let scheme = match scheme {
            Some(name) => Scheme::from_name(str::from_utf8(name).ok()?)?,
            None => legacy::detect(str::from_utf8(hash).ok()?)?,
        };
        let root_key = RootKey::load(false).or_raise();
        let (stored, handle) = if scheme == Scheme::Plaintext {
            // A text in our own form would be looked up as ours, and never found.
            let ours = PresentedKey::parse(hash).is_ok();
            if hash.is_empty() || hash.len() > legacy::MAX_TEXT || ours {
                return None;
            }
            // An import is not given up in the middle because others hash too.
            let stored = memory::with(|state| {
                let _slot = HashSlot::for_job(state);
                hash_secret(hash).or_raise()
            });
            (stored, Some(root_key.of_text(hash)))
        } else {
            let imported = import(scheme, str::from_utf8(hash).ok()?)?;
            let handle = imported.digest.map(|digest| root_key.of_digest(scheme, &digest));
            (imported.stored, handle)
        };
        let imported = match (scheme, handle) {
            // Its hash has a salt of its own each time.
            (Scheme::Plaintext, Some(handle)) => handle,
            _ => root_key.of_import(&stored),
        };
        Some(serde_json::json!({
            "scheme": scheme.as_str(),
            "stored": stored,
            "handle": handle.map(|handle| base16ct::lower::encode_string(&handle)),
            "imported": base16ct::lower::encode_string(&imported),
        }))
    }
}

/// Reads a hash from elsewhere; `None` if it is not one of the scheme.
fn import(scheme: Scheme, hash: &str) -> Option<Imported> {
    match legacy::import(scheme, hash) {
        Ok(imported) => Some(imported),
        Err(Refused::Malformed) => None,
        Err(Refused::TooCostly) => Error::TooCostly.raise(),
    }
}

sql_function! {
    /// A bare legacy hash, wrapped in argon2id. Waits for room as long as it takes.
    fn wrap_hash(stored: Str) -> Str {
        server::check_for_interrupts();
        memory::with(|state| {
            let _slot = HashSlot::for_job(state);
            let cost = settings::argon2_cost();
            legacy::wrap(stored, cost, &mut operating_system_rng(), WorkArea::new).or_raise()
        })
    }
}

sql_function! {
    /// Whether a text is the one that a hash from elsewhere was made of. It costs no more than verifying
    /// an imported key does: the bounds of what is imported, and room among the hashes at a time.
    fn matches_hash(text: Text, hash: Text) -> Bool {
        // Hashes are ASCII.
        let imported = str::from_utf8(hash)
            .ok()
            .and_then(|hash| legacy::detect(hash).and_then(|scheme| import(scheme, hash)));
        let Some(imported) = imported.filter(|_| text.len() <= legacy::MAX_TEXT) else {
            return false;
        };
        memory::with(|state| {
            let _slot = HashSlot::for_check(state).unwrap_or_else(|| Error::NoRoom.raise());
            state.count(Counter::HashesRun);
            legacy::verify(text, &imported.stored, WorkArea::new, checkpoint)
                .unwrap_or(false)
        })
    }
}
