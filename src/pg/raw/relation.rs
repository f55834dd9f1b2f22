//! Tables of ours, as this library reads them: their columns, each with its type, and their indexes.
//!
//! Columns are found by their names, and a table that has not those that this library reads is an
//! error: it may be of another version. A column carries its type, so reading it as another does not
//! compile:
//!
//! ```ignore
//! let enabled: Option<bool> = row.get(Keys::ENABLED);
//! let name: Option<&[u8]> = row.get(Keys::NAME);
//! ```

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::rc::Rc;

use pgrx::pg_sys;

use super::changes;
use super::types::{Oid, SqlType, oid};
use crate::pg::error::Error;

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

/// A table that is read, as `relation!` makes it.
pub trait Relation: 'static {
    /// Which of the tables it is, less than [`TABLES`].
    const NUMBER: usize;
    /// The table.
    const TABLE: Part<()>;
    /// Its columns.
    const COLUMNS: &'static [Part<Oid>];
    /// Its indexes.
    const INDEXES: &'static [Part<&'static [usize]>];
}

/// A column of a table, with its type.
pub struct Column<R, T> {
    number: usize,
    of: PhantomData<fn() -> (R, T)>,
}

impl<R, T> Clone for Column<R, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, T> Copy for Column<R, T> {}

impl<R: Relation, T: SqlType> Column<R, T> {
    /// The column of this number, which must be of this type: anything else does not compile.
    pub const fn numbered(number: usize) -> Self {
        assert!(R::COLUMNS[number].kind.to_u32() == oid::<T>().to_u32());
        Self { number, of: PhantomData }
    }

    /// Its number.
    pub(super) const fn number(self) -> usize {
        self.number
    }
}

/// Declares a table: its columns with their types, and the indexes by which rows are found.
macro_rules! relation {
    (
        $(#[$doc:meta])*
        $relation:ident, $number:literal, $table:literal {
            $($column:ident $name:literal $type:ty,)+
        }
        $($index:literal on $($indexed:ident),+;)*
    ) => {
        $(#[$doc])*
        pub struct $relation;

        const _: () = {
            use $crate::pg::raw::relation::{Column, Part, Relation, name};
            use $crate::pg::raw::types::oid;

            #[allow(
                non_camel_case_types,
                clippy::upper_case_acronyms,
                reason = "the columns are constants"
            )]
            enum Number { $($column),+ }

            #[allow(missing_docs, reason = "a column is what its name says")]
            impl $relation {
                $(pub const $column: Column<Self, $type> =
                    Column::numbered(Number::$column as usize);)+
            }

            impl Relation for $relation {
                const NUMBER: usize = $number;
                const TABLE: Part<()> = Part {
                    name: name(concat!($table, "\0")),
                    kind: (),
                    missing: concat!("There is no table api_key_internal.", $table, "."),
                };
                const COLUMNS: &'static [Part<pgrx::pg_sys::Oid>] = &[$(
                    Part {
                        name: name(concat!($name, "\0")),
                        kind: oid::<$type>(),
                        missing: concat!(
                            "The column ", $name, " of api_key_internal.", $table,
                            " is missing, or of another type."
                        ),
                    },
                )+];
                const INDEXES: &'static [Part<&'static [usize]>] = &[$(
                    Part {
                        name: name(concat!($index, "\0")),
                        kind: &[$(Number::$indexed as usize),+],
                        missing: concat!(
                            "The index ", $index, " of api_key_internal.", $table,
                            " is missing, or another."
                        ),
                    },
                )*];
            }
        };
    };
}
pub(in crate::pg) use relation;

/// A name that ends with NUL, as `relation!` writes it.
pub const fn name(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

/// Where the columns of a table are, and what its indexes are.
pub(super) struct Layout {
    of: TypeId,
    pub(super) table: pg_sys::Oid,
    /// Zero-based position of each column.
    pub(super) positions: Vec<usize>,
    /// How many leading columns have to be taken out of a row.
    pub(super) width: i32,
    pub(super) indexes: Vec<pg_sys::Oid>,
}

/// How many tables there are.
const TABLES: usize = 3;

thread_local! {
    /// Found once a backend, and forgotten when PostgreSQL says that the table or one of its indexes
    /// has changed.
    static LAYOUTS: RefCell<[Option<Rc<Layout>>; TABLES]> = const { RefCell::new([const { None }; TABLES]) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

fn forget(relation: pg_sys::Oid) {
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
    pub fn current<R: Relation>() -> Option<Self> {
        known::<R>().map(Self)
    }

    /// Whether the table has not changed since: what was read of it may be kept so long.
    pub fn is_current<R: Relation>(&self) -> bool {
        known::<R>().is_some_and(|layout| Rc::ptr_eq(&layout, &self.0))
    }
}

fn known<R: Relation>() -> Option<Rc<Layout>> {
    LAYOUTS.with_borrow(|layouts| {
        layouts[R::NUMBER].as_ref().filter(|layout| layout.of == TypeId::of::<R>()).map(Rc::clone)
    })
}

/// Opens the table and finds its layout, which holds as long as it is open.
pub(super) fn open<R: Relation>() -> (pg_sys::Relation, Rc<Layout>) {
    let lock = pg_sys::AccessShareLock.cast_signed();
    if !LISTENING.replace(true) {
        changes::call(forget);
    }
    // SAFETY: catalog look-ups by name in a transaction; while the lock is held, no column changes.
    unsafe {
        let table = known::<R>().map_or_else(find::<R>, |layout| layout.table);
        let table = pg_sys::table_open(table, lock);
        // Opening it has let in what others have changed.
        if let Some(layout) = known::<R>().filter(|layout| layout.table == (*table).rd_id) {
            return (table, layout);
        }
        let before = changes::count();
        let layout = Rc::new(Layout::find::<R>(table));
        // Looking for indexes may have let in more.
        if changes::count() == before {
            LAYOUTS.with_borrow_mut(|layouts| layouts[R::NUMBER] = Some(Rc::clone(&layout)));
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

fn find<R: Relation>() -> pg_sys::Oid {
    // SAFETY: catalog look-ups, of a call in a transaction.
    let (table, extension) =
        unsafe { (named(R::TABLE.name), pg_sys::get_extension_oid(c"api_key".as_ptr(), true)) };
    match (table, extension) {
        (pg_sys::InvalidOid, pg_sys::InvalidOid) => Error::NotInstalled.raise(),
        (pg_sys::InvalidOid, _) => Error::OtherVersion(R::TABLE.missing).raise(),
        (table, _) => table,
    }
}

impl Layout {
    /// # Safety
    /// The table is open and locked.
    unsafe fn find<R: Relation>(table: pg_sys::Relation) -> Self {
        // SAFETY: by the caller's promise; `attrs` has `natts` columns, and an index, which stays as
        // long as the table is locked, has a first column.
        unsafe {
            // Relations that are no plain tables are read in other ways.
            if (*(*table).rd_rel).relkind.cast_unsigned() != pg_sys::RELKIND_RELATION {
                Error::OtherVersion(R::TABLE.missing).raise();
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
            let positions: Vec<usize> = R::COLUMNS.iter().map(position).collect();
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
                of: TypeId::of::<R>(),
                table: (*table).rd_id,
                indexes: R::INDEXES.iter().map(index).collect(),
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
