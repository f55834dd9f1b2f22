//! The caller of a command, for sql/16_caller.sql: the identity that the transaction acts as, or what
//! the token of the request claims where there is none.

use serde_json::json;

use crate::core::claims::Claims;
use crate::core::refusal::{Kind, Refusal};
use crate::core::verdict::Code;
use crate::pg::error::Error;
use crate::pg::gate::identity;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::options;
use crate::pg::raw::types::{Array, JsonValue, Str, Text};
use crate::pg::settings;

sql_function! {
    /// `{subject, user_id, tenant_id, scopes, tier, malformed}`: `malformed` names the claims that have
    /// another form than they must have.
    fn request_identity() -> JsonValue {
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
        identity.unwrap_or_else(claimed)
    }

    /// The texts of a refusal by its name: `{sqlstate, message, detail, hint}` of the error, and
    /// `{postgrest: {message, detail}}` with which PostgREST wants SQLSTATE PGRST raised. NULL if there
    /// is no such refusal.
    ///
    /// `required_scopes` are those that a key lacks some of; `detail` replaces the usual one.
    fn refusal(
        name: Option<Str>,
        detail: Option<Str>,
        required_scopes: Option<Array<Text>>,
    ) -> Option<JsonValue> {
        let kind = Kind::named(name?)?;
        let refusal = if kind == Kind::INSUFFICIENT_SCOPE {
            let granted = identity::current(|identity| Some(identity.scopes().to_vec()));
            let required = required_scopes.unwrap_or_default();
            let text = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
            let required: Vec<_> = required.into_iter().map(|scope| scope.map(text)).collect();
            Refusal::insufficient_scope(&required, &granted.unwrap_or_default())
        } else if kind == Kind::KEY_REQUIRED {
            Refusal::no_key(&settings::header_names().join(" or "))
        } else {
            Refusal::from(kind)
        };
        let refusal = match detail {
            Some(detail) => refusal.with_detail(detail.to_owned()),
            None => refusal,
        };
        let [sqlstate, error, detail, hint] = refusal.error();
        let (message, postgrest_detail) = refusal.message_and_detail();
        Some(json!({
            "sqlstate": sqlstate,
            "message": error,
            "detail": detail,
            "hint": hint,
            "postgrest": { "message": message, "detail": postgrest_detail },
        }))
    }

    /// Every refusal, as the reference documents them.
    fn refusals() -> JsonValue {
        let kinds = Kind::ALL.iter().map(|kind| {
            let code = Code::ALL.iter().find(|code| code.as_str() == kind.name);
            json!({
                "name": kind.name,
                "verdict": code.map(|code| code.message()),
                "sqlstate": kind.sqlstate,
                "status": kind.status,
                "code": kind.code,
                "message": kind.message,
                "detail": kind.detail,
                "hint": kind.hint,
                "header": format!("{:?}", kind.header),
            })
        });
        kinds.collect()
    }
}

fn claimed() -> serde_json::Value {
    let claims = Claims::read(&options::get(c"request.jwt.claims"))
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
