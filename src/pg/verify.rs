//! Questions about a key: `verify_api_key`, `verify_api_key_hash`, and the proof of possession
//! that `revoke_own_api_key` asks for.

use std::net::IpAddr;

use uuid::Uuid;

use super::error::OrRaise;
use super::hash_slots::HashSlot;
use super::keys::checkpoint;
use super::memory::{self, Counter, State, WorkArea};
use super::raw::call::sql_function;
use super::raw::inet::Inet;
use super::raw::jsonb;
use super::raw::relation::Column;
use super::raw::server;
use super::raw::types::{Array, Inet as InetType, Jsonb, Text};
use super::rows::{Keys, Row};
use super::{failures, legacy, scan, upgrades, usage};
use crate::core::handle::Handle;
use crate::core::jsonb::{Value, object};
use crate::core::verdict::{Code, KeyState, Request, Validity, decide};
use crate::core::{self, key::PresentedKey};

/// A key whose secret was right.
pub struct ProvenKey {
    /// Its id.
    pub key_id: Uuid,
    /// Its row.
    pub row: Row,
    /// The secret is the one before the last rotation.
    by_previous_secret: bool,
}

/// Why a text proves nothing.
struct Refusal {
    code: Code,
    /// The key whose id is in the text, if there is one.
    key_id: Option<Uuid>,
    /// argon2 has said no.
    wrong_secret: bool,
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, key_id: None, wrong_secret: false }
    }
}

/// The key of a text, or what may be it, before its secret is checked.
pub struct Suspects<'a> {
    /// Rows that may be the key's.
    pub rows: Vec<Row>,
    /// What has to match a stored hash: the secret part, or the whole text of a legacy key.
    pub secret: &'a [u8],
    /// Whether the text is that of a legacy key.
    pub legacy: bool,
    /// The one key that is meant, if it is one: it has a failure budget. Otherwise more rows may
    /// follow these.
    pub key_id: Option<Uuid>,
    /// The handle by which the text itself is found, if the rows are not found by it.
    pub handle: Option<Handle>,
}

impl<'a> Suspects<'a> {
    fn find(text: &'a [u8]) -> Result<Self, Code> {
        let Ok(presented) = PresentedKey::parse(text) else {
            return legacy::find(text);
        };
        let row = Row::find(presented.key_id).ok_or(Code::NotFound)?;
        if row.get(Keys::KEY_PREFIX) != Some(presented.prefix) {
            return Err(Code::NotFound);
        }
        Ok(Self {
            rows: vec![row],
            secret: presented.secret,
            legacy: false,
            key_id: Some(presented.key_id),
            handle: None,
        })
    }

    /// The stored hashes that the secret may match.
    pub fn candidates(&self, now: i64) -> Vec<Candidate> {
        let rows = self.rows.iter().enumerate();
        rows.flat_map(|(at, row)| Candidate::of(at, row, self.legacy, now)).collect()
    }

    /// The candidate that is known to match.
    pub fn known(&self, state: &State, candidates: &[Candidate]) -> Option<Candidate> {
        let is_known = |candidate: &&Candidate| {
            state.memo.contains(state.tag_key.tag(self.stored(candidate), self.secret))
        };
        candidates.iter().find(is_known).copied()
    }

    /// Whether the secret is the one that the candidate's hash was made of.
    pub fn matches(&self, state: &State, candidate: &Candidate) -> bool {
        state.count(Counter::HashesRun);
        let stored = String::from_utf8_lossy(self.stored(candidate));
        core::legacy::verify(self.secret, &stored, WorkArea::new, checkpoint).or_raise()
    }

    fn stored(&self, candidate: &Candidate) -> &[u8] {
        let row = self.rows.get(candidate.row);
        row.and_then(|row| row.get(candidate.column)).unwrap_or_default()
    }

    /// Hashes the secret of the one key that is meant. The slot is for what else is to be hashed.
    fn check<'s>(
        &self,
        state: &'s State,
        key_id: Uuid,
        candidates: &[Candidate],
        now: i64,
    ) -> Result<(Candidate, HashSlot<'s>), Refusal> {
        let refusal = |code, wrong_secret| Refusal { code, key_id: Some(key_id), wrong_secret };
        let throttled = || {
            state.count(Counter::Throttled);
            refusal(Code::Throttled, false)
        };
        if !failures::is_left(state, key_id, now) {
            return Err(throttled());
        }
        let slot = HashSlot::for_check(state).ok_or_else(|| refusal(Code::Overloaded, false))?;
        // While this one waited, another may have hashed the same.
        if let Some(known) = self.known(state, candidates).filter(|_| slot.has_waited()) {
            return Ok((known, slot));
        }
        for (hashes, candidate) in (1..).zip(candidates) {
            if hashes > 1 {
                failures::owe(state, key_id, now);
            } else if !failures::take(state, key_id, now) {
                return Err(throttled());
            }
            if self.matches(state, candidate) {
                failures::give_back(state, key_id, hashes);
                return Ok((*candidate, slot));
            }
        }
        Err(refusal(Code::NotFound, true))
    }
}

/// A stored hash: in which row, and whether it is of the secret before the last rotation.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// In the suspects' rows.
    pub row: usize,
    column: Column<Keys, Text>,
    by_previous_secret: bool,
}

impl Candidate {
    /// The hashes of a row that a secret may match. The text of a legacy key is its first secret;
    /// all others are ours.
    fn of(row: usize, of: &Row, legacy: bool, now: i64) -> impl Iterator<Item = Self> {
        let first_is_legacy = !of.is_null(Keys::LEGACY_SCHEME);
        let version = of.secret_version();
        let in_grace = of.get(Keys::GRACE_EXPIRES_AT).is_some_and(|until| now < until);
        let current = Self { row, column: Keys::SECRET_HASH, by_previous_secret: false };
        let previous = Self { row, column: Keys::PREVIOUS_SECRET_HASH, by_previous_secret: true };
        let is_ours = |version: i64| !(first_is_legacy && version == 1);
        [
            Some(current).filter(|_| is_ours(version) != legacy),
            Some(previous).filter(|_| in_grace && is_ours(version - 1) != legacy),
        ]
        .into_iter()
        .flatten()
    }
}

/// Finds the key of a text and checks its secret. Cheap refusals come first, the hash last.
fn prove(state: &State, text: &[u8], now: i64) -> Result<ProvenKey, Refusal> {
    let mut suspects = Suspects::find(text)?;
    let candidates = suspects.candidates(now);
    let (proven, slot) = if let Some(known) = suspects.known(state, &candidates) {
        state.count(Counter::MemoHits);
        (known, None)
    } else {
        state.count(Counter::MemoMisses);
        let (matching, slot) = match (suspects.key_id, suspects.handle) {
            (None, Some(handle)) => {
                scan::run(state, &mut suspects, handle, now).map_err(|code| Refusal {
                    code,
                    key_id: None,
                    wrong_secret: code == Code::NotFound,
                })?
            }
            (key_id, _) => {
                let key_id = key_id.unwrap_or_default();
                let (matching, slot) = suspects.check(state, key_id, &candidates, now)?;
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
        legacy::found(state, handle, key_id);
    }
    if slot.is_none() {
        if let Some(key_id) = upgraded.filter(|key| upgrades::is_due(state, *key, stored))
            && let Some(_slot) = HashSlot::if_free(state)
        {
            upgrades::offer(state, key_id, stored, secret, handle);
        }
        return;
    }
    // Who is to come again is not remembered.
    if upgraded.is_none_or(|key_id| upgrades::offer(state, key_id, stored, secret, handle)) {
        state.memo.insert(state.tag_key.tag(stored, secret));
    }
}

/// The arguments of `verify_api_key`.
#[derive(Default)]
pub struct Question<'a> {
    /// The text that may be a key's.
    pub text: Option<&'a [u8]>,
    /// Scopes that it must have.
    pub required_scopes: Vec<Option<&'a [u8]>>,
    /// The client's address, an inet.
    pub client_ip: Option<Inet<'a>>,
    /// The resource that the request is about.
    pub resource_id: Option<&'a [u8]>,
}

/// What is known at the end: a proven key comes with every code after OVERLOADED.
pub struct Answer<'a> {
    /// VALID, or why not.
    pub code: Code,
    /// The key.
    pub key: Option<ProvenKey>,
    question: Question<'a>,
}

/// Verifies, and records that.
pub fn answer(question: Question<'_>) -> Answer<'_> {
    let now = server::now();
    let client_ip = question.client_ip.and_then(Inet::address);
    memory::with(|state| match prove(state, question.text.unwrap_or_default(), now) {
        Err(Refusal { code, key_id, wrong_secret }) => {
            usage::record_denial(state, code, key_id, wrong_secret, now, client_ip);
            Answer { code, key: None, question }
        }
        Ok(key) => {
            let code = verdict(&key.row, &question, now);
            if code == Code::Valid {
                usage::record_use(state, key.key_id, now, client_ip);
            } else {
                usage::record_denial(state, code, Some(key.key_id), false, now, client_ip);
            }
            Answer { code, key: Some(key), question }
        }
    })
}

fn verdict(row: &Row, question: &Question<'_>, now: i64) -> Code {
    // Most callers require none.
    let granted: Vec<&[u8]> = if question.required_scopes.is_empty() {
        Vec::new()
    } else {
        scopes(row).into_iter().flatten().collect()
    };
    decide(
        KeyState {
            validity: Validity {
                revoked: !row.is_null(Keys::REVOKED_AT),
                enabled: row.get(Keys::ENABLED) == Some(true),
                not_before: row.get(Keys::NOT_BEFORE),
                expires_at: row.get(Keys::EXPIRES_AT),
            },
            resource_id: row.get(Keys::RESOURCE_ID),
            scopes: &granted,
        },
        Request {
            now,
            ip_allowed: ip_allowed(row, question.client_ip),
            resource_id: question.resource_id,
            required_scopes: &question.required_scopes,
        },
    )
}

/// The scopes of a key.
pub fn scopes(row: &Row) -> Vec<Option<&[u8]>> {
    row.get(Keys::SCOPES).unwrap_or_default()
}

/// Whether the address is in one of the key's networks. A key with a list of them is refused when the
/// address is not known.
fn ip_allowed(row: &Row, client_ip: Option<Inet<'_>>) -> bool {
    let Some(allowed) = row.get(Keys::ALLOWED_IPS) else {
        return true;
    };
    let Some(client_ip) = client_ip.map(unmapped) else {
        return false;
    };
    allowed.into_iter().flatten().any(|network| client_ip.is_in(network))
}

/// An IPv4 address that a dual-stack server reports as IPv6 (`::ffff:192.0.2.1`), as IPv4.
fn unmapped(client_ip: Inet<'_>) -> Inet<'_> {
    let mapped = client_ip.address().and_then(|address| match address.ip {
        IpAddr::V6(ip) if address.prefix == 128 => ip.to_ipv4_mapped(),
        _ => None,
    });
    mapped.and_then(|ip| Inet::from_ip(ip.into())).unwrap_or(client_ip)
}

impl Answer<'_> {
    /// The answer as `verify_api_key` gives it: a jsonb without its length.
    pub fn object(&self) -> Vec<u8> {
        let Answer { code, key, question } = self;
        let code = *code;
        let answer = match (code, key) {
            (Code::Valid, Some(ProvenKey { key_id, row, by_previous_secret })) => {
                let grace = row.get(Keys::GRACE_EXPIRES_AT).filter(|_| *by_previous_secret);
                // The version of the secret that was presented.
                let secret_version = row.secret_version() - i64::from(*by_previous_secret);
                object(&mut [
                    ("valid", Value::Bool(true)),
                    ("code", code.as_str().into()),
                    ("key_id", Value::Uuid(*key_id)),
                    ("user_id", row.get(Keys::USER_ID).into()),
                    ("tenant_id", row.get(Keys::TENANT_ID).into()),
                    ("name", row.get(Keys::NAME).into()),
                    ("tier", row.get(Keys::TIER).into()),
                    ("environment", row.get(Keys::ENVIRONMENT).into()),
                    ("kind", row.get(Keys::KIND).into()),
                    ("scopes", Value::Texts(&scopes(row))),
                    ("resource_id", row.get(Keys::RESOURCE_ID).into()),
                    ("metadata", metadata(row)),
                    ("expires_at", timestamp(row.get(Keys::EXPIRES_AT))),
                    ("secret_version", jsonb::integer(secret_version)),
                    ("grace_expires_at", timestamp(grace)),
                ])
            }
            (Code::InsufficientScope, Some(key)) => object(&mut [
                ("valid", Value::Bool(false)),
                ("code", code.as_str().into()),
                ("message", code.message().into()),
                ("required_scopes", Value::Texts(&question.required_scopes)),
                ("granted_scopes", Value::Texts(&scopes(&key.row))),
            ]),
            _ => object(&mut [
                ("valid", Value::Bool(false)),
                ("code", code.as_str().into()),
                ("message", code.message().into()),
            ]),
        };
        answer.or_raise()
    }
}

sql_function! {
    /// Verifies a key, and records that.
    fn verify_api_key(
        text: Option<Text>,
        required_scopes: Option<Array<Text>>,
        client_ip: Option<InetType>,
        resource_id: Option<Text>,
    ) -> Jsonb {
        let required_scopes = required_scopes.unwrap_or_default();
        answer(Question { text, required_scopes, client_ip, resource_id }).object()
    }

    /// As `verify_api_key`, in the form of those who send a hash of the key.
    fn verify_api_key_hash(text: Option<Text>) -> Jsonb {
        let Answer { code, key, .. } = answer(Question { text, ..Question::default() });
        let answer = match (code, &key) {
            (Code::Valid, Some(ProvenKey { key_id, row, .. })) => {
                let key_id = *key_id;
                let user_id = row.get(Keys::USER_ID);
                let tier = row.get(Keys::TIER);
                let data = object(&mut [
                    ("user_id", user_id.into()),
                    ("key_id", key_id.into()),
                    ("tier", tier.into()),
                    ("environment", row.get(Keys::ENVIRONMENT).into()),
                ])
                .or_raise();
                object(&mut [
                    ("success", Value::Bool(true)),
                    ("valid", Value::Bool(true)),
                    ("code", code.as_str().into()),
                    ("key_id", key_id.into()),
                    ("api_key_id", key_id.into()),
                    ("user_id", user_id.into()),
                    ("name", row.get(Keys::NAME).into()),
                    ("tier", tier.into()),
                    ("data", Value::Object(&data)),
                ])
            }
            _ => object(&mut [
                ("success", Value::Bool(false)),
                ("valid", Value::Bool(false)),
                ("code", code.as_str().into()),
                ("error", code.message().into()),
                ("message", code.message().into()),
            ]),
        };
        answer.or_raise()
    }

    /// `{code, key_id, by_previous_secret}` of a text.
    fn prove_possession(text: Text) -> Jsonb {
        let now = server::now();
        let proven = match memory::with(|state| prove(state, text, now)) {
            Ok(key) => object(&mut [
                ("code", Code::Valid.as_str().into()),
                ("key_id", key.key_id.into()),
                ("by_previous_secret", Value::Bool(key.by_previous_secret)),
            ]),
            Err(Refusal { code, key_id, wrong_secret }) => {
                memory::with(|state| {
                    usage::record_denial(state, code, key_id, wrong_secret, now, None);
                });
                object(&mut [("code", code.as_str().into())])
            }
        };
        proven.or_raise()
    }
}

fn timestamp<'a>(timestamp: Option<i64>) -> Value<'a> {
    timestamp.map_or(Value::Null, jsonb::timestamp)
}

fn metadata(row: &Row) -> Value<'_> {
    // A constraint has it be an object.
    row.get(Keys::METADATA).map_or(Value::Null, Value::Object)
}
