//! API keys inside PostgreSQL. This file is the map: `core` knows, `pg` tells PostgreSQL.

pub mod core;
#[cfg(feature = "pg")]
mod pg;
