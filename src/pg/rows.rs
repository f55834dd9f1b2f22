//! Reads the row of a key by index scan, under the snapshot of the running statement.
//!
//! Without SPI: no transaction id on a standby, no plan, no privileges of the caller's involved.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};
use uuid::Uuid;

use super::array;
use super::error::Error;
use super::root_key::Handle;

macro_rules! columns {
    ($($variant:ident $name:literal,)+) => {
        /// The columns of `api_key_internal.keys` that are read here.
        #[derive(Clone, Copy)]
        pub enum Column { $($variant),+ }

        const NAMES: &[&CStr] = &[$($name),+];
        const COUNT: usize = NAMES.len();
    };
}

columns! {
    SecretVersion c"secret_version",
    Enabled c"enabled",
    KeyPrefix c"key_prefix",
    SecretHash c"secret_hash",
    Name c"name",
    Tier c"tier",
    Environment c"environment",
    Kind c"kind",
    Scopes c"scopes",
    Metadata c"metadata",
    UserId c"user_id",
    TenantId c"tenant_id",
    ResourceId c"resource_id",
    AllowedIps c"allowed_ips",
    NotBefore c"not_before",
    ExpiresAt c"expires_at",
    PreviousSecretHash c"previous_secret_hash",
    GraceExpiresAt c"grace_expires_at",
    RevokedAt c"revoked_at",
    KeyId c"key_id",
    LegacyScheme c"legacy_scheme",
    LegacyPrefix c"legacy_prefix",
    Role c"role",
}

/// Where the table is, and in which order its columns are.
#[derive(Clone, Copy)]
struct Layout {
    table: pg_sys::Oid,
    by_id: pg_sys::Oid,
    by_handle: pg_sys::Oid,
    by_prefix: pg_sys::Oid,
    root_key: pg_sys::Oid,
    /// Numbers of its columns; 0 for one that is missing.
    fingerprint: i16,
    schemes: i16,
    rate_limits: pg_sys::Oid,
    rate_limits_by_name: pg_sys::Oid,
    /// Zero-based position of each `Column`.
    positions: [usize; COUNT],
    /// How many leading columns have to be taken out of a tuple.
    width: i32,
}

thread_local! {
    /// Found once a backend; forgotten when PostgreSQL says that the table changed (DROP
    /// EXTENSION, ALTER EXTENSION UPDATE).
    static LAYOUT: Cell<Option<Layout>> = const { Cell::new(None) };
    /// Forgotten with the layout.
    static FINGERPRINT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

#[pg_guard]
unsafe extern "C-unwind" fn forget_layout(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let layout = LAYOUT.get();
    // InvalidOid means all relations.
    let is_ours =
        |layout: Layout| [layout.table, layout.root_key, layout.rate_limits].contains(&relation);
    if relation == pg_sys::InvalidOid || layout.is_some_and(is_ours) {
        LAYOUT.set(None);
        FINGERPRINT.set(None);
    }
}

fn layout() -> Layout {
    if let Some(layout) = LAYOUT.get() {
        return layout;
    }
    // SAFETY: catalog look-ups by name in a transaction; the callback is a function of this
    // library, which is never unloaded.
    unsafe {
        if !LISTENING.replace(true) {
            pg_sys::CacheRegisterRelcacheCallback(Some(forget_layout), pg_sys::Datum::from(0));
        }
        let schema = pg_sys::get_namespace_oid(c"api_key_internal".as_ptr(), true);
        let named = |name: &CStr| {
            let relation = pg_sys::get_relname_relid(name.as_ptr(), schema);
            if relation == pg_sys::InvalidOid {
                Error::NotInstalled.raise();
            }
            relation
        };
        let table = named(c"keys");
        let mut positions = [0; COUNT];
        let mut width = 0;
        for (position, name) in positions.iter_mut().zip(NAMES) {
            let number = pg_sys::get_attnum(table, name.as_ptr());
            if number < 1 {
                Error::NotInstalled.raise();
            }
            *position = usize::from(number.unsigned_abs()) - 1;
            width = width.max(i32::from(number));
        }
        let root_key = named(c"root_key");
        let layout = Layout {
            table,
            by_id: named(c"keys_pkey"),
            by_handle: named(c"keys_lookup_handle"),
            by_prefix: named(c"keys_legacy_prefix"),
            root_key,
            fingerprint: pg_sys::get_attnum(root_key, c"fingerprint".as_ptr()),
            schemes: pg_sys::get_attnum(root_key, c"schemes".as_ptr()),
            rate_limits: named(c"rate_limits"),
            rate_limits_by_name: named(c"rate_limits_pkey"),
            positions,
            width,
        };
        LAYOUT.set(Some(layout));
        layout
    }
}

/// The table of rate limits, opened: another session's changes of its indexes are seen then.
///
/// # Safety
/// The caller closes it.
pub unsafe fn open_rate_limits(lock: pg_sys::LOCKMODE) -> pg_sys::Relation {
    // SAFETY: the table is there as long as the extension is.
    unsafe { pg_sys::table_open(layout().rate_limits, lock) }
}

/// The index by which a rate limit is found.
pub fn rate_limits_by_name() -> pg_sys::Oid {
    layout().rate_limits_by_name
}

/// The longest prefix by which a legacy key is found.
const MAX_PREFIX: usize = 64;

/// A place in the order of [`Row::find_by_prefix`]: the length of the prefix, and the key.
pub type PrefixPlace = (usize, Uuid);

/// The fingerprint of the root key under which this database's legacy keys are found; `None` if
/// there are none.
///
/// Once there it stays, as long as the table does, and is read once a backend.
pub fn root_key_fingerprint() -> Option<Vec<u8>> {
    let layout = layout();
    let known = FINGERPRINT.with_borrow(Option::clone);
    known.or_else(|| {
        // SAFETY: the column is a text.
        root_key_column(layout, layout.fingerprint, |datum| unsafe {
            array::text_bytes(datum).to_vec()
        })
    })
}

/// The schemes of which keys were ever imported; `None` if that is not known.
///
/// Read each time, so that a key is found as soon as its import is committed.
pub fn imported_schemes() -> Option<Vec<Vec<u8>>> {
    let layout = layout();
    root_key_column(layout, layout.schemes, |datum| {
        // SAFETY: the column is a text[].
        unsafe { array::texts(datum).into_iter().flatten().map(<[u8]>::to_vec).collect() }
    })
}

/// A column of the one row of the table `root_key`; `None` if there is no row, or NULL in it.
fn root_key_column<R>(
    layout: Layout,
    number: i16,
    read: impl FnOnce(pg_sys::Datum) -> R,
) -> Option<R> {
    let position = usize::try_from(number).ok()?.checked_sub(1)?;
    // SAFETY: a sequential scan of a table with at most one row, of which as many columns are
    // taken out as are read; the datum is read while the row's page is pinned.
    unsafe {
        let lock = pg_sys::AccessShareLock.cast_signed();
        let table = pg_sys::table_open(layout.root_key, lock);
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::table_beginscan(table, snapshot, 0, std::ptr::null_mut());
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let value = pg_sys::table_scan_getnextslot(scan, forward, slot)
            .then(|| {
                pg_sys::slot_getsomeattrs_int(slot, number.into());
                let null = *(*slot).tts_isnull.add(position);
                (!null).then(|| read(*(*slot).tts_values.add(position)))
            })
            .flatten();
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_close(table, lock);
        value
    }
}

/// Keeps a fingerprint that a root key has matched.
pub fn keep_fingerprint(fingerprint: Vec<u8>) {
    FINGERPRINT.set(Some(fingerprint));
}

/// The row of a key: a copy, so that no page stays pinned while a secret is hashed.
pub struct Row {
    slot: *mut pg_sys::TupleTableSlot,
    positions: [usize; COUNT],
}

impl Row {
    /// Reads the row of a key, if the statement's snapshot sees one.
    pub fn find(key_id: Uuid) -> Option<Self> {
        let key_id = key_id.into_bytes();
        let mut search = Search::open(|layout| layout.by_id, 1);
        search.seek([search.key(1, EQUAL, pg_sys::F_UUID_EQ, key_id.as_ptr().into())]);
        search.next()
    }

    /// Reads the row of the legacy key that has one of these handles, the first of them if there
    /// are several.
    pub fn find_by_handle(handles: impl IntoIterator<Item = Handle>) -> Option<Self> {
        let mut search = Search::open(|layout| layout.by_handle, 1);
        handles.into_iter().find_map(|handle| {
            let value = handle.as_slice().into_datum()?;
            search.seek([search.key(1, EQUAL, pg_sys::F_BYTEAEQ, value)]);
            search.next()
        })
    }

    /// Reads rows of legacy keys that have no handle yet and whose prefix begins `text`, at most
    /// `most` of them: the longest prefixes first, and among the keys of one prefix by their id.
    /// A search that was left goes on `after` the last row that it gave.
    pub fn find_by_prefix(text: &[u8], after: Option<PrefixPlace>, most: usize) -> Vec<Self> {
        let text = &text[..text.len().min(MAX_PREFIX)];
        let mut rows = Vec::new();
        let mut next = match after {
            Some((length, _)) => Some(length.min(text.len())),
            None => longest_prefix(text),
        };
        while let Some(length) = next
            && rows.len() < most
        {
            let prefix = &text[..length];
            let beyond = after.filter(|(of, _)| *of == length).map(|(_, key_id)| key_id);
            rows.extend(Self::of_prefix(prefix, beyond, most - rows.len()));
            next = length.checked_sub(1).and_then(|shorter| longest_prefix(&text[..shorter]));
        }
        rows
    }

    /// Keys of one prefix, in the order of their ids, from `beyond` on.
    fn of_prefix(prefix: &[u8], beyond: Option<Uuid>, most: usize) -> Vec<Self> {
        // A text is a varlena as a bytea is.
        let Some(prefix) = prefix.into_datum() else {
            return Vec::new();
        };
        let mut search = Search::open(|layout| layout.by_prefix, 2);
        let (strategy, function) = match beyond {
            Some(_) => (GREATER, pg_sys::F_UUID_GT),
            None => (GREATER_OR_EQUAL, pg_sys::F_UUID_GE),
        };
        let beyond = beyond.unwrap_or_default().into_bytes();
        search.seek([
            search.key(1, EQUAL, pg_sys::F_TEXTEQ, prefix),
            search.key(2, strategy, function, beyond.as_ptr().into()),
        ]);
        std::iter::from_fn(|| search.next()).take(most).collect()
    }

    /// The value of a column; `None` for NULL.
    pub fn datum(&self, column: Column) -> Option<pg_sys::Datum> {
        let position = self.positions[column as usize];
        // SAFETY: `find` took all these columns out of the tuple, which the slot owns.
        unsafe {
            let null = *(*self.slot).tts_isnull.add(position);
            (!null).then(|| *(*self.slot).tts_values.add(position))
        }
    }

    /// A text column.
    pub fn text(&self, column: Column) -> Option<&[u8]> {
        // SAFETY: callers name text columns; the bytes live in the slot, or detoasted in the
        // memory context of the call, and `self` does not outlive either.
        self.datum(column).map(|datum| unsafe { array::text_bytes(datum) })
    }

    /// A uuid column.
    pub fn uuid(&self, column: Column) -> Option<Uuid> {
        // SAFETY: callers name uuid columns, which are 16 bytes by reference.
        self.datum(column)
            .map(|datum| unsafe { Uuid::from_bytes(*datum.cast_mut_ptr::<[u8; 16]>()) })
    }

    /// How many secrets the key has had.
    pub fn secret_version(&self) -> i64 {
        let version = self.datum(Column::SecretVersion);
        version.map_or(0, |version| i64::try_from(version.value()).unwrap_or(0))
    }

    /// A timestamptz column: microseconds since 2000-01-01 UTC.
    pub fn timestamp(&self, column: Column) -> Option<pg_sys::TimestampTz> {
        self.datum(column).map(|datum| datum.value().cast_signed() as pg_sys::TimestampTz)
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        // While an error unwinds, the slot goes with its memory context instead: PostgreSQL must
        // not be called then.
        if !std::thread::panicking() {
            // SAFETY: made by `table_slot_create` and dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}

/// The length of the longest prefix of `text` in the index of prefixes, whether of a row that the
/// snapshot sees or not.
///
/// The greatest value that is not greater than a text is its longest prefix, or else the two have
/// in common all that a prefix can have: so the search goes on with that, and few steps find it.
fn longest_prefix(text: &[u8]) -> Option<usize> {
    let mut search = Search::open(|layout| layout.by_prefix, 1);
    let mut text = text;
    loop {
        let value = text.into_datum()?;
        search.seek_last([search.key(1, LESS_OR_EQUAL, pg_sys::F_TEXT_LE, value)]);
        let (length, common) = search.last_text(|found| {
            (found.len(), found.iter().zip(text).take_while(|(a, b)| a == b).count())
        })?;
        if common == length {
            return Some(length);
        }
        text = &text[..common];
    }
}

const LESS_OR_EQUAL: u32 = pg_sys::BTLessEqualStrategyNumber;
const EQUAL: u32 = pg_sys::BTEqualStrategyNumber;
const GREATER_OR_EQUAL: u32 = pg_sys::BTGreaterEqualStrategyNumber;
const GREATER: u32 = pg_sys::BTGreaterStrategyNumber;

/// An index of the table, opened for one search after another.
struct Search {
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    layout: Layout,
}

// SAFETY of all that is unsafe in here: the usual course of an index scan (access/genam.h), with
// what `open` has opened. An error on the way leaves relations, scan and slots to the resource
// owner, which releases them.
impl Search {
    /// Opens an index for searches with `keys` conditions.
    fn open(index: impl FnOnce(&Layout) -> pg_sys::Oid, keys: i32) -> Self {
        // SAFETY: as above.
        unsafe {
            let lock = pg_sys::AccessShareLock.cast_signed();
            let table = pg_sys::table_open(layout().table, lock);
            // Opening it has let invalidations in: REINDEX CONCURRENTLY puts another index there.
            let layout = layout();
            let index = pg_sys::index_open(index(&layout), lock);
            let scan = pg_sys::index_beginscan(table, index, pg_sys::GetActiveSnapshot(), keys, 0);
            Self { table, index, scan, layout }
        }
    }

    /// A condition on a column of the index. What `value` points to is not copied.
    fn key(
        &self,
        column: i16,
        strategy: u32,
        function: u32,
        value: pg_sys::Datum,
    ) -> pg_sys::ScanKeyData {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: the function compares what the column holds; callers name columns that exist.
        unsafe {
            // Of the column: a bytea and a uuid have none, a text has "C".
            let collation =
                *(*self.index).rd_indcollation.add(usize::from(column.unsigned_abs()) - 1);
            pg_sys::ScanKeyEntryInitialize(
                &mut key,
                0,
                column,
                strategy.try_into().unwrap_or(0),
                pg_sys::InvalidOid,
                collation,
                function.into(),
                value,
            );
        }
        key
    }

    /// Begins a search for rows.
    fn seek<const KEYS: usize>(&mut self, mut keys: [pg_sys::ScanKeyData; KEYS]) {
        let count = i32::try_from(KEYS).unwrap_or(0);
        // SAFETY: as above.
        unsafe {
            pg_sys::index_rescan(self.scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        }
    }

    /// Begins a search for values of the index itself, from its end.
    fn seek_last<const KEYS: usize>(&mut self, keys: [pg_sys::ScanKeyData; KEYS]) {
        // SAFETY: as above.
        unsafe { (*self.scan).xs_want_itup = true };
        self.seek(keys);
    }

    /// The next row of a search.
    fn next(&mut self) -> Option<Row> {
        // SAFETY: as above.
        unsafe {
            let slot = pg_sys::table_slot_create(self.table, std::ptr::null_mut());
            let row = Row { slot, positions: self.layout.positions };
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            if !pg_sys::index_getnext_slot(self.scan, forward, slot) {
                return None;
            }
            pg_sys::ExecMaterializeSlot(slot);
            pg_sys::slot_getsomeattrs_int(slot, self.layout.width);
            Some(row)
        }
    }

    /// The last text that `seek_last` has found in the first column of the index.
    fn last_text<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        // SAFETY: as above; PostgreSQL has at most as many columns in an index.
        unsafe {
            let backward = pg_sys::ScanDirection::BackwardScanDirection;
            if pg_sys::index_getnext_tid(self.scan, backward).is_null() {
                return None;
            }
            let mut values = [pg_sys::Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [true; pg_sys::INDEX_MAX_KEYS as usize];
            pg_sys::index_deform_tuple(
                (*self.scan).xs_itup,
                (*self.scan).xs_itupdesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            );
            Some(read(array::text_bytes(values[0])))
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        // As `Row` does.
        if !std::thread::panicking() {
            let lock = pg_sys::AccessShareLock.cast_signed();
            // SAFETY: as above; closed once.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::index_close(self.index, lock);
                pg_sys::table_close(self.table, lock);
            }
        }
    }
}
