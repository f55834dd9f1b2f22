//! Queries, by the server programming interface. The files that may use it are those in MAY_QUERY of the
//! Makefile.
//!
//! Values that come from a query live until its [`Session`] ends. After an error the end of the
//! (sub)transaction finishes SPI.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum, Oid};

use super::call::Rows as ResultRows;
use super::types::{Made, Source, SqlType, Text, Value as TypedValue};
use super::value::Value;
use crate::pg::error::Error;

/// SPI is connected.
pub struct Session(());

/// Connects SPI for the time of `work`.
pub fn session<R>(work: impl FnOnce(&Session) -> R) -> R {
    // SAFETY: finished below, or after an error by the end of the (sub)transaction.
    unsafe { pg_sys::SPI_connect() };
    let result = work(&Session(()));
    // SAFETY: connected above; what is in use of it borrows the session.
    unsafe { pg_sys::SPI_finish() };
    result
}

/// Runs `work` under a snapshot of this moment, whatever the transaction's is.
pub fn with_latest_snapshot<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: popped below, or after an error by the end of the (sub)transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let result = work();
    // SAFETY: pushed above.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

/// Whether a query sees what its own statement has done so far, and may write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It reads under the active snapshot.
    ReadOnly,
    /// It may write, or lock rows.
    ReadWrite,
}

impl Session {
    /// A parameter of a query.
    pub fn value<T: Made>(&self, from: Source<T>) -> Value<'_> {
        Value::new::<T>(from)
    }

    /// Prepares a query with parameters of these types.
    pub fn prepare(&self, query: &CStr, types: &[Oid]) -> Plan<'_> {
        // SAFETY: the query is a C string; it and the types are copied.
        let plan = unsafe {
            let mut types = types.to_vec();
            let count = i32::try_from(types.len()).unwrap_or(0);
            pg_sys::SPI_prepare(query.as_ptr(), count, types.as_mut_ptr())
        };
        Plan { plan, session: PhantomData }
    }

    /// Prepares a query with one plan for all values of its parameters, to be used in later sessions.
    pub fn keep(&self, query: &CStr, types: &[Oid]) -> KeptPlan {
        // SAFETY: as `prepare`; a plan that is kept belongs to nobody but us.
        unsafe {
            let mut types = types.to_vec();
            let plan = pg_sys::SPI_prepare_cursor(
                query.as_ptr(),
                i32::try_from(types.len()).unwrap_or(0),
                types.as_mut_ptr(),
                pg_sys::CURSOR_OPT_GENERIC_PLAN.cast_signed(),
            );
            pg_sys::SPI_keepplan(plan);
            KeptPlan(plan)
        }
    }

    /// Runs a plan that was kept.
    pub fn execute(
        &self,
        plan: &KeptPlan,
        parameters: &[Option<Value<'_>>],
        mode: Mode,
    ) -> Rows<'_> {
        Plan { plan: plan.0, session: PhantomData }.execute(parameters, mode, 1)
    }
}

/// A query that is prepared.
pub struct Plan<'s> {
    plan: pg_sys::SPIPlanPtr,
    session: PhantomData<&'s Session>,
}

impl<'s> Plan<'s> {
    /// Runs it; gives at most `most` rows, 0 for all.
    pub fn execute(&self, parameters: &[Option<Value<'_>>], mode: Mode, most: u16) -> Rows<'s> {
        let (mut values, nulls) = self.arguments(parameters);
        // SAFETY: as many values of the same types as the plan has parameters.
        unsafe {
            let read_only = mode == Mode::ReadOnly;
            let nulls = nulls.as_ptr().cast::<c_char>();
            let values = values.as_mut_ptr();
            let status = pg_sys::SPI_execute_plan(self.plan, values, nulls, read_only, most.into());
            let has_rows = status == pg_sys::SPI_OK_SELECT.cast_signed();
            let count = if has_rows { pg_sys::SPI_processed } else { 0 };
            Rows {
                table: pg_sys::SPI_tuptable,
                count: usize::try_from(count).unwrap_or(0),
                session: PhantomData,
            }
        }
    }

    /// Runs it, and puts all its rows into the result of a function before the first is given out, so
    /// that no query is left open.
    pub fn fetch_into(&self, result: &ResultRows<'_>) {
        let (mut values, nulls) = self.arguments(&[]);
        // SAFETY: a query without parameters; each page of rows is freed once it is copied.
        unsafe {
            let nulls = nulls.as_ptr().cast::<c_char>();
            let values = values.as_mut_ptr();
            let cursor = pg_sys::SPI_cursor_open(std::ptr::null(), self.plan, values, nulls, false);
            loop {
                pg_sys::SPI_cursor_fetch(cursor, true, 1000);
                let rows = pg_sys::SPI_tuptable;
                let count = usize::try_from(pg_sys::SPI_processed).unwrap_or(0);
                if count == 0 {
                    break;
                }
                result.put((*rows).tupdesc, std::slice::from_raw_parts((*rows).vals, count));
                pg_sys::SPI_freetuptable(rows);
            }
            pg_sys::SPI_cursor_close(cursor);
        }
    }

    /// How many commands its text holds.
    pub fn commands(&self) -> usize {
        // SAFETY: a plan has a list of sources, which counts them.
        let count = unsafe { pg_sys::list_length(pg_sys::SPI_plan_get_plan_sources(self.plan)) };
        usize::try_from(count).unwrap_or(0)
    }

    /// The relations that its first command names.
    pub fn relations(&self) -> Vec<Oid> {
        if self.commands() == 0 {
            return Vec::new();
        }
        // SAFETY: a plan of one command at least; its list of relations is one of oids.
        unsafe {
            let sources = pg_sys::SPI_plan_get_plan_sources(self.plan);
            let source = (*(*sources).elements).ptr_value.cast::<pg_sys::CachedPlanSource>();
            let relations = (*source).relationOids;
            (0..usize::try_from(pg_sys::list_length(relations)).unwrap_or(0))
                .map(|at| (*(*relations).elements.add(at)).oid_value)
                .collect()
        }
    }

    /// The values of parameters and which are NULL, as SPI takes them.
    fn arguments(&self, parameters: &[Option<Value<'_>>]) -> (Vec<Datum>, Vec<u8>) {
        let count = i32::try_from(parameters.len()).unwrap_or(i32::MAX);
        let is_of_type = |(at, parameter): (i32, &Option<Value<'_>>)| {
            // SAFETY: the plan has that many parameters.
            let kind = unsafe { pg_sys::SPI_getargtypeid(self.plan, at) };
            parameter.is_none_or(|value| value.kind() == kind)
        };
        // SAFETY: of a plan.
        if unsafe { pg_sys::SPI_getargcount(self.plan) } != count
            || !(0..).zip(parameters).all(is_of_type)
        {
            Error::Parameters.raise();
        }
        parameters
            .iter()
            .map(|parameter| match parameter {
                Some(value) => (value.datum(), b' '),
                None => (Datum::null(), b'n'),
            })
            .unzip()
    }
}

/// A plan that was kept. It is in memory until it is freed.
pub struct KeptPlan(pg_sys::SPIPlanPtr);

impl KeptPlan {
    /// Whether nothing that it names was renamed or replaced.
    pub fn is_valid(&self) -> bool {
        // SAFETY: a plan that is kept.
        unsafe { pg_sys::SPI_plan_is_valid(self.0) }
    }

    /// Frees its memory.
    pub fn free(self) {
        // SAFETY: a plan that is kept; nobody uses it, as that borrows it.
        unsafe { pg_sys::SPI_freeplan(self.0) };
    }
}

/// The rows of a query.
pub struct Rows<'s> {
    table: *mut pg_sys::SPITupleTable,
    count: usize,
    session: PhantomData<&'s Session>,
}

impl<'s> Rows<'s> {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A column of the first row, numbered from 1; `None` for NULL, or without a row.
    pub fn value(&self, column: i32) -> Option<Value<'s>> {
        if self.count == 0 || self.table.is_null() {
            return None;
        }
        let mut is_null = false;
        // SAFETY: there is a row, which lives as long as the session. SPI gives no value, and
        // InvalidOid as type, for a column that there is not.
        unsafe {
            let (row, columns) = (*(*self.table).vals, (*self.table).tupdesc);
            let kind = pg_sys::SPI_gettypeid(columns, column);
            if kind == pg_sys::InvalidOid {
                return None;
            }
            let datum = pg_sys::SPI_getbinval(row, columns, column, &mut is_null);
            (!is_null).then(|| Value::of(datum, kind))
        }
    }

    /// As [`Self::value`], of a known type.
    pub fn get<T: SqlType>(&self, column: i32) -> Option<TypedValue<'s, T>> {
        self.value(column)?.get::<T>()
    }

    /// As [`Self::value`], a text as a C string.
    pub fn c_string(&self, column: i32) -> Option<CString> {
        CString::new(self.get::<Text>(column)?).ok()
    }
}
