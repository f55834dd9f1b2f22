//! Rate limits: definitions are rows (sql/45_rate_limits.sql), read at each use; what was taken of
//! them is in shared memory.

use uuid::Uuid;

use crate::core::gcra::Rate;
use crate::core::jsonb::{Value, object};
use crate::core::memo::Tag;
use crate::core::refusal::{Standing, seconds};
use crate::core::subject::Subject;
use crate::core::table::Full;
use crate::pg::error::{Error, OrRaise};
use crate::pg::keys::rows::{self, Keys};
use crate::pg::memory::{self, Counter, State, Table};
use crate::pg::raw::call::sql_function;
use crate::pg::raw::jsonb;
use crate::pg::raw::like::is_like;
use crate::pg::raw::relation::relation;
use crate::pg::raw::scan::{Row, Scan};
use crate::pg::raw::server;
use crate::pg::raw::types::{Int4, Int8, Jsonb, Text};

relation! {
    /// The table of the definitions.
    Definitions, 2, "rate_limits" {
        NAME "name" Text,
        MAX_REQUESTS "max_requests" Int4,
        PERIOD "period" Int8,
        BURST "burst" Int4,
        PER "per" Text,
        TIER "tier" Text,
        METHOD "method" Text,
        PATH "path" Text,
    }
    "rate_limits_pkey" on NAME;
}

/// The kind of subject that a limit counts requests by.
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
    /// The kind of subject in requests; `None` if only `check_rate_limit` uses it.
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
    /// All definitions that the active snapshot sees.
    pub fn all() -> Vec<Self> {
        let mut limits = Vec::new();
        Scan::all().each(|row| limits.push(Self::read(row)));
        limits
    }

    /// The definition of this name.
    pub fn find(name: &[u8]) -> Option<Self> {
        let mut found = None;
        Scan::by(Definitions::NAME.equals(name)).each(|row| found = Some(Self::read(row)));
        found
    }

    fn read(row: &Row<Definitions>) -> Self {
        let text = |column| row.get(column).map(<[u8]>::to_vec);
        // A table's constraints have them positive; whatever else is there allows least.
        let count = |column| u32::try_from(row.get(column).unwrap_or_default()).unwrap_or(1);
        let name = row.get(Definitions::NAME).unwrap_or_default();
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            max_requests: count(Definitions::MAX_REQUESTS),
            period: row.get(Definitions::PERIOD).filter(|n| *n > 0).unwrap_or(i64::MAX),
            burst: count(Definitions::BURST),
            per: row.get(Definitions::PER).and_then(Per::from_name),
            tier: text(Definitions::TIER),
            method: text(Definitions::METHOD),
            path: text(Definitions::PATH),
        }
    }

    /// Whether it is for requests of this method and path.
    pub fn covers(&self, method: &[u8], path: &[u8]) -> bool {
        // HEAD does what GET does.
        let method: &[u8] = if method == b"HEAD" { b"GET" } else { method };
        self.method.as_ref().is_none_or(|of| of == method)
            && self.path.as_ref().is_none_or(|pattern| is_like(path, pattern))
    }

    fn rate(&self) -> Rate {
        Rate::new(self.max_requests, self.period, self.burst)
    }

    /// Where the gate counts.
    fn counts<'a>(&self, state: &'a State) -> &'a Table<Subject, i64> {
        if self.per == Some(Per::Client) { &state.client_limits } else { &state.limits }
    }

    /// The subject to count under. The definition is part of it: another one begins anew, and
    /// transactions that still see the old one cannot spend what the new one allows. A key's owner
    /// is its user, who may have many.
    pub fn subject(&self, text: &[u8], owner: Option<Uuid>) -> Subject {
        memory::with(|state| match owner {
            Some(user) if self.per == Some(Per::Key) => {
                let tag = self.tag(state, b"rate limit of keys of a user ", user.as_bytes());
                Subject::of_owner(tag, state.hash(&text))
            }
            _ => Subject::alone(self.tag(state, b"rate limit ", text)),
        })
    }

    fn tag(&self, state: &State, kind: &[u8], of: &[u8]) -> Tag {
        let mut definition = Vec::with_capacity(128);
        definition.extend(kind);
        definition.extend(server::database().to_le_bytes());
        definition.extend(self.max_requests.to_le_bytes());
        definition.extend(self.period.to_le_bytes());
        definition.extend(self.burst.to_le_bytes());
        definition.extend(self.name.as_bytes());
        state.tag_key.tag(&definition, of)
    }

    /// Takes a request of the subject, and says where it is counted; or how long it has to wait.
    pub fn take(&self, subject: Subject) -> (Standing<'_>, Result<Subject, i64>) {
        self.decide(|state, now| {
            self.counts(state).with_room(&subject, now, |table| {
                let place = subject.place(table.neighbours(&subject), most_apart(state), now);
                // The count that `check_rate_limit` has so far goes on here.
                let so_far =
                    || state.check_limits.with(&place, |checks| checks.remove(&place)).unwrap_or(0);
                table.entry_at(now, place, so_far, |arrival| {
                    let taken = self.rate().take(arrival, now, 1);
                    (*arrival, taken.map(|()| place))
                })
            })
        })
    }

    /// As [`Self::take`], for a subject that the caller merely claims to be. A caller that runs SQL can
    /// claim any number of subjects, so they take no places from keys.
    pub fn take_claimed(&self, subject: Subject) -> (Standing<'_>, Result<Subject, i64>) {
        let (standing, taken) = self.check(subject, 1);
        (standing, taken.map(|()| subject))
    }

    /// Gives back one request that was taken and counted there.
    pub fn give_back(&self, place: Subject) {
        let give_back = |arrival: &mut i64| self.rate().give_back(arrival);
        memory::with(|state| {
            let here = self.counts(state).with(&place, |table| table.modify(&place, give_back));
            if here.is_none() {
                state.check_limits.with(&place, |table| table.modify(&place, give_back));
            }
        });
    }

    /// Takes `cost` requests of the subject for `check_rate_limit`: where the gate counts it, if it
    /// does, but without room there.
    fn check(&self, subject: Subject, cost: u32) -> (Standing<'_>, Result<(), i64>) {
        self.decide(|state, now| {
            let take = |arrival: &mut i64| {
                let taken = self.rate().take(arrival, now, cost);
                (*arrival, taken)
            };
            let here = |subject: Subject| {
                state.check_limits.with_room(&subject, now, |table| {
                    let place = subject.place(table.neighbours(&subject), most_apart(state), now);
                    table.entry_at(now, place, || 0, take)
                })
            };
            if self.per.is_none() {
                return here(subject);
            }
            // Held until it is counted, so that the gate does not begin to count it meanwhile.
            self.counts(state).with(&subject, |table| {
                let place = subject.place(table.neighbours(&subject), most_apart(state), now);
                table.modify(&place, take).map_or_else(|| here(place), Ok)
            })
        })
    }

    /// The answer of `count`: a state, and whether requests were taken or how long to wait.
    fn decide<T>(
        &self,
        count: impl FnOnce(&State, i64) -> Result<(i64, Result<T, i64>), Full>,
    ) -> (Standing<'_>, Result<T, i64>) {
        let now = server::monotonic_now();
        let rate = self.rate();
        memory::with(|state| {
            if !state.is_shared() {
                Error::NoRateLimits.raise();
            }
            let (arrival, taken) = count(state, now).unwrap_or_else(|_full| {
                // Not counted means refused: nobody gets more by making us forget.
                state.count(Counter::RateLimitsFull);
                (now.saturating_add(rate.window()), Err(rate.interval()))
            });
            if taken.is_err() {
                state.count(Counter::RateLimited);
            }
            (Standing { name: &self.name, rate, arrival, now }, taken)
        })
    }
}

/// How many keys of one user a limit counts apart: a sixteenth of the room at most.
fn most_apart(state: &State) -> usize {
    (state.limits.capacity() / 16).clamp(1, 256)
}

/// The user of the key whose id this is, as the gate writes it.
fn owner(subject: &[u8]) -> Option<Uuid> {
    let id = Uuid::try_parse_ascii(subject).ok()?;
    let mut text = Uuid::encode_buffer();
    let is_same = id.hyphenated().encode_lower(&mut text).as_bytes() == subject;
    rows::Row::find(id).filter(|_| is_same)?.get(Keys::USER_ID)
}

sql_function! {
    /// Counts a use of a rate limit by its name.
    fn check_rate_limit(name: Option<Text>, subject: Option<Text>, cost: Option<Int4>) -> Jsonb {
        let cost = cost.and_then(|cost| u32::try_from(cost).ok()).filter(|cost| *cost > 0);
        let Some(subject) = subject else {
            Error::NoSubject.raise();
        };
        let Some(cost) = cost else {
            Error::RateLimitCost.raise();
        };
        let Some(limit) = name.and_then(Limit::find) else {
            Error::NoSuchRateLimit.raise();
        };
        let owner = if limit.per == Some(Per::Key) { owner(subject) } else { None };
        let (standing, taken) = limit.check(limit.subject(subject, owner), cost);
        let retry_after = match taken {
            Ok(()) => jsonb::integer(0),
            Err(_) if cost > limit.burst => Value::Null,
            Err(wait) => jsonb::integer(seconds(wait).max(1)),
        };
        let reset = standing.rate.reset(standing.arrival, standing.now);
        object(&mut [
            ("allowed", Value::Bool(taken.is_ok())),
            ("limit", jsonb::integer(limit.max_requests.into())),
            ("remaining", jsonb::integer(standing.rate.remaining(standing.arrival, standing.now))),
            ("retry_after", retry_after),
            ("reset", jsonb::integer(seconds(reset))),
        ])
        .or_raise()
    }
}
