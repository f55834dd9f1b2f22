//! As whom this process acts, and how far it is restricted in that.

use std::marker::PhantomData;

use pgrx::pg_sys::{self, Oid};

/// Whether policies that a table's owner has forced upon itself hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policies {
    /// As the role is held by them.
    Applied,
    /// Without those, as PostgreSQL checks foreign keys.
    NotForced,
}

/// While it lives, the process acts as another role in a security-restricted operation: neither the
/// role nor the identity can be changed, no setting outlives it, and nothing is left for the end of the
/// transaction.
pub struct Restricted {
    caller: Oid,
    context: i32,
    settings: i32,
    /// It belongs to this process's state.
    process: PhantomData<*const ()>,
}

impl Restricted {
    /// Acts as `role` from now on.
    pub fn enter(role: Oid, policies: Policies) -> Self {
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
        Self { caller, context, settings, process: PhantomData }
    }

    /// Has names mean the same whatever the `search_path` of the session is, as long as this lives.
    pub fn pin_search_path(&self) {
        // SAFETY: C strings, which PostgreSQL copies; the setting is put back with this nest level.
        unsafe {
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

impl Drop for Restricted {
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

/// The role that this process acts as.
pub fn user() -> Oid {
    // SAFETY: reads what this process acts as.
    unsafe { pg_sys::GetUserId() }
}

/// Whether it acts as the role that the session or SET ROLE has chosen.
pub fn is_outer_user() -> bool {
    // SAFETY: reads what this process acts as.
    unsafe { pg_sys::GetUserId() == pg_sys::GetOuterUserId() }
}

/// Whether it checks a foreign key.
pub fn checks_foreign_key() -> bool {
    // SAFETY: reads this process's security context.
    unsafe { pg_sys::InNoForceRLSOperation() }
}

/// Whether it is in a security-restricted operation.
pub fn is_restricted() -> bool {
    // SAFETY: reads this process's security context.
    unsafe { pg_sys::InSecurityRestrictedOperation() }
}

/// Whether the role was changed for the time of an operation or a function.
pub fn is_local_user_change() -> bool {
    // SAFETY: reads this process's security context.
    unsafe { pg_sys::InLocalUserIdChange() }
}

/// Whether policies of a table of ours hold for the role that writes: neither for superusers and
/// BYPASSRLS, nor for what foreign keys do themselves (SET DEFAULT). Where somebody has disabled row
/// security, they are still meant to.
pub fn policies_hold(table: Oid) -> bool {
    use pg_sys::CheckEnableRlsResult::{RLS_ENABLED, RLS_NONE};
    // SAFETY: reads the catalog and what this process acts as.
    unsafe {
        match pg_sys::check_enable_rls(table, pg_sys::InvalidOid, true).cast_unsigned() {
            RLS_ENABLED => true,
            RLS_NONE => !checks_foreign_key() && !pg_sys::has_bypassrls_privilege(user()),
            _ => false,
        }
    }
}
