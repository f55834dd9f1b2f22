//! Functions in PostgreSQL's version-1 calling convention, for what pgrx's conversions would slow
//! down or cannot express: datums in, a datum or NULL out.

use pgrx::pg_sys;

/// Exports `$body: unsafe fn(FunctionCallInfo) -> Option<Datum>` to SQL under `$symbol`.
macro_rules! sql_function {
    ($symbol:ident, $finfo:ident, $body:path) => {
        #[doc = concat!("`", stringify!($symbol), "` as PostgreSQL calls it.")]
        ///
        /// # Safety
        /// PostgreSQL calls it as sql/ declares it.
        #[unsafe(no_mangle)]
        #[pgrx::pg_guard]
        pub unsafe extern "C-unwind" fn $symbol(
            fcinfo: pgrx::pg_sys::FunctionCallInfo,
        ) -> pgrx::pg_sys::Datum {
            // SAFETY: `fcinfo` is of this call.
            unsafe { $crate::pg::call::result(fcinfo, $body(fcinfo)) }
        }

        #[doc = concat!("The calling convention of `", stringify!($symbol), "`.")]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $finfo() -> &'static pgrx::pg_sys::Pg_finfo_record {
            static VERSION: pgrx::pg_sys::Pg_finfo_record =
                pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &VERSION
        }
    };
}
pub(super) use sql_function;

/// An argument; `None` for NULL.
///
/// # Safety
/// `fcinfo` is of a running call that has that many arguments.
pub unsafe fn argument(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<pg_sys::Datum> {
    // SAFETY: by the caller's promise.
    unsafe { pgrx::fcinfo::pg_getarg_datum(fcinfo, number) }
}

/// The result of a call, its null flag set.
///
/// # Safety
/// `fcinfo` is of a running call.
pub unsafe fn result(
    fcinfo: pg_sys::FunctionCallInfo,
    result: Option<pg_sys::Datum>,
) -> pg_sys::Datum {
    // SAFETY: by the caller's promise.
    unsafe { (*fcinfo).isnull = result.is_none() };
    result.unwrap_or(pg_sys::Datum::from(0))
}
