//! The type `api_key.id` of sql/06_id.sql: a uuid whose errors do not repeat the text.

use std::ffi::CStr;

use pgrx::prelude::*;

use super::error::Error;
use crate::core::id;

/// The input function. What is no id may be the text of a key, so the error has nothing of it.
#[pg_extern(sql = false, immutable, parallel_safe)]
fn id_in(text: &CStr) -> pgrx::Uuid {
    let id = id::parse(text.to_bytes()).unwrap_or_else(|| Error::InvalidId.raise());
    pgrx::Uuid::from_bytes(id)
}
