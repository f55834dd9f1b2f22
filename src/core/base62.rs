//! Fixed-width base62, digits `0-9A-Za-z`, most significant first.
//!
//! The width is part of the format: every value has exactly one text, so a text that does not
//! decode and encode to itself cannot exist.

/// The digits in order of their value.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `value` as `N` digits. `N` must be wide enough for the values it is used with;
/// digits that do not fit are cut off at the front.
#[must_use]
pub fn encode<const N: usize>(mut value: u128) -> [u8; N] {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(value % 62).unwrap_or(0)];
        value /= 62;
    }
    text
}

/// Reads digits; `None` for any other byte and for values of 2^128 and more.
#[must_use]
pub fn decode(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, &byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        value.checked_mul(62)?.checked_add(u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_value_reads_back(value: u128) {
            prop_assert_eq!(decode(&encode::<22>(value)), Some(value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn values_beyond_the_width_of_a_uuid_are_refused() {
        assert_eq!(decode(b"zzzzzzzzzzzzzzzzzzzzzz"), None);
        assert_eq!(encode::<22>(u128::MAX), *b"7n42DGM5Tflk9n8mt7Fhc7");
        assert_eq!(decode(b"7n42DGM5Tflk9n8mt7Fhc8"), None);
    }
}
