//! The border to PostgreSQL: functions, index scans, shared memory, settings, errors.
//!
//! It translates and holds no decisions. Unsafe code is in two rooms: `raw` and `memory`.

// The SQL surface is written in sql/, which declares each function. The Makefile joins those files, in
// the order of their names, to the script of CREATE EXTENSION. A text that callers choose is declared as
// `Text`, its bytes: in a database that is not UTF-8 it need be no `str`.
mod error;
mod flush;
mod foreign;
mod gate;
mod hashing;
mod id;
mod keys;
mod legacy;
mod locks;
#[allow(unsafe_code, reason = "the shared segment")]
mod memory;
#[allow(unsafe_code, reason = "what PostgreSQL gives")]
mod raw;
mod references;
mod resources;
mod settings;
mod stats;
mod usage;
mod verify;

/// Called when PostgreSQL loads the library, with the server (`preloading`) or later.
fn begin(preloading: bool) {
    settings::register(preloading);
    if preloading {
        memory::register(memory::Hooks { start: usage::restore, stop: usage::save });
        flush::register();
    }
}
