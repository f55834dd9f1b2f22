//! Functions that SQL calls, in PostgreSQL's version-1 calling convention.
//!
//! A function is declared once, with the SQL types of its arguments and its result:
//!
//! ```ignore
//! sql_function! {
//!     /// The state of a key.
//!     fn has_scope(scope: Option<Text>) -> Bool { … }
//! }
//! ```
//!
//! The body sees an argument as [`Value`](super::types::Value) of its type, `Option` where it may be
//! NULL, and gives what its result type is made of. An argument that is no `Option` makes the function
//! STRICT. tests/sql/signatures.sql compares all this with the catalog.

use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum};

use super::datum::Make;
use super::markers::{Name, Named};
use super::passing;

pub use super::passing::Declared;
use crate::pg::error::Error;

/// Exports functions to SQL under their names. With `name(call; …)` the body has the [`Call`] too.
macro_rules! sql_function {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block
    )+) => {$(
        $(#[$doc])*
        fn $name(
            $($argument: $crate::pg::raw::call::Taken<'_, $type>),*
        ) -> $crate::pg::raw::call::Given<$result> $body

        $crate::pg::raw::call::export!($name, [$($type),*], $result, |arguments, _call| {
            $name($(arguments.next::<$type>()?),*)
        });
    )+};
    ($(
        $(#[$doc:meta])*
        fn $name:ident($call:ident; $($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block
    )+) => {$(
        $(#[$doc])*
        fn $name(
            $call: &$crate::pg::raw::call::Call<'_>,
            $($argument: $crate::pg::raw::call::Taken<'_, $type>),*
        ) -> $crate::pg::raw::call::Given<$result> $body

        $crate::pg::raw::call::export!($name, [$($type),*], $result, |arguments, call| {
            $name(call, $(arguments.next::<$type>()?),*)
        });
    )+};
}
pub(in crate::pg) use sql_function;

/// Exports one function: itself, its calling convention, and what it is declared as.
macro_rules! export {
    ($name:ident, [$($type:ty),*], $result:ty, |$arguments:ident, $call:ident| $run:block) => {
        #[allow(unsafe_code, reason = "PostgreSQL finds these by their names")]
        #[allow(improper_ctypes_definitions, reason = "only we call for the signature")]
        const _: () = {
            use $crate::pg::raw::call;

            #[unsafe(export_name = stringify!($name))]
            extern "C-unwind" fn function(call: call::Call<'_>) -> call::Result {
                call.run::<$result>(|$arguments, $call| {
                    let _ = (&$arguments, $call);
                    Some($run)
                })
            }

            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            extern "C-unwind" fn convention() -> &'static call::Convention {
                &call::CONVENTION
            }

            #[unsafe(export_name = concat!("api_key_signature_", stringify!($name)))]
            extern "C-unwind" fn signature() -> &'static call::Signature {
                static SIGNATURE: call::Signature = call::Signature {
                    arguments: &[$(call::argument::<$type>()),*],
                    result: call::result::<$result>(),
                };
                &SIGNATURE
            }
        };
    };
}
pub(in crate::pg) use export;

/// The record that `pg_finfo_…` gives PostgreSQL.
#[repr(transparent)]
pub struct Convention(pg_sys::Pg_finfo_record);

/// The only one there is.
pub static CONVENTION: Convention = Convention(pg_sys::Pg_finfo_record { api_version: 1 });

/// The declaration of a function.
pub struct Signature {
    /// The types of its arguments.
    pub arguments: &'static [Declared],
    /// The type of its result.
    pub result: Declared,
}

/// The type of an argument, or `Option` of it.
pub trait Argument: passing::Argument {}
impl<T: passing::Argument> Argument for T {}

/// The type of a result, or `Option` of it.
pub trait Return: passing::Return {}
impl<T: passing::Return> Return for T {}

/// The argument as the body of a function sees it.
pub type Taken<'a, T> = <T as passing::Argument>::Value<'a>;

/// The result as the body of a function gives it.
pub type Given<T> = <T as passing::Return>::From;

/// How an argument is declared.
pub const fn argument<T: Argument>() -> Declared {
    <T as passing::Argument>::DECLARED
}

/// How a result is declared.
pub const fn result<T: Return>() -> Declared {
    <T as passing::Return>::DECLARED
}

/// A call of a function that SQL has made. PostgreSQL alone makes one, and it ends with the function.
#[repr(transparent)]
pub struct Call<'a> {
    info: pg_sys::FunctionCallInfo,
    call: PhantomData<&'a ()>,
}

/// The result that a function gives PostgreSQL.
#[repr(transparent)]
pub struct Result(Datum);

impl<'a> Call<'a> {
    /// Runs a function; NULL if it does not want these arguments. For [`export!`].
    pub fn run<R: Return>(
        self,
        function: impl FnOnce(&mut Arguments<'_, 'a>, &Self) -> Option<Given<R>>,
    ) -> Result {
        // SAFETY: this is the outermost frame of Rust; PostgreSQL's errors pass it, ours and panics
        // become such.
        unsafe {
            pg_sys::panic::pgrx_extern_c_guard(std::panic::AssertUnwindSafe(|| {
                let result = function(&mut Arguments { call: &self, next: 0 }, &self);
                let result = result.and_then(R::give);
                (*self.info).isnull = result.is_none();
                Result(result.unwrap_or(Datum::null()))
            }))
        }
    }

    /// The call as PostgreSQL describes it.
    pub(super) fn info(&self) -> pg_sys::FunctionCallInfo {
        self.info
    }

    /// The oid of the function.
    pub fn function(&self) -> pg_sys::Oid {
        // SAFETY: of a running call; a call from an expression or a trigger has it.
        unsafe { (*self.info).flinfo.as_ref() }.map_or(pg_sys::InvalidOid, |info| info.fn_oid)
    }

    /// Has the result be a uuid that is copied once for each place in a statement that calls: policies
    /// call for each row.
    pub fn shared_uuid(&self, uuid: uuid::Uuid) -> SharedUuid {
        let bytes = uuid.into_bytes();
        // SAFETY: `fn_extra` is the function's own, null at first; its context lives as long as the
        // expression. Another value gets a place of its own, as results with the old one may be in
        // use.
        unsafe {
            let Some(function) = (*self.info).flinfo.as_mut() else {
                return SharedUuid(super::datum::made(pgrx::Uuid::from_bytes(bytes)));
            };
            let place = &mut function.fn_extra;
            if place.is_null() || *place.cast::<[u8; 16]>() != bytes {
                *place = pg_sys::MemoryContextAlloc(function.fn_mcxt, bytes.len());
                place.cast::<[u8; 16]>().write(bytes);
            }
            SharedUuid(Datum::from(*place))
        }
    }
}

/// See [`Call::shared_uuid`].
pub struct SharedUuid(Datum);

/// The type of a result that is a [`SharedUuid`].
pub struct Uuid;

impl Named for Uuid {
    const NAME: Name = Name::BuiltIn(pg_sys::UUIDOID);
}

impl Make for Uuid {
    type From = SharedUuid;

    fn make(from: SharedUuid) -> Datum {
        from.0
    }
}

/// The arguments of a call, one after the other.
pub struct Arguments<'c, 'a> {
    call: &'c Call<'a>,
    next: usize,
}

impl<'a> Arguments<'_, 'a> {
    /// The next one, which sql/ declares of this type.
    pub fn next<T: Argument>(&mut self) -> Option<Taken<'a, T>> {
        let number = self.next;
        self.next += 1;
        // SAFETY: the call has as many arguments as the function was created with, of these types;
        // tests/sql/signatures.sql holds sql/ to it. They live as long as the call.
        unsafe {
            let datum = if number < usize::try_from((*self.call.info).nargs).unwrap_or(0) {
                pgrx::fcinfo::pg_getarg_datum(self.call.info, number)
            } else {
                None
            };
            T::take(datum)
        }
    }
}

/// The rows that a function which returns a set gives.
pub struct Rows<'c> {
    store: *mut pg_sys::Tuplestorestate,
    columns: pg_sys::TupleDesc,
    call: PhantomData<&'c ()>,
}

impl Call<'_> {
    /// Begins the result of a function that returns a set. It is declared as one, and gives NULL itself.
    pub fn rows(&self) -> Rows<'_> {
        // SAFETY: of a running call; PostgreSQL raises an error where no set is wanted.
        unsafe {
            pg_sys::InitMaterializedSRF(self.info, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
            let result = (*self.info).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Rows { store: (*result).setResult, columns: (*result).setDesc, call: PhantomData }
        }
    }
}

impl Rows<'_> {
    /// Copies rows.
    ///
    /// # Safety
    /// Rows with these columns.
    pub(super) unsafe fn put(&self, columns: pg_sys::TupleDesc, rows: &[pg_sys::HeapTuple]) {
        // SAFETY: by the caller's promise, and of the columns that the function is declared to give.
        unsafe {
            let types = |columns: pg_sys::TupleDesc| -> Vec<pg_sys::Oid> {
                (1..=(*columns).natts).map(|at| pg_sys::SPI_gettypeid(columns, at)).collect()
            };
            if types(columns) != types(self.columns) {
                Error::Parameters.raise();
            }
            for row in rows {
                pg_sys::tuplestore_puttuple(self.store, *row);
            }
        }
    }
}
