//! How a legacy key is found by its text.

use crate::core::legacy::{self, Scheme};
use crate::core::verdict::Code;
use crate::pg::error::{Error, OrRaise};
use crate::pg::keys::rows::{self, Keys, Row};
use crate::pg::keys::suspects::Suspects;
use crate::pg::legacy::root_key::RootKey;
use crate::pg::legacy::{known_texts, scan};
use crate::pg::memory;

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
    let known = memory::with(|state| known_texts::recall(state, handle));
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
