//! Who the current transaction acts as. It is kept in this process's memory, where no SQL reaches:
//! set by a key that was verified (src/pg/gate.rs), gone with the transaction or the
//! subtransaction that set it.
//!
//! What functions return is a copy: a procedure keeps its arguments beyond a COMMIT of its own.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::array;
use super::call::{argument, sql_function};
use super::foreign;
use crate::core::scope;

sql_function!(current_api_key, pg_finfo_current_api_key, api_key);
sql_function!(current_key_id, pg_finfo_current_key_id, key_id);
sql_function!(current_user_id, pg_finfo_current_user_id, user_id);
sql_function!(current_tenant_id, pg_finfo_current_tenant_id, tenant_id);
sql_function!(current_scopes, pg_finfo_current_scopes, scopes);
sql_function!(has_scope, pg_finfo_has_scope, is_granted);

/// Who acts.
pub struct Identity {
    /// The key; none for the bearer of a token.
    pub key_id: Option<Uuid>,
    /// Its owner.
    pub user_id: Option<Uuid>,
    /// Its tenant.
    pub tenant_id: Option<Uuid>,
    /// Its scopes; none for a token that claims none.
    pub scopes: Option<Vec<String>>,
    /// Its tier.
    pub tier: Option<String>,
    /// What `verify_api_key` has answered: a jsonb without its length.
    pub api_key: Option<Vec<u8>>,
}

impl Identity {
    /// Its scopes.
    pub fn scopes(&self) -> &[String] {
        self.scopes.as_deref().unwrap_or_default()
    }
}

thread_local! {
    /// The identities of a transaction, each with the subtransaction that set it. The last one
    /// counts; those before it come back when that subtransaction is rolled back.
    static HELD: RefCell<Vec<(pg_sys::SubTransactionId, Identity)>> =
        const { RefCell::new(Vec::new()) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Whether the code that runs is the session's own. As with SET ROLE, neither a table's owner (ANALYZE,
/// `authorize`, foreign keys) nor a SECURITY DEFINER function decides who the session is.
pub fn may_be_set() -> bool {
    // SAFETY: reads this process's security context.
    !foreign::is_restricted() && !unsafe { pg_sys::InLocalUserIdChange() }
}

/// Makes this the identity of the transaction, from now to its end.
pub fn set(identity: Identity) {
    // SAFETY: the callbacks are functions of this library, which is never unloaded.
    let subtransaction = unsafe {
        if !LISTENING.replace(true) {
            pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
        }
        pg_sys::GetCurrentSubTransactionId()
    };
    HELD.with_borrow_mut(|held| {
        held.pop_if(|(of, _)| *of == subtransaction);
        held.push((subtransaction, identity));
    });
}

/// Whether the transaction has an identity.
pub fn is_set() -> bool {
    current(|_| Some(())).is_some()
}

/// What is asked of the identity of the transaction, if there is one.
pub fn current<R>(ask: impl FnOnce(&Identity) -> Option<R>) -> Option<R> {
    HELD.with_borrow(|held| held.last().and_then(|(_, identity)| ask(identity)))
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
    };
    // Before a commit, deferred triggers and cursors that are held still run.
    let before = [XACT_EVENT_PRE_COMMIT, XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_PREPARE];
    if !before.contains(&event) {
        HELD.with_borrow_mut(Vec::clear);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    HELD.with_borrow_mut(|held| {
        if held.last().is_none_or(|(of, _)| *of != subtransaction) {
            return;
        }
        if event == SUBXACT_EVENT_ABORT_SUB {
            held.pop();
        } else if event == SUBXACT_EVENT_COMMIT_SUB
            && let Some((_, identity)) = held.pop()
        {
            held.pop_if(|(of, _)| *of == parent);
            held.push((parent, identity));
        }
    });
}

/// A uuid of the identity, copied once for each place in a statement that calls: policies call
/// for each row.
///
/// # Safety
/// `fcinfo` is of a running call, by an expression (not directly from C).
unsafe fn uuid(
    fcinfo: pg_sys::FunctionCallInfo,
    ask: impl FnOnce(&Identity) -> Option<Uuid>,
) -> Option<pg_sys::Datum> {
    let uuid = current(ask)?.into_bytes();
    // SAFETY: `fn_extra` is the function's own, null at first; its context lives as long as the
    // expression. Another value gets a place of its own, as results with the old one may be in use.
    unsafe {
        let place = &mut (*(*fcinfo).flinfo).fn_extra;
        if place.is_null() || *place.cast::<[u8; 16]>() != uuid {
            *place = pg_sys::MemoryContextAlloc((*(*fcinfo).flinfo).fn_mcxt, uuid.len());
            place.cast::<[u8; 16]>().write(uuid);
        }
        Some(pg_sys::Datum::from(*place))
    }
}

unsafe fn api_key(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // A jsonb is a varlena as a bytea is.
    current(|identity| identity.api_key.as_deref().and_then(IntoDatum::into_datum))
}

unsafe fn key_id(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: by the caller's promise.
    unsafe { uuid(fcinfo, |identity| identity.key_id) }
}

unsafe fn user_id(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: by the caller's promise.
    unsafe { uuid(fcinfo, |identity| identity.user_id) }
}

unsafe fn tenant_id(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: by the caller's promise.
    unsafe { uuid(fcinfo, |identity| identity.tenant_id) }
}

unsafe fn scopes(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    current(|identity| identity.scopes().to_vec().into_datum())
}

/// `has_scope(p_scope text)`: false without an identity, and for NULL.
unsafe fn is_granted(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/40_gate.sql declares one argument of this type.
    let required = unsafe { argument(fcinfo, 0).map(|datum| array::text_bytes(datum)) };
    let granted = required.and_then(|required| {
        current(|identity| {
            Some(scope::grants(identity.scopes().iter().map(String::as_bytes), required))
        })
    });
    Some(pg_sys::Datum::from(granted == Some(true)))
}
