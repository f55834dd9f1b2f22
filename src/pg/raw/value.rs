//! Values whose type is known to PostgreSQL only: parameters and results of queries, columns of tables of
//! applications.

use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum, Oid};

use super::datum::Make;
use super::types::{SqlType, Value as TypedValue, oid};
use super::varlena::bytes;

/// A value of a type that is known to PostgreSQL only, not NULL.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    datum: Datum,
    kind: Oid,
    value: PhantomData<&'a ()>,
}

impl<'a> Value<'a> {
    /// # Safety
    /// The datum is of this type, and lives as long as `'a`.
    pub(super) unsafe fn of(datum: Datum, kind: Oid) -> Self {
        Self { datum, kind, value: PhantomData }
    }

    /// A value of a type of PostgreSQL, in the current memory context, which lives as long as `'a`.
    pub(super) fn new<T: Make>(from: T::From) -> Self {
        Self { datum: T::make(from), kind: oid::<T>(), value: PhantomData }
    }

    /// Its datum.
    pub(super) fn datum(self) -> Datum {
        self.datum
    }

    /// Its type.
    pub fn kind(self) -> Oid {
        self.kind
    }

    /// The value, if it is of this type.
    pub fn get<T: SqlType>(self) -> Option<TypedValue<'a, T>> {
        // SAFETY: it is of the type.
        (self.kind == oid::<T>()).then(|| unsafe { T::read(self.datum) })
    }

    /// Whether two values are stored alike; when in doubt, not.
    pub fn is_same(self, other: Self) -> bool {
        let fixed = |value: Self, length| {
            // SAFETY: a value of a type of this length that is passed by reference.
            unsafe {
                std::slice::from_raw_parts(value.datum.cast_mut_ptr::<u8>().cast_const(), length)
            }
        };
        let (mut length, mut by_value) = (0, false);
        // SAFETY: a catalog look-up of a type that there is.
        unsafe { pg_sys::get_typlenbyval(self.kind, &mut length, &mut by_value) }
        match usize::try_from(length) {
            _ if self.kind != other.kind => false,
            _ if by_value => self.datum == other.datum,
            Ok(length) => fixed(self, length) == fixed(other, length),
            // SAFETY: -1 is the length of a varlena.
            Err(_) if length == -1 => unsafe { bytes(self.datum) == bytes(other.datum) },
            Err(_) => false,
        }
    }
}
