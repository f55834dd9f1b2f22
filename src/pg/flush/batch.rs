//! The part that a worker writes in one transaction.

use serde::Serialize;
use uuid::Uuid;

use crate::core::upgrade::Upgrade;
use crate::core::usage::{DenialRecord, KeyRef};
use crate::pg::memory::State;
use crate::pg::usage::{self, Drained};

/// Keys that are written in one transaction.
const MOST_KEYS: usize = 10_000;

/// Usage and upgrades of one database, taken out of memory.
#[derive(Default)]
pub struct Batch {
    usage: Drained,
    upgrades: Vec<(KeyRef, Upgrade)>,
}

/// Takes out of memory what waits for a flush of the database, in batches.
pub fn drain(state: &State, database: u32) -> Vec<Batch> {
    let Drained { mut usage, denials } = usage::drain(state, |of| of == database);
    let upgrades = state.upgrades.each(|table| table.take(|key, _| key.database == database));
    // Rows are written in one order: what else writes them waits and does not deadlock.
    usage.sort_unstable_by_key(|(key, _)| key.key_id);
    let mut chunks = usage.chunks(MOST_KEYS).map(<[_]>::to_vec);
    let first = Batch {
        usage: Drained { usage: chunks.next().unwrap_or_default(), denials },
        upgrades: upgrades.concat(),
    };
    let rest = chunks.map(|usage| Batch {
        usage: Drained { usage, ..Drained::default() },
        upgrades: Vec::new(),
    });
    std::iter::once(first).chain(rest).collect()
}

/// An upgrade as `flush_upgrades` reads it.
#[derive(Serialize)]
struct UpgradeRecord {
    key_id: String,
    replaces: String,
    hash: String,
    handle: Option<String>,
}

/// Use counts as `flush_use_counts` reads them: ids of keys, uses, failures, times and addresses of the
/// last use.
pub struct Columns {
    /// Ids of keys.
    pub key_ids: Vec<pgrx::Uuid>,
    /// Verifies that answered VALID.
    pub uses: Vec<i64>,
    /// Verifies with a wrong secret.
    pub failures: Vec<i64>,
    /// Times of the last use.
    pub last_used_at: Vec<Option<i64>>,
    /// Addresses of the last use.
    pub last_used_ip: Vec<Option<String>>,
}

impl Batch {
    /// Its upgrades; `None` if there are none.
    pub fn upgrades(&self) -> Option<serde_json::Value> {
        let record = |(key, upgrade): &(KeyRef, Upgrade)| UpgradeRecord {
            key_id: key.key_id.to_string(),
            replaces: base16ct::lower::encode_string(&upgrade.replaces),
            hash: upgrade.hash().to_owned(),
            handle: upgrade.handle.map(|handle| base16ct::lower::encode_string(&handle)),
        };
        json(self.upgrades.iter().map(record).collect())
    }

    /// Its denials; `None` if there are none.
    pub fn denials(&self) -> Option<serde_json::Value> {
        json(self.usage.denials.iter().map(DenialRecord::from).collect())
    }

    /// Its use counts.
    pub fn use_counts(&self) -> Columns {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let rows = self.usage.usage.iter();
        let ids = rows.clone().map(|(key, _)| pgrx::Uuid::from_bytes(key.key_id.into_bytes()));
        Columns {
            key_ids: ids.collect(),
            uses: rows.clone().map(|(_, usage)| count(usage.uses)).collect(),
            failures: rows.clone().map(|(_, usage)| count(usage.failures)).collect(),
            last_used_at: rows.clone().map(|(_, usage)| usage.last_used_at).collect(),
            last_used_ip: rows
                .map(|(_, usage)| usage.last_used_ip.map(|ip| ip.to_string()))
                .collect(),
        }
    }

    /// Forgets all but the use counts of these keys.
    pub fn keep_only(&mut self, keys: &[Uuid]) {
        self.usage.usage.retain(|(key, _)| keys.contains(&key.key_id));
        self.usage.denials.clear();
    }

    /// Puts the usage back into memory. An upgrade is not put back: the next verify that misses the
    /// memo makes it again.
    pub fn put_back(&self, state: &State) {
        self.usage.put_back(state);
    }
}

fn json<T: Serialize>(records: Vec<T>) -> Option<serde_json::Value> {
    (!records.is_empty()).then(|| serde_json::to_value(records).unwrap_or_default())
}
