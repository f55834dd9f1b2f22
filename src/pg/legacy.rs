//! Keys that came from elsewhere: how they are found by their text, and the helpers of
//! sql/30_legacy.sql.

use uuid::Uuid;

use super::error::{Error, OrRaise};
use super::hash_slots::HashSlot;
use super::keys::{checkpoint, hash_secret, operating_system_rng};
use super::memory::{self, Counter, State, WorkArea, text_handle};
use super::raw::call::sql_function;
use super::raw::server;
use super::raw::types::{Bool, JsonValue, Str, Text};
use super::root_key::RootKey;
use super::rows::{self, Keys, Row};
use super::scan;
use super::settings;
use super::verify::Suspects;
use crate::core::handle::Handle;
use crate::core::key::PresentedKey;
use crate::core::legacy::{self, Imported, Refused, Scheme};
use crate::core::verdict::Code;

/// Finds what a text that is none of ours may be the key of: by the text itself, by its digests,
/// and at last by its prefix among the keys with salted hashes.
pub fn find(text: &[u8]) -> Result<Suspects<'_>, Code> {
    if text.is_empty() || text.len() > legacy::MAX_TEXT {
        return Err(Code::Malformed);
    }
    // Without a fingerprint nothing was ever imported.
    let fingerprint = rows::root_key_fingerprint().ok_or(Code::Malformed)?;
    let root_key = RootKey::load(false).or_raise();
    if root_key.fingerprint().as_bytes() != fingerprint {
        Error::RootKey("It is not the one under which this database's keys were imported.").raise();
    }
    rows::keep_fingerprint(fingerprint);
    let handle = root_key.of_text(text);
    let one = |row: Row, handle| {
        let key_id = row.get(Keys::KEY_ID);
        Suspects { rows: vec![row], secret: text, legacy: true, key_id, handle }
    };
    if let Some(row) = Row::find_by_handle([handle]) {
        return Ok(one(row, None));
    }
    // Where this text was found before, which saves the search. It may be gone since.
    let known = memory::with(|state| known_text(state, handle));
    if let Some(row) = known.and_then(Row::find) {
        return Ok(one(row, Some(handle)));
    }
    // A digest takes longer to compute than a scheme to be ruled out.
    let imported = rows::imported_schemes();
    let digests = Scheme::DIGESTS
        .into_iter()
        .filter(|scheme| {
            let is = |name: &Vec<u8>| name == scheme.as_str().as_bytes();
            imported.as_ref().is_none_or(|names| names.iter().any(is))
        })
        .filter_map(|scheme| Some(root_key.of_digest(scheme, &scheme.digest(text)?)));
    if let Some(row) = Row::find_by_handle(digests) {
        return Ok(one(row, Some(handle)));
    }
    let rows = Row::find_by_prefix(text, None, scan::PAGE);
    if rows.is_empty() {
        return Err(Code::NotFound);
    }
    Ok(Suspects { rows, secret: text, legacy: true, key_id: None, handle: Some(handle) })
}

/// The key of a text, if that was found before.
pub fn known_text(state: &State, handle: Handle) -> Option<Uuid> {
    let text = text_handle(handle);
    state.known_texts.with(&text, |table| table.find(&text))
}

/// Remembers where a text was found that is not looked up by its own handle yet.
pub fn found(state: &State, handle: Handle, key_id: Uuid) {
    let text = text_handle(handle);
    state.known_texts.with(&text, |table| {
        let remember = || table.entry(text, || key_id, |found| *found = key_id);
        if remember().is_err() {
            // Others of its shard are forgotten: they are found again by a search.
            table.retain(|_, _| false);
            let _ = remember();
        }
    });
}

sql_function! {
    /// What is to be stored of a hash from elsewhere: `{scheme, stored, handle, imported}`, or NULL if it is
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
