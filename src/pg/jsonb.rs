//! jsonb datums. Their bytes are made in Rust, as calling PostgreSQL for each part of them takes
//! longer than all else that a verify does besides reading the row.

use pgrx::{IntoDatum, pg_sys};

use super::array;
use super::error::{Error, OrRaise};
pub use crate::core::jsonb::{Member, Value};
use crate::core::jsonb::{TooLong, object as object_bytes};

impl From<TooLong> for Error {
    fn from(_: TooLong) -> Self {
        Self::TooLong
    }
}

/// An object in the form in which it is a member of another.
pub fn inner(members: &mut [Member<'_>]) -> Vec<u8> {
    object_bytes(members).or_raise()
}

/// A jsonb datum of these members.
pub fn object(members: &mut [Member<'_>]) -> pg_sys::Datum {
    // A jsonb is a varlena as a bytea is.
    inner(members).into_datum().unwrap_or(pg_sys::Datum::null())
}

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
pub fn timestamp<'a>(timestamp: pg_sys::TimestampTz) -> Value<'a> {
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

/// The object of a jsonb datum that holds one.
///
/// # Safety
/// `datum` is such a jsonb, and lives as long as `'a`.
pub unsafe fn stored<'a>(datum: pg_sys::Datum) -> Value<'a> {
    // SAFETY: by the caller's promise; a jsonb is a varlena.
    Value::Object(unsafe { array::text_bytes(datum) })
}
