//! How the arguments and the result of a function pass between SQL and Rust. This module is private to
//! the room, as datums are.

use pgrx::pg_sys::Datum;

use super::datum::{Make, Read};
use super::markers::{Name, Named};

/// A type in a signature.
#[derive(Clone, Copy)]
pub struct Declared {
    /// The type.
    pub name: Name,
    /// Whether it may be NULL.
    pub nullable: bool,
}

/// An argument of a function: a type, or `Option` of it.
pub trait Argument {
    /// Its declaration.
    const DECLARED: Declared;
    /// The argument as the body sees it.
    type Value<'a>;

    /// `None` where a function that is STRICT is given NULL.
    ///
    /// # Safety
    /// The datum is of the type, and lives as long as `'a`.
    unsafe fn take<'a>(datum: Option<Datum>) -> Option<Self::Value<'a>>;
}

impl<T: Read> Argument for T {
    const DECLARED: Declared = Declared { name: T::NAME, nullable: false };
    type Value<'a> = T::Value<'a>;

    unsafe fn take<'a>(datum: Option<Datum>) -> Option<Self::Value<'a>> {
        // SAFETY: by the caller's promise.
        datum.map(|datum| unsafe { T::read(datum) })
    }
}

impl<T: Read> Argument for Option<T> {
    const DECLARED: Declared = Declared { name: T::NAME, nullable: true };
    type Value<'a> = Option<T::Value<'a>>;

    unsafe fn take<'a>(datum: Option<Datum>) -> Option<Self::Value<'a>> {
        // SAFETY: by the caller's promise.
        Some(datum.map(|datum| unsafe { T::read(datum) }))
    }
}

/// The result of a function: a type, or `Option` of it.
pub trait Return {
    /// Its declaration.
    const DECLARED: Declared;
    /// The result as the body gives it.
    type From;

    /// The datum of it; `None` for NULL.
    fn give(from: Self::From) -> Option<Datum>;
}

impl<T: Make> Return for T {
    const DECLARED: Declared = Declared { name: <T as Named>::NAME, nullable: false };
    type From = T::From;

    fn give(from: Self::From) -> Option<Datum> {
        Some(T::make(from))
    }
}

impl<T: Make> Return for Option<T> {
    const DECLARED: Declared = Declared { name: <T as Named>::NAME, nullable: true };
    type From = Option<T::From>;

    fn give(from: Self::From) -> Option<Datum> {
        from.map(T::make)
    }
}
