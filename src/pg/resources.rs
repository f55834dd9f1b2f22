//! Helper of sql/55_resources.sql: the rule of a resource, asked for a row that the caller may not see.

use std::ffi::CString;

use pgrx::prelude::*;

use super::foreign::{self, AsOwner, Policies};

/// Whether `rule`, a query, says yes to the rows of `table` that `find`, another one, gives for an id.
/// Without a table (0), `find` reads none.
///
/// The rows are passed on as one array. `find` runs as `owner` and without the owner's own policies, as
/// foreign keys are checked. The rule runs as `role`, as it does in a policy, or as `owner` where the
/// session's rights are not to be lent. As when PostgreSQL runs code of a table's owner (REINDEX and the
/// like), neither can change role or leave a setting behind.
#[pg_extern(sql = false)]
fn holds_for(
    table: pg_sys::Oid,
    owner: pg_sys::Oid,
    find: &[u8],
    id: &[u8],
    role: pg_sys::Oid,
    rule: &[u8],
) -> bool {
    let (Ok(find), Ok(rule)) = (CString::new(find), CString::new(rule)) else { return false };
    let role = if foreign::may_lend(role) { role } else { owner };
    // SAFETY: read-only queries of one column and one row under the snapshot of the caller. SPI is
    // finished after them; after an error the end of the (sub)transaction does that. What the first
    // query gives lives until then.
    unsafe {
        pg_sys::SPI_connect();
        // Policies are put into a query when it is prepared; what it runs is to be held by them.
        let find = {
            let _owner = AsOwner::enter(owner, Policies::NotForced);
            let find = pg_sys::SPI_prepare(find.as_ptr(), 1, &mut pg_sys::TEXTOID.clone());
            if table != pg_sys::InvalidOid {
                foreign::check_relation(find, table, true);
            }
            find
        };
        let rows = {
            let _owner = AsOwner::enter(owner, Policies::Applied);
            id.into_datum().and_then(|id| first_value(find, id))
        };
        let answer = rows.and_then(|(rows, mut kind)| {
            let _role = AsOwner::enter(role, Policies::Applied);
            first_value(pg_sys::SPI_prepare(rule.as_ptr(), 1, &mut kind), rows)
        });
        pg_sys::SPI_finish();
        answer.is_some_and(|(holds, _)| holds.value() != 0)
    }
}

/// The value and its type of a query with one parameter; `None` for NULL.
///
/// # Safety
/// Within SPI, a plan of a query that gives one column.
unsafe fn first_value(
    plan: pg_sys::SPIPlanPtr,
    mut parameter: pg_sys::Datum,
) -> Option<(pg_sys::Datum, pg_sys::Oid)> {
    // SAFETY: by the caller's promise.
    unsafe {
        let status = pg_sys::SPI_execute_plan(plan, &mut parameter, std::ptr::null(), true, 1);
        if status != pg_sys::SPI_OK_SELECT.cast_signed() || pg_sys::SPI_processed != 1 {
            return None;
        }
        let table = pg_sys::SPI_tuptable;
        let mut is_null = false;
        let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
        (!is_null).then(|| (value, pg_sys::SPI_gettypeid((*table).tupdesc, 1)))
    }
}
