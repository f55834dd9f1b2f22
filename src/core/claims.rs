//! The claims of a request's token, as PostgREST puts them into the setting `request.jwt.claims`.

use uuid::Uuid;

/// What is read of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// `sub`, if it is a uuid.
    pub user_id: Option<Uuid>,
    /// `tenant_id`, if it is a uuid.
    pub tenant_id: Option<Uuid>,
    /// `tier`.
    pub tier: Option<String>,
    /// `scopes`: an array of strings, or a string of them with white space between.
    pub scopes: Vec<String>,
}

impl Claims {
    /// Reads a JSON object. A claim of another form is as one that is not there, and so are all in
    /// what is no object.
    #[must_use]
    pub fn read(json: &str) -> Self {
        let claims: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        let text = |name: &str| claims.get(name).and_then(serde_json::Value::as_str);
        let uuid = |name: &str| text(name).and_then(|text| Uuid::parse_str(text).ok());
        let mut scopes: Vec<_> = match claims.get("scopes") {
            Some(serde_json::Value::Array(scopes)) => {
                scopes.iter().filter_map(|scope| scope.as_str().map(str::to_owned)).collect()
            }
            Some(serde_json::Value::String(scopes)) => {
                scopes.split_whitespace().map(str::to_owned).collect()
            }
            _ => Vec::new(),
        };
        // PostgreSQL's texts end where such a byte is.
        scopes.retain(|scope| !scope.contains('\0'));
        Self {
            user_id: uuid("sub"),
            tenant_id: uuid("tenant_id"),
            tier: text("tier").map(str::to_owned),
            scopes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_of_another_form_is_as_one_that_is_not_there() {
        let nobody = Claims::default();
        for json in
            ["", "null", "[]", "1e999", r#"{"sub": "nobody", "tier": 1, "scopes": {}}"#, "{"]
        {
            assert_eq!(Claims::read(json), nobody, "{json}");
        }
    }

    #[test]
    fn scopes_come_as_an_array_or_as_one_string() {
        let scopes = |json| Claims::read(json).scopes;
        assert_eq!(scopes(r#"{"scopes": ["a:b", 1, null, "c\u0000"]}"#), ["a:b"]);
        assert_eq!(scopes(r#"{"scopes": " a:b\tc:d\u0000 e:f"}"#), ["a:b", "e:f"]);
    }
}
