//! Who the current transaction acts as. It is kept in this process's memory, where no SQL reaches:
//! set by a key that was verified (src/pg/gate.rs), gone with the transaction or the
//! subtransaction that set it.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;
use uuid::Uuid;

use super::array;
use super::call::{argument, sql_function};
use crate::core::scope;

sql_function!(current_api_key, pg_finfo_current_api_key, api_key);
sql_function!(current_key_id, pg_finfo_current_key_id, key_id);
sql_function!(current_user_id, pg_finfo_current_user_id, user_id);
sql_function!(current_tenant_id, pg_finfo_current_tenant_id, tenant_id);
sql_function!(current_scopes, pg_finfo_current_scopes, scopes);
sql_function!(has_scope, pg_finfo_has_scope, is_granted);

/// Who acts. Datums live in `TopTransactionContext`.
pub struct Identity {
    /// The key; none for the bearer of a token.
    pub key_id: Option<Uuid>,
    /// Its owner.
    pub user_id: Option<Uuid>,
    /// Its tenant.
    pub tenant_id: Option<Uuid>,
    /// What it may do.
    pub scopes: Vec<Vec<u8>>,
    /// `scopes` as a text[].
    pub scopes_datum: Option<pg_sys::Datum>,
    /// What `verify_api_key` has answered, a jsonb.
    pub api_key: Option<pg_sys::Datum>,
}

/// What policies read for each row: one pointer. It points into `HELD`, null if that is empty.
static CURRENT: AtomicPtr<Identity> = AtomicPtr::new(std::ptr::null_mut());

/// The identities of a transaction. Only the last of `acting` counts; those before it come back
/// when a subtransaction is rolled back. What was replaced stays until the transaction ends,
/// because a running query may hold pointers into it.
struct Held {
    acting: Vec<(pg_sys::SubTransactionId, Box<Identity>)>,
    #[allow(clippy::vec_box, reason = "what points to an identity must find it where it was")]
    replaced: Vec<Box<Identity>>,
}

thread_local! {
    static HELD: RefCell<Held> =
        const { RefCell::new(Held { acting: Vec::new(), replaced: Vec::new() }) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
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
    change(|held| {
        if held.acting.last().is_some_and(|(of, _)| *of == subtransaction) {
            held.replaced.extend(held.acting.pop().map(|(_, identity)| identity));
        }
        held.acting.push((subtransaction, Box::new(identity)));
    });
}

/// The identity of the transaction.
pub fn current() -> Option<&'static Identity> {
    // SAFETY: points into `HELD`, where it stays until the transaction ends; nothing that is made
    // of it is kept beyond.
    unsafe { CURRENT.load(Ordering::Relaxed).as_ref() }
}

fn change(change: impl FnOnce(&mut Held)) {
    HELD.with_borrow_mut(|held| {
        change(held);
        let current =
            held.acting.last_mut().map(|(_, identity)| std::ptr::from_mut(&mut **identity));
        CURRENT.store(current.unwrap_or(std::ptr::null_mut()), Ordering::Relaxed);
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
    };
    // Before a commit, deferred triggers and cursors that are held still run.
    let before = [XACT_EVENT_PRE_COMMIT, XACT_EVENT_PARALLEL_PRE_COMMIT, XACT_EVENT_PRE_PREPARE];
    if !before.contains(&event) {
        change(|held| {
            held.acting.clear();
            held.replaced.clear();
        });
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
    change(|held| {
        if held.acting.last().is_none_or(|(of, _)| *of != subtransaction) {
            return;
        }
        if event == SUBXACT_EVENT_ABORT_SUB {
            held.replaced.extend(held.acting.pop().map(|(_, identity)| identity));
        } else if event == SUBXACT_EVENT_COMMIT_SUB {
            if let Some(before) = held.acting.len().checked_sub(2)
                && held.acting[before].0 == parent
            {
                held.replaced.push(held.acting.remove(before).1);
            }
            if let Some((of, _)) = held.acting.last_mut() {
                *of = parent;
            }
        }
    });
}

fn datum(uuid: Option<&'static Uuid>) -> Option<pg_sys::Datum> {
    uuid.map(|uuid| pg_sys::Datum::from(uuid.as_bytes().as_ptr()))
}

unsafe fn api_key(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    current()?.api_key
}

unsafe fn key_id(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    datum(current()?.key_id.as_ref())
}

unsafe fn user_id(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    datum(current()?.user_id.as_ref())
}

unsafe fn tenant_id(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    datum(current()?.tenant_id.as_ref())
}

unsafe fn scopes(_: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    current()?.scopes_datum
}

/// `has_scope(p_scope text)`: false without an identity, and for NULL.
unsafe fn is_granted(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/40_gate.sql declares one argument of this type.
    let required = unsafe { argument(fcinfo, 0).map(|datum| array::text_bytes(datum)) };
    let granted = required.zip(current()).is_some_and(|(required, identity)| {
        scope::grants(identity.scopes.iter().map(Vec::as_slice), required)
    });
    Some(pg_sys::Datum::from(granted))
}
