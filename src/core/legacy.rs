//! Hashes that keys bring along from elsewhere, and how a text is checked against them.
//!
//! The stored text says how it was made, so that one column keeps every kind:
//!
//! | stored | meaning |
//! | --- | --- |
//! | `$argon2id$…` (also `argon2i`, `argon2d`) | PHC string over the text |
//! | `{md5}…` `{sha1}…` `{sha256}…` `{sha512}…` | the digest of the text, base64 |
//! | `{bcrypt}$2b$06$…` | bcrypt of the text |
//! | `{md5}$argon2id$…` and so on | wrapped: argon2id over the digest |
//! | `{bcrypt}$2b$06$<salt>$argon2id$…` | wrapped: argon2id over the bcrypt string, whose cost and salt are kept |
//!
//! The braces are those of RFC 2307.

use argon2::Block;
use base64ct::{Base64, Base64Unpadded, Base64Url, Base64UrlUnpadded, Encoding};
use md5::Md5;
use rand::CryptoRng;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::bcrypt;
use super::hash::{self, Cost, HashError};

/// The longest text that is a key: nobody can have more than that looked up or hashed.
pub const MAX_TEXT: usize = 512;

/// The highest cost of a bcrypt hash that is taken in: checking one of it takes more than a second,
/// and each step more doubles that.
const MAX_BCRYPT_COST: u32 = 14;

/// How a hash was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// MD5 (RFC 1321).
    Md5,
    /// SHA-1 (FIPS 180-4).
    Sha1,
    /// SHA-256 (FIPS 180-4).
    Sha256,
    /// SHA-512 (FIPS 180-4).
    Sha512,
    /// bcrypt (Provos and Mazières, 1999), of which only the first 72 bytes of a text count.
    Bcrypt,
    /// Any argon2 (RFC 9106), as a PHC string.
    Argon2,
    /// Not hashed.
    Plaintext,
}

impl Scheme {
    /// The digests that are the same for the same text, whoever makes them.
    pub const DIGESTS: [Self; 4] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512];

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Bcrypt,
        Self::Argon2,
        Self::Plaintext,
    ];

    /// The name in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Bcrypt => "bcrypt",
            Self::Argon2 => "argon2",
            Self::Plaintext => "plaintext",
        }
    }

    /// The scheme that SQL calls `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.as_str() == name)
    }

    /// The digest of a text; `None` for what is not a digest.
    #[must_use]
    pub fn digest(self, text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let digest = match self {
            Self::Md5 => Md5::digest(text).to_vec(),
            Self::Sha1 => Sha1::digest(text).to_vec(),
            Self::Sha256 => Sha256::digest(text).to_vec(),
            Self::Sha512 => Sha512::digest(text).to_vec(),
            Self::Bcrypt | Self::Argon2 | Self::Plaintext => return None,
        };
        Some(Zeroizing::new(digest))
    }

    const fn digest_length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Bcrypt | Self::Argon2 | Self::Plaintext => 0,
        }
    }
}

/// Why a hash is not taken in. It holds nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is none of the scheme.
    #[error("not a hash of this scheme")]
    Malformed,
    /// Checking it would take too long.
    #[error("a hash that costs too much")]
    TooCostly,
}

use Refused::{Malformed, TooCostly};

/// A hash as it comes from elsewhere, read.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// As it is to be stored.
    pub stored: String,
    /// The digest, by which its key is found.
    pub digest: Option<Zeroizing<Vec<u8>>>,
}

/// Reads the hash of a key: digests as hexadecimal in either case, base64 or base64url with or
/// without padding; bcrypt with any of `$2a$ $2b$ $2x$ $2y$`; argon2 as a PHC string.
///
/// # Errors
/// `Malformed` for anything else, and for `Scheme::Plaintext`, which is no hash; `TooCostly` for a
/// bcrypt cost above 14 and for what [`hash::check`] finds out of range.
pub fn import(scheme: Scheme, text: &str) -> Result<Imported, Refused> {
    match scheme {
        Scheme::Md5 | Scheme::Sha1 | Scheme::Sha256 | Scheme::Sha512 => {
            let digest = decode(text, scheme.digest_length()).ok_or(Malformed)?;
            let stored = format!("{{{}}}{}", scheme.as_str(), Base64::encode_string(&digest));
            Ok(Imported { stored, digest: Some(digest) })
        }
        Scheme::Bcrypt => {
            let (setting, _) = bcrypt::parse(text).ok_or(Malformed)?;
            if setting.cost > MAX_BCRYPT_COST {
                return Err(TooCostly);
            }
            Ok(Imported { stored: format!("{{bcrypt}}{text}"), digest: None })
        }
        Scheme::Argon2 => {
            hash::check(text).map_err(|error| match error {
                HashError::Cost => TooCostly,
                HashError::Stored => Malformed,
            })?;
            Ok(Imported { stored: text.to_owned(), digest: None })
        }
        Scheme::Plaintext => Err(Malformed),
    }
}

/// The scheme that a hash looks like: digests by their length, the others by their beginning.
/// Never plaintext: nothing tells it from a hash of a kind that is not known here.
#[must_use]
pub fn detect(text: &str) -> Option<Scheme> {
    [Scheme::Bcrypt, Scheme::Argon2]
        .into_iter()
        .chain(Scheme::DIGESTS)
        .find(|scheme| import(*scheme, text) != Err(Malformed))
}

/// A digest of `length` bytes in one of its usual forms, which the length of the text tells apart.
fn decode(text: &str, length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let decoded = if text.len() == 2 * length {
        base16ct::mixed::decode_vec(text).ok()
    } else {
        None.or_else(|| Base64::decode_vec(text).ok())
            .or_else(|| Base64Unpadded::decode_vec(text).ok())
            .or_else(|| Base64Url::decode_vec(text).ok())
            .or_else(|| Base64UrlUnpadded::decode_vec(text).ok())
    };
    decoded.filter(|digest| digest.len() == length).map(Zeroizing::new)
}

/// The scheme of what is stored, and the rest behind its braces.
fn split(stored: &str) -> (Scheme, &str) {
    stored
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'))
        .and_then(|(name, rest)| Scheme::from_name(name).map(|scheme| (scheme, rest)))
        .unwrap_or((Scheme::Argon2, stored))
}

/// Whether a fast digest or a bare bcrypt is stored, that `wrap` would improve.
#[must_use]
pub fn is_bare(stored: &str) -> bool {
    let (scheme, rest) = split(stored);
    match scheme {
        Scheme::Argon2 | Scheme::Plaintext => false,
        Scheme::Bcrypt => rest.len() == bcrypt::LENGTH,
        _ => !rest.starts_with('$'),
    }
}

/// How far a stored hash is on its way to argon2id of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A fast digest or a bcrypt hash alone.
    Bare,
    /// argon2id over such a hash.
    Wrapped,
    /// argon2 of the text itself.
    Own,
}

impl Stage {
    /// The stage of what is stored.
    #[must_use]
    pub fn of(stored: &str) -> Self {
        if is_bare(stored) {
            Self::Bare
        } else if is_legacy(stored) {
            Self::Wrapped
        } else {
            Self::Own
        }
    }

    /// The stage as SQL reads it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Wrapped => "wrapped",
            Self::Own => "own",
        }
    }
}

/// Whether the secret of this version is the text that an imported key came with: its first one. All
/// later ones are ours.
#[must_use]
pub const fn is_legacy_secret(is_imported: bool, version: i64) -> bool {
    is_imported && version == 1
}

/// Whether a legacy hash is stored, bare or wrapped, that the text's own hash would improve.
#[must_use]
pub fn is_legacy(stored: &str) -> bool {
    split(stored).0 != Scheme::Argon2
}

/// Wraps a bare hash, without its plaintext: argon2id over it.
///
/// # Errors
/// `HashError::Stored` if it is not bare.
pub fn wrap<A: AsMut<[Block]>>(
    stored: &str,
    cost: Cost,
    rng: &mut impl CryptoRng,
    work_area: impl FnOnce(usize) -> A,
) -> Result<String, HashError> {
    let (scheme, rest) = split(stored);
    if !is_bare(stored) {
        return Err(HashError::Stored);
    }
    if scheme == Scheme::Bcrypt {
        let (setting, output) = bcrypt::parse(rest).ok_or(HashError::Stored)?;
        let outer = hash::hash(setting.string(&output).as_bytes(), cost, rng, work_area)?;
        let setting = rest.get(..bcrypt::SETTING).ok_or(HashError::Stored)?;
        Ok(format!("{{bcrypt}}{setting}{outer}"))
    } else {
        let digest = decode(rest, scheme.digest_length()).ok_or(HashError::Stored)?;
        let outer = hash::hash(&digest, cost, rng, work_area)?;
        Ok(format!("{{{}}}{outer}", scheme.as_str()))
    }
}

/// Whether `text` is the one that `stored` was made of.
///
/// `checkpoint` is called now and then. It may unwind.
///
/// # Errors
/// As [`hash::verify`].
pub fn verify<A: AsMut<[Block]>>(
    text: &[u8],
    stored: &str,
    work_area: impl FnOnce(usize) -> A,
    checkpoint: impl Fn(),
) -> Result<bool, HashError> {
    let (scheme, rest) = split(stored);
    checkpoint();
    match scheme {
        Scheme::Argon2 | Scheme::Plaintext => hash::verify(text, stored, work_area),
        Scheme::Bcrypt if is_bare(stored) => {
            let (setting, expected) = bcrypt::parse(rest).ok_or(HashError::Stored)?;
            Ok(setting.hash(text, checkpoint).ct_eq(&*expected).into())
        }
        Scheme::Bcrypt => {
            let (setting, outer) =
                rest.split_at_checked(bcrypt::SETTING).ok_or(HashError::Stored)?;
            let setting = bcrypt::Setting::parse(setting).ok_or(HashError::Stored)?;
            let computed = setting.hash(text, checkpoint);
            hash::verify(setting.string(&computed).as_bytes(), outer, work_area)
        }
        _ => {
            let digest = scheme.digest(text).ok_or(HashError::Stored)?;
            if is_bare(stored) {
                let expected = decode(rest, scheme.digest_length()).ok_or(HashError::Stored)?;
                Ok(digest.as_slice().ct_eq(&expected).into())
            } else {
                hash::verify(&digest, rest, work_area)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const CHEAP: Cost = Cost { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn area(blocks: usize) -> Vec<Block> {
        vec![Block::default(); blocks]
    }

    #[test]
    fn a_stored_hash_goes_from_bare_to_wrapped_to_own() {
        let bare = stored(Scheme::Md5, "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(Stage::of(&bare), Stage::Bare);
        let wrapped = wrap(&bare, CHEAP, &mut StdRng::seed_from_u64(1), area);
        assert_eq!(wrapped.map(|wrapped| Stage::of(&wrapped)), Ok(Stage::Wrapped));
        let own = hash::hash(b"abc", CHEAP, &mut StdRng::seed_from_u64(2), area);
        assert_eq!(own.map(|own| Stage::of(&own)), Ok(Stage::Own));
        assert!(
            is_legacy_secret(true, 1) && !is_legacy_secret(true, 2) && !is_legacy_secret(false, 1)
        );
    }

    fn check(text: &[u8], stored: &str) -> Result<bool, HashError> {
        verify(text, stored, area, || ())
    }

    fn stored(scheme: Scheme, text: &str) -> String {
        import(scheme, text).map(|imported| imported.stored).unwrap_or_default()
    }

    /// Hashes of other people's libraries. tests/vectors/legacy.txt says which.
    fn vectors() -> impl Iterator<Item = (Scheme, &'static str, &'static str)> {
        include_str!("../../tests/vectors/legacy.txt")
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
            .filter_map(|line| {
                let mut fields = line.splitn(3, ' ');
                let scheme = Scheme::from_name(fields.next()?)?;
                Some((scheme, fields.next()?, fields.next()?))
            })
    }

    #[test]
    fn known_answers_bare_and_wrapped() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut count = 0;
        for (scheme, hash, text) in vectors() {
            let bare = stored(scheme, hash);
            assert_eq!(check(text.as_bytes(), &bare), Ok(true), "{scheme:?} {text}");
            assert_eq!(check(b"another", &bare), Ok(false), "{scheme:?} {text}");
            if is_bare(&bare) {
                let wrapped = wrap(&bare, CHEAP, &mut rng, area).unwrap_or_default();
                assert!(!is_bare(&wrapped) && is_legacy(&wrapped));
                assert_eq!(check(text.as_bytes(), &wrapped), Ok(true), "{scheme:?} {text}");
                assert_eq!(check(b"another", &wrapped), Ok(false), "{scheme:?} {text}");
            }
            count += 1;
        }
        assert!(count >= 20, "{count} vectors");
    }

    #[test]
    fn a_wrapped_hash_holds_nothing_of_the_digest() {
        let mut rng = StdRng::seed_from_u64(2);
        let digest = Scheme::Md5.digest(b"secret").unwrap_or_default();
        let bare = stored(Scheme::Md5, &base16ct::lower::encode_string(&digest));
        let wrapped = wrap(&bare, CHEAP, &mut rng, area).unwrap_or_default();
        assert!(!wrapped.contains(&Base64Unpadded::encode_string(&digest)));
        let bcrypt = "$2b$04$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6.";
        let wrapped = wrap(&stored(Scheme::Bcrypt, bcrypt), CHEAP, &mut rng, area);
        assert!(!wrapped.unwrap_or_default().contains(&bcrypt[bcrypt::SETTING..]));
    }

    #[test]
    fn a_digest_is_read_in_each_of_its_forms() {
        let digest = Scheme::Sha256.digest(b"text").unwrap_or_default();
        for text in [
            base16ct::lower::encode_string(&digest),
            base16ct::upper::encode_string(&digest),
            Base64::encode_string(&digest),
            Base64Unpadded::encode_string(&digest),
            Base64Url::encode_string(&digest),
            Base64UrlUnpadded::encode_string(&digest),
        ] {
            let imported = import(Scheme::Sha256, &text);
            assert!(imported.is_ok_and(|it| it.digest.as_deref() == Some(&*digest)), "{text}");
        }
    }

    #[test]
    fn what_is_no_hash_of_the_scheme_is_malformed() {
        for (scheme, text) in [
            (Scheme::Md5, ""),
            (Scheme::Md5, "d41d8cd98f00b204e9800998ecf8427"),
            (Scheme::Md5, "d41d8cd98f00b204e9800998ecf8427g"),
            (Scheme::Sha256, "d41d8cd98f00b204e9800998ecf8427e"),
            (Scheme::Sha1, "????????????????????????????"),
            (Scheme::Bcrypt, "$2b$04$tooshort"),
            (Scheme::Bcrypt, "$2b$+6$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6."),
            (Scheme::Bcrypt, "$2c$04$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6."),
            (Scheme::Bcrypt, "$2b$04$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6!"),
            (Scheme::Argon2, "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ"),
            (Scheme::Argon2, "plain"),
            (Scheme::Plaintext, "plain"),
        ] {
            assert_eq!(import(scheme, text), Err(Malformed), "{scheme:?} {text}");
        }
    }

    #[test]
    fn what_would_take_long_to_check_is_too_costly() {
        let bcrypt = |cost: u32| {
            format!("$2b${cost:02}$abcdefghijklmnopqrstuuyMXVZJLDMDPRKFGpbYmLZkYXCSB0J6.")
        };
        let argon2 = |memory: u32, passes: u32, lanes: u32| {
            let hash = "c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
            format!("$argon2id$v=19$m={memory},t={passes},p={lanes}${hash}")
        };
        for (scheme, hash, good) in [
            (Scheme::Bcrypt, bcrypt(4), true),
            (Scheme::Bcrypt, bcrypt(14), true),
            (Scheme::Bcrypt, bcrypt(15), false),
            (Scheme::Bcrypt, bcrypt(31), false),
            (Scheme::Argon2, argon2(256 * 1024, 1, 1), true),
            (Scheme::Argon2, argon2(4 * 1024, 64, 64), true),
            (Scheme::Argon2, argon2(64 * 1024, 4, 4), true),
            (Scheme::Argon2, argon2(256 * 1024 + 1, 1, 1), false),
            (Scheme::Argon2, argon2(64 * 1024, 5, 1), false),
            (Scheme::Argon2, argon2(1024, 65, 1), false),
            (Scheme::Argon2, argon2(4096, 1, 65), false),
            (Scheme::Argon2, argon2(u32::MAX, u32::MAX, 1), false),
        ] {
            let imported = import(scheme, &hash).map(|_| ());
            assert_eq!(imported, if good { Ok(()) } else { Err(TooCostly) }, "{hash}");
            assert_eq!(detect(&hash), Some(scheme), "{hash}");
        }
    }

    /// Hashes that were taken in under wider limits stay good.
    #[test]
    fn a_costlier_hash_that_is_stored_already_is_checked() {
        let setting = "{bcrypt}$2b$16$abcdefghijklmnopqrstuu";
        let bare = format!("{setting}yMXVZJLDMDPRKFGpbYmLZkYXCSB0J6.");
        let interrupted = std::panic::catch_unwind(|| {
            verify(b"text", &bare, area, {
                let rounds = std::cell::Cell::new(0);
                move || {
                    rounds.set(rounds.get() + 1);
                    assert!(rounds.get() < 10, "interrupted");
                }
            })
        });
        assert!(interrupted.is_err(), "it was being hashed");
    }

    #[test]
    fn the_scheme_of_each_hash_is_told_by_its_form() {
        for (scheme, hash, _) in vectors() {
            assert_eq!(detect(hash), Some(scheme), "{hash}");
        }
        assert_eq!(detect("sk_live_plaintext"), None);
    }

    /// bcrypt reads 72 bytes: two texts that differ only behind them are one to it.
    #[test]
    fn bcrypt_ignores_what_is_behind_72_bytes() {
        let long = "x".repeat(72);
        let setting = bcrypt::Setting { cost: 4, salt: [7; 16] };
        let hash = setting.string(&setting.hash(long.as_bytes(), || ()));
        let bare = stored(Scheme::Bcrypt, &hash);
        assert_eq!(check(format!("{long}y").as_bytes(), &bare), Ok(true));
        assert_eq!(check(&long.as_bytes()[..71], &bare), Ok(false));
    }

    proptest! {
        #[test]
        fn arbitrary_texts_and_hashes_never_panic(text: Vec<u8>, hash: String) {
            for scheme in Scheme::ALL {
                if let Ok(imported) = import(scheme, &hash) {
                    let _ = check(&text, &imported.stored);
                }
            }
            let _ = (is_bare(&hash), is_legacy(&hash));
        }
    }
}
