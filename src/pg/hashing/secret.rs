//! The hash of a secret under today's cost, with randomness of the operating system.

use rand::rngs::SysRng;

use crate::core::hash::{self, HashError};
use crate::pg::memory::WorkArea;
use crate::pg::raw::server;
use crate::pg::settings;

/// Ends a hash, and the query that asked for it, if that was cancelled.
pub fn checkpoint() {
    server::check_for_interrupts();
}

/// The PHC string of a secret under today's cost. The caller holds a hash slot.
///
/// # Errors
/// `HashError::Cost` if argon2 refuses the settings.
pub fn hash_secret(secret: &[u8]) -> Result<String, HashError> {
    hash::hash(secret, settings::argon2_cost(), &mut operating_system_rng(), WorkArea::new)
}

/// The operating system's generator. Should it ever fail, the call that asked fails (XX000).
pub fn operating_system_rng() -> impl rand::CryptoRng {
    rand::rand_core::UnwrapErr(SysRng)
}
