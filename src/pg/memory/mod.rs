//! The shared segment: tables, counters and locks that all processes of the server share.
//!
//! `state` declares its parts, each in one line; `arena` measures, initialises and attaches them from
//! that declaration; `segment` asks PostgreSQL for the bytes. This room knows tables and bytes, not
//! the use that other modules make of them. Its unsafe code stays inside: no public item takes or
//! gives a datum or a raw pointer.
//!
//! Without preloading there is no segment. Each backend then has the same parts to itself, small,
//! and [`State::is_shared`] says so.

mod arena;
mod counters;
mod flush_status;
mod lock;
mod segment;
mod state;
mod work_area;

pub use arena::Table;
pub use counters::Counter;
pub use flush_status::Outcome;
pub use segment::{Hooks, is_preloaded, register, with};
pub use state::{CommandStatus, State, key_ref, text_handle};
pub use work_area::WorkArea;
