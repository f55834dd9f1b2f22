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
    use proptest::prelude::*;

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

    fn granted(scopes: &[String], required: &str) -> bool {
        super::grants(scopes.iter().map(String::as_bytes), required.as_bytes())
    }

    proptest! {
        #[test]
        fn more_scopes_never_grant_less_and_their_order_is_nothing(
            scopes in prop::collection::vec("[a-c]:([a-c]|\\*)|admin|[a-c]", 0..5),
            more in "[a-c]:[a-c]|admin",
            required in "[a-c]:[a-c]|admin",
        ) {
            let before = granted(&scopes, &required);
            let mut reversed = scopes.clone();
            reversed.reverse();
            prop_assert_eq!(granted(&reversed, &required), before);
            let mut with_more = scopes;
            with_more.push(more);
            prop_assert!(granted(&with_more, &required) || !before);
        }

        #[test]
        fn scopes_of_one_resource_grant_nothing_of_another(
            resource in "[a-z]{1,5}",
            other in "[a-z]{1,5}",
            actions in prop::collection::vec("[a-z]{1,5}|\\*", 0..5),
            action in "[a-z]{1,5}",
        ) {
            prop_assume!(resource != other);
            let scopes: Vec<_> = actions.iter().map(|action| format!("{resource}:{action}")).collect();
            let required = format!("{other}:{action}");
            prop_assert!(!granted(&scopes, &required));
        }
    }
}
