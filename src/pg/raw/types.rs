//! SQL types: how a value of each is read and made. Arguments, results, columns and parameters are
//! declared by these types, so that none is read as another.

use pgrx::pg_sys;

use super::datum::{Make, Read};
use super::markers::Named;

pub use super::markers::{
    Array, Bool, Bytea, CString, Id, Inet, Int4, Int8, JsonValue, Jsonb, Name, ObjectId, Oid,
    Regclass, Str, Text, Timestamp, Trigger, Uuid, Void,
};

/// A type of SQL whose values can be read.
pub trait SqlType: Read {}
impl<T: Read> SqlType for T {}

/// A type of SQL of which values can be made.
pub trait Made: Make {}
impl<T: Make> Made for T {}

/// The Rust value that a value of a type is made of.
pub type Source<T> = <T as Make>::From;

/// The value of a type as Rust has it.
pub type Value<'a, T> = <T as Read>::Value<'a>;

/// The oid of a type of PostgreSQL.
pub const fn oid<T: Named>() -> Oid {
    match T::NAME {
        Name::BuiltIn(oid) => oid,
        Name::Ours(_) => pg_sys::InvalidOid,
    }
}
