//! What is not yet written when the server stops goes to a file, as PostgreSQL does with its own
//! statistics, and comes back at the next start. A crash loses it, and no more than it.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use pgrx::prelude::*;

use super::shared::State;
use crate::core::usage::Pending;

/// Beside PostgreSQL's own, relative to the data folder. Key ids, counts, times and addresses.
const FILE: &str = "pg_stat/api_key.json";

/// Takes everything out of the tables and into the file.
pub fn save(state: &State) {
    let pending = Pending {
        usage: state
            .usage
            .each(|table| table.take(|_, _| true))
            .concat()
            .iter()
            .map(Into::into)
            .collect(),
        refusals: state
            .refusals
            .each(|table| table.take(|_, _| true))
            .concat()
            .iter()
            .map(Into::into)
            .collect(),
    };
    if pending == Pending::default() {
        return forget_file();
    }
    let written = serde_json::to_vec(&pending).map_err(std::io::Error::from).and_then(|text| {
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

/// Removes the file that was loaded, once its counts are about to be written: from then on a
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

/// Puts what the file holds into the tables.
pub fn load(state: &State) {
    let text = match std::fs::read(FILE) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            log!("api_key: cannot read {FILE}: {error}");
            return;
        }
    };
    match serde_json::from_slice::<Pending>(&text) {
        Ok(pending) => {
            for (key, usage) in pending.usage.iter().filter_map(|record| record.entry()) {
                super::recording::add_usage(state, key, &usage);
            }
            for (kind, refusals) in pending.refusals.iter().filter_map(|record| record.entry()) {
                super::recording::add_refusals(state, kind, &refusals);
            }
        }
        Err(error) => log!("api_key: {FILE} is damaged and ignored: {error}"),
    }
}
