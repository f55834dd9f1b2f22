//! Fixed-width base62, digits `0-9A-Za-z`, most significant first.
//!
//! The width is part of the format: every value has exactly one text, so a text that does not
//! decode and encode to itself cannot exist.

/// The digits in order of their value.
pub const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `value` as `N` digits. If `N` is too small, the most significant digits are lost.
#[must_use]
pub fn encode<const N: usize>(mut value: u128) -> [u8; N] {
    let mut text = [b'0'; N];
    for digit in text.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(value % 62).unwrap_or(0)];
        value /= 62;
    }
    text
}

/// The value of each digit; 62 for any other byte.
const VALUES: [u8; 256] = {
    let mut values = [62; 256];
    let mut value = 0;
    while value < 62 {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// Reads digits. `None` if a byte is not a digit or the value is 2^128 or more.
#[must_use]
pub fn decode(text: &[u8]) -> Option<u128> {
    // Ten digits fit into a u64, whose arithmetic is several times as fast as that of a u128.
    text.chunks(10).try_fold(0u128, |value, digits| {
        let (mut word, mut unit) = (0u64, 1u64);
        for &byte in digits {
            let digit = VALUES[usize::from(byte)];
            if digit == 62 {
                return None;
            }
            word = word * 62 + u64::from(digit);
            unit *= 62;
        }
        value.checked_mul(u128::from(unit))?.checked_add(u128::from(word))
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
        fn values_of_2_to_the_128_and_more_are_refused(above in 0u128..1 << 100) {
            // 22 digits can express values up to 62^22, about 8 times 2^128.
            let mut text = encode::<22>(above);
            let mut carry = 0;
            for (digit, more) in text.iter_mut().zip(encode::<22>(u128::MAX)).rev() {
                let sum = VALUES[usize::from(*digit)] + VALUES[usize::from(more)] + carry;
                *digit = ALPHABET[usize::from(sum % 62)];
                carry = sum / 62;
            }
            prop_assert_eq!(decode(&text), (above == 0).then_some(u128::MAX));
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
