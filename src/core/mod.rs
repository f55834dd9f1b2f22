//! The logic of the extension, independent of PostgreSQL: formats, hashes, decisions, algorithms.
//!
//! Time, randomness and keys are arguments, so that plain `cargo test`, property tests and fuzzers
//! can exercise all of it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod base62;
pub mod bcrypt;
pub mod claims;
pub mod forwarded;
pub mod gcra;
pub mod handle;
pub mod hash;
pub mod hash_queue;
pub mod headers;
pub mod id;
pub mod jsonb;
pub mod key;
pub mod legacy;
pub mod memo;
pub mod refusal;
pub mod scan;
pub mod scope;
pub mod secret;
pub mod subject;
pub mod table;
pub mod upgrade;
pub mod usage;
pub mod vacant;
pub mod verdict;
