//! Helper of sql/56_authorize.sql: the rule of a resource, asked for a row that the caller may not see.

use std::ffi::CString;

use crate::pg::foreign::{self, AsOwner, Policies};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::spi::{self, Mode, Plan};
use crate::pg::raw::types::{Bool, ObjectId, Oid, Text, oid};
use crate::pg::raw::value::Value;

sql_function! {
    /// Whether `rule`, a query, says yes to the rows of `table` that `find`, another one, gives for an id.
    /// Without a table (0), `find` reads none.
    ///
    /// The rows are passed on as one array. `find` runs as `owner` and without the owner's own policies, as
    /// foreign keys are checked. The rule runs as `role`, as it does in a policy, or as `owner` where the
    /// session's rights are not to be lent. As when PostgreSQL runs code of a table's owner (REINDEX and the
    /// like), neither can change role or leave a setting behind.
    fn holds_for(
        table: ObjectId,
        owner: ObjectId,
        find: Text,
        id: Text,
        role: ObjectId,
        rule: Text,
    ) -> Bool {
        let (Ok(find), Ok(rule)) = (CString::new(find), CString::new(rule)) else { return false };
        let role = if foreign::may_lend(role) { role } else { owner };
        spi::session(|session| {
            // Policies are put into a query when it is prepared; what it runs is to be held by them.
            let find = {
                let _owner = AsOwner::enter(owner, Policies::NotForced);
                let find = session.prepare(&find, &[oid::<Text>()]);
                if table != Oid::INVALID {
                    foreign::check_relation(&find, table, true);
                }
                find
            };
            let rows = {
                let _owner = AsOwner::enter(owner, Policies::Applied);
                only_value(&find, session.value::<Text>(id.to_vec()))
            };
            let answer = rows.and_then(|rows| {
                let _role = AsOwner::enter(role, Policies::Applied);
                only_value(&session.prepare(&rule, &[rows.kind()]), rows)
            });
            answer.is_some_and(|holds| holds.get::<Bool>() == Some(true))
        })
    }
}

/// The value of a query with one parameter; `None` for NULL.
fn only_value<'s>(plan: &Plan<'s>, parameter: Value<'_>) -> Option<Value<'s>> {
    plan.execute(&[Some(parameter)], Mode::ReadOnly, 1).value(1)
}
