//! The type `api_key.id` of sql/06_id.sql: a uuid whose errors do not repeat the text.

use crate::core::id;
use crate::pg::error::Error;
use crate::pg::raw::call::sql_function;
use crate::pg::raw::types::{CString, Id};

sql_function! {
    /// The input function. A text that is no id may be the text of a key, so the error repeats nothing of it.
    fn id_in(text: CString) -> Id {
        id::parse(text.to_bytes()).map_or_else(
            || Error::InvalidId.raise(),
            uuid::Uuid::from_bytes,
        )
    }
}
