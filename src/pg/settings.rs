//! Settings, all under `api_key.`. Each with its reason for being.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};

use crate::core::hash::Cost;

static ARGON2_MEMORY_KIB: GucSetting<i32> = GucSetting::<i32>::new(19_456);
static ARGON2_ITERATIONS: GucSetting<i32> = GucSetting::<i32>::new(2);
static ARGON2_PARALLELISM: GucSetting<i32> = GucSetting::<i32>::new(1);

/// The cost of new hashes. The defaults are OWASP's (Password Storage Cheat Sheet: 19 MiB, t=2,
/// p=1). Keys made under other values still verify.
pub fn argon2_cost() -> Cost {
    Cost {
        memory_kib: ARGON2_MEMORY_KIB.get().unsigned_abs(),
        iterations: ARGON2_ITERATIONS.get().unsigned_abs(),
        parallelism: ARGON2_PARALLELISM.get().unsigned_abs(),
    }
}

/// Makes the settings known to PostgreSQL.
pub fn register() {
    // Superusers only: whoever could lower the cost could weaken the keys of others.
    GucRegistry::define_int_guc(
        c"api_key.argon2_memory_kib",
        c"Memory of argon2id for new secrets, in KiB.",
        c"At least 8 times api_key.argon2_parallelism.",
        &ARGON2_MEMORY_KIB,
        8,
        4 * 1024 * 1024,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"api_key.argon2_iterations",
        c"Passes of argon2id over its memory for new secrets.",
        c"",
        &ARGON2_ITERATIONS,
        1,
        1000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"api_key.argon2_parallelism",
        c"Lanes of argon2id for new secrets. They are computed one after another.",
        c"",
        &ARGON2_PARALLELISM,
        1,
        64,
        GucContext::Suset,
        GucFlags::default(),
    );
    // SAFETY: the name is a C string that lives for ever.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(c"api_key".as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(c"api_key".as_ptr());
    }
}
