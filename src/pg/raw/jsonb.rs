//! Parts of a jsonb that PostgreSQL makes. The rest is made in Rust (src/core/jsonb.rs), as calling
//! PostgreSQL for each part takes longer than all else that a verify does besides reading the row.

use pgrx::pg_sys;

use crate::core::jsonb::Value;

/// A number.
pub fn integer<'a>(integer: i64) -> Value<'a> {
    // SAFETY: allocated in the memory context of the call, and aligned, so that its header is of
    // four bytes.
    unsafe {
        let numeric = pg_sys::int64_to_numeric(integer).cast::<pg_sys::varlena>();
        let length = pgrx::varlena::varsize_4b(numeric);
        Value::Numeric(std::slice::from_raw_parts(numeric.cast(), length))
    }
}

/// A string: ISO 8601 in the session's time zone, as `to_jsonb(timestamptz)` gives it.
pub fn timestamp<'a>(timestamp: i64) -> Value<'a> {
    // MAXDATELEN is 128.
    let mut buffer = [0; 128];
    // SAFETY: the buffer is of the size that the function asks for, and the datum is of the type
    // that is named.
    let text = unsafe {
        pg_sys::JsonEncodeDateTime(
            buffer.as_mut_ptr(),
            pg_sys::Datum::from(timestamp),
            pg_sys::TIMESTAMPTZOID,
            std::ptr::null(),
        );
        std::ffi::CStr::from_ptr(buffer.as_ptr())
    };
    Value::Owned(text.to_string_lossy().into_owned())
}
