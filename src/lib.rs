//! API keys inside PostgreSQL. This file is the map: `core` knows, `pg` tells PostgreSQL.

#![deny(unsafe_code)]

pub mod core;
#[cfg(feature = "pg")]
mod pg;
