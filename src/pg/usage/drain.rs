//! Taking usage out of memory, and putting it back.

use super::record::{add_denials, add_uses};
use crate::core::usage::{DenialKind, Denials, KeyRef, Usage, UsageRecords};
use crate::pg::memory::State;

/// Usage that was taken out of memory.
#[derive(Clone, Default)]
pub struct Drained {
    /// Use counts.
    pub usage: Vec<(KeyRef, Usage)>,
    /// Denials.
    pub denials: Vec<(DenialKind, Denials)>,
}

impl Drained {
    /// In the form that a file and `export_usage` have.
    pub fn records(&self) -> UsageRecords {
        UsageRecords {
            usage: self.usage.iter().map(Into::into).collect(),
            denials: self.denials.iter().map(Into::into).collect(),
        }
    }

    /// Adds it to what is in memory.
    pub fn put_back(&self, state: &State) {
        self.usage.iter().for_each(|(key, usage)| add_uses(state, *key, usage));
        self.denials.iter().for_each(|(kind, denials)| add_denials(state, *kind, denials));
    }
}

/// Takes the usage of the databases that are `wanted` out of memory.
pub fn drain(state: &State, wanted: impl Fn(u32) -> bool) -> Drained {
    Drained {
        usage: state.usage.each(|table| table.take(|key, _| wanted(key.database))).concat(),
        denials: state.denials.each(|table| table.take(|kind, _| wanted(kind.database))).concat(),
    }
}

/// Calls `found` for each database that has usage in memory, maybe several times.
pub fn each_database(state: &State, mut found: impl FnMut(u32)) {
    state.usage.each(|table| table.iter().for_each(|(key, _)| found(key.database)));
    state.denials.each(|table| table.iter().for_each(|(kind, _)| found(kind.database)));
}
