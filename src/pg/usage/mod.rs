//! Usage: what verifies record, in memory only; a flush writes it to tables.

mod drain;
mod record;
mod restart_file;

pub use drain::{Drained, drain, each_database};
pub use record::{record_denial, record_use};
pub use restart_file::{forget_file, restore, save};
