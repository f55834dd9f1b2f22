//! Claims are what a plain reading of the JSON says, and none of their scopes has a byte that
//! PostgreSQL cannot hold.
#![no_main]

use api_key::core::claims::Claims;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|json: &str| {
    let claims = Claims::read(json);
    assert!(claims.scopes.iter().all(|scope| !scope.contains('\0')));
    assert!(claims.scopes.iter().map(String::len).sum::<usize>() <= json.len());
    let Ok(Value::Object(object)) = serde_json::from_str(json) else {
        assert_eq!(claims, Claims::default());
        return;
    };
    assert_eq!(claims.tier.as_deref(), object.get("tier").and_then(Value::as_str));
    for (name, id) in [("sub", claims.user_id), ("tenant_id", claims.tenant_id)] {
        let text = object.get(name).and_then(Value::as_str).unwrap_or_default();
        let digits = |text: &str| text.to_ascii_lowercase().replace('-', "");
        assert!(id.is_none_or(|id| digits(text).contains(&digits(&id.to_string()))));
    }
});
