//! The library as PostgreSQL loads it.

use pgrx::pg_sys;
use pgrx::prelude::*;

pgrx::pg_module_magic!();

/// Called by PostgreSQL when it loads the library.
#[allow(non_snake_case, reason = "PostgreSQL finds it by its name")]
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: read in the process that loads the library.
    let preloading = unsafe { pg_sys::process_shared_preload_libraries_in_progress };
    crate::pg::begin(preloading);
}
