//! A text that parses is the one that its parts make; one that was made parses, and with another
//! byte in any place it does not.
#![no_main]

use api_key::core::base62;
use api_key::core::key::{self, PresentedKey};
use api_key::core::secret::Secret;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;
use uuid::Uuid;

type Input<'a> = (u128, u64, u8, u8, &'a [u8]);

fuzz_target!(|input: Input<'_>| {
    let (id, seed, at, to, text) = input;
    if let Ok(parsed) = PresentedKey::parse(text) {
        let prefix = std::str::from_utf8(parsed.prefix).expect("a prefix is ASCII");
        let secret = Secret::new(String::from_utf8_lossy(parsed.secret).into_owned());
        assert_eq!(key::format(prefix, parsed.key_id, &secret).expose().as_bytes(), text);
    }
    if let Some(value) = base62::decode(text) {
        let digits = base62::encode::<22>(value);
        assert!(text.iter().rev().zip(digits.iter().rev()).all(|(one, other)| one == other));
    }

    let prefix = std::str::from_utf8(text).unwrap_or_default();
    let prefix = if key::is_prefix(prefix.as_bytes()) { prefix } else { "sk_live_" };
    let secret = key::generate_secret(&mut StdRng::seed_from_u64(seed));
    let text = key::format(prefix, Uuid::from_u128(id), &secret);
    let mut bytes = text.expose().as_bytes().to_vec();
    let parsed = PresentedKey::parse(&bytes).unwrap_or_else(|_| panic!("made, and no key"));
    assert!(parsed.key_id.as_u128() == id && parsed.secret == secret.expose().as_bytes());
    let at = usize::from(at) % bytes.len();
    let changed = bytes[at] != to;
    bytes[at] = to;
    assert_eq!(PresentedKey::parse(&bytes).is_err(), changed);
});
