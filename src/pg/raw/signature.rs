//! The declarations of functions in Rust, for tests/sql/signatures.sql, which creates this function for
//! itself and compares its answers with the catalog.

use std::ffi::{CStr, CString, c_void};

use pgrx::pg_sys;

use super::call::{Declared, Signature, sql_function};
use super::types::{Name, Str};

sql_function! {
    /// The types of a function's arguments and result by its symbol, and whether it is STRICT; NULL if
    /// Rust declares none.
    fn rust_signature(symbol: Str) -> Option<Str> {
        let symbol = CString::new(format!("api_key_signature_{symbol}")).ok()?;
        // SAFETY: of this library, which is loaded; under such a name `export!` alone exports a
        // function, of this type.
        let signature = unsafe {
            let found = pg_sys::load_external_function(
                c"$libdir/api_key".as_ptr(),
                symbol.as_ptr(),
                false,
                std::ptr::null_mut(),
            );
            if found.is_null() {
                return None;
            }
            let function = std::mem::transmute::<
                *mut c_void,
                extern "C-unwind" fn() -> &'static Signature,
            >(found.cast());
            function()
        };
        let arguments: Vec<_> = signature.arguments.iter().map(name).collect();
        let strict = signature.arguments.iter().any(|argument| !argument.nullable);
        Some(format!(
            "({}) {}{}",
            arguments.join(", "),
            name(&signature.result),
            if strict { " STRICT" } else { "" }
        ))
    }
}

fn name(declared: &Declared) -> String {
    match declared.name {
        Name::Ours(name) => name.to_owned(),
        // SAFETY: a catalog look-up of a type of PostgreSQL, whose name is copied.
        Name::BuiltIn(oid) => unsafe {
            CStr::from_ptr(pg_sys::format_type_be(oid)).to_string_lossy().into_owned()
        },
    }
}
