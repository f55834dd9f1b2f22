//! The identity that the current transaction acts as. It is kept in this process's memory, where no SQL reaches:
//! set by a key that was verified (src/pg/gate.rs), gone with the transaction or the
//! subtransaction that set it.
//!
//! Functions return a copy: a procedure keeps its arguments beyond a COMMIT of its own.

use std::cell::RefCell;

use uuid::Uuid;

use crate::core::scope;
use crate::pg::foreign;
use crate::pg::raw::call::{self, Call, SharedUuid, sql_function};
use crate::pg::raw::context;
use crate::pg::raw::transaction::{self, End, Subtransaction};
use crate::pg::raw::types::{Array, Bool, Jsonb, Text};

/// An identity.
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
    /// The answer of `verify_api_key`: a jsonb without its length.
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
    static HELD: RefCell<Vec<(Subtransaction, Identity)>> = const { RefCell::new(Vec::new()) };
}

/// Whether the code that runs is the session's own. As with SET ROLE, neither a table's owner (ANALYZE,
/// `authorize`, foreign keys) nor a SECURITY DEFINER function decides who the session is.
pub fn may_be_set() -> bool {
    !foreign::is_restricted() && !context::is_local_user_change()
}

/// Makes this the identity of the transaction, from now to its end.
pub fn set(identity: Identity) {
    transaction::listen(at_end);
    let subtransaction = transaction::current();
    HELD.with_borrow_mut(|held| {
        held.pop_if(|(of, _)| *of == subtransaction);
        held.push((subtransaction, identity));
    });
}

/// Whether the transaction has an identity.
pub fn is_set() -> bool {
    current(|_| Some(())).is_some()
}

/// Asks the identity of the transaction, if there is one.
pub fn current<R>(ask: impl FnOnce(&Identity) -> Option<R>) -> Option<R> {
    HELD.with_borrow(|held| held.last().and_then(|(_, identity)| ask(identity)))
}

fn at_end(end: End) {
    HELD.with_borrow_mut(|held| match end {
        End::Transaction => held.clear(),
        End::Aborted(of) => {
            held.pop_if(|(held, _)| *held == of);
        }
        End::Committed(of, parent) => {
            if let Some((_, identity)) = held.pop_if(|(held, _)| *held == of) {
                held.pop_if(|(of, _)| *of == parent);
                held.push((parent, identity));
            }
        }
    });
}

/// A uuid of the identity.
fn uuid(call: &Call<'_>, ask: impl FnOnce(&Identity) -> Option<Uuid>) -> Option<SharedUuid> {
    current(ask).map(|uuid| call.shared_uuid(uuid))
}

sql_function! {
    /// The answer of `verify_api_key`.
    fn current_api_key() -> Option<Jsonb> {
        current(|identity| identity.api_key.clone())
    }

    /// The scopes of the identity.
    fn current_scopes() -> Option<Array<Text>> {
        current(|identity| Some(identity.scopes().to_vec()))
    }

    /// Whether they grant one: false without an identity, and for NULL.
    fn has_scope(scope: Option<Text>) -> Bool {
        let granted = scope.and_then(|required| {
            current(|identity| {
                Some(scope::grants(identity.scopes().iter().map(String::as_bytes), required))
            })
        });
        granted == Some(true)
    }
}

sql_function! {
    /// The key of the identity.
    fn current_key_id(call;) -> Option<call::Uuid> {
        uuid(call, |identity| identity.key_id)
    }

    /// Its user.
    fn current_user_id(call;) -> Option<call::Uuid> {
        uuid(call, |identity| identity.user_id)
    }

    /// Its tenant.
    fn current_tenant_id(call;) -> Option<call::Uuid> {
        uuid(call, |identity| identity.tenant_id)
    }
}
