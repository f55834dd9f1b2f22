//! Look-ups in the catalog. Called in a transaction.

use std::ffi::{CStr, c_char};

use pgrx::pg_catalog::pg_proc::PgProc;
use pgrx::pg_sys::{self, Oid};

/// The owner of a function.
pub fn function_owner(function: Oid) -> Option<Oid> {
    PgProc::new(function).map(|function| function.proowner())
}

/// Whether a relation is a view.
pub fn is_view(relation: Oid) -> bool {
    // SAFETY: a catalog look-up.
    unsafe { pg_sys::get_rel_relkind(relation) }.cast_unsigned() == pg_sys::RELKIND_VIEW
}

/// The name of a relation; empty if there is none.
pub fn relation_name(relation: Oid) -> String {
    // SAFETY: a catalog look-up.
    unsafe { text(pg_sys::get_rel_name(relation)) }
}

/// The name of a constraint; empty if there is none.
pub fn constraint_name(constraint: Oid) -> String {
    // SAFETY: a catalog look-up.
    unsafe { text(pg_sys::get_constraint_name(constraint)) }
}

/// # Safety
/// A C string, or null.
unsafe fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise; it is copied.
    unsafe { CStr::from_ptr(name).to_string_lossy().into_owned() }
}
