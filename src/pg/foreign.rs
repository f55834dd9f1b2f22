//! The one room in which code of a table's owner runs.
//!
//! Domains, casts, defaults, policies, conditions, triggers and views belong to the owner of a table.
//! Parsing runs them too: an input function checks the constraints of a domain. Whatever comes from
//! there is parsed, planned and run inside of [`AsOwner`], with the owner's rights and in a
//! security-restricted operation, as PostgreSQL itself does it for REINDEX and foreign keys; or it is
//! not run at all.

use pgrx::pg_sys;

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
        Self { caller, context, settings }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
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
