//! Questions about a key: `verify_api_key`, `verify_api_key_hash`, and the proof of possession
//! that `revoke_own_api_key` asks for.

use pgrx::pg_sys;
use uuid::Uuid;

use super::array;
use super::call::{argument, sql_function};
use super::error::OrRaise;
use super::jsonb::{self, Value};
use super::rows::{Column, Row};
use super::work_area::WorkArea;
use crate::core::hash;
use crate::core::key::PresentedKey;
use crate::core::verdict::{Code, KeyState, Request, decide};

sql_function!(verify_api_key, pg_finfo_verify_api_key, verify);
sql_function!(verify_api_key_hash, pg_finfo_verify_api_key_hash, verify_hash);
sql_function!(prove_possession, pg_finfo_prove_possession, possession);

/// A key whose secret was right.
struct ProvenKey {
    key_id: Uuid,
    row: Row,
    /// The secret is the one before the last rotation.
    by_previous_secret: bool,
}

/// Finds the key of a text and checks its secret: cheap refusals first, the hash last.
fn prove(text: &[u8], now: pg_sys::TimestampTz) -> Result<ProvenKey, Code> {
    let key = PresentedKey::parse(text).map_err(|_malformed| Code::Malformed)?;
    let row = Row::find(key.key_id).ok_or(Code::NotFound)?;
    if row.text(Column::KeyPrefix) != Some(key.prefix) {
        return Err(Code::NotFound);
    }
    let matches = |column| {
        row.text(column).is_some_and(|stored| {
            hash::verify(key.secret, &String::from_utf8_lossy(stored), WorkArea::new).or_raise()
        })
    };
    let in_grace = row.timestamp(Column::GraceExpiresAt).is_some_and(|until| now < until);
    let by_previous_secret = if matches(Column::SecretHash) {
        false
    } else if in_grace && matches(Column::PreviousSecretHash) {
        true
    } else {
        return Err(Code::NotFound);
    };
    Ok(ProvenKey { key_id: key.key_id, row, by_previous_secret })
}

/// The arguments of `verify_api_key`.
struct Question<'a> {
    text: Option<&'a [u8]>,
    required_scopes: Vec<Option<&'a [u8]>>,
    client_ip: Option<pg_sys::Datum>,
    resource_id: Option<&'a [u8]>,
}

/// What is known at the end: a proven key comes with every code after OVERLOADED.
struct Answer<'a> {
    code: Code,
    key: Option<ProvenKey>,
    question: Question<'a>,
}

fn answer(question: Question<'_>) -> Answer<'_> {
    // SAFETY: reads the clock.
    let now = unsafe { pg_sys::GetCurrentTimestamp() };
    match prove(question.text.unwrap_or_default(), now) {
        Err(code) => Answer { code, key: None, question },
        Ok(key) => {
            let row = &key.row;
            let granted: Vec<&[u8]> = scopes(row).into_iter().flatten().collect();
            let code = decide(
                KeyState {
                    revoked: row.datum(Column::RevokedAt).is_some(),
                    enabled: row.datum(Column::Enabled).is_some_and(|enabled| enabled.value() != 0),
                    not_before: row.timestamp(Column::NotBefore),
                    expires_at: row.timestamp(Column::ExpiresAt),
                    resource_id: row.text(Column::ResourceId),
                    scopes: &granted,
                },
                Request {
                    now,
                    ip_allowed: ip_allowed(row, question.client_ip),
                    resource_id: question.resource_id,
                    required_scopes: &question.required_scopes,
                },
            );
            Answer { code, key: Some(key), question }
        }
    }
}

fn scopes(row: &Row) -> Vec<Option<&[u8]>> {
    row.datum(Column::Scopes).map_or_else(Vec::new, |datum| {
        // SAFETY: the column is a text[], in the row's slot or detoasted beside it.
        unsafe { array::texts(datum) }
    })
}

/// Whether the address is in one of the key's networks, by PostgreSQL's own `<<=`. A key with a
/// list of them is refused when the address is not known.
fn ip_allowed(row: &Row, client_ip: Option<pg_sys::Datum>) -> bool {
    let Some(allowed) = row.datum(Column::AllowedIps) else {
        return true;
    };
    let Some(client_ip) = client_ip else {
        return false;
    };
    // SAFETY: the column is an inet[], the address an inet.
    unsafe {
        array::elements(allowed, pg_sys::INETOID).into_iter().flatten().any(|network| {
            pgrx::direct_function_call::<bool>(
                pg_sys::network_subeq,
                &[Some(client_ip), Some(network)],
            ) == Some(true)
        })
    }
}

/// `verify_api_key(p_api_key text, p_required_scopes text[], p_client_ip inet, p_resource_id text)`
unsafe fn verify(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/25_verify.sql declares four arguments of these types.
    let question = unsafe {
        Question {
            text: argument(fcinfo, 0).map(|datum| array::text_bytes(datum)),
            required_scopes: argument(fcinfo, 1)
                .map_or_else(Vec::new, |datum| array::texts(datum)),
            client_ip: argument(fcinfo, 2),
            resource_id: argument(fcinfo, 3).map(|datum| array::text_bytes(datum)),
        }
    };
    let Answer { code, key, question } = answer(question);
    Some(match (code, &key) {
        (Code::Valid, Some(ProvenKey { key_id, row, by_previous_secret })) => {
            let grace = row.timestamp(Column::GraceExpiresAt).filter(|_| *by_previous_secret);
            jsonb::object(&[
                ("valid", Value::Bool(true)),
                ("code", code.as_str().into()),
                ("key_id", Value::Uuid(*key_id)),
                ("user_id", row.uuid(Column::UserId).into()),
                ("tenant_id", row.uuid(Column::TenantId).into()),
                ("name", row.text(Column::Name).into()),
                ("tier", row.text(Column::Tier).into()),
                ("environment", row.text(Column::Environment).into()),
                ("kind", row.text(Column::Kind).into()),
                ("scopes", Value::Texts(&scopes(row))),
                ("resource_id", row.text(Column::ResourceId).into()),
                ("metadata", row.datum(Column::Metadata).map_or(Value::Null, Value::Jsonb)),
                ("expires_at", timestamp(row.timestamp(Column::ExpiresAt))),
                (
                    "secret_version",
                    Value::Integer(row.datum(Column::SecretVersion).map_or(0, |version| {
                        i64::try_from(version.value()).unwrap_or(0)
                    })),
                ),
                ("grace_expires_at", timestamp(grace)),
            ])
        }
        (Code::InsufficientScope, Some(key)) => jsonb::object(&[
            ("valid", Value::Bool(false)),
            ("code", code.as_str().into()),
            ("message", code.message().into()),
            ("required_scopes", Value::Texts(&question.required_scopes)),
            ("granted_scopes", Value::Texts(&scopes(&key.row))),
        ]),
        _ => jsonb::object(&[
            ("valid", Value::Bool(false)),
            ("code", code.as_str().into()),
            ("message", code.message().into()),
        ]),
    })
}

/// `verify_api_key_hash(p_api_key text)`
unsafe fn verify_hash(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/25_verify.sql declares one argument of this type.
    let text = unsafe { argument(fcinfo, 0).map(|datum| array::text_bytes(datum)) };
    let question =
        Question { text, required_scopes: Vec::new(), client_ip: None, resource_id: None };
    let Answer { code, key, .. } = answer(question);
    Some(match (code, &key) {
        (Code::Valid, Some(ProvenKey { key_id, row, .. })) => {
            let key_id = *key_id;
            let user_id = row.uuid(Column::UserId);
            let tier = row.text(Column::Tier);
            jsonb::object(&[
                ("success", Value::Bool(true)),
                ("valid", Value::Bool(true)),
                ("code", code.as_str().into()),
                ("key_id", key_id.into()),
                ("api_key_id", key_id.into()),
                ("user_id", user_id.into()),
                ("name", row.text(Column::Name).into()),
                ("tier", tier.into()),
                (
                    "data",
                    Value::Object(&[
                        ("user_id", user_id.into()),
                        ("key_id", key_id.into()),
                        ("tier", tier.into()),
                        ("environment", row.text(Column::Environment).into()),
                    ]),
                ),
            ])
        }
        _ => jsonb::object(&[
            ("success", Value::Bool(false)),
            ("valid", Value::Bool(false)),
            ("code", code.as_str().into()),
            ("error", code.message().into()),
            ("message", code.message().into()),
        ]),
    })
}

/// `prove_possession(p_api_key text)`: `{key_id, by_previous_secret}`, or NULL for a text that
/// proves nothing.
unsafe fn possession(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/20_keys.sql declares one argument of this type; reads the clock.
    let (text, now) = unsafe {
        (argument(fcinfo, 0).map(|datum| array::text_bytes(datum)), pg_sys::GetCurrentTimestamp())
    };
    let key = prove(text.unwrap_or_default(), now).ok()?;
    Some(jsonb::object(&[
        ("key_id", key.key_id.into()),
        ("by_previous_secret", Value::Bool(key.by_previous_secret)),
    ]))
}

fn timestamp<'a>(timestamp: Option<pg_sys::TimestampTz>) -> Value<'a> {
    timestamp.map_or(Value::Null, Value::Timestamp)
}
