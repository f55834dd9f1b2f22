//! bcrypt (Provos and Mazières, "A Future-Adaptable Password Scheme", USENIX 1999), written out
//! over the Blowfish of RustCrypto so that a hash of a second can be interrupted.

use std::fmt::Write;

use base64ct::{Base64Bcrypt, Encoding};
use blowfish::Blowfish;
use zeroize::Zeroizing;

/// The valid costs: binary logarithms of the number of rounds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;
/// Length in bytes of `$2b$06$` and the salt's 22 digits.
pub const SETTING: usize = 29;
/// Length in bytes of a complete hash string.
pub const LENGTH: usize = 60;

const VARIANTS: [&str; 4] = ["$2a$", "$2b$", "$2x$", "$2y$"];
/// bcrypt ignores any bytes of a text after these.
const MAX_TEXT: usize = 72;
/// "OrpheanBeholderScryDoubt", the text that bcrypt encrypts.
const PLAINTEXT: [[u32; 2]; 3] =
    [[0x4f72_7068, 0x6561_6e42], [0x6568_6f6c, 0x6465_7253], [0x6372_7944, 0x6f75_6274]];

/// Cost and salt of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The binary logarithm of the number of rounds.
    pub cost: u32,
    /// The salt.
    pub salt: [u8; 16],
}

/// A hash: bcrypt keeps 184 of the 192 bits it computes.
pub type Output = Zeroizing<[u8; 23]>;

impl Setting {
    /// Reads `$2b$06$` and 22 digits of salt. All variants are read alike: they only tell hashes of
    /// older, buggy implementations apart. `None` if the text has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (variant, rest) = text.split_at_checked(4)?;
        let (cost, salt) = rest.split_once('$')?;
        if !VARIANTS.contains(&variant) || cost.len() != 2 || salt.len() != 22 {
            return None;
        }
        let digits = cost.bytes().all(|digit| digit.is_ascii_digit());
        let cost = cost.parse().ok().filter(|cost| digits && COSTS.contains(cost));
        let mut bytes = [0; 16];
        Base64Bcrypt::decode(salt, &mut bytes).ok()?;
        Some(Self { cost: cost?, salt: bytes })
    }

    /// Hashes the first 72 bytes of a text. A shorter text is followed by a zero byte.
    ///
    /// `checkpoint` is called before each round, about every 80 microseconds. It may unwind.
    pub fn hash(&self, text: &[u8], mut checkpoint: impl FnMut()) -> Output {
        let mut key = Zeroizing::new([0; MAX_TEXT]);
        let length = text.len().min(MAX_TEXT);
        key[..length].copy_from_slice(&text[..length]);
        let key = &key[..MAX_TEXT.min(length + 1)];

        let mut state: Blowfish = Blowfish::bc_init_state();
        state.salted_expand_key(&self.salt, key);
        for _ in 0..1_u64 << self.cost {
            checkpoint();
            state.bc_expand_key(key);
            state.bc_expand_key(&self.salt);
        }
        let mut bytes = Zeroizing::new([0; 24]);
        for (mut block, place) in PLAINTEXT.into_iter().zip(bytes.chunks_exact_mut(8)) {
            for _ in 0..64 {
                block = state.bc_encrypt(block);
            }
            place[..4].copy_from_slice(&block[0].to_be_bytes());
            place[4..].copy_from_slice(&block[1].to_be_bytes());
        }
        let mut output = Output::default();
        output.copy_from_slice(&bytes[..23]);
        output
    }

    /// The complete hash string, as variant `$2b$`.
    #[must_use]
    pub fn string(&self, output: &Output) -> Zeroizing<String> {
        let mut digits = Zeroizing::new([0; 31]);
        let digits = Base64Bcrypt::encode(&**output, &mut *digits).unwrap_or_default();
        let mut string = Zeroizing::new(String::with_capacity(LENGTH));
        let salt = Base64Bcrypt::encode_string(&self.salt);
        let _ = write!(string, "$2b${:02}${salt}{digits}", self.cost);
        string
    }
}

/// Reads a complete hash string of any variant. `None` if it has another form.
#[must_use]
pub fn parse(text: &str) -> Option<(Setting, Output)> {
    let (setting, digits) = text.split_at_checked(SETTING)?;
    let mut output = Output::default();
    if digits.len() != LENGTH - SETTING {
        return None;
    }
    Base64Bcrypt::decode(digits, &mut *output).ok()?;
    Some((Setting::parse(setting)?, output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn hashes_match_those_of_the_bcrypt_crate(
            text in prop::collection::vec(any::<u8>(), 0..100),
            salt: [u8; 16],
            cost in 4u32..7,
        ) {
            let theirs = bcrypt::hash_with_salt(&text, cost, salt).map(|parts| parts.to_string());
            let setting = Setting { cost, salt };
            let mut rounds = 0;
            let output = setting.hash(&text, || rounds += 1);
            prop_assert_eq!(Some(setting.string(&output).to_string()), theirs.ok());
            prop_assert_eq!(rounds, 1 << cost);
            prop_assert_eq!(parse(&setting.string(&output)), Some((setting, output)));
        }

        /// Costs outside ours, and costs with a sign, are left out of the comparison.
        #[test]
        fn parses_the_same_strings_as_the_bcrypt_crate(
            variant in "2[abxyc]",
            cost in "[0-3][0-9]|\\+6|6\\$",
            digits in "[./A-Za-z0-9]{51,54}",
        ) {
            let text = format!("${variant}${cost}${digits}");
            let theirs = text.parse::<bcrypt::HashParts>().ok().filter(|parts| {
                COSTS.contains(&parts.get_cost()) && !cost.starts_with('+')
            });
            let ours = parse(&text);
            prop_assert_eq!(ours.is_some(), theirs.is_some(), "{}", text);
            if let (Some((setting, output)), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(setting.string(&output).to_string(), theirs.to_string());
            }
        }

        #[test]
        fn arbitrary_texts_never_panic(text: String) {
            let _ = (parse(&text), Setting::parse(&text));
        }
    }

    #[test]
    fn a_checkpoint_that_unwinds_ends_the_hash() {
        let mut rounds = 0;
        let hash = std::panic::AssertUnwindSafe(|| {
            Setting { cost: 14, salt: [7; 16] }.hash(b"text", || {
                rounds += 1;
                assert!(rounds < 10, "interrupted");
            })
        });
        assert!(std::panic::catch_unwind(hash).is_err());
        assert_eq!(rounds, 10);
    }
}
