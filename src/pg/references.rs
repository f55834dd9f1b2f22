//! Triggers of tables with policies of ours (sql/48_row_security.sql).
//!
//! PostgreSQL checks foreign keys without row security, so a reference to a row that its writer may
//! not see would succeed, and tell that it is there. Here a hidden row is answered like none. The row
//! is looked for as PostgreSQL does it, as the owner of its table, but by our rule: no policy of the
//! table is asked, and nothing of its owner's runs with the rights of the writer.
//!
//! Rows are checked one by one, so the plan for each foreign key is kept, as PostgreSQL keeps those
//! of its own checks: asking the catalog for every row costs twenty times the insert.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char};
use std::panic::AssertUnwindSafe;

use pgrx::pg_catalog::pg_proc::PgProc;
use pgrx::pg_sys::PgTryBuilder;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::prelude::*;
use pgrx::{PgSqlErrorCode, Uuid};

use super::array;
use super::call::sql_function;
use super::foreign::{AsOwner, Policies};
use super::identity;
use crate::core::scope;

sql_function!(check_references, pg_finfo_check_references, check);
sql_function!(lock_moved_row, pg_finfo_lock_moved_row, lock);

/// The owner of the referenced table and the query that finds the row, both NULL where any row will do.
const FIND_ROW: &CStr = c"SELECT owner, query FROM api_key_internal.reference_lookup($1)";

/// What the query has besides the values of the key: tenant and user, what `verify_api_key` has
/// answered, and whether the scope is admin.
const IDENTITY: [pg_sys::Oid; 4] =
    [pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::JSONBOID, pg_sys::BOOLOID];

thread_local! {
    /// By the id of the foreign key.
    static LOOKUPS: RefCell<HashMap<pg_sys::Oid, Lookup>> = RefCell::new(HashMap::new());
    /// Counts what may have changed a rule: every table, policy or partition that anybody changes.
    static CHANGES: Cell<u64> = const { Cell::new(0) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

unsafe fn check(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    let nothing = Some(pg_sys::Datum::from(0));
    // SAFETY: the relation of the trigger is open and locked. The list of foreign keys is copied before
    // anything may rebuild the relation.
    unsafe {
        let Some(trigger) = row_trigger(fcinfo) else { return nothing };
        let relation = trigger.tg_relation;
        if !is_held((*relation).rd_id) {
            return nothing;
        }
        let (row, before) = if is_update(trigger) {
            (trigger.tg_newtuple, Some(trigger.tg_trigtuple))
        } else {
            (trigger.tg_trigtuple, None)
        };
        let keys: Vec<pg_sys::ForeignKeyCacheInfo> =
            elements(pg_sys::RelationGetFKeyList(relation)).collect();
        for key in keys {
            if let Some(values) = reference(relation, &key, row, before)
                && !is_open(key.conoid)
            {
                // After an error there is nothing more to be looked up.
                let names = Names::of(relation, &key);
                if !row_is_there((*(*fcinfo).flinfo).fn_oid, relation, &key, values) {
                    names.refuse();
                }
            }
        }
    }
    nothing
}

/// The trigger for a row that is called.
unsafe fn row_trigger<'a>(fcinfo: pg_sys::FunctionCallInfo) -> Option<&'a pg_sys::TriggerData> {
    // SAFETY: a trigger is called with its data as context, which lives over the call.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return None;
        }
        let trigger = &*context.cast::<pg_sys::TriggerData>();
        (trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0).then_some(trigger)
    }
}

fn is_update(trigger: &pg_sys::TriggerData) -> bool {
    trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE
}

/// What a pointer list points to.
unsafe fn elements<T: Copy>(list: *mut pg_sys::List) -> impl Iterator<Item = T> {
    // SAFETY: by the caller's promise a list of pointers to T, or NIL.
    unsafe {
        let length = if list.is_null() { 0 } else { (*list).length };
        (0..usize::try_from(length).unwrap_or(0))
            .map(move |at| *(*(*list).elements.add(at)).ptr_value.cast::<T>())
    }
}

/// Whether policies of a table of ours hold for the role that writes: neither for superusers and
/// BYPASSRLS, nor for what foreign keys do themselves (SET DEFAULT). Where somebody has disabled row
/// security, they are still meant to.
fn is_held(table: pg_sys::Oid) -> bool {
    use pg_sys::CheckEnableRlsResult::{RLS_ENABLED, RLS_NONE};
    // SAFETY: reads the catalog and what this process acts as.
    unsafe {
        match pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true).cast_unsigned() {
            RLS_ENABLED => true,
            RLS_NONE => {
                !pg_sys::InNoForceRLSOperation()
                    && !pg_sys::has_bypassrls_privilege(pg_sys::GetUserId())
            }
            _ => false,
        }
    }
}

/// The values of the key's columns; `None` if one is NULL, or none has changed.
unsafe fn reference(
    relation: pg_sys::Relation,
    key: &pg_sys::ForeignKeyCacheInfo,
    row: pg_sys::HeapTuple,
    before: Option<pg_sys::HeapTuple>,
) -> Option<Vec<pg_sys::Datum>> {
    // SAFETY: rows of this relation.
    unsafe {
        let columns = (*relation).rd_att;
        let value = |row, column: i16| {
            let mut is_null = false;
            let value = pg_sys::SPI_getbinval(row, columns, i32::from(column), &mut is_null);
            (!is_null).then_some(value)
        };
        let count = usize::try_from(key.nkeys).unwrap_or(0);
        let mut is_same = before.is_some();
        let mut values = Vec::with_capacity(count);
        for &column in key.conkey.iter().take(count) {
            let new = value(row, column)?;
            let old = before.and_then(|before| value(before, column));
            let kind = pg_sys::SPI_gettypeid(columns, i32::from(column));
            is_same &= old.is_some_and(|old| same_bytes(old, new, kind));
            values.push(new);
        }
        (!is_same).then_some(values)
    }
}

/// Whether two values are stored alike; when in doubt, not.
unsafe fn same_bytes(one: pg_sys::Datum, other: pg_sys::Datum, kind: pg_sys::Oid) -> bool {
    // SAFETY: values of this type, not NULL.
    unsafe {
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(kind, &mut length, &mut by_value);
        let fixed = |value: pg_sys::Datum, length| {
            std::slice::from_raw_parts(value.cast_mut_ptr::<u8>().cast_const(), length)
        };
        match usize::try_from(length) {
            _ if by_value => one == other,
            Ok(length) => fixed(one, length) == fixed(other, length),
            Err(_) if length == -1 => array::text_bytes(one) == array::text_bytes(other),
            Err(_) => false,
        }
    }
}

/// Whether the table that a key refers to is known to have no rule of ours.
fn is_open(key: pg_sys::Oid) -> bool {
    LOOKUPS.with_borrow(|lookups| {
        lookups.get(&key).is_some_and(|lookup| {
            lookup.as_of == CHANGES.get() && matches!(lookup.rule, Rule::Open)
        })
    })
}

/// An error is answered like no row, as it may have been raised because of the row; the log has it.
unsafe fn row_is_there(
    function: pg_sys::Oid,
    relation: pg_sys::Relation,
    key: &pg_sys::ForeignKeyCacheInfo,
    values: Vec<pg_sys::Datum>,
) -> bool {
    // SAFETY: SPI is connected and finished here, or by the end of the (sub)transaction after an
    // error: none is survived.
    let find = AssertUnwindSafe(|| unsafe {
        pg_sys::SPI_connect();
        let there = found(&InUse::of(function, relation, key).lookup.rule, values);
        pg_sys::SPI_finish();
        there
    });
    PgTryBuilder::new(find)
        .catch_others(|error| {
            let (CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)) = &error
            else {
                error.rethrow()
            };
            if concerns_the_session(report.sql_error_code()) {
                error.rethrow()
            }
            ErrorReport::new(
                report.sql_error_code(),
                format!("the row that a foreign key refers to could not be looked for: {}", report.message()),
                pgrx::function_name!(),
            )
            .set_detail(format!("The key's id in pg_constraint is {}.", key.conoid.to_u32()))
            .set_hint("SELECT * FROM api_key.protection; conditions of resources are evaluated with the rights of the table's owner here.")
            .report(PgLogLevel::LOG_SERVER_ONLY);
            false
        })
        .execute()
}

/// Cancellation, shutdown, deadlocks, timeouts of locks, lack of resources, damage: whatever the row is.
fn concerns_the_session(code: PgSqlErrorCode) -> bool {
    let class = |code: PgSqlErrorCode| code as i32 & 0xfff;
    [
        PgSqlErrorCode::ERRCODE_TRANSACTION_ROLLBACK,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
        PgSqlErrorCode::ERRCODE_SYSTEM_ERROR,
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
    ]
    .into_iter()
    .any(|other| class(other) == class(code))
        || code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
}

/// # Safety
/// Within SPI.
unsafe fn found(rule: &Rule, mut values: Vec<pg_sys::Datum>) -> bool {
    let (owner, plan) = match rule {
        Rule::Open => return true,
        Rule::Unknown => return false,
        Rule::Query { owner, plan, .. } => (*owner, *plan),
    };
    let mut nulls = vec![b' '; values.len()];
    for value in identity_values() {
        nulls.push(if value.is_some() { b' ' } else { b'n' });
        values.push(value.unwrap_or(pg_sys::Datum::from(0)));
    }
    let _owner = as_owner(owner);
    // SAFETY: as many values as the plan has parameters. Not read-only, so that rows of the same
    // statement are seen, and the row can be locked.
    unsafe {
        let (values, nulls) = (values.as_mut_ptr(), nulls.as_ptr().cast::<c_char>());
        let status = pg_sys::SPI_execute_plan(plan, values, nulls, false, 1);
        status == pg_sys::SPI_OK_SELECT.cast_signed() && pg_sys::SPI_processed > 0
    }
}

/// In the order of `IDENTITY`.
fn identity_values() -> [Option<pg_sys::Datum>; 4] {
    let uuid = |uuid: uuid::Uuid| Uuid::from_bytes(uuid.into_bytes()).into_datum();
    [
        identity::current(|identity| identity.tenant_id).and_then(uuid),
        identity::current(|identity| identity.user_id).and_then(uuid),
        identity::current(|identity| identity.api_key.as_deref().and_then(IntoDatum::into_datum)),
        identity::current(|identity| {
            scope::grants(identity.scopes().iter().map(String::as_bytes), b"admin").into_datum()
        }),
    ]
}

/// Names in conditions mean the same whatever the writer's `search_path` is.
fn as_owner(owner: pg_sys::Oid) -> AsOwner {
    let entered = AsOwner::enter(owner, Policies::NotForced);
    // SAFETY: the setting is put back with those that `AsOwner` puts back.
    unsafe {
        pg_sys::set_config_option(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
    entered
}

/// How the row that a foreign key refers to is found.
struct Lookup {
    /// `CHANGES` when the rule was read.
    as_of: u64,
    rule: Rule,
}

enum Rule {
    /// No rule of ours, or another key's.
    Open,
    Query {
        owner: pg_sys::Oid,
        text: CString,
        plan: pg_sys::SPIPlanPtr,
    },
    /// The key is not in the catalog.
    Unknown,
}

impl Rule {
    /// PostgreSQL marks a plan invalid when what it names is renamed or replaced.
    fn is_invalid(&self) -> bool {
        // SAFETY: a plan that is kept.
        matches!(self, Self::Query { plan, .. } if unsafe { !pg_sys::SPI_plan_is_valid(*plan) })
    }

    fn free(&self) {
        if let Self::Query { plan, .. } = self {
            // SAFETY: a plan that is kept, and in nobody's use.
            unsafe { pg_sys::SPI_freeplan(*plan) };
        }
    }
}

/// A lookup in use: out of `LOOKUPS`, as conditions run functions, which may come here again and find
/// it invalid. Put back when dropped, also by an error.
struct InUse {
    key: pg_sys::Oid,
    lookup: Lookup,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let lookup = std::mem::replace(&mut self.lookup, Lookup { as_of: 0, rule: Rule::Unknown });
        let other = LOOKUPS.with_borrow_mut(|lookups| lookups.insert(self.key, lookup));
        if let Some(other) = other
            && !std::thread::panicking()
        {
            // Made by a use within this one, which is over.
            other.rule.free();
        }
    }
}

impl InUse {
    /// # Safety
    /// Within SPI; `key` is one of `relation`.
    unsafe fn of(
        function: pg_sys::Oid,
        relation: pg_sys::Relation,
        key: &pg_sys::ForeignKeyCacheInfo,
    ) -> Self {
        listen();
        let known = LOOKUPS.with_borrow_mut(|lookups| lookups.remove(&key.conoid));
        let never = Lookup { as_of: u64::MAX, rule: Rule::Open };
        let mut used = Self { key: key.conoid, lookup: known.unwrap_or(never) };
        let now = CHANGES.get();
        if used.lookup.as_of != now || used.lookup.rule.is_invalid() {
            // Until it is read, it is not to be relied on.
            used.lookup.as_of = u64::MAX;
            // SAFETY: by the caller's promise.
            let found = unsafe { find_row(function, key.conoid) };
            let is_same = matches!((&used.lookup.rule, &found),
                (Rule::Query { owner, text, .. }, Found::By(new_owner, new_text)) if owner == new_owner && text == new_text)
                && !used.lookup.rule.is_invalid();
            if !is_same {
                std::mem::replace(&mut used.lookup.rule, Rule::Unknown).free();
                used.lookup.rule = match found {
                    Found::Open => Rule::Open,
                    Found::Nothing => Rule::Unknown,
                    // SAFETY: by the caller's promise.
                    Found::By(owner, text) => unsafe { prepared(relation, key, owner, text) },
                };
            }
            used.lookup.as_of = now;
        }
        used
    }
}

/// What the catalog says.
enum Found {
    Open,
    By(pg_sys::Oid, CString),
    Nothing,
}

/// Reads the rule as the owner of the extension, and as it is now, whatever the transaction's snapshot.
///
/// # Safety
/// Within SPI.
unsafe fn find_row(function: pg_sys::Oid, key: pg_sys::Oid) -> Found {
    let Some(ours) = PgProc::new(function).map(|function| function.proowner()) else {
        return Found::Nothing;
    };
    let _ours = as_owner(ours);
    // SAFETY: by the caller's promise; the result is copied. After an error the end of the
    // (sub)transaction pops the snapshot.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        let mut types = [pg_sys::OIDOID];
        let mut values = [pg_sys::Datum::from(key)];
        let (types, values) = (types.as_mut_ptr(), values.as_mut_ptr());
        let nulls = std::ptr::null();
        pg_sys::SPI_execute_with_args(FIND_ROW.as_ptr(), 1, types, values, nulls, true, 1);
        pg_sys::PopActiveSnapshot();
        if pg_sys::SPI_processed == 0 {
            return Found::Nothing;
        }
        let table = pg_sys::SPI_tuptable;
        let row = *(*table).vals;
        let mut is_null = false;
        let owner = pg_sys::SPI_getbinval(row, (*table).tupdesc, 1, &mut is_null);
        let query = pg_sys::SPI_getvalue(row, (*table).tupdesc, 2);
        match pg_sys::Oid::from_datum(owner, is_null) {
            Some(owner) if !query.is_null() => Found::By(owner, CStr::from_ptr(query).to_owned()),
            _ => Found::Open,
        }
    }
}

/// # Safety
/// Within SPI; `key` is one of `relation`.
unsafe fn prepared(
    relation: pg_sys::Relation,
    key: &pg_sys::ForeignKeyCacheInfo,
    owner: pg_sys::Oid,
    text: CString,
) -> Rule {
    let count = usize::try_from(key.nkeys).unwrap_or(0);
    // SAFETY: by the caller's promise. One plan for all values, as there is at most one row.
    unsafe {
        let columns = key.conkey.iter().take(count);
        let mut types: Vec<pg_sys::Oid> = columns
            .map(|&column| pg_sys::SPI_gettypeid((*relation).rd_att, i32::from(column)))
            .chain(IDENTITY)
            .collect();
        let _owner = as_owner(owner);
        let plan = pg_sys::SPI_prepare_cursor(
            text.as_ptr(),
            i32::try_from(types.len()).unwrap_or(0),
            types.as_mut_ptr(),
            pg_sys::CURSOR_OPT_GENERIC_PLAN.cast_signed(),
        );
        pg_sys::SPI_keepplan(plan);
        Rule::Query { owner, text, plan }
    }
}

/// Counts changes of tables from now on.
fn listen() {
    if !LISTENING.replace(true) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(at_change), pg_sys::Datum::from(0));
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_change(_argument: pg_sys::Datum, _table: pg_sys::Oid) {
    CHANGES.set(CHANGES.get().wrapping_add(1));
}

/// Locks a row that is about to be another's as if its key changed, so that whoever refers to it at the
/// same time waits, or is waited for. Its table calls it only then: PostgreSQL's check of a foreign key
/// lets other columns change meanwhile.
unsafe fn lock(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: the relation of the trigger is open, and its table's; the row is one of it. The lock needs
    // no rights and runs no code. What else has become of the row is for the update itself to find.
    unsafe {
        let Some(trigger) = row_trigger(fcinfo) else { return Some(pg_sys::Datum::from(0)) };
        if !is_update(trigger) {
            return Some(pg_sys::Datum::from(trigger.tg_trigtuple));
        }
        let relation = trigger.tg_relation;
        let timing = trigger.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK;
        let methods = (*relation).rd_tableam.as_ref();
        if timing == pg_sys::TRIGGER_EVENT_BEFORE
            && let Some(lock) = methods.and_then(|methods| methods.tuple_lock)
        {
            let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
            let mut row = (*trigger.tg_trigtuple).t_self;
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
        Some(pg_sys::Datum::from(trigger.tg_newtuple))
    }
}

/// What the error of a refused reference names.
struct Names {
    table: String,
    constraint: String,
    parent: String,
}

impl Names {
    /// # Safety
    /// A foreign key of a table that is open.
    unsafe fn of(relation: pg_sys::Relation, key: &pg_sys::ForeignKeyCacheInfo) -> Self {
        let text = |name: *const c_char| {
            if name.is_null() {
                String::new()
            } else {
                // SAFETY: a C string, which is copied.
                unsafe { CStr::from_ptr(name).to_string_lossy().into_owned() }
            }
        };
        // SAFETY: by the caller's promise; catalog look-ups in a transaction.
        unsafe {
            Self {
                table: text(pg_sys::get_rel_name((*relation).rd_id)),
                constraint: text(pg_sys::get_constraint_name(key.conoid)),
                parent: text(pg_sys::get_rel_name(key.confrelid)),
            }
        }
    }

    /// Raises what PostgreSQL raises for tables with row security when there is no such row.
    fn refuse(self) -> ! {
        let Self { table, constraint, parent } = self;
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_FOREIGN_KEY_VIOLATION,
            format!(
                "insert or update on table \"{table}\" violates foreign key constraint \"{constraint}\""
            ),
            pgrx::function_name!(),
        )
        .set_detail(format!("Key is not present in table \"{parent}\"."))
        .report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}
