//! A stored argon2 string of any form is judged without a panic, and what is checked verifies within
//! the work area that it asks for.
#![no_main]

use api_key::core::hash::{self, Cost};
use argon2::Block;
use libfuzzer_sys::fuzz_target;

const CHEAP: Cost = Cost { memory_kib: 16, iterations: 2, parallelism: 2 };

/// Less than is asked for where it is much: argon2 then says so, as nobody waits for a gigabyte here.
fn area(blocks: usize) -> Vec<Block> {
    vec![Block::default(); blocks.min(32)]
}

fuzz_target!(|input: (&[u8], &str)| {
    let (secret, stored) = input;
    let weaker = hash::is_weaker(stored, CHEAP);
    if hash::check(stored).is_ok() {
        assert!(weaker.is_ok());
        let _ = hash::verify(secret, stored, area);
    }
});
