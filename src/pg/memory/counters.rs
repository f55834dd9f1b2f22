//! Counters of events, for the view `api_key.stats`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::arena::Arena;
use crate::pg::raw::server;

/// An event that is counted.
#[derive(Clone, Copy)]
pub enum Counter {
    /// Secrets found in the memo.
    MemoHits,
    /// Secrets not found there.
    MemoMisses,
    /// argon2 runs to check a secret.
    HashesRun,
    /// Checks that had to wait for a hash slot.
    HashesWaited,
    /// Checks given up because no hash slot became free.
    HashesRefused,
    /// Checks refused because of the key's failure budget.
    Throttled,
    /// Searches among legacy keys that went on from an earlier call.
    ScansResumed,
    /// Searches among legacy keys that a call left to a later one.
    ScansPaused,
    /// Use counts for which there was no room.
    UsageDropped,
    /// Requests refused by a rate limit.
    RateLimited,
    /// Requests refused by a rate limit for want of room to count them.
    RateLimitsFull,
}

/// How many kinds of counters there are.
const COUNTERS: usize = Counter::RateLimitsFull as usize + 1;
/// Sets of counters, so that backends do not fight over a cache line.
const STRIPES: usize = 16;

#[derive(Default)]
#[repr(align(128))]
struct Stripe([AtomicU64; COUNTERS]);

/// The counters of all processes.
pub struct Counters(&'static [Stripe]);

impl Counters {
    /// Takes the counters.
    pub fn take(arena: &mut Arena) -> Self {
        Self(arena.array(STRIPES, Stripe::default))
    }

    /// Counts one event.
    pub fn count(&self, counter: Counter) {
        let process = usize::try_from(server::process_id()).unwrap_or(0);
        if let Some(stripe) = self.0.get(process % STRIPES) {
            stripe.0[counter as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were counted.
    pub fn sum(&self, counter: Counter) -> u64 {
        self.0.iter().map(|stripe| stripe.0[counter as usize].load(Ordering::Relaxed)).sum()
    }
}
