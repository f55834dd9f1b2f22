//! The one room in which code of a table's owner runs.
//!
//! Domains, casts, defaults, policies, conditions, triggers, indexes and views belong to the owner of a
//! table, and whoever names the table may run them. Parsing does (an input function checks the
//! constraints of a domain), planning does (what is constant in an index is computed), reading does
//! (views, casts). The rule: text that comes from a table's owner, and queries of the table, are parsed,
//! planned and run inside of [`AsOwner`], with the owner's rights and in a security-restricted operation,
//! as PostgreSQL itself does it for REINDEX; or not at all.
//!
//! These may do it, and no other function:
//! - [`run_restricted`], for `api_key_internal.run_as_owner` (sql/48_row_security.sql): policies, conditions
//!   and defaults;
//! - [`read_key_rows`], for `import_api_keys` (sql/30_legacy.sql);
//! - `holds_for` (src/pg/resources.rs), for `authorize`;
//! - `check_references` (src/pg/references.rs), which looks for the row that a foreign key refers to.
//!
//! What else is done to such a table with the rights of an administrator is DDL of our own text (row
//! security, triggers, an index on a uuid, our default): PostgreSQL neither plans nor evaluates anything
//! of the table for it. tests/sql/foreign_code.sql tries that, and fails when another function begins to
//! execute text.

use std::cell::Cell;
use std::ffi::CString;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::call::{argument, sql_function};
use super::error::Error;

sql_function!(read_key_rows, pg_finfo_read_key_rows, read);

thread_local! {
    /// As whom code runs by [`AsOwner`], if it does.
    static ACTING_AS: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// How code of a table's owner runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// As the role is held by them.
    Applied,
    /// Without those that the owner has forced upon itself, as PostgreSQL checks foreign keys.
    NotForced,
}

/// While it lives, the process acts as another role in a security-restricted operation: neither the
/// role nor the identity can be changed, no setting outlives it, and nothing is left for the end of the
/// transaction.
pub struct AsOwner {
    caller: pg_sys::Oid,
    context: i32,
    settings: i32,
    acted_as: Option<pg_sys::Oid>,
}

impl AsOwner {
    /// Acts as `role` from now on.
    pub fn enter(role: pg_sys::Oid, policies: Policies) -> Self {
        let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE
            | pg_sys::SECURITY_RESTRICTED_OPERATION
            | match policies {
                Policies::Applied => 0,
                Policies::NotForced => pg_sys::SECURITY_NOFORCE_RLS,
            };
        let (mut caller, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: reads and sets what this process acts as. It is set back by `drop`, or after an
        // error by the end of the (sub)transaction.
        let settings = unsafe {
            pg_sys::GetUserIdAndSecContext(&mut caller, &mut context);
            pg_sys::SetUserIdAndSecContext(role, context | restricted.cast_signed());
            pg_sys::NewGUCNestLevel()
        };
        Self { caller, context, settings, acted_as: ACTING_AS.replace(Some(role)) }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        ACTING_AS.set(self.acted_as);
        // While an error unwinds, PostgreSQL must not be called: it puts both back itself.
        if !std::thread::panicking() {
            // SAFETY: the nest level and the user are those from before `enter`.
            unsafe {
                pg_sys::AtEOXact_GUC(false, self.settings);
                pg_sys::SetUserIdAndSecContext(self.caller, self.context);
            }
        }
    }
}

/// Whether PostgreSQL or this room runs code of a table's owner with that owner's rights, while the
/// session is someone else's: also that of indexes, which PostgreSQL plans as the owner when it checks a
/// foreign key.
pub fn is_restricted() -> bool {
    // SAFETY: reads this process's security context.
    let is_others = unsafe {
        pg_sys::InNoForceRLSOperation() && pg_sys::GetUserId() != pg_sys::GetOuterUserId()
    };
    is_others || is_in_restricted_operation()
}

/// Whether that is so in a security-restricted operation.
pub fn is_in_restricted_operation() -> bool {
    // SAFETY: reads this process's security context.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether the rights of a role of the session may be lent to a condition: not to one that is asked by
/// code of a table's owner, whom ANALYZE and the like have just kept from them.
pub fn may_lend(role: pg_sys::Oid) -> bool {
    !is_restricted() || ACTING_AS.get() == Some(role)
}

/// Raises an error unless a query reads the relation that was judged, and nothing but that if it is to be
/// read `alone`: between the look at its owner and the parsing of its name, the owner of its schema may
/// have put another one there.
///
/// # Safety
/// A plan that was just prepared.
pub unsafe fn check_relation(plan: pg_sys::SPIPlanPtr, relation: pg_sys::Oid, alone: bool) {
    // SAFETY: by the caller's promise a plan of one query; its list of relations is one of oids.
    let relations: Vec<pg_sys::Oid> = unsafe {
        let sources = pg_sys::SPI_plan_get_plan_sources(plan);
        let source = (*(*sources).elements).ptr_value.cast::<pg_sys::CachedPlanSource>();
        let relations = (*source).relationOids;
        (0..usize::try_from(pg_sys::list_length(relations)).unwrap_or(0))
            .map(|at| (*(*relations).elements.add(at)).oid_value)
            .collect()
    };
    if !relations.contains(&relation) || alone && relations.len() > 1 {
        Error::Replaced.raise();
    }
}

/// Runs one command as the owner of a table.
#[pg_extern(sql = false)]
fn run_restricted(owner: pg_sys::Oid, command: &[u8]) {
    let Ok(command) = CString::new(command) else { return };
    // SAFETY: SPI is finished here, or after an error by the end of the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        {
            let _owner = AsOwner::enter(owner, Policies::Applied);
            let plan = pg_sys::SPI_prepare(command.as_ptr(), 0, std::ptr::null_mut());
            if pg_sys::list_length(pg_sys::SPI_plan_get_plan_sources(plan)) != 1 {
                Error::SeveralCommands.raise();
            }
            let none = std::ptr::null_mut();
            pg_sys::SPI_execute_plan(plan, none, std::ptr::null(), false, 0);
        }
        pg_sys::SPI_finish();
    }
}

/// `read_key_rows(p_source regclass, p_columns jsonb)`: the rows of a table or view as its owner reads
/// them, for a caller who may read them too. All are in a tuplestore before the first is given out, so
/// that no query of the owner's is left open.
unsafe fn read(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/30_legacy.sql declares two arguments and a set of jsonb. SPI is finished here, or
    // after an error by the end of the (sub)transaction; the tuplestore copies each row.
    unsafe {
        let (source, columns) = (argument(fcinfo, 0), argument(fcinfo, 1));
        pg_sys::InitMaterializedSRF(fcinfo, pg_sys::MAT_SRF_USE_EXPECTED_DESC);
        let store = (*(*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>()).setResult;
        pg_sys::SPI_connect();
        let (query, owner) = import_query(fcinfo, [source, columns]);
        {
            let _owner = AsOwner::enter(owner, Policies::NotForced);
            let plan = pg_sys::SPI_prepare(query, 0, std::ptr::null_mut());
            let relation = source.and_then(|source| pg_sys::Oid::from_datum(source, false));
            let relation = relation.unwrap_or(pg_sys::InvalidOid);
            let kind = pg_sys::get_rel_relkind(relation).cast_unsigned();
            check_relation(plan, relation, kind != pg_sys::RELKIND_VIEW);
            let none = std::ptr::null_mut();
            let cursor =
                pg_sys::SPI_cursor_open(std::ptr::null(), plan, none, std::ptr::null(), false);
            loop {
                pg_sys::SPI_cursor_fetch(cursor, true, 1000);
                let rows = pg_sys::SPI_tuptable;
                let count = usize::try_from(pg_sys::SPI_processed).unwrap_or(0);
                if count == 0 {
                    break;
                }
                for row in std::slice::from_raw_parts((*rows).vals, count) {
                    pg_sys::tuplestore_puttuple(store, *row);
                }
                pg_sys::SPI_freetuptable(rows);
            }
            pg_sys::SPI_cursor_close(cursor);
        }
        pg_sys::SPI_finish();
    }
    None
}

/// The query that reads the rows and its owner, or an error if the caller may not. Asked as the owner of
/// the extension, because the caller has no privilege on its helpers.
///
/// # Safety
/// Within SPI, in a call of `read_key_rows`.
unsafe fn import_query(
    fcinfo: pg_sys::FunctionCallInfo,
    [source, columns]: [Option<pg_sys::Datum>; 2],
) -> (*const std::ffi::c_char, pg_sys::Oid) {
    // SAFETY: the arguments have the types given here; the function has one row of two columns, neither
    // NULL.
    unsafe {
        let caller = pg_sys::GetUserId();
        let function = pg_sys::Datum::from((*(*fcinfo).flinfo).fn_oid);
        let cache = pg_sys::SysCacheIdentifier::PROCOID.cast_signed();
        let row = pg_sys::SearchSysCache1(cache, function);
        let ours = (*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_proc>(row)).proowner;
        pg_sys::ReleaseSysCache(row);

        let mut types = [pg_sys::REGCLASSOID, pg_sys::JSONBOID, pg_sys::OIDOID];
        let arguments = [source, columns, Some(pg_sys::Datum::from(caller))];
        let mut values = arguments.map(|value| value.unwrap_or(pg_sys::Datum::from(0)));
        let nulls = arguments.map(|value| if value.is_some() { b' ' } else { b'n' });
        let _ours = AsOwner::enter(ours, Policies::Applied);
        pg_sys::SPI_execute_with_args(
            c"SELECT query, owner FROM api_key_internal.import_query($1, $2, $3)".as_ptr(),
            3,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr().cast(),
            false,
            1,
        );
        let (rows, mut is_null) = (pg_sys::SPI_tuptable, false);
        let (row, columns) = (*(*rows).vals, (*rows).tupdesc);
        let owner = pg_sys::SPI_getbinval(row, columns, 2, &mut is_null);
        let owner = pg_sys::Oid::from_datum(owner, is_null).unwrap_or(caller);
        (pg_sys::SPI_getvalue(row, columns, 1).cast_const(), owner)
    }
}
