//! SQL types: how a value of each is read and made. Arguments, results, columns and parameters are
//! declared by these types, so that none is read as another.

use std::marker::PhantomData;

use pgrx::pg_sys;

use super::datum::{Make, Named, Read};

pub use pg_sys::Oid;

/// A type of SQL whose values can be read.
pub trait SqlType: Read {}
impl<T: Read> SqlType for T {}

/// A type of SQL of which values can be made.
pub trait Made: Make {}
impl<T: Make> Made for T {}

/// What a value of a type is made of.
pub type Source<T> = <T as Make>::From;

/// The value of a type as Rust has it.
pub type Value<'a, T> = <T as Read>::Value<'a>;

/// How the catalog calls a type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A type of PostgreSQL.
    BuiltIn(Oid),
    /// A type of the extension.
    Ours(&'static str),
}

/// The oid of a type of PostgreSQL.
pub const fn oid<T: Named>() -> Oid {
    match T::NAME {
        Name::BuiltIn(oid) => oid,
        Name::Ours(_) => pg_sys::InvalidOid,
    }
}

macro_rules! types {
    ($($(#[$doc:meta])* $type:ident = $oid:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $type;

        impl super::datum::Named for $type {
            const NAME: Name = Name::BuiltIn(pg_sys::$oid);
        }
    )+};
}

types! {
    /// `text`, its bytes unchecked.
    Text = TEXTOID;
    /// `text` that Rust works with as a `str`.
    Str = TEXTOID;
    /// `cstring`, of input functions.
    CString = CSTRINGOID;
    /// `bytea`.
    Bytea = BYTEAOID;
    /// `boolean`.
    Bool = BOOLOID;
    /// `integer`.
    Int4 = INT4OID;
    /// `bigint`.
    Int8 = INT8OID;
    /// `timestamptz`: microseconds since 2000-01-01 UTC.
    Timestamp = TIMESTAMPTZOID;
    /// `uuid`.
    Uuid = UUIDOID;
    /// `jsonb`: its bytes without the length.
    Jsonb = JSONBOID;
    /// `jsonb` that is made of a `serde_json::Value`.
    JsonValue = JSONBOID;
    /// `inet`.
    Inet = INETOID;
    /// `oid`.
    ObjectId = OIDOID;
    /// `regclass`.
    Regclass = REGCLASSOID;
    /// No result.
    Void = VOIDOID;
    /// The result of a trigger function.
    Trigger = TRIGGEROID;
}

/// An array.
pub struct Array<T>(PhantomData<T>);

/// `api_key.id`.
pub struct Id;
