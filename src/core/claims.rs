//! The claims of a request's token, as PostgREST puts them into the setting `request.jwt.claims`.

use serde_json::Value;
use uuid::Uuid;

use super::id;

/// The setting is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not JSON")]
pub struct NotJson;

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim<T> {
    /// There is none, or it is null.
    Absent,
    /// It has another form than it must have.
    Malformed,
    /// Its value.
    Present(T),
}

impl<T> Claim<T> {
    /// The value; `None` if there is none that can be read.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Malformed => None,
        }
    }

    /// Whether it has another form than it must have.
    pub const fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed)
    }

    fn read(claim: Option<&Value>, read: impl FnOnce(&Value) -> Option<T>) -> Self {
        match claim {
            None | Some(Value::Null) => Self::Absent,
            Some(claim) => read(claim).map_or(Self::Malformed, Self::Present),
        }
    }
}

/// The claims that are read, each on its own: commands refuse a malformed one, the gate passes by it.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// `sub` as text, whatever its form.
    pub subject: Option<String>,
    /// `sub`, a UUID.
    pub user_id: Claim<Uuid>,
    /// `tenant_id`, a UUID.
    pub tenant_id: Claim<Uuid>,
    /// `tier`, a string.
    pub tier: Claim<String>,
    /// `scopes`: an array, whose strings count, or a string of scopes with white space between them.
    pub scopes: Claim<Vec<String>>,
}

impl Claims {
    /// Reads a JSON object. Any other JSON, and an empty text, holds no claims.
    ///
    /// # Errors
    /// `NotJson` for any other text.
    pub fn read(json: &str) -> Result<Self, NotJson> {
        let claims: Value = if json.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(json).map_err(|_| NotJson)?
        };
        let claim = |name: &str| claims.get(name);
        let uuid = |name: &str| {
            Claim::read(claim(name), |claim| {
                claim.as_str().and_then(|text| id::parse(text.as_bytes())).map(Uuid::from_bytes)
            })
        };
        Ok(Self {
            subject: match claim("sub") {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => storable(text),
                Some(other) => storable(&other.to_string()),
            },
            user_id: uuid("sub"),
            tenant_id: uuid("tenant_id"),
            tier: Claim::read(claim("tier"), |tier| tier.as_str().and_then(storable)),
            scopes: Claim::read(claim("scopes"), scopes),
        })
    }
}

fn scopes(claim: &Value) -> Option<Vec<String>> {
    let scopes = match claim {
        Value::Array(scopes) => {
            scopes.iter().filter_map(|scope| scope.as_str().and_then(storable)).collect()
        }
        Value::String(scopes) => scopes.split_whitespace().filter_map(storable).collect(),
        _ => return None,
    };
    Some(scopes)
}

/// A text that PostgreSQL can hold: one without NUL.
fn storable(text: &str) -> Option<String> {
    (!text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Claims {
        let claims = Claims::read(json);
        assert!(claims.is_ok(), "{json}");
        claims.unwrap_or_else(|_| unreachable!())
    }

    #[test]
    fn json_that_is_no_object_holds_no_claims_and_other_text_is_refused() {
        for json in ["", "null", "[]", "1", r#""sub""#, "{}", r#"{"sub": null, "scopes": null}"#] {
            let claims = read(json);
            assert_eq!(claims.subject, None, "{json}");
            assert_eq!(
                (claims.user_id, claims.tenant_id),
                (Claim::Absent, Claim::Absent),
                "{json}"
            );
            assert_eq!((claims.tier, claims.scopes), (Claim::Absent, Claim::Absent), "{json}");
        }
        for json in ["{", "1e999", "sub", r#"{"sub": }"#] {
            assert_eq!(Claims::read(json), Err(NotJson), "{json}");
        }
    }

    #[test]
    fn a_claim_of_another_form_is_malformed_and_leaves_the_others() {
        let claims = read(r#"{"sub": "nobody", "tenant_id": 7, "tier": 1, "scopes": {}}"#);
        assert_eq!(claims.subject.as_deref(), Some("nobody"));
        assert!(claims.user_id.is_malformed() && claims.tenant_id.is_malformed());
        assert!(claims.tier.is_malformed() && claims.scopes.is_malformed());
        let claims = read(r#"{"sub": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "tenant_id": "x"}"#);
        assert_eq!(
            claims.user_id,
            Claim::Present(Uuid::from_u128(0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11))
        );
        assert!(claims.tenant_id.is_malformed());
    }

    #[test]
    fn scopes_come_as_an_array_or_as_one_string() {
        let claims = read(r#"{"sub": "\u0000", "tier": "\u0000"}"#);
        assert!(claims.subject.is_none() && claims.user_id.is_malformed());
        assert!(claims.tier.is_malformed());
        let scopes = |json| read(json).scopes.value().unwrap_or_default();
        assert_eq!(scopes(r#"{"scopes": ["a:b", 1, null, "c\u0000"]}"#), ["a:b"]);
        assert_eq!(scopes(r#"{"scopes": " a:b\tc:d\u0000 e:f"}"#), ["a:b", "e:f"]);
    }
}
