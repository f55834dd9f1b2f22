//! The caller of a command, for sql/16_caller.sql: the identity that the transaction acts as, or what
//! the token of the request claims where there is none.

use pgrx::prelude::*;
use serde_json::json;

use super::error::Error;
use super::gate::setting;
use super::identity;
use super::settings;
use crate::core::claims::Claims;
use crate::core::refusal::{Kind, Refusal};

/// `{subject, user_id, tenant_id, scopes, tier, malformed}`: `malformed` names the claims that have
/// another form than they must have.
#[pg_extern(sql = false)]
fn request_identity() -> pgrx::JsonB {
    let identity = identity::current(|identity| {
        Some(json!({
            "subject": identity.user_id.map(|id| id.to_string()),
            "user_id": identity.user_id.map(|id| id.to_string()),
            "tenant_id": identity.tenant_id.map(|id| id.to_string()),
            "scopes": identity.scopes,
            "tier": identity.tier,
            "malformed": [],
        }))
    });
    pgrx::JsonB(identity.unwrap_or_else(claimed))
}

fn claimed() -> serde_json::Value {
    let claims = Claims::read(&setting(c"request.jwt.claims"))
        .unwrap_or_else(|_not_json| Error::RequestClaims.raise());
    let malformed = [
        ("sub", claims.user_id.is_malformed()),
        ("tenant_id", claims.tenant_id.is_malformed()),
        ("scopes", claims.scopes.is_malformed()),
    ];
    let malformed: Vec<_> =
        malformed.into_iter().filter_map(|(name, is)| is.then_some(name)).collect();
    json!({
        "subject": claims.subject,
        "user_id": claims.user_id.value().map(|id| id.to_string()),
        "tenant_id": claims.tenant_id.value().map(|id| id.to_string()),
        "scopes": claims.scopes.value(),
        "tier": claims.tier.value(),
        "malformed": malformed,
    })
}

/// The texts of a refusal by its name: `{sqlstate, message, detail, hint}` of the error, and
/// `{postgrest: {message, detail}}` with which PostgREST wants SQLSTATE PGRST raised. NULL if there is
/// no such refusal.
///
/// `required_scopes` are those that a key lacks some of; `detail` replaces the usual one.
#[pg_extern(sql = false)]
fn refusal(
    name: &str,
    detail: Option<String>,
    required_scopes: Option<Vec<Option<String>>>,
) -> Option<pgrx::JsonB> {
    let kind = Kind::named(name)?;
    let refusal = if kind == Kind::INSUFFICIENT_SCOPE {
        let granted = identity::current(|identity| Some(identity.scopes().to_vec()));
        let required = required_scopes.unwrap_or_default();
        Refusal::insufficient_scope(&required, &granted.unwrap_or_default())
    } else if kind == Kind::KEY_REQUIRED {
        Refusal::no_key(&settings::header_names().join(" or "))
    } else {
        Refusal::from(kind)
    };
    let refusal = match detail {
        Some(detail) => refusal.with_detail(detail),
        None => refusal,
    };
    let [sqlstate, error, detail, hint] = refusal.error();
    let (message, postgrest_detail) = refusal.message_and_detail();
    Some(pgrx::JsonB(json!({
        "sqlstate": sqlstate,
        "message": error,
        "detail": detail,
        "hint": hint,
        "postgrest": { "message": message, "detail": postgrest_detail },
    })))
}

/// Every refusal, as the reference documents them.
#[pg_extern(sql = false)]
fn refusals() -> pgrx::JsonB {
    let kinds = Kind::ALL.iter().map(|kind| {
        json!({
            "name": kind.name,
            "sqlstate": kind.sqlstate,
            "status": kind.status,
            "code": kind.code,
            "message": kind.message,
            "detail": kind.detail,
            "hint": kind.hint,
            "header": format!("{:?}", kind.header),
        })
    });
    pgrx::JsonB(kinds.collect())
}
