//! Typed, safe access to what PostgreSQL gives: calls, values, tables, queries, triggers, settings, and
//! facts about the server.
//!
//! Unsafe code stays inside: no item that can be seen from outside takes or gives a datum or a raw
//! pointer. Values live as long as the call, the row or the session that they come from; the compiler
//! holds callers to it, except for what is copied into the memory context of the call (`Row`,
//! `Inet::from_ip`, `SharedUuid`, `Outcome`): do not keep these beyond the call.

mod datum;
mod library;
mod markers;
mod passing;
mod signature;
mod varlena;

pub mod background;
pub mod call;
pub mod catalog;
pub mod changes;
pub mod context;
pub mod inet;
pub mod jsonb;
pub mod like;
pub mod lock;
pub mod options;
pub mod relation;
pub mod scan;
pub mod server;
pub mod spi;
pub mod transaction;
pub mod trigger;
pub mod types;
pub mod value;
