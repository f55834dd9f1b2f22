//! Scopes: `resource:action`, `resource:*` for every action of a resource, `admin` for all.

/// The scope that grants every other.
pub const ADMIN: &[u8] = b"admin";

/// Whether the scopes in `granted` grant `required`.
pub fn grants<'a>(granted: impl IntoIterator<Item = &'a [u8]>, required: &[u8]) -> bool {
    granted.into_iter().any(|scope| {
        scope == required
            || scope == ADMIN
            || scope.strip_suffix(b"*").is_some_and(|resource| {
                resource.len() > 1 && resource.ends_with(b":") && required.starts_with(resource)
            })
    })
}

#[cfg(test)]
mod tests {
    fn grants<const N: usize>(granted: [&str; N], required: &str) -> bool {
        super::grants(granted.map(str::as_bytes), required.as_bytes())
    }

    #[test]
    fn a_scope_grants_itself_its_wildcard_and_admin_only() {
        assert!(grants(["articles:read"], "articles:read"));
        assert!(grants(["articles:*"], "articles:read"));
        assert!(grants(["articles:*"], "articles:*"));
        assert!(grants(["admin"], "articles:read"));
        assert!(grants(["users:read", "articles:read"], "articles:read"));

        assert!(!grants([], "articles:read"));
        assert!(!grants(["articles:read"], "articles:*"));
        assert!(!grants(["articles:read"], "articles:write"));
        assert!(!grants(["article:*"], "articles:read"));
        assert!(!grants(["articles"], "articles:read"));
        assert!(!grants(["*"], "articles:read"));
        assert!(!grants([":*"], "articles:read"));
        assert!(!grants(["administrator"], "articles:read"));
        assert!(!grants(["articles:*"], "admin"));
    }
}
