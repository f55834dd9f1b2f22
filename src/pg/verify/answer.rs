//! The answer to a question about a key: whether the text proves it, and whether it may be used.

use std::net::IpAddr;

use crate::core::jsonb::{Value, object};
use crate::core::verdict::{Code, KeyState, Request, Validity, decide};
use crate::pg::error::OrRaise;
use crate::pg::keys::rows::{Keys, Row};
use crate::pg::memory;
use crate::pg::raw::inet::Inet;
use crate::pg::raw::{jsonb, server};
use crate::pg::usage;
use crate::pg::verify::prove::{Denial, ProvenKey, prove};

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

/// The outcome: a proven key comes with every code after OVERLOADED.
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
        Err(Denial { code, key_id, wrong_secret }) => {
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

fn timestamp<'a>(timestamp: Option<i64>) -> Value<'a> {
    timestamp.map_or(Value::Null, jsonb::timestamp)
}

fn metadata(row: &Row) -> Value<'_> {
    // A constraint has it be an object.
    row.get(Keys::METADATA).map_or(Value::Null, Value::Object)
}
