//! The trigger of tables with policies of ours (sql/48_row_security.sql): PostgreSQL checks foreign
//! keys without row security, so a reference to a row that its writer may not see would succeed,
//! and tell that it is there. Here a hidden row is answered like none.
//!
//! Rows are checked one by one, so the plan for each foreign key is kept, as PostgreSQL keeps those
//! of its own checks: asking the catalog for every row costs twenty times the insert.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::array;
use super::call::sql_function;

sql_function!(check_references, pg_finfo_check_references, check);

/// What finds the row that the columns of a foreign key refer to. As PostgreSQL does it itself: only
/// a partitioned table is looked into. NULL for the copies of a key to a partitioned table, of which
/// the catalog has one for each partition.
const FIND_ROW: &CStr = c"\
    SELECT CASE WHEN (whole.conrelid OPERATOR(pg_catalog.=) c.conrelid) IS NOT TRUE THEN pg_catalog.format(
        'SELECT FROM %s %I.%I AS p WHERE %s', CASE WHEN t.relkind OPERATOR(pg_catalog.=) 'r' THEN 'ONLY' END, s.nspname, t.relname,
        (SELECT pg_catalog.string_agg(pg_catalog.format('p.%I OPERATOR(%I.%s) $%s', k.attname, n.nspname, o.oprname, u.i), ' AND ')
         FROM ROWS FROM (pg_catalog.unnest(c.confkey), pg_catalog.unnest(c.conpfeqop)) WITH ORDINALITY AS u (confkey, operator, i)
         JOIN pg_catalog.pg_operator AS o ON o.oid OPERATOR(pg_catalog.=) u.operator
         JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
         JOIN pg_catalog.pg_attribute AS k ON k.attrelid OPERATOR(pg_catalog.=) c.confrelid AND k.attnum OPERATOR(pg_catalog.=) u.confkey)) END
    FROM pg_catalog.pg_constraint AS c
    JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) c.confrelid
    JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) t.relnamespace
    LEFT JOIN pg_catalog.pg_constraint AS whole ON whole.oid OPERATOR(pg_catalog.=) c.conparentid
    WHERE c.oid OPERATOR(pg_catalog.=) $1";

thread_local! {
    /// By the id of the foreign key. PostgreSQL marks a plan invalid when what it names is renamed
    /// or replaced, and plans anew by itself for another role.
    static PLANS: RefCell<HashMap<pg_sys::Oid, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

unsafe fn check(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    let nothing = Some(pg_sys::Datum::from(0));
    // SAFETY: a trigger is called with its data as context, which lives over the call; the relation is
    // open and locked. The list of foreign keys is copied before anything may rebuild the relation.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return nothing;
        }
        let trigger = &*context.cast::<pg_sys::TriggerData>();
        if trigger.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0 {
            return nothing;
        }
        let relation = trigger.tg_relation;
        // Who sees all: superusers, BYPASSRLS, and what foreign keys do themselves (SET DEFAULT).
        if !is_held((*relation).rd_id) {
            return nothing;
        }
        let is_update =
            trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_UPDATE;
        let (row, before) = if is_update {
            (trigger.tg_newtuple, Some(trigger.tg_trigtuple))
        } else {
            (trigger.tg_trigtuple, None)
        };
        let keys: Vec<pg_sys::ForeignKeyCacheInfo> =
            elements(pg_sys::RelationGetFKeyList(relation)).collect();
        for key in keys {
            if let Some(values) = reference(relation, &key, row, before)
                && is_held(key.confrelid)
                && has_our_policy(key.confrelid)
                && !row_is_there(relation, &key, values)
            {
                refuse(relation, &key);
            }
        }
    }
    nothing
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

/// Whether policies of the table hold for the role that writes.
fn is_held(table: pg_sys::Oid) -> bool {
    // SAFETY: reads the catalog.
    let held = unsafe { pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true) };
    held.cast_unsigned() == pg_sys::CheckEnableRlsResult::RLS_ENABLED
}

unsafe fn has_our_policy(table: pg_sys::Oid) -> bool {
    // SAFETY: the table has a foreign key to it, so it cannot go; its policies are read and let go.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(table);
        if relation.is_null() {
            return false;
        }
        let security = (*relation).rd_rsdesc;
        let found = !security.is_null()
            && elements::<pg_sys::RowSecurityPolicy>((*security).policies).any(|policy| {
                let name = CStr::from_ptr(policy.policy_name);
                name == c"api_key_tenant" || name == c"api_key_resource_select_only"
            });
        pg_sys::RelationClose(relation);
        found
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

unsafe fn row_is_there(
    relation: pg_sys::Relation,
    key: &pg_sys::ForeignKeyCacheInfo,
    mut values: Vec<pg_sys::Datum>,
) -> bool {
    // SAFETY: SPI is connected and finished here, or by the end of the (sub)transaction after an
    // error. Not read-only, so that rows of the same statement are seen.
    unsafe {
        pg_sys::SPI_connect();
        let there = match plan(relation, key) {
            Finding::Plan(plan) => {
                let values = values.as_mut_ptr();
                let status = pg_sys::SPI_execute_plan(plan.1, values, std::ptr::null(), false, 1);
                status == pg_sys::SPI_OK_SELECT.cast_signed() && pg_sys::SPI_processed > 0
            }
            Finding::ByAnotherKey => true,
            Finding::Unknown => false,
        };
        pg_sys::SPI_finish();
        there
    }
}

/// A plan of a foreign key in use: out of `PLANS`, as policies run functions, which may come here
/// again and find it invalid. Put back when dropped, also by an error.
struct InUse(pg_sys::Oid, pg_sys::SPIPlanPtr);

impl Drop for InUse {
    fn drop(&mut self) {
        let other = PLANS.with_borrow_mut(|plans| plans.insert(self.0, self.1));
        if let Some(other) = other
            && !std::thread::panicking()
        {
            // SAFETY: made by a use within this one, which is over.
            unsafe { pg_sys::SPI_freeplan(other) };
        }
    }
}

/// How the row that a key refers to is found.
enum Finding {
    Plan(InUse),
    ByAnotherKey,
    /// The key is younger than the snapshot of the transaction.
    Unknown,
}

unsafe fn plan(relation: pg_sys::Relation, key: &pg_sys::ForeignKeyCacheInfo) -> Finding {
    // SAFETY: within SPI. A plan in `PLANS` is in nobody's use.
    unsafe {
        if let Some(plan) = PLANS.with_borrow_mut(|plans| plans.remove(&key.conoid)) {
            if pg_sys::SPI_plan_is_valid(plan) {
                return Finding::Plan(InUse(key.conoid, plan));
            }
            pg_sys::SPI_freeplan(plan);
        }
        let mut types = [pg_sys::OIDOID];
        let mut values = [pg_sys::Datum::from(key.conoid)];
        pg_sys::SPI_execute_with_args(
            FIND_ROW.as_ptr(),
            1,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            false,
            1,
        );
        if pg_sys::SPI_processed == 0 {
            return Finding::Unknown;
        }
        let table = pg_sys::SPI_tuptable;
        let query = pg_sys::SPI_getvalue(*(*table).vals, (*table).tupdesc, 1);
        if query.is_null() {
            return Finding::ByAnotherKey;
        }
        let count = usize::try_from(key.nkeys).unwrap_or(0);
        let mut types: Vec<pg_sys::Oid> = key
            .conkey
            .iter()
            .take(count)
            .map(|&column| pg_sys::SPI_gettypeid((*relation).rd_att, i32::from(column)))
            .collect();
        let plan = pg_sys::SPI_prepare(query, key.nkeys, types.as_mut_ptr());
        pg_sys::SPI_keepplan(plan);
        Finding::Plan(InUse(key.conoid, plan))
    }
}

/// Raises what PostgreSQL raises for tables with row security when there is no such row.
unsafe fn refuse(relation: pg_sys::Relation, key: &pg_sys::ForeignKeyCacheInfo) -> ! {
    // SAFETY: the names are copied.
    let (table, constraint, parent) = unsafe {
        let text = |name: *const std::ffi::c_char| {
            if name.is_null() {
                String::new()
            } else {
                CStr::from_ptr(name).to_string_lossy().into_owned()
            }
        };
        (
            text(pg_sys::get_rel_name((*relation).rd_id)),
            text(pg_sys::get_constraint_name(key.conoid)),
            text(pg_sys::get_rel_name(key.confrelid)),
        )
    };
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
