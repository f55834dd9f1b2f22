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
//! Everything else that is done to such a table with the rights of an administrator is DDL of our own text (row
//! security, triggers, an index on a uuid, our default): PostgreSQL neither plans nor evaluates anything
//! of the table for it. tests/sql/foreign_code.sql tries that, and fails when another function begins to
//! execute text.

use std::cell::Cell;
use std::ffi::CString;

use crate::pg::error::Error;
use crate::pg::raw::call::{Call, sql_function};
use crate::pg::raw::catalog;
use crate::pg::raw::context::{self, Restricted};
use crate::pg::raw::spi::{self, Mode, Plan, Session};
use crate::pg::raw::types::{Jsonb, ObjectId, Oid, Regclass, Text, Void, oid};

pub use crate::pg::raw::context::Policies;

thread_local! {
    /// As whom code runs by [`AsOwner`], if it does.
    static ACTING_AS: Cell<Option<Oid>> = const { Cell::new(None) };
}

/// While it lives, the process acts as another role, [`Restricted`].
pub struct AsOwner {
    restricted: Restricted,
    acted_as: Option<Oid>,
}

impl AsOwner {
    /// Acts as `role` from now on.
    pub fn enter(role: Oid, policies: Policies) -> Self {
        let restricted = Restricted::enter(role, policies);
        Self { restricted, acted_as: ACTING_AS.replace(Some(role)) }
    }

    /// As [`Self::enter`], with a `search_path` of ours: names in conditions mean the same whatever the
    /// writer's is.
    pub fn enter_with_our_path(role: Oid, policies: Policies) -> Self {
        let entered = Self::enter(role, policies);
        entered.restricted.pin_search_path();
        entered
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        ACTING_AS.set(self.acted_as);
    }
}

/// Whether PostgreSQL or this room runs code of a table's owner with that owner's rights, while the
/// session is someone else's: also that of indexes, which PostgreSQL plans as the owner when it checks a
/// foreign key.
pub fn is_restricted() -> bool {
    context::checks_foreign_key() && !context::is_outer_user() || is_in_restricted_operation()
}

/// Whether that is so in a security-restricted operation.
pub fn is_in_restricted_operation() -> bool {
    context::is_restricted()
}

/// Whether the rights of a role of the session may be lent to a condition: not to one that is asked by
/// code of a table's owner, whom ANALYZE and the like have just kept from them.
pub fn may_lend(role: Oid) -> bool {
    !is_restricted() || ACTING_AS.get() == Some(role)
}

/// Raises an error unless a query reads the relation that was judged, and nothing but that if it is to be
/// read `alone`: between the look at its owner and the parsing of its name, the owner of its schema may
/// have put another one there.
pub fn check_relation(plan: &Plan<'_>, relation: Oid, alone: bool) {
    let relations = plan.relations();
    if !relations.contains(&relation) || alone && relations.len() > 1 {
        Error::Replaced.raise();
    }
}

sql_function! {
    /// Runs one command as the owner of a table.
    fn run_restricted(owner: ObjectId, command: Text) -> Void {
        let Ok(command) = CString::new(command) else { return };
        spi::session(|session| {
            let _owner = AsOwner::enter(owner, Policies::Applied);
            let plan = session.prepare(&command, &[]);
            if plan.commands() != 1 {
                Error::SeveralCommands.raise();
            }
            plan.execute(&[], Mode::ReadWrite, 0);
        });
    }
}

sql_function! {
    /// The rows of a table or view as its owner reads them, for a caller who may read them too. All are
    /// there before the first is given out, so that no query of the owner's is left open.
    fn read_key_rows(call; source: Option<Regclass>, columns: Option<Jsonb>) -> Option<Jsonb> {
        let rows = call.rows();
        spi::session(|session| {
            let (query, owner) = import_query(call, session, source, columns);
            let _owner = AsOwner::enter(owner, Policies::NotForced);
            let plan = session.prepare(&query, &[]);
            let source = source.unwrap_or(Oid::INVALID);
            check_relation(&plan, source, !catalog::is_view(source));
            plan.fetch_into(&rows);
        });
        None
    }
}

/// The query that reads the rows and its owner, or an error if the caller may not. Asked as the owner of
/// the extension, because the caller has no privilege on its helpers.
fn import_query(
    call: &Call<'_>,
    session: &Session,
    source: Option<Oid>,
    columns: Option<&[u8]>,
) -> (CString, Oid) {
    let caller = context::user();
    let ours = catalog::function_owner(call.function()).unwrap_or(caller);
    let parameters = [
        source.map(|source| session.value::<Regclass>(source)),
        columns.map(|columns| session.value::<Jsonb>(columns.to_vec())),
        Some(session.value::<ObjectId>(caller)),
    ];
    let _ours = AsOwner::enter(ours, Policies::Applied);
    let query = c"SELECT query, owner FROM api_key_internal.import_query($1, $2, $3)";
    let plan = session.prepare(query, &[oid::<Regclass>(), oid::<Jsonb>(), oid::<ObjectId>()]);
    let rows = plan.execute(&parameters, Mode::ReadWrite, 1);
    let (Some(query), Some(owner)) = (rows.c_string(1), rows.get::<ObjectId>(2)) else {
        Error::Parameters.raise();
    };
    (query, owner)
}
