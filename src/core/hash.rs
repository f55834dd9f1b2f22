//! argon2id hashes (RFC 9106) of secrets, stored as PHC strings.
//!
//! A PHC string carries its parameters, so a hash still verifies after the settings change.

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use rand::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Cost of an argon2id hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Lanes.
    pub parallelism: u32,
}

/// Most work in one hash, in KiB of memory times passes: about a tenth of a second. A query cannot
/// be cancelled during a hash, so a hash must be short.
const MOST_WORK: u64 = 256 * 1024;
/// Most passes and lanes of an imported hash: many small ones cost more than their counted work.
const MOST_ITERATIONS: u32 = 64;
const MOST_PARALLELISM: u32 = 64;

/// Why a hash could not be made or checked. It reveals nothing of the secret or the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The cost is outside argon2's limits (such as 8 KiB of memory for each lane) or ours (256 MiB
    /// of memory times passes).
    #[error("argon2 parameters are out of range")]
    Cost,
    /// The stored text is not the PHC string of an argon2 hash.
    #[error("the stored hash is not an argon2 PHC string")]
    Stored,
}

impl Cost {
    fn params(self) -> Result<Params, HashError> {
        if work(self.memory_kib, self.iterations) > MOST_WORK {
            return Err(HashError::Cost);
        }
        Params::new(self.memory_kib, self.iterations, self.parallelism, None)
            .map_err(|_| HashError::Cost)
    }
}

fn work(memory_kib: u32, iterations: u32) -> u64 {
    u64::from(memory_kib) * u64::from(iterations)
}

/// Hashes `secret` with a salt of 16 bytes from `rng`.
///
/// `work_area` provides the given number of 1 KiB blocks for argon2 to work in.
///
/// # Errors
/// `HashError::Cost` if the cost is out of range.
pub fn hash<A: AsMut<[Block]>>(
    secret: &[u8],
    cost: Cost,
    rng: &mut impl CryptoRng,
    work_area: impl FnOnce(usize) -> A,
) -> Result<String, HashError> {
    let params = cost.params()?;
    let mut salt = [0; Salt::RECOMMENDED_LENGTH];
    rng.fill_bytes(&mut salt);
    let salt = Salt::new(&salt).map_err(|_| HashError::Cost)?;
    let output =
        output::<A>(Algorithm::Argon2id, Version::V0x13, &params, secret, &salt, work_area)?;
    let phc = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| HashError::Cost)?,
        salt: Some(salt),
        hash: Some(Output::new(&output).map_err(|_| HashError::Cost)?),
    };
    Ok(phc.to_string())
}

/// Whether `stored` is a hash of `secret`. `work_area` is as for [`hash`].
///
/// # Errors
/// `HashError::Stored` if `stored` is not the PHC string of an argon2 hash, `HashError::Cost` if
/// its parameters are out of range.
pub fn verify<A: AsMut<[Block]>>(
    secret: &[u8],
    stored: &str,
    work_area: impl FnOnce(usize) -> A,
) -> Result<bool, HashError> {
    let phc = PasswordHash::new(stored).map_err(|_| HashError::Stored)?;
    let (Some(salt), Some(expected)) = (phc.salt, phc.hash) else {
        return Err(HashError::Stored);
    };
    let algorithm = Algorithm::new(phc.algorithm).map_err(|_| HashError::Stored)?;
    let version = match phc.version {
        // Strings from before version 1.3 have no version field.
        None => Version::V0x10,
        Some(version) => Version::try_from(version).map_err(|_| HashError::Stored)?,
    };
    let params = Params::try_from(&phc).map_err(|_| HashError::Cost)?;
    let output = output::<A>(algorithm, version, &params, secret, &salt, work_area)?;
    Ok(output.ct_eq(expected.as_bytes()).into())
}

/// Checks that `stored` is the PHC string of an argon2 hash that is not too expensive to verify.
///
/// # Errors
/// As [`verify`].
pub fn check(stored: &str) -> Result<(), HashError> {
    let phc = PasswordHash::new(stored).map_err(|_| HashError::Stored)?;
    Algorithm::new(phc.algorithm).map_err(|_| HashError::Stored)?;
    if phc.salt.is_none() || phc.hash.is_none() {
        return Err(HashError::Stored);
    }
    let params = Params::try_from(&phc).map_err(|_| HashError::Cost)?;
    if work(params.m_cost(), params.t_cost()) > MOST_WORK
        || params.t_cost() > MOST_ITERATIONS
        || params.p_cost() > MOST_PARALLELISM
    {
        return Err(HashError::Cost);
    }
    Ok(())
}

/// Whether `stored` is cheaper to attack than a hash of `cost`: it is not argon2id version 1.3, or
/// memory times passes is smaller.
///
/// # Errors
/// As [`verify`].
pub fn is_weaker(stored: &str, cost: Cost) -> Result<bool, HashError> {
    let phc = PasswordHash::new(stored).map_err(|_| HashError::Stored)?;
    let params = Params::try_from(&phc).map_err(|_| HashError::Cost)?;
    Ok(phc.algorithm != Algorithm::Argon2id.ident()
        || phc.version != Some(Version::V0x13.into())
        || work(params.m_cost(), params.t_cost()) < work(cost.memory_kib, cost.iterations))
}

fn output<A: AsMut<[Block]>>(
    algorithm: Algorithm,
    version: Version,
    params: &Params,
    secret: &[u8],
    salt: &[u8],
    work_area: impl FnOnce(usize) -> A,
) -> Result<Zeroizing<Vec<u8>>, HashError> {
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let mut output = Zeroizing::new(vec![0; length]);
    let area = work_area(params.block_count());
    Argon2::new(algorithm, version, params.clone())
        .hash_password_into_with_memory(secret, salt, &mut output, area)
        .map_err(|_| HashError::Cost)?;
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const CHEAP: Cost = Cost { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn area(blocks: usize) -> Vec<Block> {
        vec![Block::default(); blocks]
    }

    /// `echo -n password | argon2 somesalt -id -v 13 -t 2 -k 65536 -p 1 -e` of the reference
    /// implementation (phc-winner-argon2, its test suite's `hashtest` for these arguments).
    #[test]
    fn known_answers_of_the_reference_implementation() {
        let stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
                      $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(verify(b"password", stored, area), Ok(true));
        assert_eq!(verify(b"passwore", stored, area), Ok(false));
    }

    #[test]
    fn a_hash_carries_its_own_cost() {
        let mut rng = StdRng::seed_from_u64(1);
        for cost in [CHEAP, Cost { memory_kib: 128, iterations: 3, parallelism: 2 }] {
            let stored = hash(b"secret", cost, &mut rng, area);
            let stored = stored.as_deref().unwrap_or_default();
            assert!(stored.starts_with("$argon2id$v=19$m="), "{stored}");
            assert_eq!(verify(b"secret", stored, area), Ok(true));
            assert_eq!(verify(b"Secret", stored, area), Ok(false));
        }
    }

    #[test]
    fn only_a_cheaper_hash_or_another_algorithm_is_weaker() {
        let mut rng = StdRng::seed_from_u64(4);
        let stored = hash(b"secret", CHEAP, &mut rng, area);
        let stored = stored.as_deref().unwrap_or_default();
        assert_eq!(is_weaker(stored, CHEAP), Ok(false));
        assert_eq!(is_weaker(stored, Cost { memory_kib: 32, ..CHEAP }), Ok(false));
        assert_eq!(is_weaker(stored, Cost { iterations: 2, ..CHEAP }), Ok(true));
        assert_eq!(is_weaker(&stored.replace("argon2id", "argon2i"), CHEAP), Ok(true));
        assert_eq!(is_weaker("$2b$04$abcdefghijklmnopqrstuv", CHEAP), Err(HashError::Stored));
    }

    #[test]
    fn two_hashes_of_one_secret_differ() {
        let mut rng = StdRng::seed_from_u64(2);
        assert_ne!(hash(b"secret", CHEAP, &mut rng, area), hash(b"secret", CHEAP, &mut rng, area));
    }

    #[test]
    fn a_string_that_is_not_argon2_is_an_error_and_never_a_match() {
        for stored in [
            "",
            "$",
            "$2b$04$abcdefghijklmnopqrstuv",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ",
            "$argon2id$v=19$m=1,t=0,p=0$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$scrypt$ln=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        ] {
            assert!(verify(b"secret", stored, area).is_err(), "{stored}");
        }
    }

    #[test]
    fn out_of_range_and_excessive_costs_are_refused() {
        let mut rng = StdRng::seed_from_u64(3);
        for (memory_kib, iterations, parallelism) in
            [(8, 1, 2), (256 * 1024 + 1, 1, 1), (1024, 257, 1), (u32::MAX, u32::MAX, 1)]
        {
            let cost = Cost { memory_kib, iterations, parallelism };
            assert_eq!(hash(b"secret", cost, &mut rng, area), Err(HashError::Cost), "{cost:?}");
        }
    }
}
