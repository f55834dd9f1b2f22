//! The file that keeps usage over a restart, as PostgreSQL keeps its own statistics. A crash loses
//! what was not yet written, and no more.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use pgrx::prelude::*;

use super::drain::{Drained, drain};
use crate::core::usage::UsageRecords;
use crate::pg::memory::State;

/// Beside PostgreSQL's own, relative to the data folder. Key ids, counts, times and addresses.
const FILE: &str = "pg_stat/api_key.json";

/// Takes all usage out of memory and into the file.
pub fn save(state: &State) {
    let records = drain(state, |_| true).records();
    if records == UsageRecords::default() {
        return forget_file();
    }
    let written = serde_json::to_vec(&records).map_err(std::io::Error::from).and_then(|text| {
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(FILE)?
            .write_all(&text)
    });
    if let Err(error) = written {
        log!("api_key: use counts since the last flush are lost: cannot write {FILE}: {error}");
    }
}

/// Removes the file that was restored, once its counts are about to be written: from then on a
/// crash loses them as it loses others, and none is counted twice.
pub fn forget_file() {
    thread_local! {
        static FORGOTTEN: Cell<bool> = const { Cell::new(false) };
    }
    if FORGOTTEN.replace(true) {
        return;
    }
    match std::fs::remove_file(FILE) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log!("api_key: cannot remove {FILE}: {error}");
        }
        _ => {}
    }
}

/// Puts the usage in the file into memory.
pub fn restore(state: &State) {
    let text = match std::fs::read(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            log!("api_key: cannot read {FILE}: {error}");
            return;
        }
    };
    match serde_json::from_slice::<UsageRecords>(&text) {
        Ok(records) => Drained {
            usage: records.usage.iter().filter_map(|record| record.entry()).collect(),
            denials: records.denials.iter().filter_map(|record| record.entry()).collect(),
        }
        .put_back(state),
        Err(error) => log!("api_key: {FILE} is damaged and ignored: {error}"),
    }
}
