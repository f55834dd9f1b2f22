//! Triggers of tables with policies of ours (sql/48_row_security.sql).
//!
//! PostgreSQL checks foreign keys without row security, so a reference to a row that its writer may
//! not see would succeed, and tell that it is there. Here a hidden row is answered like none. The row
//! is looked for as PostgreSQL does it, as the owner of its table, but by our rule: no policy of the
//! table is asked, and nothing of its owner's runs with the rights of the writer.
//!
//! Rows are checked one by one, so the plan for each foreign key is kept, as PostgreSQL keeps those
//! of its own checks: asking the catalog for every row costs twenty times the insert.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::PgTryBuilder;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::{PgLogLevel, PgSqlErrorCode};

use crate::core::scope;
use crate::pg::foreign::{AsOwner, Policies};
use crate::pg::gate::identity;
use crate::pg::raw::call::{Call, sql_function};
use crate::pg::raw::spi::{self, KeptPlan, Mode, Session};
use crate::pg::raw::trigger::{ForeignKey, Outcome, RowTrigger};
use crate::pg::raw::types::{Bool, Jsonb, ObjectId, Oid, Trigger, Uuid, oid};
use crate::pg::raw::value::Value;
use crate::pg::raw::{catalog, changes, context};

/// The owner of the referenced table and the query that finds the row, both NULL where any row will do.
const FIND_ROW: &CStr = c"SELECT owner, query FROM api_key_internal.reference_lookup($1)";

/// Parameters of the query besides the values of the key: tenant and user, the answer that `verify_api_key` has
/// answered, and whether the scope is admin.
const IDENTITY: [Oid; 4] = [oid::<Uuid>(), oid::<Uuid>(), oid::<Jsonb>(), oid::<Bool>()];

thread_local! {
    /// By the id of the foreign key.
    static LOOKUPS: RefCell<HashMap<Oid, Lookup>> = RefCell::new(HashMap::new());
}

sql_function! {
    /// Answers a reference to a row that the rule of its table hides from the writer like none.
    fn check_references(call;) -> Trigger {
        let Some(trigger) = call.row_trigger() else { return Outcome::nothing() };
        if !context::policies_hold(trigger.table()) {
            return Outcome::nothing();
        }
        for key in trigger.foreign_keys() {
            if let Some(values) = trigger.reference(&key)
                && !is_open(key.oid())
            {
                // After an error there is nothing more to be looked up.
                let names = Names::of(trigger, &key);
                if !row_is_there(call, trigger, &key, values) {
                    names.refuse();
                }
            }
        }
        Outcome::nothing()
    }

    /// Locks a row that is about to be another's as if its key changed, so that whoever refers to it at
    /// the same time waits, or is waited for. Its table calls it only then: PostgreSQL's check of a
    /// foreign key lets other columns change meanwhile.
    fn lock_moved_row(call;) -> Trigger {
        let Some(trigger) = call.row_trigger() else { return Outcome::nothing() };
        if trigger.is_update() && trigger.is_before() {
            trigger.lock_row();
        }
        trigger.proceed()
    }
}

/// Whether the table that a key refers to is known to have no rule of ours.
fn is_open(key: Oid) -> bool {
    LOOKUPS.with_borrow(|lookups| {
        lookups.get(&key).is_some_and(|lookup| {
            lookup.as_of == changes::count() && matches!(lookup.rule, Rule::Open)
        })
    })
}

/// An error is answered like no row, as it may have been raised because of the row; the log has it.
fn row_is_there(
    call: &Call<'_>,
    trigger: RowTrigger<'_>,
    key: &ForeignKey,
    values: Vec<Value<'_>>,
) -> bool {
    let find = AssertUnwindSafe(|| {
        spi::session(|session| {
            let used = InUse::of(session, call, trigger, key);
            found(session, &used.lookup.rule, values)
        })
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
            .set_detail(format!("The key's id in pg_constraint is {}.", key.oid().to_u32()))
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

fn found(session: &Session, rule: &Rule, values: Vec<Value<'_>>) -> bool {
    let (owner, plan) = match rule {
        Rule::Open => return true,
        Rule::Unknown => return false,
        Rule::Query { owner, plan, .. } => (*owner, plan),
    };
    let mut parameters: Vec<_> = values.into_iter().map(Some).collect();
    parameters.extend(identity_values(session));
    let _owner = AsOwner::enter_with_our_path(owner, Policies::NotForced);
    // Not read-only, so that rows of the same statement are seen, and the row can be locked.
    session.execute(plan, &parameters, Mode::ReadWrite).count() > 0
}

/// In the order of `IDENTITY`.
fn identity_values(session: &Session) -> [Option<Value<'_>>; 4] {
    let uuid = |uuid| session.value::<Uuid>(uuid);
    [
        identity::current(|identity| identity.tenant_id).map(uuid),
        identity::current(|identity| identity.user_id).map(uuid),
        identity::current(|identity| identity.api_key.clone())
            .map(|answer| session.value::<Jsonb>(answer)),
        identity::current(|identity| {
            let scopes = identity.scopes().iter().map(String::as_bytes);
            Some(session.value::<Bool>(scope::grants(scopes, b"admin")))
        }),
    ]
}

/// How the row that a foreign key refers to is found.
struct Lookup {
    /// [`changes::count`] when the rule was read.
    as_of: u64,
    rule: Rule,
}

enum Rule {
    /// No rule of ours, or another key's.
    Open,
    Query {
        owner: Oid,
        text: CString,
        plan: KeptPlan,
    },
    /// The key is not in the catalog.
    Unknown,
}

impl Rule {
    /// PostgreSQL marks a plan invalid when what it names is renamed or replaced.
    fn is_invalid(&self) -> bool {
        matches!(self, Self::Query { plan, .. } if !plan.is_valid())
    }

    fn free(self) {
        if let Self::Query { plan, .. } = self {
            plan.free();
        }
    }
}

/// A lookup in use: out of `LOOKUPS`, as conditions run functions, which may come here again and find
/// it invalid. Put back when dropped, also by an error.
struct InUse {
    key: Oid,
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
    fn of(session: &Session, call: &Call<'_>, trigger: RowTrigger<'_>, key: &ForeignKey) -> Self {
        changes::listen();
        let known = LOOKUPS.with_borrow_mut(|lookups| lookups.remove(&key.oid()));
        let never = Lookup { as_of: u64::MAX, rule: Rule::Open };
        let mut used = Self { key: key.oid(), lookup: known.unwrap_or(never) };
        let now = changes::count();
        if used.lookup.as_of != now || used.lookup.rule.is_invalid() {
            // Until it is read, it is not to be relied on.
            used.lookup.as_of = u64::MAX;
            let found = find_row(session, call, key);
            let is_same = matches!((&used.lookup.rule, &found),
                (Rule::Query { owner, text, .. }, Found::By(new_owner, new_text)) if owner == new_owner && text == new_text)
                && !used.lookup.rule.is_invalid();
            if !is_same {
                std::mem::replace(&mut used.lookup.rule, Rule::Unknown).free();
                used.lookup.rule = match found {
                    Found::Open => Rule::Open,
                    Found::Nothing => Rule::Unknown,
                    Found::By(owner, text) => prepared(session, trigger, key, owner, text),
                };
            }
            used.lookup.as_of = now;
        }
        used
    }
}

/// The answer of the catalog.
enum Found {
    Open,
    By(Oid, CString),
    Nothing,
}

/// Reads the rule as the owner of the extension, and as it is now, whatever the transaction's snapshot.
fn find_row(session: &Session, call: &Call<'_>, key: &ForeignKey) -> Found {
    let Some(ours) = catalog::function_owner(call.function()) else {
        return Found::Nothing;
    };
    let _ours = AsOwner::enter_with_our_path(ours, Policies::NotForced);
    spi::with_latest_snapshot(|| {
        let plan = session.prepare(FIND_ROW, &[oid::<ObjectId>()]);
        let key = session.value::<ObjectId>(key.oid());
        let rows = plan.execute(&[Some(key)], Mode::ReadOnly, 1);
        match (rows.get::<ObjectId>(1), rows.c_string(2)) {
            _ if rows.count() == 0 => Found::Nothing,
            (Some(owner), Some(query)) => Found::By(owner, query),
            _ => Found::Open,
        }
    })
}

/// One plan for all values, as there is at most one row.
fn prepared(
    session: &Session,
    trigger: RowTrigger<'_>,
    key: &ForeignKey,
    owner: Oid,
    text: CString,
) -> Rule {
    let mut types = trigger.types(key);
    types.extend(IDENTITY);
    let _owner = AsOwner::enter_with_our_path(owner, Policies::NotForced);
    let plan = session.keep(&text, &types);
    Rule::Query { owner, text, plan }
}

/// The names in the error of a refused reference.
struct Names {
    table: String,
    constraint: String,
    parent: String,
}

impl Names {
    fn of(trigger: RowTrigger<'_>, key: &ForeignKey) -> Self {
        Self {
            table: catalog::relation_name(trigger.table()),
            constraint: catalog::constraint_name(key.oid()),
            parent: catalog::relation_name(key.referenced()),
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
