//! The figures of `api_key.stats`.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use crate::pg::memory::{self, Counter};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::types::JsonValue;
use crate::pg::settings;

sql_function! {
    /// The statistics by name.
    fn counters() -> JsonValue {
        memory::with(|state| {
            let flush = &state.flush;
            let time = |at: i64| {
                (at != 0).then(|| TimestampWithTimeZone::try_from(at).ok().map(|at| at.to_iso_string()))
            };
            serde_json::json!({
                "preloaded": state.is_shared(),
                "memo_hits": state.counted(Counter::MemoHits),
                "memo_misses": state.counted(Counter::MemoMisses),
                "memo_entries": state.memo.len(),
                "memo_capacity": state.memo.capacity(),
                "hashes_run": state.counted(Counter::HashesRun),
                "hashes_running": state.hash_queue(|queue| queue.hashing()),
                "hashes_limit": settings::max_concurrent_hashes(),
                "hashes_waited": state.counted(Counter::HashesWaited),
                "hashes_refused": state.counted(Counter::HashesRefused),
                "scans_resumed": state.counted(Counter::ScansResumed),
                "scans_paused": state.counted(Counter::ScansPaused),
                "throttled": state.counted(Counter::Throttled),
                "failure_entries": state.failures.len(),
                "failure_capacity": state.failures.capacity(),
                "usage_entries": state.usage.len(),
                "usage_capacity": state.usage.capacity(),
                "usage_dropped": state.counted(Counter::UsageDropped),
                "refusal_entries": state.denials.len(),
                "refusal_capacity": state.denials.capacity(),
                "rate_limited": state.counted(Counter::RateLimited),
                "rate_limit_entries": state.limits.len(),
                "rate_limit_capacity": state.limits.capacity(),
                "rate_limit_client_entries": state.client_limits.len(),
                "rate_limit_client_capacity": state.client_limits.capacity(),
                "rate_limit_check_entries": state.check_limits.len(),
                "rate_limit_check_capacity": state.check_limits.capacity(),
                "rate_limits_full": state.counted(Counter::RateLimitsFull),
                "upgrade_entries": state.upgrades.len(),
                "upgrade_capacity": state.upgrades.capacity(),
                "flushes": flush.flushes(),
                "last_flush_at": time(flush.last_flush_at()),
                "last_error": flush.last_error(),
                "last_error_at": time(flush.last_error_at()),
            })
        })
    }
}
