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
use crate::core::scan::Cursor;

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
    let is_ours = |layout: Layout| [layout.table, layout.rate_limits].contains(&relation);
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
        let layout = Layout {
            table,
            by_id: named(c"keys_pkey"),
            by_handle: named(c"keys_lookup_handle"),
            by_prefix: named(c"keys_legacy_prefix"),
            root_key: named(c"root_key"),
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

/// The fingerprint of the root key under which this database's legacy keys are found; `None` if
/// there are none.
///
/// Once there it stays, as long as the table does, and is read once a backend.
pub fn root_key_fingerprint() -> Option<Vec<u8>> {
    let layout = layout();
    let known = FINGERPRINT.with_borrow(Option::clone);
    if known.is_some() {
        return known;
    }
    // SAFETY: a sequential scan of a table with one text column and at most one row.
    unsafe {
        let lock = pg_sys::AccessShareLock.cast_signed();
        let table = pg_sys::table_open(layout.root_key, lock);
        let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
        let snapshot = pg_sys::GetActiveSnapshot();
        let scan = pg_sys::table_beginscan(table, snapshot, 0, std::ptr::null_mut());
        let forward = pg_sys::ScanDirection::ForwardScanDirection;
        let fingerprint = pg_sys::table_scan_getnextslot(scan, forward, slot).then(|| {
            pg_sys::slot_getsomeattrs_int(slot, 1);
            array::text_bytes(*(*slot).tts_values).to_vec()
        });
        pg_sys::table_endscan(scan);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::table_close(table, lock);
        fingerprint
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
        let value = pg_sys::Datum::from(key_id.as_ptr());
        Self::scan(|layout| layout.by_id, pg_sys::F_UUID_EQ, value, None, 1).pop()
    }

    /// Reads the row of the legacy key that has this handle.
    pub fn find_by_handle(handle: Handle) -> Option<Self> {
        let value = handle.as_slice().into_datum()?;
        Self::scan(|layout| layout.by_handle, pg_sys::F_BYTEAEQ, value, None, 1).pop()
    }

    /// Reads rows of legacy keys that have no handle yet and whose prefix begins `text`, at most
    /// `most` of those that come after a place: the longest prefixes first, then by key id.
    pub fn find_by_prefix(text: &[u8], after: Option<Cursor>, most: usize) -> Vec<Self> {
        let mut rows = Vec::new();
        let longest = text.len().min(MAX_PREFIX).min(after.map_or(MAX_PREFIX, Cursor::prefix));
        for length in (0..=longest).rev() {
            let left = most.saturating_sub(rows.len());
            if left == 0 {
                break;
            }
            let after = after.filter(|after| after.prefix() == length).map(|after| after.key_id);
            // A text is a varlena as a bytea is.
            if let Some(value) = text[..length].into_datum() {
                let by_prefix = |layout: &Layout| layout.by_prefix;
                rows.extend(Self::scan(by_prefix, pg_sys::F_TEXTEQ, value, after, left));
            }
        }
        rows
    }

    /// The first `most` rows that an index has for `value` in its first column, of those with a
    /// higher key id in the second one if `after` is given.
    fn scan(
        index: impl FnOnce(&Layout) -> pg_sys::Oid,
        equal: u32,
        value: pg_sys::Datum,
        after: Option<Uuid>,
        most: usize,
    ) -> Vec<Self> {
        let mut rows = Vec::new();
        let after = after.map(Uuid::into_bytes);
        // SAFETY: the usual course of an index scan (access/genam.h). An error on the way leaves
        // relations, scan and slots to the resource owner, which releases them.
        unsafe {
            let lock = pg_sys::AccessShareLock.cast_signed();
            let table = pg_sys::table_open(layout().table, lock);
            // Opening it has let invalidations in: REINDEX CONCURRENTLY puts another index there.
            let layout = layout();
            let index = pg_sys::index_open(index(&layout), lock);
            let mut keys = [pg_sys::ScanKeyData::default(); 2];
            let mut key = |column: u16, strategy: u32, compare: u32, value| {
                pg_sys::ScanKeyEntryInitialize(
                    &mut keys[usize::from(column) - 1],
                    0,
                    column.cast_signed(),
                    strategy.try_into().unwrap_or(0),
                    pg_sys::InvalidOid,
                    // Of the column: a bytea and a uuid have none, a text has "C".
                    *(*index).rd_indcollation.add(usize::from(column) - 1),
                    compare.into(),
                    value,
                );
            };
            key(1, pg_sys::BTEqualStrategyNumber, equal, value);
            if let Some(after) = &after {
                let value = pg_sys::Datum::from(after.as_ptr());
                key(2, pg_sys::BTGreaterStrategyNumber, pg_sys::F_UUID_GT, value);
            }
            let count = 1 + i32::from(after.is_some());
            let scan = pg_sys::index_beginscan(table, index, pg_sys::GetActiveSnapshot(), count, 0);
            pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            while rows.len() < most {
                let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
                let row = Self { slot, positions: layout.positions };
                if !pg_sys::index_getnext_slot(scan, forward, slot) {
                    break;
                }
                pg_sys::ExecMaterializeSlot(slot);
                pg_sys::slot_getsomeattrs_int(slot, layout.width);
                rows.push(row);
            }
            pg_sys::index_endscan(scan);
            pg_sys::index_close(index, lock);
            pg_sys::table_close(table, lock);
        }
        rows
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
