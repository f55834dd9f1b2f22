//! Settings of the server, read and set by name. Those of the extension are in src/pg/settings.rs.

use std::ffi::{CStr, CString};

use pgrx::{IntoDatum, pg_sys};

/// The value of a setting in UTF-8; empty if it is not set.
pub fn get(name: &CStr) -> String {
    // SAFETY: the names and values are C strings; PostgreSQL converts them from the encoding of the
    // database, into a copy if need be, and the result is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        if value.is_null() {
            return String::new();
        }
        let length = CStr::from_ptr(value).count_bytes();
        let length = i32::try_from(length).unwrap_or(0);
        let value = pg_sys::pg_server_to_any(value, length, pg_sys::pg_enc::PG_UTF8.cast_signed());
        CStr::from_ptr(value).to_string_lossy().into_owned()
    }
}

/// Sets a setting until the end of the transaction, as `set_config` does. A text with a NUL is no value of
/// a setting, and sets nothing.
pub fn set(name: &str, value: &str) {
    let Ok(value) = CString::new(value) else { return };
    // SAFETY: PostgreSQL converts the C string to the encoding of the database, into a copy if need
    // be; set_config_by_name takes two texts and a boolean.
    unsafe {
        let length = i32::try_from(value.count_bytes()).unwrap_or(0);
        let utf8 = pg_sys::pg_enc::PG_UTF8.cast_signed();
        let value = CStr::from_ptr(pg_sys::pg_any_to_server(value.as_ptr(), length, utf8));
        let arguments = [name.into_datum(), value.to_bytes().into_datum(), true.into_datum()];
        pgrx::direct_function_call_as_datum(pg_sys::set_config_by_name, &arguments);
    }
}

/// Has PostgreSQL refuse settings under this prefix that nobody has defined.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: the prefix is a C string that lives for ever.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}
