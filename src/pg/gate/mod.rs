//! The gate: what PostgREST says of a request goes in; out comes an identity for the transaction, or a
//! refusal.

mod admit;
mod caller;
pub mod identity;
mod limits;
