//! Rate limits: definitions are rows (sql/45_rate_limits.sql), read at each use; what was taken of
//! them is in shared memory.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::array;
use super::call::{argument, sql_function};
use super::error::Error;
use super::jsonb::{self, Value};
use super::rows;
use super::shared::{self, Counter, Sharded, State};
use crate::core::gcra::Rate;
use crate::core::memo::Tag;
use crate::core::refusal::{Standing, seconds};

sql_function!(check_rate_limit, pg_finfo_check_rate_limit, check);

/// What a limit of requests is counted by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each key.
    Key,
    /// Each user.
    User,
    /// Each tenant.
    Tenant,
    /// Each tier, all its keys together.
    Tier,
    /// Each address.
    Client,
}

impl Per {
    fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"key" => Self::Key,
            b"user" => Self::User,
            b"tenant" => Self::Tenant,
            b"tier" => Self::Tier,
            b"client" => Self::Client,
            _ => return None,
        })
    }
}

/// A definition.
pub struct Limit {
    /// Its name.
    pub name: String,
    /// What it is counted by in requests; `None` if only `check_rate_limit` uses it.
    pub per: Option<Per>,
    /// Only for keys of this tier.
    pub tier: Option<Vec<u8>>,
    max_requests: u32,
    period: i64,
    burst: u32,
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
}

impl Limit {
    /// All definitions.
    pub fn all() -> Vec<Self> {
        Self::scan(None)
    }

    /// The definition of this name.
    pub fn find(name: &[u8]) -> Option<Self> {
        Self::scan(name.into_datum()).pop()
    }

    /// Definitions that the active snapshot sees.
    fn scan(name: Option<pg_sys::Datum>) -> Vec<Self> {
        // As sql/45_rate_limits.sql orders the columns.
        const COLUMNS: usize = 8;
        let mut limits = Vec::new();
        // SAFETY: the usual course of a scan with or without a key (access/genam.h). An error on
        // the way leaves relation and scan to the resource owner, which releases them. Tuples are
        // of our table, whose columns are known; texts are copied while the tuple is pinned.
        unsafe {
            let lock = pg_sys::AccessShareLock.cast_signed();
            let table = rows::open_rate_limits(lock);
            let mut key = pg_sys::ScanKeyData::default();
            let by_name = name.is_some();
            if let Some(name) = name {
                pg_sys::ScanKeyEntryInitialize(
                    &mut key,
                    0,
                    1,
                    pg_sys::BTEqualStrategyNumber.try_into().unwrap_or(3),
                    pg_sys::InvalidOid,
                    pg_sys::C_COLLATION_OID,
                    pg_sys::F_TEXTEQ.into(),
                    name,
                );
            }
            let scan = pg_sys::systable_beginscan(
                table,
                if by_name { rows::rate_limits_by_name() } else { pg_sys::InvalidOid },
                by_name,
                pg_sys::GetActiveSnapshot(),
                by_name.into(),
                &mut key,
            );
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let mut values = [pg_sys::Datum::null(); COLUMNS];
                let mut nulls = [true; COLUMNS];
                pg_sys::heap_deform_tuple(
                    tuple,
                    (*table).rd_att,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                let text = |at: usize| (!nulls[at]).then(|| array::text_bytes(values[at]).to_vec());
                // Checked to be positive by the table's constraints.
                let number = |at: usize| u32::try_from(values[at].value()).unwrap_or(1);
                limits.push(Self {
                    name: String::from_utf8_lossy(&text(0).unwrap_or_default()).into_owned(),
                    max_requests: number(1),
                    period: i64::try_from(values[2].value()).unwrap_or(i64::MAX),
                    burst: number(3),
                    per: text(4).and_then(|name| Per::from_name(&name)),
                    tier: text(5),
                    method: text(6),
                    path: text(7),
                });
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(table, lock);
        }
        limits
    }

    /// Whether it is for requests of this method and path.
    pub fn covers(&self, method: &[u8], path: &[u8]) -> bool {
        let like = |pattern: &[u8]| {
            // SAFETY: textlike takes two texts, and no collation but "C" to compare bytes.
            pattern.into_datum().zip(path.into_datum()).is_some_and(|(pattern, path)| unsafe {
                pg_sys::DirectFunctionCall2Coll(
                    Some(textlike),
                    pg_sys::C_COLLATION_OID,
                    path,
                    pattern,
                )
                .value()
                    != 0
            })
        };
        // HEAD does what GET does.
        let method: &[u8] = if method == b"HEAD" { b"GET" } else { method };
        self.method.as_ref().is_none_or(|of| of == method)
            && self.path.as_ref().is_none_or(|pattern| like(pattern))
    }

    fn rate(&self) -> Rate {
        Rate::new(self.max_requests, self.period, self.burst)
    }

    fn counts<'a>(&self, state: &'a State) -> &'a Sharded<Tag, i64> {
        if self.per == Some(Per::Client) { &state.client_limits } else { &state.limits }
    }

    /// What the count is kept under. The definition is part of it: another one begins anew, and
    /// transactions that still see the old one cannot spend what the new one allows.
    fn bucket(&self, state: &State, subject: &[u8]) -> Tag {
        let mut definition = Vec::with_capacity(128);
        definition.extend(b"rate limit ");
        // SAFETY: set since the backend has connected.
        definition.extend(unsafe { pg_sys::MyDatabaseId }.to_u32().to_le_bytes());
        definition.extend(self.max_requests.to_le_bytes());
        definition.extend(self.period.to_le_bytes());
        definition.extend(self.burst.to_le_bytes());
        definition.extend(self.name.as_bytes());
        state.tag_key.tag(&definition, subject)
    }

    /// Takes `cost` requests of the subject, or says how long it has to wait; `None` for ever.
    pub fn take(&self, subject: &[u8], cost: u32) -> (Standing<'_>, Result<(), Option<i64>>) {
        let rate = self.rate();
        let now = monotonic_now();
        let standing = |arrival| Standing { name: &self.name, rate, arrival, now };
        shared::with(|state| {
            if !state.is_shared() {
                Error::NoRateLimits.raise();
            }
            let bucket = self.bucket(state, subject);
            let taken = self.counts(state).with(&bucket, |table| {
                // A bucket that is full again needs no entry.
                let entry = table.entry_reusing(bucket, || 0, |arrival| *arrival <= now);
                entry.map(|arrival| {
                    let taken = rate.take(arrival, now, cost);
                    (*arrival, taken)
                })
            });
            let (arrival, taken) = taken.unwrap_or_else(|_full| {
                // Not counted means refused: nobody gets more by making us forget.
                state.count(Counter::RateLimitsFull);
                (now.saturating_add(rate.window()), Err(rate.interval()))
            });
            if taken.is_err() {
                state.count(Counter::RateLimited);
            }
            let taken = taken.map_err(|wait| Some(wait).filter(|_| cost <= self.burst));
            (standing(arrival), taken)
        })
    }

    /// Gives back one request that was taken.
    pub fn give_back(&self, subject: &[u8]) {
        shared::with(|state| {
            let bucket = self.bucket(state, subject);
            self.counts(state).with(&bucket, |table| {
                if let Some(arrival) = table.find(&bucket) {
                    self.rate().give_back(arrival);
                }
            });
        });
    }
}

/// `textlike` as a function pointer that PostgreSQL can call.
#[pg_guard]
unsafe extern "C-unwind" fn textlike(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: passes the call on.
    unsafe { pg_sys::textlike(fcinfo) }
}

/// Microseconds of a clock that nobody sets, the same in all processes.
pub fn monotonic_now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// `check_rate_limit(p_name text, p_subject text, p_cost integer)`
unsafe fn check(fcinfo: pg_sys::FunctionCallInfo) -> Option<pg_sys::Datum> {
    // SAFETY: sql/45_rate_limits.sql declares three arguments of these types.
    let (name, subject, cost) = unsafe {
        (
            argument(fcinfo, 0).map(|datum| array::text_bytes(datum)),
            argument(fcinfo, 1).map(|datum| array::text_bytes(datum)),
            argument(fcinfo, 2).and_then(|datum| i32::from_datum(datum, false)),
        )
    };
    let cost = cost.and_then(|cost| u32::try_from(cost).ok()).filter(|cost| *cost > 0);
    let (Some(subject), Some(cost)) = (subject, cost) else {
        Error::RateLimitArguments.raise();
    };
    let Some(limit) = name.and_then(Limit::find) else {
        Error::NoSuchRateLimit.raise();
    };
    let (standing, taken) = limit.take(subject, cost);
    let retry_after = match taken {
        Ok(()) => jsonb::integer(0),
        Err(Some(wait)) => jsonb::integer(seconds(wait).max(1)),
        Err(None) => Value::Null,
    };
    Some(jsonb::object(&mut [
        ("allowed", Value::Bool(taken.is_ok())),
        ("limit", jsonb::integer(limit.max_requests.into())),
        ("remaining", jsonb::integer(standing.rate.remaining(standing.arrival, standing.now))),
        ("retry_after", retry_after),
        ("reset", jsonb::integer(seconds(standing.rate.reset(standing.arrival, standing.now)))),
    ]))
}
