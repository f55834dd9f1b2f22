//! What PostgreSQL is told: functions, index scans, shared memory, settings, errors.
//!
//! It translates and holds no decisions. The only unsafe code of the extension is here.

// `#[pg_extern(sql = false)]`: the SQL surface is written in sql/, which declares each function. The
// Makefile joins those files, in the order of their names, to the script of CREATE EXTENSION.
// A text that callers choose comes as bytes: in a database that is not UTF-8 it need be no `str`.
mod array;
mod call;
mod caller;
mod command;
mod error;
mod failures;
mod flush;
mod foreign;
mod gate;
mod hash_slots;
mod id;
mod identity;
mod jsonb;
mod keys;
mod legacy;
mod limits;
mod locks;
mod memory;
mod raw;
mod references;
mod relation;
mod resources;
mod root_key;
mod rows;
mod scan;
mod settings;
mod stats;
mod upgrades;
mod usage;
mod verify;

use pgrx::prelude::*;

pgrx::pg_module_magic!();

/// Called by PostgreSQL when it loads the library.
#[allow(non_snake_case)]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: read in the process that loads the library.
    let preloading = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    settings::register(preloading);
    if preloading {
        memory::register(memory::Hooks { start: usage::restore, stop: usage::save });
        flush::register();
    }
}
