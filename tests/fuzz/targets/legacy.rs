//! What is taken in is of the scheme that it was taken as, is judged the same when it is read back,
//! and verifies wrapped as it does bare.
#![no_main]

use api_key::core::hash::Cost;
use api_key::core::legacy::{self, Scheme};
use argon2::Block;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::StdRng;

const CHEAP: Cost = Cost { memory_kib: 8, iterations: 1, parallelism: 1 };

/// Less than is asked for where it is much: argon2 then says so, as nobody waits for a gigabyte here.
fn area(blocks: usize) -> Vec<Block> {
    vec![Block::default(); blocks.min(32)]
}

/// bcrypt's cheapest hash takes as long as a thousand other inputs, so few of them are verified.
fn is_affordable(scheme: Scheme, hash: &str, lot: u16) -> bool {
    scheme != Scheme::Bcrypt || (hash.get(4..7) == Some("04$") && lot.is_multiple_of(1024))
}

fuzz_target!(|input: (u16, &[u8], &str)| {
    let (lot, text, hash) = input;
    let detected = legacy::detect(hash);
    for scheme in Scheme::ALL {
        let Ok(imported) = legacy::import(scheme, hash) else { continue };
        assert!(detected.is_some());
        let stored = imported.stored.as_str();
        assert_eq!(legacy::is_legacy(stored), scheme != Scheme::Argon2);
        assert_eq!(legacy::is_bare(stored), scheme != Scheme::Argon2);
        if is_affordable(scheme, hash, lot) {
            let bare = legacy::verify(text, stored, area, || ());
            if legacy::is_bare(stored) {
                let mut rng = StdRng::seed_from_u64(1);
                let wrapped = legacy::wrap(stored, CHEAP, &mut rng, area).expect("bare");
                assert!(legacy::is_legacy(&wrapped) && !legacy::is_bare(&wrapped));
                assert_eq!(legacy::verify(text, &wrapped, area, || ()), bare);
            }
        }
    }
    // A text as it may be in the table, whoever wrote it there.
    let _ = (legacy::is_bare(hash), legacy::is_legacy(hash));
    if detected.is_none() && !hash.contains("bcrypt") && !hash.contains("argon2") {
        let _ = legacy::verify(text, hash, area, || ());
        let _ = legacy::wrap(hash, CHEAP, &mut StdRng::seed_from_u64(1), area);
    }
    let digest = Scheme::Sha256.digest(text).expect("a digest");
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let imported = legacy::import(Scheme::Sha256, &hex).expect("hexadecimal");
    assert_eq!(legacy::verify(text, &imported.stored, area, || ()), Ok(true));
});
