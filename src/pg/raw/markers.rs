//! The SQL types by name, without a way to read or make their values.

use std::marker::PhantomData;

use pgrx::pg_sys;

pub use pg_sys::Oid;

/// How the catalog calls a type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A type of PostgreSQL.
    BuiltIn(Oid),
    /// A type of the extension.
    Ours(&'static str),
}

/// A type that has a name in the catalog.
pub trait Named {
    /// Its name.
    const NAME: Name;
}

macro_rules! types {
    ($($(#[$doc:meta])* $type:ident = $oid:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $type;

        impl Named for $type {
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
