//! How datums are read and made, type by type. This module is private to the room, so that nobody
//! outside of it holds a datum.

use std::ffi::CStr;

use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum};

use super::inet;
use super::markers::{self as types, Name, Named};
use super::varlena::{bytes, elements};

/// A type that is read.
pub trait Read: Named {
    /// A value of it, which lives as long as what it is read of.
    type Value<'a>;

    /// Reads a value.
    ///
    /// # Safety
    /// The datum is of this type, not NULL, and lives as long as `'a`.
    unsafe fn read<'a>(datum: Datum) -> Self::Value<'a>;
}

/// A type that is made.
pub trait Make: Named {
    /// The Rust value that it is made of.
    type From;

    /// Makes a value in the current memory context.
    fn make(from: Self::From) -> Datum;
}

/// A datum of what PostgreSQL or pgrx makes one of without fail.
pub fn made(from: impl IntoDatum) -> Datum {
    from.into_datum().unwrap_or(Datum::null())
}

macro_rules! read {
    ($type:ident as $value:ty: $datum:ident => $read:expr) => {
        impl Read for types::$type {
            type Value<'a> = $value;

            unsafe fn read<'a>($datum: Datum) -> Self::Value<'a> {
                // SAFETY: by the caller's promise.
                #[allow(unused_unsafe, reason = "values that are passed as they are need none")]
                unsafe {
                    $read
                }
            }
        }
    };
}

macro_rules! make {
    ($type:ident from $from:ty: $value:ident => $make:expr) => {
        impl Make for types::$type {
            type From = $from;

            fn make($value: $from) -> Datum {
                $make
            }
        }
    };
}

read!(Text as &'a [u8]: datum => bytes(datum));
read!(Bytea as &'a [u8]: datum => bytes(datum));
read!(Jsonb as &'a [u8]: datum => bytes(datum));
read!(Str as &'a str: datum => <&str>::from_datum(datum, false).unwrap_or_default());
read!(CString as &'a CStr: datum => CStr::from_ptr(datum.cast_mut_ptr()));
read!(Bool as bool: datum => datum.value() != 0);
read!(Int4 as i32: datum => i32::from_datum(datum, false).unwrap_or_default());
read!(Int8 as i64: datum => datum.value().cast_signed() as i64);
read!(Timestamp as i64: datum => datum.value().cast_signed() as i64);
// A uuid is 16 bytes by reference.
read!(Uuid as uuid::Uuid: datum => uuid::Uuid::from_bytes(*datum.cast_mut_ptr::<[u8; 16]>()));
read!(Inet as inet::Inet<'a>: datum => inet::Inet::of(datum));
read!(ObjectId as types::Oid: datum => oid(datum));
read!(Regclass as types::Oid: datum => oid(datum));

fn oid(datum: Datum) -> types::Oid {
    types::Oid::from(u32::try_from(datum.value() & 0xffff_ffff).unwrap_or(0))
}

/// A type of which arrays are read.
pub trait Element: Read {
    /// The type of the arrays.
    const ARRAY: types::Oid;
}

impl Element for types::Text {
    const ARRAY: types::Oid = pg_sys::TEXTARRAYOID;
}

impl Element for types::Inet {
    const ARRAY: types::Oid = pg_sys::INETARRAYOID;
}

impl Element for types::Uuid {
    const ARRAY: types::Oid = pg_sys::UUIDARRAYOID;
}

impl<T: Element> Named for types::Array<T> {
    const NAME: Name = Name::BuiltIn(T::ARRAY);
}

impl<T: Element> Read for types::Array<T> {
    type Value<'a> = Vec<Option<T::Value<'a>>>;

    unsafe fn read<'a>(datum: Datum) -> Self::Value<'a> {
        let Name::BuiltIn(element) = T::NAME else { return Vec::new() };
        // SAFETY: by the caller's promise; elements are parts of the array, detoasted beside it.
        unsafe { elements(datum, element, |element| T::read(element)) }
    }
}

impl Named for types::Id {
    const NAME: Name = Name::Ours("api_key.id");
}

make!(Str from String: text => made(text));
make!(Text from Vec<u8>: text => made(text));
make!(Bool from bool: value => Datum::from(value));
make!(Int8 from i64: value => Datum::from(value));
make!(Uuid from uuid::Uuid: id => made(pgrx::Uuid::from_bytes(id.into_bytes())));
make!(Id from uuid::Uuid: id => made(pgrx::Uuid::from_bytes(id.into_bytes())));
// A jsonb is a varlena as a bytea is.
make!(Jsonb from Vec<u8>: object => made(object));
make!(JsonValue from serde_json::Value: value => made(pgrx::JsonB(value)));
make!(ObjectId from types::Oid: oid => Datum::from(oid));
make!(Regclass from types::Oid: oid => Datum::from(oid));
make!(Void from (): _nothing => Datum::null());

impl Make for types::Array<types::Text> {
    type From = Vec<String>;

    fn make(texts: Vec<String>) -> Datum {
        made(texts)
    }
}
