//! The proof that a text holds the secret of a key: cheap refusals first, the hash last.

use uuid::Uuid;

use crate::core::key::PresentedKey;
use crate::core::verdict::Code;
use crate::pg::hashing::slots::HashSlot;
use crate::pg::hashing::{failures, upgrades};
use crate::pg::keys::rows::{Keys, Row};
use crate::pg::keys::suspects::{Candidate, Suspects};
use crate::pg::legacy::find::find as find_legacy;
use crate::pg::legacy::{known_texts, scan};
use crate::pg::memory::{Counter, State};

/// A key whose secret was right.
pub struct ProvenKey {
    /// Its id.
    pub key_id: Uuid,
    /// Its row.
    pub row: Row,
    /// The secret is the one before the last rotation.
    pub by_previous_secret: bool,
}

/// Why a text proves nothing.
pub struct Denial {
    /// The answer.
    pub code: Code,
    /// The key whose id is in the text, if there is one.
    pub key_id: Option<Uuid>,
    /// argon2 has said no.
    pub wrong_secret: bool,
}

impl From<Code> for Denial {
    fn from(code: Code) -> Self {
        Self { code, key_id: None, wrong_secret: false }
    }
}

/// Finds the key of a text and checks its secret. Cheap refusals come first, the hash last.
pub fn prove(state: &State, text: &[u8], now: i64) -> Result<ProvenKey, Denial> {
    let mut suspects = find(text)?;
    let candidates = suspects.candidates(now);
    let (proven, slot) = if let Some(known) = suspects.known(state, &candidates) {
        state.count(Counter::MemoHits);
        (known, None)
    } else {
        state.count(Counter::MemoMisses);
        let (matching, slot) = match (suspects.key_id, suspects.handle) {
            (None, Some(handle)) => {
                scan::run(state, &mut suspects, handle, now).map_err(|code| Denial {
                    code,
                    key_id: None,
                    wrong_secret: code == Code::NotFound,
                })?
            }
            (key_id, _) => {
                let key_id = key_id.unwrap_or_default();
                let (matching, slot) = check(&suspects, state, key_id, &candidates, now)?;
                (matching, Some(slot))
            }
        };
        (matching, slot)
    };
    remember(state, &suspects, &proven, slot);
    let by_previous_secret = proven.by_previous_secret;
    let row = suspects.rows.swap_remove(proven.row);
    let key_id = row.get(Keys::KEY_ID).unwrap_or_default();
    Ok(ProvenKey { key_id, row, by_previous_secret })
}

/// Remembers that a secret matches, and has its hash made better where that is due. `slot` is there
/// if the secret was hashed just now.
fn remember(
    state: &State,
    suspects: &Suspects<'_>,
    proven: &Candidate,
    slot: Option<HashSlot<'_>>,
) {
    let Suspects { secret, handle, .. } = *suspects;
    let stored = suspects.stored(proven);
    let key_id = suspects.rows.get(proven.row).and_then(|row| row.get(Keys::KEY_ID));
    let upgraded = key_id.filter(|_| !proven.by_previous_secret);
    if let (Some(handle), Some(key_id)) = (handle, key_id)
        && (slot.is_some() || suspects.key_id.is_none())
    {
        known_texts::remember(state, handle, key_id);
    }
    if slot.is_none() {
        if let Some(key_id) = upgraded.filter(|key| upgrades::is_due(state, *key, stored))
            && let Some(_slot) = HashSlot::if_free(state)
        {
            upgrades::offer(state, key_id, stored, secret, handle);
        }
        return;
    }
    // Not memoised otherwise: the next verify must retry the upgrade.
    if upgraded.is_none_or(|key_id| upgrades::offer(state, key_id, stored, secret, handle)) {
        state.memo.insert(state.tag_key.tag(stored, secret));
    }
}

/// The keys that a text may be the text of.
fn find(text: &[u8]) -> Result<Suspects<'_>, Code> {
    let Ok(presented) = PresentedKey::parse(text) else {
        return find_legacy(text);
    };
    let row = Row::find(presented.key_id).ok_or(Code::NotFound)?;
    if row.get(Keys::KEY_PREFIX) != Some(presented.prefix) {
        return Err(Code::NotFound);
    }
    Ok(Suspects {
        rows: vec![row],
        secret: presented.secret,
        legacy: false,
        key_id: Some(presented.key_id),
        handle: None,
    })
}

/// Hashes the secret of the one key that is meant. The slot is for what else is to be hashed.
fn check<'s>(
    suspects: &Suspects<'_>,
    state: &'s State,
    key_id: Uuid,
    candidates: &[Candidate],
    now: i64,
) -> Result<(Candidate, HashSlot<'s>), Denial> {
    let denial = |code, wrong_secret| Denial { code, key_id: Some(key_id), wrong_secret };
    let throttled = || {
        state.count(Counter::Throttled);
        denial(Code::Throttled, false)
    };
    if !failures::is_left(state, key_id, now) {
        return Err(throttled());
    }
    let slot = HashSlot::for_check(state).ok_or_else(|| denial(Code::Overloaded, false))?;
    // While this one waited, another may have hashed the same.
    if let Some(known) = suspects.known(state, candidates).filter(|_| slot.has_waited()) {
        return Ok((known, slot));
    }
    for (hashes, candidate) in (1..).zip(candidates) {
        if hashes > 1 {
            failures::owe(state, key_id, now);
        } else if !failures::take(state, key_id, now) {
            return Err(throttled());
        }
        if suspects.matches(state, candidate) {
            failures::give_back(state, key_id, hashes);
            return Ok((*candidate, slot));
        }
    }
    Err(denial(Code::NotFound, true))
}
