//! The shared memory of the extension: its layout, its locks, its beginning and its end.
//!
//! Without preloading there is none; then each backend has the same structures to itself, small,
//! and [`State::is_shared`] says so.

use std::cell::OnceCell;
use std::ffi::CStr;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;
use pgrx::prelude::*;
use rand::TryRng;
use rand::rngs::SysRng;
use uuid::Uuid;

use super::root_key::Handle;
use super::settings::{self, Sizes};
use crate::core::desk::{Desk, Seat};
use crate::core::memo::{Memo, Tag, TagKey};
use crate::core::scan::Progress;
use crate::core::table::{self, Slot, Table};
use crate::core::usage::{KeyRef, RefusalKind, Refusals, Usage};

/// Parts of a table, each under a lock of its own.
const SHARDS: usize = 16;
/// Sets of counters, so that backends do not fight over a cache line.
const STRIPES: usize = 16;
/// Kinds of tables that are locked.
const TABLES: usize = 8;
/// One for each shard of each table, and one for the desk.
const LOCKS: usize = TABLES * SHARDS + 1;
/// Better hashes that can wait for the worker.
const UPGRADES: usize = 1024;
/// Texts of legacy keys whose row is remembered.
const PLACES: usize = 16_384;
/// Searches for keys of texts that can be gone on with.
const SCANS: usize = 4096;
const NAME: &CStr = c"api_key";

/// What is counted, for the view `api_key.stats`.
#[derive(Clone, Copy)]
pub enum Counter {
    /// Secrets found in the memo.
    MemoHits,
    /// Secrets not found there.
    MemoMisses,
    /// argon2 runs to check a secret.
    HashesRun,
    /// Checks that had to wait for another to end.
    HashesWaited,
    /// Checks given up because there was no room.
    HashesRefused,
    /// Checks refused because of the key's failure budget.
    Throttled,
    /// Searches among legacy keys that went on from an earlier call.
    ScansResumed,
    /// Those that a call left to a later one.
    ScansPaused,
    /// Use counts for which there was no room.
    UsageDropped,
    /// Requests refused by a rate limit.
    RateLimited,
    /// Those of them that were refused for want of room to count them.
    RateLimitsFull,
}

/// How many kinds of counters there are.
const COUNTERS: usize = 11;

#[repr(C, align(128))]
struct Stripe([AtomicU64; COUNTERS]);

/// The text of a legacy key, in a database.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The database's oid.
    pub database: u32,
    /// The handle of the text.
    pub handle: Handle,
}

impl Place {
    /// A text in the current database.
    pub fn here(handle: Handle) -> Self {
        // SAFETY: set since the backend has connected.
        Self { database: unsafe { pg_sys::MyDatabaseId }.to_u32(), handle }
    }
}

/// A hash that is to replace a weaker one.
#[derive(Clone, Copy)]
pub struct Upgrade {
    /// SHA-256 of the hash that it replaces: a rotation in between wins.
    pub replaces: [u8; 32],
    /// The handle by which a legacy key is to be found from then on.
    pub handle: Option<Handle>,
    /// The PHC string, its length before it.
    pub hash: (usize, [u8; 192]),
}

/// In `WorkerState::failing`: it was none's in particular.
pub const EVERY_DATABASE: u32 = u32::MAX;

/// What the worker says of itself.
#[repr(C)]
pub struct WorkerState {
    /// The launcher's latch; null when it does not run.
    pub latch: AtomicPtr<pg_sys::Latch>,
    /// Somebody found little room left since the launcher last looked.
    pub needs_room: AtomicBool,
    /// Flushes asked for, and those of them that are done.
    pub requested: AtomicU64,
    /// See `requested`.
    pub done: AtomicU64,
    /// Databases flushed, ever.
    pub flushes: AtomicU64,
    /// The last flush, in microseconds since 2000; 0 for never.
    pub last_flush_at: AtomicI64,
    /// The database whose worker ended last, and how: see `worker`.
    pub outcome: AtomicU32,
    /// Databases that the last round could not flush, or `EVERY_DATABASE`; 0 for none.
    pub failing: [AtomicU32; 16],
    /// The last error, in microseconds since 2000; 0 for none.
    pub last_error_at: AtomicI64,
    /// Text of the last error, its length before it. Under the lock of the first shard of usage.
    last_error: (usize, [u8; 256]),
}

#[repr(C)]
struct Header {
    tag_key: [u8; 64],
    stripes: [Stripe; STRIPES],
    /// Those who came to the desk. Under its lock.
    tickets: u64,
    worker: WorkerState,
    used: [[usize; SHARDS]; TABLES],
    sizes: Sizes,
}

/// A table in shards; whoever works on one holds its lock.
pub struct Sharded<K, V> {
    slots: *mut Slot<K, V>,
    used: *mut usize,
    shards: usize,
    shard_slots: usize,
    /// Null in a backend of its own.
    locks: *mut pg_sys::LWLockPadded,
}

struct Locked(*mut pg_sys::LWLock);

impl Locked {
    fn new(lock: *mut pg_sys::LWLock) -> Self {
        if !lock.is_null() {
            // SAFETY: one of our tranche's locks.
            unsafe { pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE) };
        }
        Self(lock)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: held since `new`, for memory operations that raise no errors.
            unsafe { pg_sys::LWLockRelease(self.0) }
        }
    }
}

impl<K: Copy + Eq + Hash, V: Copy> Sharded<K, V> {
    /// Works on the shard where `key` belongs.
    pub fn with<R>(&self, key: &K, work: impl FnOnce(&mut Table<'_, K, V>) -> R) -> R {
        // The low bits choose the slot in the shard.
        let shard = usize::try_from(table::hash(key) >> 40).unwrap_or(0) % self.shards;
        self.on(shard, work)
    }

    /// Works on each shard in turn.
    pub fn each<R>(&self, mut work: impl FnMut(&mut Table<'_, K, V>) -> R) -> Vec<R> {
        (0..self.shards).map(|shard| self.on(shard, &mut work)).collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.each(|table| table.len()).into_iter().sum()
    }

    /// How many entries there can be.
    pub const fn capacity(&self) -> usize {
        self.shards * Table::<K, V>::capacity(self.shard_slots)
    }

    fn on<R>(&self, shard: usize, work: impl FnOnce(&mut Table<'_, K, V>) -> R) -> R {
        // SAFETY: `attach` gave `shards` times `shard_slots` initialised slots and as many
        // counts and locks as shards; the lock makes the references exclusive among processes,
        // and no `work` works on another shard of the same table.
        unsafe {
            let lock = if self.locks.is_null() {
                std::ptr::null_mut()
            } else {
                &raw mut (*self.locks.add(shard)).lock
            };
            let _locked = Locked::new(lock);
            let slots = std::slice::from_raw_parts_mut(
                self.slots.add(shard * self.shard_slots),
                self.shard_slots,
            );
            work(&mut Table::new(slots, &mut *self.used.add(shard)))
        }
    }
}

/// All of it, as a process sees it.
pub struct State {
    header: *mut Header,
    shared: bool,
    /// Known secrets.
    pub memo: Memo<'static>,
    /// The key of the memo.
    pub tag_key: TagKey,
    /// Use counts to be written.
    pub usage: Sharded<KeyRef, Usage>,
    /// Refusals to be written.
    pub refusals: Sharded<RefusalKind, Refusals>,
    /// Failure budgets: the state of a [`crate::core::gcra::Rate`] for each key.
    pub failures: Sharded<KeyRef, i64>,
    /// Better hashes to be written.
    pub upgrades: Sharded<KeyRef, Upgrade>,
    /// Where texts of legacy keys were found.
    pub places: Sharded<Place, Uuid>,
    /// Rate limits: the state of a [`crate::core::gcra::Rate`] for each limit and subject.
    pub limits: Sharded<Tag, i64>,
    /// Those of clients, who need no key to be many: they take no room from the others.
    pub client_limits: Sharded<Tag, i64>,
    /// Searches for keys of texts among legacy keys that share their prefix.
    pub scans: Sharded<Place, Progress>,
    desk: (*mut Seat, *mut pg_sys::LWLock),
}

thread_local! {
    static STATE: OnceCell<State> = const { OnceCell::new() };
}

/// Where the segment is; null without preloading. Children inherit it from the postmaster.
static SEGMENT: AtomicPtr<Header> = AtomicPtr::new(std::ptr::null_mut());

/// The state of this process.
pub fn with<R>(work: impl FnOnce(&State) -> R) -> R {
    STATE.with(|state| work(state.get_or_init(State::attach)))
}

/// Whether the library was preloaded.
pub fn is_preloaded() -> bool {
    !SEGMENT.load(Ordering::Relaxed).is_null()
}

impl State {
    fn attach() -> Self {
        let segment = SEGMENT.load(Ordering::Relaxed);
        if segment.is_null() {
            let sizes = Sizes::of_a_backend();
            let layout = std::alloc::Layout::from_size_align(segment_size(&sizes), 128)
                .unwrap_or_else(|_| std::alloc::Layout::new::<Header>());
            // SAFETY: the size is not zero; the memory is never freed, as `&'static` says.
            let memory = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<Header>();
            if memory.is_null() {
                super::error::Error::Memory.raise();
            }
            // SAFETY: zeroed memory of the size that `initialise` asks for.
            unsafe {
                initialise(memory, sizes);
                Self::at(memory, std::ptr::null_mut())
            }
        } else {
            // SAFETY: initialised by the postmaster, with the tranche of the same name.
            unsafe { Self::at(segment, pg_sys::GetNamedLWLockTranche(NAME.as_ptr())) }
        }
    }

    /// # Safety
    /// `header` is an initialised segment that stays; `locks` are `LOCKS` locks, or null for a segment that no other process has.
    unsafe fn at(header: *mut Header, locks: *mut pg_sys::LWLockPadded) -> Self {
        // SAFETY: by the caller's promise, and `Places` is how `initialise` laid it out.
        unsafe {
            let sizes = &(*header).sizes;
            let places = Places::new(sizes);
            let base = header.cast::<u8>();
            let words = Memo::words(sizes.memo_entries);
            Self {
                header,
                shared: !locks.is_null(),
                memo: Memo::new(std::slice::from_raw_parts(base.add(places.memo).cast(), words)),
                tag_key: TagKey::new(&(*header).tag_key),
                usage: Self::table(header, places.usage, sizes.usage_entries, locks, 0),
                refusals: Self::table(header, places.refusals, sizes.refusal_entries, locks, 1),
                failures: Self::table(header, places.failures, sizes.failure_entries, locks, 2),
                upgrades: Self::table(header, places.upgrades, UPGRADES, locks, 3),
                places: Self::table(header, places.places, PLACES, locks, 4),
                limits: Self::table(header, places.limits, sizes.rate_limit_entries, locks, 5),
                client_limits: Self::table(
                    header,
                    places.client_limits,
                    sizes.rate_limit_entries,
                    locks,
                    6,
                ),
                scans: Self::table(header, places.scans, SCANS, locks, 7),
                desk: (
                    base.add(places.desk).cast(),
                    if locks.is_null() {
                        std::ptr::null_mut()
                    } else {
                        &raw mut (*locks.add(TABLES * SHARDS)).lock
                    },
                ),
            }
        }
    }

    unsafe fn table<K, V>(
        header: *mut Header,
        place: usize,
        entries: usize,
        locks: *mut pg_sys::LWLockPadded,
        table: usize,
    ) -> Sharded<K, V> {
        // SAFETY: as `at`.
        unsafe {
            Sharded {
                slots: header.cast::<u8>().add(place).cast(),
                used: (&raw mut (*header).used[table]).cast(),
                shards: SHARDS,
                shard_slots: entries.div_ceil(SHARDS),
                locks: if locks.is_null() { locks } else { locks.add(table * SHARDS) },
            }
        }
    }

    /// Whether other backends see it too.
    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Counts.
    pub fn count(&self, counter: Counter) {
        // SAFETY: set since the process began. Asking the operating system takes a system call.
        let process = unsafe { pg_sys::MyProcPid }.unsigned_abs();
        let stripe = usize::try_from(process).unwrap_or(0) % STRIPES;
        self.header().stripes[stripe].0[counter as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted.
    pub fn counted(&self, counter: Counter) -> u64 {
        let stripes = self.header().stripes.iter();
        stripes.map(|stripe| stripe.0[counter as usize].load(Ordering::Relaxed)).sum()
    }

    /// Works on the desk where processes queue up to hash.
    pub fn desk<R>(&self, work: impl FnOnce(&mut Desk<'_>) -> R) -> R {
        // SAFETY: `initialise` made this many seats; the lock makes the references exclusive among
        // processes, and no `work` comes back here.
        unsafe {
            let (seats, lock) = self.desk;
            let _locked = Locked::new(lock);
            let seats = std::slice::from_raw_parts_mut(seats, (*self.header).sizes.backends);
            work(&mut Desk::new(seats, &mut (*self.header).tickets))
        }
    }

    /// What the worker says of itself.
    pub fn worker(&self) -> &WorkerState {
        &self.header().worker
    }

    /// Notes that the round could not flush a database.
    pub fn fails(&self, database: u32) {
        let failing = &self.worker().failing;
        let free = failing.iter().find(|place| place.load(Ordering::Relaxed) == 0);
        match (free, failing.last()) {
            (Some(place), _) => place.store(database, Ordering::Relaxed),
            (None, Some(last)) => last.store(EVERY_DATABASE, Ordering::Relaxed),
            (None, None) => {}
        }
    }

    /// Whether the last round could not flush a database.
    pub fn failed(&self, database: u32) -> bool {
        self.worker().failing.iter().any(|place| {
            let failing = place.load(Ordering::Relaxed);
            failing == database || failing == EVERY_DATABASE
        })
    }

    /// Keeps the text of an error, cut to what there is room for.
    pub fn keep_error(&self, text: &str, now: i64) {
        self.usage.on(0, |_| {
            // SAFETY: the lock of the first shard is held.
            let kept = unsafe { &mut (*self.header).worker.last_error };
            let mut length = text.len().min(kept.1.len());
            while !text.is_char_boundary(length) {
                length -= 1;
            }
            kept.0 = length;
            kept.1[..length].copy_from_slice(&text.as_bytes()[..length]);
        });
        self.worker().last_error_at.store(now, Ordering::Relaxed);
    }

    /// The text of the last error.
    pub fn last_error(&self) -> Option<String> {
        self.usage.on(0, |_| {
            // SAFETY: the lock of the first shard is held.
            let kept = unsafe { &(*self.header).worker.last_error };
            (kept.0 > 0).then(|| String::from_utf8_lossy(&kept.1[..kept.0]).into_owned())
        })
    }

    fn header(&self) -> &Header {
        // SAFETY: the header stays; what is written to is atomic, or reached by raw pointers
        // under a lock.
        unsafe { &*self.header }
    }
}

/// Where each part begins behind the header, in bytes.
struct Places {
    memo: usize,
    usage: usize,
    refusals: usize,
    failures: usize,
    upgrades: usize,
    places: usize,
    limits: usize,
    client_limits: usize,
    scans: usize,
    desk: usize,
    end: usize,
}

impl Places {
    const fn new(sizes: &Sizes) -> Self {
        const fn after<K, V>(place: usize, entries: usize) -> usize {
            let slots = entries.div_ceil(SHARDS) * SHARDS;
            (place + slots * size_of::<Slot<K, V>>()).next_multiple_of(128)
        }
        let memo = size_of::<Header>().next_multiple_of(128);
        let usage = (memo + Memo::words(sizes.memo_entries) * 8).next_multiple_of(128);
        let refusals = after::<KeyRef, Usage>(usage, sizes.usage_entries);
        let failures = after::<RefusalKind, Refusals>(refusals, sizes.refusal_entries);
        let upgrades = after::<KeyRef, i64>(failures, sizes.failure_entries);
        let places = after::<KeyRef, Upgrade>(upgrades, UPGRADES);
        let limits = after::<Place, Uuid>(places, PLACES);
        let client_limits = after::<Tag, i64>(limits, sizes.rate_limit_entries);
        let scans = after::<Tag, i64>(client_limits, sizes.rate_limit_entries);
        let desk = after::<Place, Progress>(scans, SCANS);
        let end = (desk + sizes.backends * size_of::<Seat>()).next_multiple_of(128);
        Self {
            memo,
            usage,
            refusals,
            failures,
            upgrades,
            places,
            limits,
            client_limits,
            scans,
            desk,
            end,
        }
    }
}

const fn segment_size(sizes: &Sizes) -> usize {
    Places::new(sizes).end
}

/// # Safety
/// `header` is zeroed memory of `segment_size(&sizes)` bytes, aligned to 128.
unsafe fn initialise(header: *mut Header, sizes: Sizes) {
    unsafe fn vacate<K, V>(base: *mut u8, place: usize, entries: usize) {
        // SAFETY: as `initialise`; `Places` keeps this many slots there.
        unsafe {
            let slots = base.add(place).cast::<Slot<K, V>>();
            for at in 0..entries.div_ceil(SHARDS) * SHARDS {
                slots.add(at).write(None);
            }
        }
    }
    // SAFETY: by the caller's promise. Zero is a good beginning for all of the header (atomics,
    // counts, null pointers) but for what is written here.
    unsafe {
        let places = Places::new(&sizes);
        let base = header.cast::<u8>();
        vacate::<KeyRef, Usage>(base, places.usage, sizes.usage_entries);
        vacate::<RefusalKind, Refusals>(base, places.refusals, sizes.refusal_entries);
        vacate::<KeyRef, i64>(base, places.failures, sizes.failure_entries);
        vacate::<KeyRef, Upgrade>(base, places.upgrades, UPGRADES);
        vacate::<Place, Uuid>(base, places.places, PLACES);
        vacate::<Tag, i64>(base, places.limits, sizes.rate_limit_entries);
        vacate::<Tag, i64>(base, places.client_limits, sizes.rate_limit_entries);
        vacate::<Place, Progress>(base, places.scans, SCANS);
        let seats = base.add(places.desk).cast::<Seat>();
        for at in 0..sizes.backends {
            seats.add(at).write(Seat::Empty);
        }
        let mut key = zeroize::Zeroizing::new([0; 64]);
        if SysRng.try_fill_bytes(&mut *key).is_err() {
            error!("the operating system gives no random numbers");
        }
        (*header).tag_key = *key;
        (*header).sizes = sizes;
    }
}

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the segment; called while the library is preloaded.
pub fn register() {
    // SAFETY: hooks are chained in the postmaster, which has one thread.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called by PostgreSQL when sizes may be asked for.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(segment_size(&settings::sizes()) + 128);
        let locks = i32::try_from(LOCKS).unwrap_or(0);
        pg_sys::RequestNamedLWLockTranche(NAME.as_ptr(), locks);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: called by PostgreSQL when the segments are made, at the start and again after a
    // crash.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        let sizes = settings::sizes();
        let size = segment_size(&sizes) + 128;
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size, &mut found).cast::<u8>();
        let header = memory.add(memory.align_offset(128)).cast::<Header>();
        if !found {
            std::ptr::write_bytes(memory, 0, size);
            initialise(header, sizes);
        }
        SEGMENT.store(header, Ordering::Relaxed);
        if !found && !pg_sys::IsUnderPostmaster {
            log!(
                "api_key: {} kB of shared memory: {} memo, {} usage, {} failure, {} refusal and {} rate limit entries",
                size / 1024,
                sizes.memo_entries,
                sizes.usage_entries,
                sizes.failure_entries,
                sizes.refusal_entries,
                sizes.rate_limit_entries
            );
            // Before any child runs, so without the locks.
            super::pending::load(&State::at(header, std::ptr::null_mut()));
            pg_sys::on_shmem_exit(Some(exit), pg_sys::Datum::from(0));
        }
    }
}

/// In the postmaster, after the last child. `code` is 0 for a clean shutdown.
#[pg_guard]
unsafe extern "C-unwind" fn exit(code: i32, _argument: pg_sys::Datum) {
    let header = SEGMENT.load(Ordering::Relaxed);
    // SAFETY: the segment is there until the hooks of this kind have run, and no child runs.
    unsafe {
        if code == 0 && !header.is_null() && !pg_sys::IsUnderPostmaster {
            let state = State::at(header, std::ptr::null_mut());
            super::pending::save(&state);
        }
    }
}
