//! Slow hashes: of secrets, in bounded numbers at a time, within the failure budget of each key.

pub mod failures;
pub mod secret;
pub mod slots;
pub mod upgrades;
