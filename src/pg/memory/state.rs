//! The parts of the segment.

use std::cell::Cell;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize};

use pgrx::prelude::*;
use rand::TryRng;
use rand::rngs::SysRng;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::arena::{Arena, Table};
use super::counters::{Counter, Counters};
use super::flush_status::FlushStatus;
use super::lock::Guarded;
use crate::core::handle::{Handle, TextHandle};
use crate::core::hash_queue::{HashQueue, Seat};
use crate::core::memo::{Memo, TagKey};
use crate::core::scan::Progress;
use crate::core::subject::Subject;
use crate::core::table::seeded_hash;
use crate::core::upgrade::Upgrade;
use crate::core::usage::{DenialKind, Denials, KeyRef, Usage};
use crate::pg::raw::server;
use crate::pg::settings::Sizes;

/// Better hashes that can wait for a flush.
const UPGRADES: usize = 1024;
/// Texts of legacy keys whose key is remembered.
const KNOWN_TEXTS: usize = 16_384;
/// Searches for keys of texts that can be gone on with.
const SCANS: usize = 4096;

/// The segment, as a process sees it.
pub struct State {
    is_shared: bool,
    seed: u64,
    counters: Counters,
    hash_queue: Guarded<HashQueue<'static>>,
    /// Known secrets.
    pub memo: Memo<'static>,
    /// The key of the memo.
    pub tag_key: TagKey,
    /// The state of flushes.
    pub flush: FlushStatus,
    /// The state of the root key's command.
    pub root_key_command: &'static CommandStatus,
    /// Use counts that wait for a flush.
    pub usage: Table<KeyRef, Usage>,
    /// Denials that wait for a flush.
    pub denials: Table<DenialKind, Denials>,
    /// Upgrades that wait for a flush.
    pub upgrades: Table<KeyRef, Upgrade>,
    /// Failure budgets: the state of a [`crate::core::gcra::Rate`] for each key.
    pub failures: Table<KeyRef, i64>,
    /// Where texts of legacy keys were found.
    pub known_texts: Table<TextHandle, Uuid>,
    /// Rate limits of requests: the state of a [`crate::core::gcra::Rate`] for each limit and subject.
    pub limits: Table<Subject, i64>,
    /// Rate limits of clients, who need no key to be many: they take no room from the others.
    pub client_limits: Table<Subject, i64>,
    /// Counts of `check_rate_limit`, by the subjects of an application.
    pub check_limits: Table<Subject, i64>,
    /// Searches for keys of texts among legacy keys that share their prefix.
    pub scans: Table<TextHandle, Progress>,
}

impl State {
    /// Takes all parts, in this order.
    pub fn take(arena: &mut Arena, sizes: &Sizes) -> Self {
        let random = arena.one(Random::new);
        let seed = random.seed;
        let (entries, limits) = (sizes.usage_entries, sizes.rate_limit_entries);
        Self {
            is_shared: arena.is_shared(),
            seed,
            counters: Counters::take(arena),
            hash_queue: arena.guarded(|arena| {
                let seats = arena.array(sizes.backends, || Cell::new(Seat::Empty));
                HashQueue::new(seats, arena.one(Cell::default))
            }),
            memo: Memo::new(arena.array(Memo::words(sizes.memo_entries), AtomicU64::default)),
            tag_key: TagKey::new(&random.tag_key),
            flush: FlushStatus::take(arena),
            root_key_command: arena.one(CommandStatus::default),
            usage: arena.table(entries, seed),
            denials: arena.table(sizes.refusal_entries, seed),
            upgrades: arena.table(UPGRADES, seed),
            failures: arena.table(sizes.failure_entries, seed),
            known_texts: arena.table(KNOWN_TEXTS, seed),
            limits: arena.table(limits, seed),
            client_limits: arena.table(limits, seed),
            check_limits: arena.table(limits, seed),
            scans: arena.table(SCANS, seed),
        }
    }

    /// Whether other processes see it too.
    pub const fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Counts one event.
    pub fn count(&self, counter: Counter) {
        self.counters.count(counter);
    }

    /// How many events were counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.sum(counter)
    }

    /// A hash that nobody outside can foresee.
    pub fn hash<K: Hash>(&self, key: &K) -> u64 {
        seeded_hash(self.seed, key)
    }

    /// Works on the queue for hash slots, alone.
    pub fn hash_queue<R>(&self, work: impl FnOnce(&HashQueue<'_>) -> R) -> R {
        self.hash_queue.with(work)
    }
}

/// Random numbers of this start of the server.
struct Random {
    tag_key: [u8; 64],
    /// Of the hashes by which tables place their keys.
    seed: u64,
}

impl Random {
    fn new() -> Self {
        let mut bytes = Zeroizing::new([0; 72]);
        if SysRng.try_fill_bytes(&mut *bytes).is_err() {
            error!("the operating system gives no random numbers");
        }
        let mut tag_key = [0; 64];
        tag_key.copy_from_slice(&bytes[..64]);
        Self { tag_key, seed: u64::from_le_bytes(*bytes.last_chunk().unwrap_or(&[0; 8])) }
    }
}

/// How the command of the root key fares, for all backends.
#[derive(Default)]
pub struct CommandStatus {
    /// When it failed (monotonic microseconds); 0 if it did not.
    pub failed_at: AtomicI64,
    /// A hash of the settings with which it failed: others are tried at once.
    pub source: AtomicU64,
    /// The number of the reason why it failed.
    pub reason: AtomicUsize,
    /// How long it had run when it was interrupted, in microseconds.
    pub lasted: AtomicI64,
}

/// A key of the current database.
pub fn key_ref(key_id: Uuid) -> KeyRef {
    KeyRef { database: server::database(), key_id }
}

/// The text of a legacy key in the current database.
pub fn text_handle(handle: Handle) -> TextHandle {
    TextHandle { database: server::database(), handle }
}
