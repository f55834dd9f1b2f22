//! PostgreSQL's LIKE.

use pgrx::{IntoDatum, pg_sys};

/// Whether a text is like a pattern, byte by byte.
pub fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    // A bytea is a varlena as a text is.
    text.into_datum().zip(pattern.into_datum()).is_some_and(|(text, pattern)| {
        // SAFETY: textlike takes two texts, and no collation but "C" to compare bytes.
        let is_like = unsafe {
            let collation = pg_sys::C_COLLATION_OID;
            pg_sys::DirectFunctionCall2Coll(Some(textlike), collation, text, pattern)
        };
        is_like.value() != 0
    })
}

/// `textlike` as a function pointer that PostgreSQL can call.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn textlike(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: passes the call on.
    unsafe { pg_sys::textlike(fcinfo) }
}
