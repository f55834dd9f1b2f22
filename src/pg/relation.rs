//! Tables of ours, read by scan under the snapshot of the running statement.
//!
//! Without SPI: no transaction id on a standby, no plan, no privileges of the caller's involved.
//! Columns are found by their names, and a table that has not those that this library reads is an
//! error: it may be of another version.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::array;
use super::error::Error;

/// A column that is read, or an index that is used: its name, what it is to be, and what to say if
/// it is not there.
pub struct Part<Kind> {
    /// Its name, or that of the table.
    pub name: &'static CStr,
    /// The type of a column; the numbers of the ones that an index is on.
    pub kind: Kind,
    /// The DETAIL of the error.
    pub missing: &'static str,
}

/// The columns of a table that are read, as an enum that `relation!` makes.
pub trait Columns: Copy + 'static {
    /// Which of `LAYOUTS` is the table's.
    const NUMBER: usize;
    /// The table.
    const TABLE: Part<()>;
    /// Its columns, in the order of the enum.
    const COLUMNS: &'static [Part<pg_sys::Oid>];
    /// Its indexes.
    const INDEXES: &'static [Part<&'static [usize]>];

    /// The number of the column in the enum.
    fn number(self) -> usize;
}

/// Declares a table: its columns with their types, and the indexes by which rows are found.
#[macro_export]
macro_rules! relation {
    (
        $(#[$doc:meta])*
        $columns:ident, $number:literal, $table:literal {
            $($column:ident $name:literal $kind:ident,)+
        }
        $($index:literal on $($indexed:ident),+;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub enum $columns { $($column),+ }

        impl $crate::pg::relation::Columns for $columns {
            const NUMBER: usize = $number;
            const TABLE: $crate::pg::relation::Part<()> = $crate::pg::relation::Part {
                name: $crate::pg::relation::name(concat!($table, "\0")),
                kind: (),
                missing: concat!("There is no table api_key_internal.", $table, "."),
            };
            const COLUMNS: &'static [$crate::pg::relation::Part<pgrx::pg_sys::Oid>] = &[$(
                $crate::pg::relation::Part {
                    name: $crate::pg::relation::name(concat!($name, "\0")),
                    kind: pgrx::pg_sys::$kind,
                    missing: concat!(
                        "The column ", $name, " of api_key_internal.", $table,
                        " is missing, or of another type."
                    ),
                },
            )+];
            const INDEXES: &'static [$crate::pg::relation::Part<&'static [usize]>] = &[$(
                $crate::pg::relation::Part {
                    name: $crate::pg::relation::name(concat!($index, "\0")),
                    kind: &[$($columns::$indexed as usize),+],
                    missing: concat!(
                        "The index ", $index, " of api_key_internal.", $table,
                        " is missing, or another."
                    ),
                },
            )*];

            fn number(self) -> usize {
                self as usize
            }
        }
    };
}

/// A name that ends with NUL, as `relation!` writes it.
pub const fn name(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

/// Where the columns of a table are, and what its indexes are.
struct Layout {
    table: pg_sys::Oid,
    /// Zero-based position of each column.
    positions: Vec<usize>,
    /// How many leading columns have to be taken out of a row.
    width: i32,
    indexes: Vec<pg_sys::Oid>,
}

/// How many tables there are.
const TABLES: usize = 3;

thread_local! {
    /// Found once a backend, and forgotten when PostgreSQL says that the table or one of its indexes
    /// has changed.
    static LAYOUTS: RefCell<[Option<Rc<Layout>>; TABLES]> = const { RefCell::new([const { None }; TABLES]) };
    /// How often PostgreSQL has said that something has changed.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    CHANGES.set(CHANGES.get() + 1);
    LAYOUTS.with_borrow_mut(|layouts| {
        for layout in layouts {
            // InvalidOid means all relations.
            let is_changed = |layout: &mut Rc<Layout>| {
                relation == pg_sys::InvalidOid
                    || layout.table == relation
                    || layout.indexes.contains(&relation)
            };
            layout.take_if(is_changed);
        }
    });
}

/// A table as it is now, as far as this backend has heard.
pub struct Version(Rc<Layout>);

impl Version {
    /// The present one; `None` if it is not known.
    pub fn current<C: Columns>() -> Option<Self> {
        known::<C>().map(Self)
    }

    /// Whether the table has not changed since: what was read of it may be kept so long.
    pub fn is_current<C: Columns>(&self) -> bool {
        known::<C>().is_some_and(|layout| Rc::ptr_eq(&layout, &self.0))
    }
}

fn known<C: Columns>() -> Option<Rc<Layout>> {
    LAYOUTS.with_borrow(|layouts| layouts[C::NUMBER].clone())
}

/// Opens the table and finds its layout, which holds as long as it is open.
unsafe fn open<C: Columns>() -> (pg_sys::Relation, Rc<Layout>) {
    let lock = pg_sys::AccessShareLock.cast_signed();
    // SAFETY: the callback is a function of this library, which is never unloaded. Catalog look-ups
    // by name in a transaction; while the lock is held, no column changes.
    unsafe {
        if !LISTENING.replace(true) {
            pg_sys::CacheRegisterRelcacheCallback(Some(forget), pg_sys::Datum::from(0));
        }
        let table = known::<C>().map_or_else(oid::<C>, |layout| layout.table);
        let table = pg_sys::table_open(table, lock);
        // Opening it has let in what others have changed.
        if let Some(layout) = known::<C>().filter(|layout| layout.table == (*table).rd_id) {
            return (table, layout);
        }
        let before = CHANGES.get();
        let layout = Rc::new(Layout::find::<C>(table));
        // Looking for indexes may have let in more.
        if CHANGES.get() == before {
            LAYOUTS.with_borrow_mut(|layouts| layouts[C::NUMBER] = Some(Rc::clone(&layout)));
        }
        (table, layout)
    }
}

/// The oid of a relation of ours by its name; `InvalidOid` if there is none.
unsafe fn named(name: &CStr) -> pg_sys::Oid {
    // SAFETY: catalog look-ups in a transaction.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"api_key_internal".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    }
}

fn oid<C: Columns>() -> pg_sys::Oid {
    // SAFETY: catalog look-ups, of a call in a transaction.
    let (table, extension) =
        unsafe { (named(C::TABLE.name), pg_sys::get_extension_oid(c"api_key".as_ptr(), true)) };
    match (table, extension) {
        (pg_sys::InvalidOid, pg_sys::InvalidOid) => Error::NotInstalled.raise(),
        (pg_sys::InvalidOid, _) => Error::OtherVersion(C::TABLE.missing).raise(),
        (table, _) => table,
    }
}

impl Layout {
    /// # Safety
    /// The table is open and locked.
    unsafe fn find<C: Columns>(table: pg_sys::Relation) -> Self {
        // SAFETY: by the caller's promise; `attrs` has `natts` columns, and an index, which stays as
        // long as the table is locked, has a first column.
        unsafe {
            // What is no plain table has other ways to be read.
            if (*(*table).rd_rel).relkind.cast_unsigned() != pg_sys::RELKIND_RELATION {
                Error::OtherVersion(C::TABLE.missing).raise();
            }
            let columns = (*table).rd_att;
            let count = usize::try_from((*columns).natts).unwrap_or(0);
            #[cfg(not(feature = "pg18"))]
            let columns = (*columns).attrs.as_ptr();
            #[cfg(feature = "pg18")]
            let columns = pg_sys::TupleDescAttr(columns, 0);
            let columns = std::slice::from_raw_parts(columns, count);
            let position = |part: &Part<pg_sys::Oid>| {
                let is_it = |column: &pg_sys::FormData_pg_attribute| {
                    !column.attisdropped
                        && column.atttypid == part.kind
                        && CStr::from_ptr(column.attname.data.as_ptr()) == part.name
                };
                let found = columns.iter().position(is_it);
                found.unwrap_or_else(|| Error::OtherVersion(part.missing).raise())
            };
            let positions: Vec<usize> = C::COLUMNS.iter().map(position).collect();
            let last = positions.iter().max().map_or(0, |last| last + 1);
            let index = |part: &Part<&[usize]>| {
                let index = named(part.name);
                let on = part.kind.iter().map(|number| positions[*number]);
                if !is_index(index, (*table).rd_id, columns, on) {
                    Error::OtherVersion(part.missing).raise();
                }
                index
            };
            Self {
                table: (*table).rd_id,
                indexes: C::INDEXES.iter().map(index).collect(),
                width: i32::try_from(last).unwrap_or(0),
                positions,
            }
        }
    }
}

/// Whether rows of the table can be found in this index by the columns at these positions.
unsafe fn is_index(
    index: pg_sys::Oid,
    table: pg_sys::Oid,
    columns: &[pg_sys::FormData_pg_attribute],
    on: impl ExactSizeIterator<Item = usize>,
) -> bool {
    // SAFETY: of a relation that there is, with a lock; only what every index has is read, after
    // what tells that it is one.
    unsafe {
        let lock = pg_sys::AccessShareLock.cast_signed();
        if index == pg_sys::InvalidOid {
            return false;
        }
        let relation = pg_sys::relation_open(index, lock);
        let form = (*relation).rd_index;
        let is_it = !form.is_null()
            && (*(*relation).rd_rel).relam == pg_sys::BTREE_AM_OID
            && (*form).indrelid == table
            && (*form).indisvalid
            && usize::try_from((*form).indnkeyatts).is_ok_and(|keys| keys >= on.len())
            && on.enumerate().all(|(at, position)| {
                let kind = columns[position].atttypid;
                usize::try_from(*(*form).indkey.values.as_ptr().add(at)).ok() == Some(position + 1)
                    && *(*relation).rd_opcintype.add(at) == kind
                    && *(*relation).rd_indcollation.add(at) == collation(kind)
            });
        pg_sys::relation_close(relation, lock);
        is_it
    }
}

/// The collation of columns by which rows are found.
fn collation(kind: pg_sys::Oid) -> pg_sys::Oid {
    if kind == pg_sys::TEXTOID { pg_sys::C_COLLATION_OID } else { pg_sys::InvalidOid }
}

/// How a column compares with a value.
#[derive(Clone, Copy)]
pub enum Comparison {
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
pub struct Row<C> {
    slot: *mut pg_sys::TupleTableSlot,
    layout: Rc<Layout>,
    columns: PhantomData<C>,
}

impl<C: Columns> Row<C> {
    /// Has PostgreSQL find where the columns are in the row; columns that were added after it was
    /// written have their default.
    fn take_out(&self) {
        // SAFETY: the slot holds a row of the table of the layout.
        unsafe { pg_sys::slot_getsomeattrs_int(self.slot, self.layout.width) }
    }

    /// The value of a column; `None` for NULL.
    pub fn datum(&self, column: C) -> Option<pg_sys::Datum> {
        let position = self.layout.positions[column.number()];
        // SAFETY: `Scan` took all these columns out of the row, which the slot owns.
        unsafe {
            let null = *(*self.slot).tts_isnull.add(position);
            (!null).then(|| *(*self.slot).tts_values.add(position))
        }
    }

    /// A text column.
    pub fn text(&self, column: C) -> Option<&[u8]> {
        // SAFETY: callers name text columns; the bytes live in the slot, or detoasted in the
        // memory context of the call, and `self` does not outlive either.
        self.datum(column).map(|datum| unsafe { array::text_bytes(datum) })
    }
}

impl<C> Drop for Row<C> {
    fn drop(&mut self) {
        // While an error unwinds, the slot goes with its memory context instead: PostgreSQL must
        // not be called then.
        if !std::thread::panicking() {
            // SAFETY: made by `table_slot_create` and dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}

/// What a scan goes along.
enum Way {
    Table(pg_sys::TableScanDesc),
    Index(pg_sys::IndexScanDesc),
}

/// A scan of a table. After an error the resource owner releases what it has open.
pub struct Scan<C> {
    table: pg_sys::Relation,
    layout: Rc<Layout>,
    way: Way,
    columns: PhantomData<C>,
}

impl<C: Columns> Scan<C> {
    /// Of all rows.
    pub fn all() -> Self {
        // SAFETY: the usual course of a scan (access/tableam.h); the table is closed by `drop`.
        unsafe {
            let (table, layout) = open::<C>();
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::table_beginscan(table, snapshot, 0, std::ptr::null_mut());
            Self { table, layout, way: Way::Table(scan), columns: PhantomData }
        }
    }

    /// Of the rows that have this value, not NULL, in a column that begins an index.
    ///
    /// # Safety
    /// `value` is of the column's type.
    pub unsafe fn by(column: C, value: pg_sys::Datum) -> Self {
        let mut scan = Self::along(column, 1);
        // SAFETY: by the caller's promise.
        unsafe { scan.seek([(Comparison::Equal, value)]) };
        scan
    }

    /// Along the index that begins with a column, for one search after another, each with as many
    /// `conditions`: it has no rows before the first [`Self::seek`].
    pub fn along(column: C, conditions: i32) -> Self {
        // SAFETY: the usual course of an index scan (access/genam.h), in an index that `Layout::find`
        // has looked at; table and index are closed by `drop`.
        unsafe {
            let (table, layout) = open::<C>();
            let begins = |index: &Part<&[usize]>| index.kind.first() == Some(&column.number());
            let number = C::INDEXES.iter().position(begins);
            let Some(index) = number.and_then(|number| layout.indexes.get(number)) else {
                Error::OtherVersion(C::TABLE.missing).raise();
            };
            let index = pg_sys::index_open(*index, pg_sys::AccessShareLock.cast_signed());
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::index_beginscan(
                table,
                index,
                snapshot,
                #[cfg(feature = "pg18")]
                std::ptr::null_mut(),
                conditions,
                0,
            );
            Self { table, layout, way: Way::Index(scan), columns: PhantomData }
        }
    }

    /// Begins to look for the rows whose values in the first columns of the index compare so.
    ///
    /// # Safety
    /// There are as many conditions as the scan was made for, and not more than the index has
    /// columns; each value is of its column's type, and is kept until the next search.
    pub unsafe fn seek<const COUNT: usize>(
        &mut self,
        conditions: [(Comparison, pg_sys::Datum); COUNT],
    ) {
        let Way::Index(scan) = self.way else { return };
        let mut keys = [pg_sys::ScanKeyData::default(); COUNT];
        // SAFETY: by the caller's promise; types and collations are those of the index.
        unsafe {
            let index = (*scan).indexRelation;
            for (at, (key, (comparison, value))) in keys.iter_mut().zip(conditions).enumerate() {
                pg_sys::ScanKeyEntryInitialize(
                    key,
                    0,
                    i16::try_from(at + 1).unwrap_or(1),
                    comparison.strategy().try_into().unwrap_or(0),
                    pg_sys::InvalidOid,
                    *(*index).rd_indcollation.add(at),
                    comparison.function(*(*index).rd_opcintype.add(at)).into(),
                    value,
                );
            }
            let count = i32::try_from(COUNT).unwrap_or(0);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        }
    }

    /// The greatest text in the first column of the index that meets the conditions, whether of a
    /// row that the snapshot sees or not.
    ///
    /// # Safety
    /// As [`Self::seek`]; the column is a text.
    pub unsafe fn last_text<R, const COUNT: usize>(
        &mut self,
        conditions: [(Comparison, pg_sys::Datum); COUNT],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let Way::Index(scan) = self.way else { return None };
        // SAFETY: by the caller's promise; an index has at most as many columns.
        unsafe {
            (*scan).xs_want_itup = true;
            self.seek(conditions);
            let backward = pg_sys::ScanDirection::BackwardScanDirection;
            if pg_sys::index_getnext_tid(scan, backward).is_null() {
                return None;
            }
            let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::index_deform_tuple(
                (*scan).xs_itup,
                (*scan).xs_itupdesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            Some(read(array::text_bytes(values[0])))
        }
    }

    /// The next row: a copy, so that no page stays pinned.
    pub fn copy(&mut self) -> Option<Row<C>> {
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
    pub fn each(mut self, mut work: impl FnMut(&Row<C>)) {
        let row = self.slot();
        while self.fetch(&row) {
            row.take_out();
            work(&row);
        }
    }

    fn slot(&self) -> Row<C> {
        // SAFETY: the table is open.
        let slot = unsafe { pg_sys::table_slot_create(self.table, std::ptr::null_mut()) };
        Row { slot, layout: Rc::clone(&self.layout), columns: PhantomData }
    }

    fn fetch(&mut self, row: &Row<C>) -> bool {
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

impl<C> Drop for Scan<C> {
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
