//! The headers that are left hold no key, are headers again, and are all the others.
#![no_main]

use api_key::core::headers::Headers;
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|json: &str| {
    let names = ["X-API-Key".to_owned(), "apikey".to_owned()];
    let Ok(headers) = Headers::parse(json) else { return };
    let keys: Vec<_> = headers.keys(&names).collect();
    match headers.key(&names) {
        Ok(key) => assert!(keys.iter().all(|other| key == Some(*other))),
        Err(_) => assert!(keys.len() > 1),
    }
    let _ = headers.client_address(1);

    let rest = headers.without_keys(&names);
    let left = Headers::parse(&rest).unwrap_or_else(|_| panic!("not headers"));
    assert_eq!(left.keys(&names).next(), None);
    if !json.is_empty() {
        let all: Map<String, Value> = serde_json::from_str(json).expect("an object");
        let rest: Map<String, Value> = serde_json::from_str(&rest).expect("an object");
        assert!(rest.iter().all(|(name, value)| all.get(name) == Some(value)));
        assert_eq!(all.len(), rest.len() + keys.len());
    }
});
