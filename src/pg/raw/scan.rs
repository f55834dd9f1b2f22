//! Scans of tables of ours under the snapshot of the running statement.
//!
//! Without SPI: no transaction id on a standby, no plan, no privileges of the caller's involved.

use std::marker::PhantomData;
use std::rc::Rc;

use pgrx::pg_sys::{self, Datum};

use super::datum::made;
use super::relation::{Column, Layout, Part, Relation, open};
use super::types::{Bytea, SqlType, Text, Uuid, Value};
use super::varlena::bytes;
use crate::pg::error::Error;

/// How a column compares with a value.
#[derive(Clone, Copy)]
enum Comparison {
    /// It is the value.
    Equal,
    /// It is greater.
    Greater,
    /// It is the value or less.
    AtMost,
}

impl Comparison {
    const fn strategy(self) -> u32 {
        match self {
            Self::Equal => pg_sys::BTEqualStrategyNumber,
            Self::Greater => pg_sys::BTGreaterStrategyNumber,
            Self::AtMost => pg_sys::BTLessEqualStrategyNumber,
        }
    }

    /// The function of the operator for columns of the types by which rows are found.
    fn function(self, kind: pg_sys::Oid) -> u32 {
        match (kind, self) {
            (pg_sys::TEXTOID, Self::Equal) => pg_sys::F_TEXTEQ,
            (pg_sys::TEXTOID, Self::Greater) => pg_sys::F_TEXT_GT,
            (pg_sys::TEXTOID, Self::AtMost) => pg_sys::F_TEXT_LE,
            (pg_sys::BYTEAOID, Self::Equal) => pg_sys::F_BYTEAEQ,
            (pg_sys::BYTEAOID, Self::Greater) => pg_sys::F_BYTEAGT,
            (pg_sys::BYTEAOID, Self::AtMost) => pg_sys::F_BYTEALE,
            (_, Self::Equal) => pg_sys::F_UUID_EQ,
            (_, Self::Greater) => pg_sys::F_UUID_GT,
            (_, Self::AtMost) => pg_sys::F_UUID_LE,
        }
    }
}

/// A row of a table.
pub struct Row<R> {
    slot: *mut pg_sys::TupleTableSlot,
    layout: Rc<Layout>,
    columns: PhantomData<R>,
}

impl<R: Relation> Row<R> {
    /// Has PostgreSQL find where the columns are in the row; columns that were added after it was
    /// written have their default.
    fn take_out(&self) {
        // SAFETY: the slot holds a row of the table of the layout.
        unsafe { pg_sys::slot_getsomeattrs_int(self.slot, self.layout.width) }
    }

    /// The value of a column; `None` for NULL.
    pub fn get<T: SqlType>(&self, column: Column<R, T>) -> Option<Value<'_, T>> {
        // SAFETY: the layout has found the column to be of this type; the value lives in the slot, or
        // detoasted in the memory context of the call, and `self` does not outlive either.
        self.datum(column).map(|datum| unsafe { T::read(datum) })
    }

    /// Whether a column is NULL.
    pub fn is_null<T: SqlType>(&self, column: Column<R, T>) -> bool {
        self.datum(column).is_none()
    }

    fn datum<T: SqlType>(&self, column: Column<R, T>) -> Option<Datum> {
        let position = self.layout.positions[column.number()];
        // SAFETY: `Scan` took all these columns out of the row, which the slot owns.
        unsafe {
            let null = *(*self.slot).tts_isnull.add(position);
            (!null).then(|| *(*self.slot).tts_values.add(position))
        }
    }
}

impl<R> Drop for Row<R> {
    fn drop(&mut self) {
        // While an error unwinds, the slot goes with its memory context instead: PostgreSQL must
        // not be called then.
        if !std::thread::panicking() {
            // SAFETY: made by `table_slot_create` and dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}

/// The table or index that a scan goes along.
enum Way {
    Table(pg_sys::TableScanDesc),
    Index(pg_sys::IndexScanDesc),
}

/// A mark of the table, and of the values that rows are looked for by.
type Of<'v, R> = PhantomData<(fn() -> R, &'v ())>;

/// A condition that rows are looked for by: how a column compares with a value, which lives as long as `'v`.
pub struct Condition<'v, R> {
    column: usize,
    comparison: Comparison,
    value: Datum,
    of: Of<'v, R>,
}

impl<'v, R: Relation> Condition<'v, R> {
    fn new<T: SqlType>(column: Column<R, T>, comparison: Comparison, value: Datum) -> Self {
        Self { column: column.number(), comparison, value, of: PhantomData }
    }
}

impl<R: Relation> Column<R, Uuid> {
    /// It is this one.
    pub fn equals(self, value: &uuid::Uuid) -> Condition<'_, R> {
        Condition::new(self, Comparison::Equal, Datum::from(value.as_bytes().as_ptr()))
    }

    /// It comes after this one.
    pub fn is_after(self, value: &uuid::Uuid) -> Condition<'_, R> {
        Condition::new(self, Comparison::Greater, Datum::from(value.as_bytes().as_ptr()))
    }
}

impl<R: Relation> Column<R, Text> {
    /// It is this text, which is copied.
    pub fn equals<'v>(self, value: &[u8]) -> Condition<'v, R> {
        // A text is a varlena as a bytea is.
        Condition::new(self, Comparison::Equal, made(value))
    }

    /// It is this text, which is copied, or less.
    pub fn is_at_most<'v>(self, value: &[u8]) -> Condition<'v, R> {
        Condition::new(self, Comparison::AtMost, made(value))
    }
}

impl<R: Relation> Column<R, Bytea> {
    /// It is these bytes, which are copied.
    pub fn equals<'v>(self, value: &[u8]) -> Condition<'v, R> {
        Condition::new(self, Comparison::Equal, made(value))
    }
}

/// A scan of a table, by `COUNT` conditions at a time on the first columns of an index. After an error
/// the resource owner releases what it has open.
pub struct Scan<'v, R, const COUNT: usize = 0> {
    table: pg_sys::Relation,
    layout: Rc<Layout>,
    way: Way,
    /// The columns of the index.
    on: &'static [usize],
    of: Of<'v, R>,
}

impl<R: Relation> Scan<'_, R> {
    /// Of all rows.
    pub fn all() -> Self {
        let (table, layout) = open::<R>();
        // SAFETY: the usual course of a scan (access/tableam.h); the table is closed by `drop`.
        unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::table_beginscan(table, snapshot, 0, std::ptr::null_mut());
            Self { table, layout, way: Way::Table(scan), on: &[], of: PhantomData }
        }
    }
}

impl<'v, R: Relation> Scan<'v, R, 1> {
    /// Of the rows that meet a condition on a column that begins an index.
    pub fn by(condition: Condition<'v, R>) -> Self {
        let mut scan = Self::along_number(condition.column);
        scan.seek([condition]);
        scan
    }
}

impl<'v, R: Relation, const COUNT: usize> Scan<'v, R, COUNT> {
    /// Along the index that begins with a column, for one search after another: it has no rows before
    /// the first [`Self::seek`].
    pub fn along<T: SqlType>(column: Column<R, T>) -> Self {
        Self::along_number(column.number())
    }

    fn along_number(column: usize) -> Self {
        let (table, layout) = open::<R>();
        let begins = |index: &Part<&[usize]>| index.kind.first() == Some(&column);
        let number = R::INDEXES.iter().position(begins);
        let Some((on, index)) =
            number.and_then(|at| R::INDEXES[at].kind.get(..COUNT).zip(layout.indexes.get(at)))
        else {
            Error::OtherVersion(R::TABLE.missing).raise();
        };
        // SAFETY: the usual course of an index scan (access/genam.h), in an index that `Layout::find`
        // has looked at; table and index are closed by `drop`.
        unsafe {
            let index = pg_sys::index_open(*index, pg_sys::AccessShareLock.cast_signed());
            let scan = pg_sys::index_beginscan(
                table,
                index,
                pg_sys::GetActiveSnapshot(),
                #[cfg(feature = "pg18")]
                std::ptr::null_mut(),
                i32::try_from(COUNT).unwrap_or(0),
                0,
            );
            Self { table, layout, way: Way::Index(scan), on, of: PhantomData }
        }
    }

    /// Begins to look for the rows whose values in the first columns of the index compare so. The
    /// conditions are in the order of these columns.
    pub fn seek(&mut self, conditions: [Condition<'v, R>; COUNT]) {
        let Way::Index(scan) = self.way else { return };
        let mut keys = [pg_sys::ScanKeyData::default(); COUNT];
        // SAFETY: the conditions are on the columns of the index, of their types, and their values live
        // until the scan ends; collations are those of the index.
        unsafe {
            let index = (*scan).indexRelation;
            for (at, (key, condition)) in keys.iter_mut().zip(conditions).enumerate() {
                if condition.column != self.on[at] {
                    Error::OtherVersion(R::TABLE.missing).raise();
                }
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    0,
                    i16::try_from(at + 1).unwrap_or(1),
                    condition.comparison.strategy().try_into().unwrap_or(0),
                    pg_sys::InvalidOid,
                    *(*index).rd_indcollation.add(at),
                    condition.comparison.function(*(*index).rd_opcintype.add(at)).into(),
                    condition.value,
                );
            }
            let count = i32::try_from(COUNT).unwrap_or(0);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        }
    }

    /// The greatest text in a column, the first of the index, that meets the conditions, whether of a
    /// row that the snapshot sees or not.
    pub fn last_text<T>(
        &mut self,
        column: Column<R, Text>,
        conditions: [Condition<'v, R>; COUNT],
        read: impl FnOnce(&[u8]) -> T,
    ) -> Option<T> {
        let Way::Index(scan) = self.way else { return None };
        if self.on.first() != Some(&column.number()) {
            return None;
        }
        // SAFETY: the first column of the index is a text; an index has at most as many columns.
        unsafe {
            (*scan).xs_want_itup = true;
            self.seek(conditions);
            let backward = pg_sys::ScanDirection::BackwardScanDirection;
            if pg_sys::index_getnext_tid(scan, backward).is_null() {
                return None;
            }
            let mut values = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::index_deform_tuple(
                (*scan).xs_itup,
                (*scan).xs_itupdesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            (!nulls[0]).then(|| read(bytes(values[0])))
        }
    }

    /// The next row: a copy, so that no page stays pinned.
    pub fn copy(&mut self) -> Option<Row<R>> {
        let row = self.slot();
        if !self.fetch(&row) {
            return None;
        }
        // SAFETY: the slot holds a row.
        unsafe { pg_sys::ExecMaterializeSlot(row.slot) };
        row.take_out();
        Some(row)
    }

    /// Works on each row in turn.
    pub fn each(mut self, mut work: impl FnMut(&Row<R>)) {
        let row = self.slot();
        while self.fetch(&row) {
            row.take_out();
            work(&row);
        }
    }

    fn slot(&self) -> Row<R> {
        // SAFETY: the table is open.
        let slot = unsafe { pg_sys::table_slot_create(self.table, std::ptr::null_mut()) };
        Row { slot, layout: Rc::clone(&self.layout), columns: PhantomData }
    }

    fn fetch(&mut self, row: &Row<R>) -> bool {
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        // SAFETY: scan and slot are of the same table.
        unsafe {
            match self.way {
                Way::Table(scan) => pg_sys::table_scan_getnextslot(scan, forward, row.slot),
                Way::Index(scan) => pg_sys::index_getnext_slot(scan, forward, row.slot),
            }
        }
    }
}

impl<R, const COUNT: usize> Drop for Scan<'_, R, COUNT> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let lock = pg_sys::AccessShareLock.cast_signed();
        // SAFETY: opened by `all` or `along`, and dropped once.
        unsafe {
            match self.way {
                Way::Table(scan) => pg_sys::table_endscan(scan),
                Way::Index(scan) => {
                    let index = (*scan).indexRelation;
                    pg_sys::index_endscan(scan);
                    pg_sys::index_close(index, lock);
                }
            }
            pg_sys::table_close(self.table, lock);
        }
    }
}
