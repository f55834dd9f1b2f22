//! The text of a key.
//!
//! `<prefix><22 base62: key id><32 base62: secret><6 base62: CRC32 of all before it>`.
//! CRC32 is the one of IEEE 802.3 (as in zip, PNG); it tells a typing error and a forgery made
//! without care from a key before anything is looked up, and lets secret scanners check a find
//! offline. It protects nothing: the secret does.

use rand::CryptoRng;
use rand::distr::{Alphanumeric, SampleString};
use uuid::Uuid;

use super::base62;
use super::secret::Secret;

/// Digits of the key id, wide enough for 128 bits.
const ID_DIGITS: usize = 22;
/// Digits of the secret: 32 × log2(62), about 190 bits.
const SECRET_DIGITS: usize = 32;
/// Digits of the checksum, wide enough for 32 bits.
const CHECKSUM_DIGITS: usize = 6;
/// Everything behind the prefix.
const TAIL: usize = ID_DIGITS + SECRET_DIGITS + CHECKSUM_DIGITS;
/// The longest prefix, its underscore included.
const MAX_PREFIX: usize = 32;

/// The text is not that of a key. The error holds nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the text of a key")]
pub struct Malformed;

/// A key's text, taken apart. The parts are borrowed from what the client presented.
pub struct PresentedKey<'a> {
    /// The prefix with its underscore.
    pub prefix: &'a [u8],
    /// The id of the key's row.
    pub key_id: Uuid,
    /// The secret part, alone.
    pub secret: &'a [u8],
}

impl<'a> PresentedKey<'a> {
    /// Takes a text apart: length and alphabet first, then the checksum.
    ///
    /// # Errors
    /// `Malformed` for any text that [`format`] cannot have made.
    pub fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        let prefix_length = text.len().checked_sub(TAIL).ok_or(Malformed)?;
        let (prefix, tail) = text.split_at(prefix_length);
        if !is_prefix(prefix) || !tail.iter().all(u8::is_ascii_alphanumeric) {
            return Err(Malformed);
        }
        let (key_id, rest) = tail.split_at(ID_DIGITS);
        let (secret, checksum) = rest.split_at(SECRET_DIGITS);
        let covered = &text[..text.len() - CHECKSUM_DIGITS];
        if base62::decode(checksum) != Some(crc32fast::hash(covered).into()) {
            return Err(Malformed);
        }
        Ok(Self {
            prefix,
            key_id: Uuid::from_u128(base62::decode(key_id).ok_or(Malformed)?),
            secret,
        })
    }
}

/// Whether `prefix` matches `^[a-z][a-z0-9_]{0,30}_$`.
#[must_use]
pub fn is_prefix(prefix: &[u8]) -> bool {
    (2..=MAX_PREFIX).contains(&prefix.len())
        && prefix[0].is_ascii_lowercase()
        && prefix[prefix.len() - 1] == b'_'
        && prefix
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_')
}

/// A secret part drawn from `rng`.
pub fn generate_secret(rng: &mut impl CryptoRng) -> Secret {
    Secret::new(Alphanumeric.sample_string(rng, SECRET_DIGITS))
}

/// The text of a key. `prefix` is one that [`is_prefix`] accepts, `secret` one of
/// [`generate_secret`].
#[must_use]
pub fn format(prefix: &str, key_id: Uuid, secret: &Secret) -> Secret {
    let mut text = String::with_capacity(prefix.len() + TAIL);
    text.push_str(prefix);
    push_digits(&mut text, &base62::encode::<ID_DIGITS>(key_id.as_u128()));
    text.push_str(secret.expose());
    let checksum = crc32fast::hash(text.as_bytes());
    push_digits(&mut text, &base62::encode::<CHECKSUM_DIGITS>(checksum.into()));
    Secret::new(text)
}

/// A key's text as it may be shown: prefix, the first digits of the id, and nothing of the secret
/// or of the checksum, which depends on it.
#[must_use]
pub fn mask(prefix: &str, key_id: Uuid) -> String {
    let mut text = String::from(prefix);
    push_digits(&mut text, &base62::encode::<ID_DIGITS>(key_id.as_u128())[..6]);
    text.push_str("...");
    text
}

fn push_digits(text: &mut String, digits: &[u8]) {
    text.extend(digits.iter().map(|&digit| char::from(digit)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn any_key() -> impl Strategy<Value = (String, Uuid, Secret)> {
        ("[a-z][a-z0-9_]{0,30}_", any::<u128>(), any::<u64>()).prop_map(|(prefix, id, seed)| {
            let id = Uuid::from_u128(id);
            let secret = generate_secret(&mut StdRng::seed_from_u64(seed));
            (prefix, id, secret)
        })
    }

    impl std::fmt::Debug for Secret {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Secret")
        }
    }

    proptest! {
        #[test]
        fn a_key_formatted_and_parsed_is_the_same_key((prefix, id, secret) in any_key()) {
            let text = format(&prefix, id, &secret);
            let key = PresentedKey::parse(text.expose().as_bytes());
            let key = key.map_err(|_| TestCaseError::fail("does not parse"))?;
            prop_assert_eq!(key.prefix, prefix.as_bytes());
            prop_assert_eq!(key.key_id, id);
            prop_assert_eq!(key.secret, secret.expose().as_bytes());
        }

        // CRC32 finds every burst of up to 32 bits; one character is 8.
        #[test]
        fn any_one_character_change_is_malformed(
            (prefix, id, secret) in any_key(),
            at: prop::sample::Index,
            to in prop::char::range('!', '~'),
        ) {
            let text = format(&prefix, id, &secret).expose().to_owned();
            let at = at.index(text.len());
            prop_assume!(text.as_bytes()[at] != to as u8);
            let mut changed = text.into_bytes();
            changed[at] = to as u8;
            prop_assert!(PresentedKey::parse(&changed).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(text: Vec<u8>) {
            let _ = PresentedKey::parse(&text);
        }

        #[test]
        fn a_mask_shows_nothing_of_the_secret((prefix, id, secret) in any_key()) {
            let masked = mask(&prefix, id);
            prop_assert!(!masked.contains(&secret.expose()[..8]));
            prop_assert_eq!(masked.len(), prefix.len() + 9);
        }
    }

    /// Checksum by Python's `zlib.crc32` (IEEE 802.3), digits by hand from the definition.
    #[test]
    fn known_answer() {
        let id = Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        let secret = Secret::new("0123456789ABCDEFGHIJKLMNOPQRSTUV".into());
        assert_eq!(
            format("sk_live_", id, &secret).expose(),
            "sk_live_0296tiiBb3U904RIpygpjj0123456789ABCDEFGHIJKLMNOPQRSTUV4Sxq7t"
        );
    }

    #[test]
    fn prefixes_are_as_documented() {
        for good in ["a_", "sk_live_", "xbrl_v1_", "mcp_live_", "a2345678901234567890123456789012"]
            .map(|prefix| prefix.replace("9012", "901_"))
        {
            assert!(is_prefix(good.as_bytes()), "{good}");
        }
        let long = format!("{}_", "a".repeat(32));
        for bad in ["", "_", "a", "A_", "1_", "sk-live_", "sk_live", "é_", "sk live_", &long] {
            assert!(!is_prefix(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_multi_byte_character_at_the_cut_is_malformed() {
        let text = format!("{}é{}", "a".repeat(7), "a".repeat(TAIL - 1));
        assert_eq!(PresentedKey::parse(text.as_bytes()).err(), Some(Malformed));
    }
}
