//! Claims are what a plain reading of the JSON says, and none of their scopes has a byte that
//! PostgreSQL cannot hold.
#![no_main]

use api_key::core::claims::{Claim, Claims};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|json: &str| {
    let Ok(claims) = Claims::read(json) else {
        assert!(serde_json::from_str::<Value>(json).is_err() && !json.is_empty());
        return;
    };
    let claimed = serde_json::from_str(json).unwrap_or(Value::Null);
    for (name, id) in [("sub", claims.user_id), ("tenant_id", claims.tenant_id)] {
        let digits = |text: &str| text.to_ascii_lowercase().replace('-', "");
        match (claimed.get(name), id) {
            (None | Some(Value::Null), id) => assert_eq!(id, Claim::Absent),
            (Some(claim), Claim::Present(id)) => {
                assert!(
                    digits(claim.as_str().unwrap_or_default()).contains(&digits(&id.to_string()))
                );
            }
            (Some(_), id) => assert!(id.is_malformed()),
        }
    }
    let tier = claimed.get("tier").and_then(Value::as_str).filter(|tier| !tier.contains('\0'));
    assert_eq!(claims.tier.value().as_deref(), tier);
    let scopes = claims.scopes.value().unwrap_or_default();
    assert!(scopes.iter().all(|scope| !scope.contains('\0')));
    assert!(scopes.iter().map(String::len).sum::<usize>() <= json.len());
});
