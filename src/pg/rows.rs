//! Reads the row of a key by index scan, under the snapshot of the running statement.
//!
//! Without SPI: no transaction id on a standby, no plan, no privileges of the caller's involved.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::array;
use super::error::Error;

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
}

/// Where the table is, and in which order its columns are.
#[derive(Clone, Copy)]
struct Layout {
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    /// Zero-based position of each `Column`.
    positions: [usize; COUNT],
    /// How many leading columns have to be taken out of a tuple.
    width: i32,
}

thread_local! {
    /// Found once a backend; forgotten when PostgreSQL says that the table changed (DROP
    /// EXTENSION, ALTER EXTENSION UPDATE).
    static LAYOUT: Cell<Option<Layout>> = const { Cell::new(None) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

#[pg_guard]
unsafe extern "C-unwind" fn forget_layout(_argument: pg_sys::Datum, relation: pg_sys::Oid) {
    let layout = LAYOUT.get();
    // InvalidOid means all relations.
    if relation == pg_sys::InvalidOid || layout.is_some_and(|layout| layout.table == relation) {
        LAYOUT.set(None);
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
        let table = pg_sys::get_relname_relid(c"keys".as_ptr(), schema);
        let index = pg_sys::get_relname_relid(c"keys_pkey".as_ptr(), schema);
        if table == pg_sys::InvalidOid || index == pg_sys::InvalidOid {
            Error::NotInstalled.raise();
        }
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
        let layout = Layout { table, index, positions, width };
        LAYOUT.set(Some(layout));
        layout
    }
}

/// The row of a key: a copy, so that no page stays pinned while a secret is hashed.
pub struct Row {
    slot: *mut pg_sys::TupleTableSlot,
    positions: [usize; COUNT],
}

impl Row {
    /// Reads the row of a key, if the statement's snapshot sees one.
    pub fn find(key_id: Uuid) -> Option<Self> {
        let layout = layout();
        let key_id = key_id.into_bytes();
        // SAFETY: the usual course of an index scan (access/genam.h). An error on the way leaves
        // relations, scan and slot to the resource owner, which releases them.
        unsafe {
            let lock = pg_sys::AccessShareLock.cast_signed();
            let table = pg_sys::table_open(layout.table, lock);
            let index = pg_sys::index_open(layout.index, lock);
            let slot = pg_sys::table_slot_create(table, std::ptr::null_mut());
            let mut key = pg_sys::ScanKeyData::default();
            pg_sys::ScanKeyInit(
                &mut key,
                1,
                pg_sys::BTEqualStrategyNumber.try_into().unwrap_or(3),
                pg_sys::F_UUID_EQ.into(),
                pg_sys::Datum::from(key_id.as_ptr()),
            );
            let scan = pg_sys::index_beginscan(table, index, pg_sys::GetActiveSnapshot(), 1, 0);
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            let forward = pg_sys::ScanDirection::ForwardScanDirection;
            let found = pg_sys::index_getnext_slot(scan, forward, slot);
            if found {
                pg_sys::ExecMaterializeSlot(slot);
                pg_sys::slot_getsomeattrs_int(slot, layout.width);
            }
            pg_sys::index_endscan(scan);
            pg_sys::index_close(index, lock);
            pg_sys::table_close(table, lock);
            let row = Self { slot, positions: layout.positions };
            found.then_some(row)
        }
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
