//! Helper of sql/55_resources.sql: what belongs to the owner of a table runs with that owner's rights.

use pgrx::prelude::*;

/// The answer of a query about an id and a caller, asked as `owner`. As when PostgreSQL itself runs
/// code of a table's owner (REINDEX and the like), it can neither change role nor leave a setting
/// behind. The owner's tables that the query itself names are read without their policies, as
/// foreign keys are checked; a condition with a subquery is no condition (sql/55_resources.sql).
#[pg_extern(sql = false)]
fn ask_as_owner(
    owner: pg_sys::Oid,
    query: &str,
    id: Option<&str>,
    user_id: Option<pgrx::Uuid>,
    tenant_id: Option<pgrx::Uuid>,
    is_admin: Option<bool>,
    bound_to: Option<&str>,
) -> Option<bool> {
    let Ok(query) = std::ffi::CString::new(query) else { return None };
    let mut types =
        [pg_sys::TEXTOID, pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::BOOLOID, pg_sys::TEXTOID];
    let arguments = [
        id.into_datum(),
        user_id.into_datum(),
        tenant_id.into_datum(),
        is_admin.into_datum(),
        bound_to.into_datum(),
    ];
    let mut values = arguments.map(|argument| argument.unwrap_or(pg_sys::Datum::from(0)));
    let nulls = arguments.map(|argument| if argument.is_some() { b' ' } else { b'n' });
    // SAFETY: a read-only query of one boolean column under the snapshot of the caller. Role, settings
    // and SPI are put back after it; after an error the end of the (sub)transaction does that.
    unsafe {
        let mut role = pg_sys::InvalidOid;
        let mut context = 0;
        pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
        let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE
            | pg_sys::SECURITY_RESTRICTED_OPERATION
            | pg_sys::SECURITY_NOFORCE_RLS;
        pg_sys::SetUserIdAndSecContext(owner, context | restricted.cast_signed());
        let settings = pg_sys::NewGUCNestLevel();
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 5, types.as_mut_ptr());
        // Policies are put into a query when it is prepared. They hold for the functions that it runs.
        let restricted = restricted & !pg_sys::SECURITY_NOFORCE_RLS;
        pg_sys::SetUserIdAndSecContext(owner, context | restricted.cast_signed());
        let status =
            pg_sys::SPI_execute_plan(plan, values.as_mut_ptr(), nulls.as_ptr().cast(), true, 1);
        let mut answer = None;
        if status == pg_sys::SPI_OK_SELECT.cast_signed() && pg_sys::SPI_processed == 1 {
            let mut is_null = false;
            let table = pg_sys::SPI_tuptable;
            let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            answer = (!is_null).then(|| value.value() != 0);
        }
        pg_sys::SPI_finish();
        pg_sys::AtEOXact_GUC(false, settings);
        pg_sys::SetUserIdAndSecContext(role, context);
        answer
    }
}
