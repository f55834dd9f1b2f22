//! Triggers for rows.

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum, Oid};

use super::call::Call;
use super::datum::Make;
use super::types;
use super::value::Value;

/// A trigger that is called for a row. Its table is open and locked.
#[derive(Clone, Copy)]
pub struct RowTrigger<'a>(&'a pg_sys::TriggerData);

/// The result of a trigger function.
pub struct Outcome(Datum);

impl Outcome {
    /// Nothing, which AFTER triggers give, and which has a BEFORE trigger leave the row alone.
    pub const fn nothing() -> Self {
        Self(Datum::null())
    }
}

impl Make for types::Trigger {
    type From = Outcome;

    fn make(from: Outcome) -> Datum {
        from.0
    }
}

/// A foreign key of a table.
#[derive(Clone, Copy)]
pub struct ForeignKey(pg_sys::ForeignKeyCacheInfo);

impl ForeignKey {
    /// Its id in `pg_constraint`.
    pub fn oid(&self) -> Oid {
        self.0.conoid
    }

    /// The table that it refers to.
    pub fn referenced(&self) -> Oid {
        self.0.confrelid
    }

    /// The numbers of its columns.
    fn columns(&self) -> &[i16] {
        let count = usize::try_from(self.0.nkeys).unwrap_or(0);
        &self.0.conkey[..count.min(self.0.conkey.len())]
    }
}

impl Call<'_> {
    /// The trigger for a row that is called, if that is what calls.
    pub fn row_trigger(&self) -> Option<RowTrigger<'_>> {
        // SAFETY: a trigger is called with its data as context, which lives over the call.
        unsafe {
            let context = (*self.info()).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                return None;
            }
            let trigger = &*context.cast::<pg_sys::TriggerData>();
            (trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0).then_some(RowTrigger(trigger))
        }
    }
}

impl<'a> RowTrigger<'a> {
    /// The table.
    pub fn table(self) -> Oid {
        // SAFETY: the relation of a trigger is open.
        unsafe { (*self.0.tg_relation).rd_id }
    }

    /// Whether it is called for an UPDATE.
    pub fn is_update(self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE
    }

    /// Whether it is called before the change.
    pub fn is_before(self) -> bool {
        self.0.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_BEFORE
    }

    /// The foreign keys of the table: copies, as anything may rebuild the list.
    pub fn foreign_keys(self) -> Vec<ForeignKey> {
        // SAFETY: the relation is open; the list is one of pointers to foreign keys, or NIL.
        unsafe {
            let list = pg_sys::RelationGetFKeyList(self.0.tg_relation);
            let length = if list.is_null() { 0 } else { (*list).length };
            (0..usize::try_from(length).unwrap_or(0))
                .map(|at| (*(*list).elements.add(at)).ptr_value)
                .map(|key| ForeignKey(*key.cast::<pg_sys::ForeignKeyCacheInfo>()))
                .collect()
        }
    }

    /// The types of the columns of a foreign key.
    pub fn types(self, key: &ForeignKey) -> Vec<Oid> {
        key.columns().iter().map(|&column| self.type_of(column)).collect()
    }

    /// The values of the columns of a foreign key in the row that is written; `None` if one is NULL, or
    /// if none has changed.
    pub fn reference(self, key: &ForeignKey) -> Option<Vec<Value<'a>>> {
        let (row, before) = if self.is_update() {
            (self.0.tg_newtuple, Some(self.0.tg_trigtuple))
        } else {
            (self.0.tg_trigtuple, None)
        };
        let mut is_same = before.is_some();
        let mut values = Vec::with_capacity(key.columns().len());
        for &column in key.columns() {
            let new = self.value(row, column)?;
            let old = before.and_then(|before| self.value(before, column));
            is_same &= old.is_some_and(|old| old.is_same(new));
            values.push(new);
        }
        (!is_same).then_some(values)
    }

    fn type_of(self, column: i16) -> Oid {
        // SAFETY: the relation is open; SPI knows a column by its number, or gives InvalidOid.
        unsafe { pg_sys::SPI_gettypeid((*self.0.tg_relation).rd_att, i32::from(column)) }
    }

    fn value(self, row: pg_sys::HeapTuple, column: i16) -> Option<Value<'a>> {
        let mut is_null = false;
        // SAFETY: a row of this relation, which lives as long as the trigger is called.
        unsafe {
            let columns = (*self.0.tg_relation).rd_att;
            let value = pg_sys::SPI_getbinval(row, columns, i32::from(column), &mut is_null);
            (!is_null).then(|| Value::of(value, self.type_of(column)))
        }
    }

    /// Has the row be written as it is.
    pub fn proceed(self) -> Outcome {
        let row = if self.is_update() { self.0.tg_newtuple } else { self.0.tg_trigtuple };
        Outcome(Datum::from(row))
    }

    /// Locks the row as it was, as if its key changed. Needs no rights and runs no code; what else has
    /// become of the row is for the update itself to find.
    pub fn lock_row(self) {
        let relation = self.0.tg_relation;
        // SAFETY: the relation is open, and the row is one of it.
        unsafe {
            let methods = (*relation).rd_tableam.as_ref();
            let Some(lock) = methods.and_then(|methods| methods.tuple_lock) else { return };
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            let mut row = (*self.0.tg_trigtuple).t_self;
            let mut failure = pg_sys::TM_FailureData::default();
            let (snapshot, command) =
                (pg_sys::GetActiveSnapshot(), pg_sys::GetCurrentCommandId(false));
            pg_guard_ffi_boundary(|| {
                lock(
                    relation,
                    &mut row,
                    snapshot,
                    slot,
                    command,
                    pg_sys::LockTupleMode::LockTupleExclusive,
                    pg_sys::LockWaitPolicy::LockWaitBlock,
                    0,
                    &mut failure,
                )
            });
            pg_sys::ExecDropSingleTupleTableSlot(slot);
        }
    }
}
